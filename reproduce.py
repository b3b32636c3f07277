"""Every table and figure of the paper, one command each.

    python reproduce.py table 4
    python reproduce.py figure 8
    python reproduce.py all --data toy --dry-run
    python reproduce.py results
    python reproduce.py paper

The first starts the runs of `train.py` and `baselines.py` that table 4 needs and that are not in runs/ yet,
goes on with those that were interrupted, and puts the paper's numbers and ours side by side into
runs/reproduce/. What is written there comes from `report.py`, the paper's numbers from `published.py`.
`results` adds what the runs say to records/, which can be published, and writes RESULTS.md from there.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

import baselines
import published
import report
from cfp import CFP, PAPER_SCHEDULE, CFPConfig
from data import TASKS
from datasets import ToyConfig, fingerprint, load_dataset
from files import InputError, Interrupted, lock, run_command, write_atomically
from flags import at_least, pick_device, rate, settings
from flags import parse_args as train_args
from model import T5, Llama, LlamaConfig, T5Config, target_loss
from p5 import SCRATCH, read_attrs
from report import FIGURES, LLAMA, PROBES, Evidence, Point, Row, rows_of
from runs import hardware, minutes, new_folder
from weights import PUBLISHED, read_config

HERE = Path(__file__).parent

# -------------------------------------------------------------------------------------------------
# What each table and figure needs
# -------------------------------------------------------------------------------------------------

# The groups of runs that a table or a figure is drawn from; `GROUPS` says what each consists of.
NEEDS = {
    "table 1": ["prompts", "filters", "trivial"],
    "table 2": ["prompts", "adapters", "trivial"],
    "table 3": ["prompts", "filters"],
    "table 4": ["prompts", "adapters"],
    "table 5": ["prompts", "filters"],
    "table 6": ["prompts", "filters"],
    "table 7": ["prompts", "manual"],
    "table 8": ["prompts", "soft"],
    "table 9": ["prompts", "classifier"],
    **{f"table {n}": ["llama prompts"] for n in LLAMA},
    "figure 3": ["prompts", "manual", "soft", "classifier"],
    "figure 6": ["prompts", "prefix length"],
    "figure 7": ["prompts", "prefix length"],
    "figure 8": ["prompts", "lambda"],
    "figure 9": ["prompts", "lambda"],
    "figure 10": ["soft discriminator"],
    "figure trade-off": ["prompts", "filters", "adapters", "lambda", "fair lambda", "leace"],
}
MAIN = tuple(f"table {n}" for n in range(1, 7))
# Of the paper's halves, what is about MovieLens alone and what about Insurance alone. The toy world,
# which is neither, stands in for both.
MOVIELENS_ONLY = "table 5", "table 14", "figure 6", "figure 8"
INSURANCE_ONLY = "table 6", "table 15", "figure 7", "figure 9"

ATTRS = {"insurance": ("age", "marital", "occupation")}  # what the paper hides there; else:
MOVIELENS_ATTRS = "gender", "age", "occupation"
SWEPT = {"insurance": "marital"}  # whose prompt the figures are about; else gender

PREFIX_LENGTHS = 5, 10, 15, 30  # section 6
LAMBDAS = 0.1, 1, 10, 100  # section 6
FAIR_LAMBDAS = 0.3, 3  # of the fair baselines' trade-off, ours, beside their defaults
SEEDS = 3  # of tables 1 to 6, where --seeds says nothing; everything else has one
# `all` in the toy world is to end within 90 minutes on two cores.
SEEDS_OF_ALL = {"toy": 2}
ANY_SEEDS = 10  # whoever looks for what there is looks for the seeds below
DATA = "toy", "ml-100k", "ml-1m", "insurance"

# A run's miniature, by script: everything happens and nothing is learnt.
MINIATURE = {
    "train.py": "--toy-users 60 --p5-steps 6 --epochs 1 --batch-size 20 --prefix-len 4 --mixer-epochs 1",
    "baselines.py": "--toy-users 60 --epochs 1 --fair-epochs 1",
}


class World(NamedTuple):
    """On what everything is run."""

    data: str = "toy"
    data_dir: Path | None = None
    backbone: str = "tiny"  # of tables 1 to 9 and the figures
    llama: str = "tiny-llama"  # of tables 10 to 15
    device: str = "auto"
    quick: bool = False  # miniatures

    @property
    def attrs(self) -> tuple[str, ...]:
        return ATTRS.get(self.data, MOVIELENS_ATTRS)

    @property
    def folder(self) -> Path:
        """Where its tables and figures go."""
        name = self.data + ("" if self.backbone == "tiny" else f"-{Path(self.backbone).name}")
        return Path("runs") / ("reproduce-quick" if self.quick else "reproduce") / name


class Job(NamedTuple):
    """A command: a run of train.py or baselines.py, or a measurement that is left in a run's folder."""

    name: str  # of a run its folder under runs/, if that is free
    kind: str  # key of MINUTES
    group: str  # key of GROUPS
    script: str
    flags: tuple[str, ...]  # without --out, --run and --base
    seed: int
    setting: float = math.nan  # prefix length or lambda, where a figure is drawn over it
    on: str = ""  # the job whose folder --run or --base names
    leaves: str = ""  # of a measurement, its file in that folder


def run_of(w: World, script: str, kind: str, group: str, seed: int, name: str, flags: str, **more):
    """A Job that is a run of its own; `flags` and `name` are what tells it from others of `w`."""
    about = ["--data", w.data, *(["--data-dir", str(w.data_dir)] if w.data_dir else [])]
    about += ["--device", w.device, "--seed", str(seed)]
    small = shlex.split(MINIATURE[script]) if w.quick else []
    several = "," in flags.split("--attr ")[1].split()[0]
    needless = ["--prefix-len"] if "--prefix-len" in flags else []
    needless += [] if several else ["--mixer-epochs"]
    needless += ["--epochs", "--fair-epochs"] if "--model lookup" in flags else []  # learns nothing
    for flag in needless:
        if flag in small:
            del small[small.index(flag) : small.index(flag) + 2]
    name = f"{'quick-' if w.quick else ''}{w.data}-{name}-seed{seed}"
    return Job(name, kind, group, script, (*about, *shlex.split(flags), *small), seed, **more)


def measurement(on: Job, script: str, kind: str, group: str, flags: str, leaves: str) -> Job:
    """A Job that reads the run of `on` and leaves a file in its folder."""
    name = f"{on.name}/{leaves.removesuffix('.json')}"
    all_flags = (*flags.split(), "--seed", str(on.seed))
    return Job(name, kind, group, script, all_flags, on.seed, on.setting, on.name, leaves)


def prompts(w: World, seed: int, llama: bool = False) -> list[Job]:
    """P5, a prompt for each attribute and the mixer; on Insurance P5's gender AUC needs a run of its own."""
    backbone, group = (w.llama, "llama prompts") if llama else (w.backbone, "prompts")
    on = f" --backbone {shlex.quote(backbone)}"
    tag = "" if backbone == "tiny" else f"-{Path(backbone).name}"
    kind = "prompts of a Llama" if llama else "prompts"
    args = w, "train.py", kind, group, seed, f"{'+'.join(w.attrs)}{tag}"
    found = [run_of(*args, f"--attr {','.join(w.attrs)}{on}")]
    if "gender" not in w.attrs:
        args = w, "train.py", "prompt", group, seed, f"gender{tag}"
        found.append(run_of(*args, f"--attr gender{on}"))
    return found


def filters(w: World, seed: int) -> list[Job]:
    """C-PMF and C-SX with the filters of every attribute, and the recommenders that they are made of."""
    found, attrs = [], ",".join(w.attrs)
    for fair, model in ("c-pmf", "pmf"), ("c-sx", "simplex"):
        args = w, "baselines.py", f"{fair}, every attribute", "filters", seed, fair
        found.append(run_of(*args, f"--model {fair} --attr {attrs}"))
        if "gender" not in w.attrs:
            args = w, "baselines.py", "attack", "filters", seed, f"{model}-gender"
            more = dict(on=found[-1].name)
            found.append(run_of(*args, f"--model {model} --attr gender", **more))
    return found


def adapters(w: World, seed: int) -> list[Job]:
    """S-SAS and S-B4: a prompt for each attribute, on one SASRec and one BERT4Rec."""
    found = []
    for fair, model in ("s-sas", "sasrec"), ("s-b4", "bert4rec"):
        base = ""
        for attr in w.attrs:
            kind = fair if base else f"{fair} and {model}"
            args = w, "baselines.py", kind, "adapters", seed, f"{fair}-{attr}"
            found.append(run_of(*args, f"--model {fair} --attr {attr}", on=base))
            base = base or found[-1].name
        if "gender" not in w.attrs:
            args = w, "baselines.py", "attack", "adapters", seed, f"{model}-gender"
            found.append(run_of(*args, f"--model {model} --attr gender", on=base))
    return found


def trivial(w: World, seed: int) -> list[Job]:
    """Popularity and the lookup table."""
    args = w, "baselines.py", "trivial", "trivial", seed, "lookup"
    return [run_of(*args, f"--model lookup --attr {w.attrs[0]}")]


def probes(w: World, seed: int, kind: str) -> list[Job]:
    """One of the paper's probes on the bare backbone, for every attribute."""
    (on, *_), attrs = prompts(w, seed), list(dict.fromkeys(["gender", *w.attrs]))
    make = lambda attr: measurement(
        *(on, "probe.py", f"{kind} probe", kind, f"--kind {kind} --attr {attr}"),
        f"probe-{kind}-{attr}.json",
    )
    return [make(attr) for attr in attrs]


def sweep(w: World, seed: int, group: str) -> list[Job]:
    """A prompt for one attribute over prefix lengths or lambdas."""
    attr, flag = (
        SWEPT.get(w.data, "gender"),
        {"prefix length": "prefix-len", "lambda": "lam"}[group],
    )
    found, on = [], f" --backbone {shlex.quote(w.backbone)}"
    for x in PREFIX_LENGTHS if group == "prefix length" else LAMBDAS:
        args = w, "train.py", "prompt", group, seed, f"{attr}-{flag}{x:g}"
        found.append(run_of(*args, f"--attr {attr} --{flag} {x:g}{on}", setting=float(x)))
    return found


def soft_discriminator(w: World, seed: int) -> list[Job]:
    """Prompts against a soft probing prompt, over their length, then read by a new one and a classifier."""
    attr, found = SWEPT.get(w.data, "gender"), []
    for n in PREFIX_LENGTHS:
        flags = f"--attr {attr} --discriminator soft --prefix-len {n}"
        flags += f" --backbone {shlex.quote(w.backbone)}"
        args = w, "train.py", "prompt against a soft one", "soft discriminator", seed
        run = run_of(*args, f"{attr}-soft-prefix-len{n}", flags, setting=float(n))
        found.append(run)
        for kind in "soft", "classifier":
            found.append(
                measurement(
                    *(run, "probe.py", f"{kind} probe", "soft discriminator"),
                    f"--kind {kind} --attr {attr} --hide {attr}",
                    f"probe-{kind}-{attr}-hiding-{attr}.json",
                )
            )
    return found


def fair_lambda(w: World, seed: int) -> list[Job]:
    """Each fair baseline over lambda, for one attribute, on the recommender of tables 3 and 4."""
    attr, found = SWEPT.get(w.data, "gender"), []
    bases = {"c-pmf": filters, "c-sx": filters, "s-sas": adapters, "s-b4": adapters}
    for fair, group in bases.items():
        base = next(job for job in group(w, seed) if f"-{fair}" in job.name)
        for lam in FAIR_LAMBDAS:
            args = w, "baselines.py", fair, "fair lambda", seed, f"{fair}-{attr}-lam{lam:g}"
            flags = f"--model {fair} --attr {attr} --lam {lam:g}"
            found.append(run_of(*args, flags, setting=float(lam), on=base.name))
    return found


def erasure(w: World, seed: int) -> list[Job]:
    """LEACE in place of the prompt."""
    attr, (on, *_) = SWEPT.get(w.data, "gender"), prompts(w, seed)
    return [measurement(on, "erase.py", "leace", "leace", f"--attr {attr}", f"leace-{attr}.json")]


GROUPS = {
    "prompts": prompts,
    "filters": filters,
    "adapters": adapters,
    "trivial": trivial,
    "llama prompts": functools.partial(prompts, llama=True),
    **{kind: functools.partial(probes, kind=kind) for kind in PROBES.values()},
    "prefix length": functools.partial(sweep, group="prefix length"),
    "lambda": functools.partial(sweep, group="lambda"),
    "soft discriminator": soft_discriminator,
    "fair lambda": fair_lambda,
    "leace": erasure,
}
SEVERAL_SEEDS = (
    "prompts",
    "filters",
    "adapters",
    "trivial",
)  # for tables 1 to 6; all else has seed 0


def jobs_of(wanted: list[str], w: World, seeds: int) -> list[Job]:
    """What tables and figures need, each job once, a job that another needs before it."""
    groups = {group for name in wanted for group in NEEDS[name]}
    repeated = {g for n in wanted if n in MAIN for g in NEEDS[n] if g in SEVERAL_SEEDS}
    found: dict[str, Job] = {}
    for group in [g for g in GROUPS if g in groups]:
        for seed in range(seeds if group in repeated else 1):
            for job in GROUPS[group](w, seed):
                assert not job.on or job.on in found, f"{job.name} needs {job.on}"
                found.setdefault(job.name, job)
    return list(found.values())


def everything(w: World) -> list[str]:
    """All tables and figures that are about this data set."""
    other = INSURANCE_ONLY if report.half_of(w.data) == "MovieLens" else MOVIELENS_ONLY
    return [name for name in NEEDS if w.data == "toy" or name not in other]


# -------------------------------------------------------------------------------------------------
# What there is already
# -------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A run's folder."""

    folder: Path
    config: dict
    finished: bool


def scan(place: Path = Path("runs")) -> list[Found]:
    """All runs in a folder, by name."""
    found = []
    for path in sorted(place.glob("*/config.json")):
        with contextlib.suppress(OSError, ValueError):
            config = json.loads(path.read_text())
            found.append(Found(path.parent, config, (path.parent / "results.json").exists()))
    return found


@functools.cache
def parsed(script: str, flags: tuple[str, ...]) -> argparse.Namespace | None:
    """The flags of a command as its script reads them; None where it would not take them."""
    parse = train_args if script == "train.py" else baselines.parse_args
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse(list(flags))
    except SystemExit:
        return None


@functools.cache
def settings_of(job: Job) -> dict | None:
    """What config.json of a run says if it is this job's; None where that cannot be known yet."""
    args = parsed(job.script, job.flags)
    assert args is not None, job
    attrs = read_attrs(args.attr, "--attr")
    about = {"data": args.data, "attrs": attrs, "seed": args.seed}
    if job.script == "train.py":
        on, folder = args.backbone, None
        if args.backbone not in SCRATCH:
            places = Path(args.backbone), Path("weights") / args.backbone.replace("/", "-")
            folder = next((place for place in places if place.is_dir()), None)
            if folder is None:
                return None
            on = read_config(folder)["model_type"]
        p5, cfg, mixer_cfg = settings(args, attrs, on, folder)
        toy = ToyConfig(args.toy_users, args.toy_effect, args.toy_twins, attrs[0])
        about |= {"tasks": TASKS, "backbone": args.backbone, "dtype": args.dtype}
        about |= {"label holdout": 0.0, "toy": dataclasses.asdict(toy)}
        about |= {"p5": dataclasses.asdict(p5), "cfp": dataclasses.asdict(cfg)}
        about["mixer"] = dataclasses.asdict(mixer_cfg) if len(attrs) > 1 else None
    else:
        recommenders, games = baselines.configs(args)
        about["recommenders"] = {k: dataclasses.asdict(cfg) for k, cfg in recommenders.items()}
        about["games"] = {k: dataclasses.asdict(cfg) for k, cfg in games.items()}
    return json.loads(json.dumps(about))


def is_of(found: Found, job: Job) -> bool:
    """Whether a folder's run is the job's: the same settings, whatever its command looked like."""
    script, *flags = found.config.get("command", [""])
    wanted = settings_of(job) if script == job.script else None
    if wanted is None or any(found.config.get(key) != value for key, value in wanted.items()):
        return False
    args = parsed(script, tuple(flags))
    if script == "train.py":
        return args is not None
    mine = parsed(script, job.flags)
    same = lambda name: args is not None and getattr(args, name) == getattr(mine, name)
    return same("model") and same("toy_users")


@functools.cache
def data_of(data: str, data_dir: Path | None, seed: int, toy_users: int, twins_in: str) -> str:
    return fingerprint(load_dataset(data, data_dir, seed, ToyConfig(toy_users, twins_in=twins_in)))


def find(job: Job, every: list[Found], jobs: dict[str, Job], check: bool = True) -> Found | None:
    """The folder of a job's run, a finished one if there is one; of a measurement, that of its run.

    With `check` a run on other data, or one that cannot be gone on with here, does not count.
    """
    if job.leaves:
        on = find(jobs[job.on], every, jobs, check)
        return None if on is None else on._replace(finished=(on.folder / job.leaves).exists())
    some = [found for found in every if is_of(found, job)]
    if check and some:
        args = parsed(job.script, job.flags)
        about = args.data, args.data_dir, args.seed, args.toy_users, read_attrs(args.attr, "")[0]
        some = [f for f in some if f.config.get("data fingerprint") == data_of(*about)]
        here = {"torch": torch.__version__, "device": str(pick_device(args.device))}
        goes_on = lambda f: all(f.config.get(key) == value for key, value in here.items())
        some = [found for found in some if found.finished or goes_on(found)]
    return min(some, key=lambda found: not found.finished, default=None)


def in_use(folder: Path) -> bool:
    """Whether another process holds the folder."""
    try:
        lock(folder).close()
    except InputError:
        return True
    return False


def claim(job: Job) -> IO | None:
    """Hold a job, for the process that it is handed to as well; None where another has it.

    A process that outlives whoever started it has a job before it has a config.json by which to find it.
    """
    folder = Path("runs") / ".claims" / job.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return lock(folder)
    except InputError:
        return None


# -------------------------------------------------------------------------------------------------
# How long it takes
# -------------------------------------------------------------------------------------------------

# Minutes where no run of the kind is in runs/ yet, on an AMD EPYC. Of the toy world: whole runs with one
# thread; "P5" comes on top for whoever trains the backbone. Of the others: a whole run, its P5 included,
# on two cores (ml-100k: one). What is not here is not known.
MINUTES = {
    "toy": {
        "P5": 0.7,
        "prompts": 9.5,
        "prompts of a Llama": 10.1,
        "prompt": 1.7,
        "prompt against a soft one": 3.8,
        "c-pmf, every attribute": 7.0,
        "c-sx, every attribute": 7.0,
        "c-pmf": 0.6,
        "c-sx": 0.6,
        "s-sas and sasrec": 1.3,
        "s-sas": 1.2,
        "s-b4 and bert4rec": 2.2,
        "s-b4": 1.6,
        "trivial": 0.1,
        "manual probe": 0.6,
        "soft probe": 0.5,
        "classifier probe": 0.1,
        "leace": 0.1,
    },
    "ml-100k": {"prompt": 7.0},
    "ml-1m": {"prompt": 36.0},
    "insurance": {"prompt": 15.0},
}


class Planned(NamedTuple):
    """A job with what is known of it before it starts."""

    job: Job
    found: Found | None
    minutes: float  # that it still takes; NaN where nobody has measured its kind
    after: tuple[str, ...]  # names of the jobs that have to be finished before

    @property
    def finished(self) -> bool:
        return self.found is not None and self.found.finished


def plan(jobs: list[Job], w: World) -> list[Planned]:
    """Every job with its folder, the minutes that it still takes and what comes before it.

    A P5 backbone is trained by the first run that needs it; the others come after that run.
    """
    every, by_name = scan(), {job.name: job for job in jobs}
    found = {job.name: find(job, every, by_name) for job in jobs}
    finished = {name for name, there in found.items() if there is not None and there.finished}
    measured: dict[str, list[float]] = {}
    for job in jobs:
        if job.name in finished and not job.leaves:
            seconds = read_results(found[job.name])["seconds"]
            measured.setdefault(job.kind, []).append(seconds / 60)
    literal = {} if w.quick else MINUTES[w.data]
    planned, trainer = [], {}
    for job in jobs:
        takes, after = literal.get(job.kind, math.nan), [job.on] if job.on else []
        backbone = backbone_of(job)
        if backbone is not None and backbone not in trainer:
            trainer[backbone] = job.name
            takes += literal.get("P5", 0.0)
        elif backbone is not None:
            after.append(trainer[backbone])
        if job.kind in measured:
            takes = statistics.fmean(measured[job.kind])
        if job.name in finished:
            takes, after = 0.0, []
        elif found[job.name] is not None and not job.leaves:  # what was spent on it is not lost
            path = found[job.name].folder / "unfinished.json"
            spent = json.loads(path.read_text())["seconds"] / 60 if path.exists() else 0.0
            takes = max(takes - spent, 0.0)
        after = tuple(name for name in after if name not in finished)
        planned.append(Planned(job, found[job.name], takes, after))
    return planned


def read_results(found: Found) -> dict:
    return json.loads((found.folder / "results.json").read_text())


def backbone_of(job: Job) -> tuple | None:
    """What tells P5 backbones apart, for a run of train.py; None for the rest."""
    if job.script != "train.py":
        return None
    args = parsed(job.script, job.flags)
    return args.data, args.backbone, args.seed


def ready(waiting: dict[str, Planned], running: set[str]) -> list[Planned]:
    """Which of the waiting could start now, the longest first; of equals, the first."""
    unfinished = {*waiting, *running}
    free = [p for p in waiting.values() if not unfinished & set(p.after)]
    return sorted(free, key=lambda p: -(math.inf if math.isnan(p.minutes) else p.minutes))


def duration(planned: list[Planned], at_once: int) -> float:
    """Minutes until all is done with so many at a time; unknown times count as nothing."""
    waiting, running, now = {p.job.name: p for p in planned if not p.finished}, {}, 0.0
    while waiting or running:
        for p in ready(waiting, set(running)):
            if len(running) < at_once:
                running[p.job.name] = now + (0.0 if math.isnan(p.minutes) else p.minutes)
                del waiting[p.job.name]
        first = min(running, key=running.get)
        now = running.pop(first)
    return now


def show_plan(planned: list[Planned], wanted: list[str], w: World, at_once: int) -> str:
    """The plan as text: each run with its time and what there is of it, and all of them together."""
    lines = [f"{', '.join(wanted)} on {w.data}: {len(planned)} runs and measurements"]
    width = max(len(p.job.name) for p in planned) + 2
    shown = lambda value: "?" if math.isnan(value) else f"{value:.1f}"
    for number, p in enumerate(planned, 1):
        there = "" if p.found is None else f"is in {p.found.folder}"
        if p.found is not None and not p.finished:
            there = "to be read" if p.job.leaves else f"goes on in {p.found.folder}"
        takes = "" if p.finished else f"{shown(p.minutes)} min"
        lines.append(f"  {number:>3}  {p.job.name:<{width}}{takes:>10}  {there}".rstrip())
    left = [p for p in planned if not p.finished]
    known = [p.minutes for p in left if not math.isnan(p.minutes)]
    unknown = sorted({p.job.kind for p in left if math.isnan(p.minutes)})
    lines.append(
        f"{len(left)} to do, {sum(known):.0f} minutes of work one after the other; {at_once} at a time, with "
        f"{threads(at_once)} thread(s) each, take {'at least ' * bool(unknown)}"
        f"{minutes(60 * duration(planned, at_once))}"
    )
    if known:
        lines.append(
            "The times are those of finished runs of the same kind in runs/, or else what an AMD EPYC took "
            "or, by its steps, would take (`MINUTES`)"
        )
    if unknown:
        lines.append(f"How long these take has not been measured yet: {', '.join(unknown)}")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------
# Running
# -------------------------------------------------------------------------------------------------


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(at_once: int) -> int:
    """Of each process: small models gain less from a second thread than from a second process."""
    return max(cores() // at_once, 1)


def command_of(job: Job, jobs: dict[str, Job]) -> tuple[list[str], Path]:
    """(the command that begins a job or goes on with it, the folder that its results will be in)."""
    every = scan()
    found = find(job, every, jobs)
    on = find(jobs[job.on], every, jobs) if job.on else None
    flags = list(job.flags)
    if job.leaves:
        return [job.script, *flags, "--run", str(on.folder)], on.folder
    if found is not None:
        return [job.script, "--resume", str(found.folder)], found.folder
    folder = new_folder(None, job.name)
    flags += ["--base", str(on.folder)] if on is not None else []
    return [job.script, *flags, "--out", str(folder)], folder


def carry_out(planned: list[Planned], at_once: int) -> dict[str, str]:
    """Run what is not finished, `at_once` at a time, with a line for each that begins or ends.

    Returns the last line of each that failed; what needs one of these is left out, the rest goes on. Ctrl-C
    has those that are running write their checkpoints and stop.
    """
    jobs = {p.job.name: p.job for p in planned}
    waiting = {p.job.name: p for p in planned if not p.finished}
    n, begun, running, failed = len(waiting), 0, {}, {}
    took: dict[str, list[float]] = {}  # minutes, of each kind
    environment = os.environ | {"OMP_NUM_THREADS": str(threads(at_once))}
    try:
        while waiting or running:
            for p in ready(waiting, set(running)):
                if len(running) == at_once:
                    break
                claimed = claim(p.job)
                if claimed is None:
                    continue  # a process that outlived whoever started it is at it
                with claimed:
                    found = find(p.job, scan(), jobs)
                    if found is not None and not p.job.leaves and in_use(found.folder):
                        continue  # somebody runs it by hand
                    del waiting[p.job.name]
                    if found is not None and found.finished:
                        continue
                    command, folder = command_of(p.job, jobs)
                    begun += 1
                    does = "goes on" if command[1] == "--resume" else "begins"
                    takes = "" if math.isnan(p.minutes) else f", about {p.minutes:.1f} min"
                    left = time_left({p.job.name: p} | waiting, running, at_once)
                    print(
                        f"run {begun} of {n} {does}: {p.job.name}{takes}; {left} left", flush=True
                    )
                    errors = tempfile.TemporaryFile()
                    process = subprocess.Popen(
                        [sys.executable, str(HERE / command[0]), *command[1:]],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=errors,
                        env=environment,
                        start_new_session=True,  # Ctrl-C reaches them once, through this process
                        pass_fds=(claimed.fileno(),) if os.name == "posix" else (),
                    )
                running[p.job.name] = p, process, errors, time.monotonic()
            for name, (p, process, errors, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode != 0:
                    errors.seek(0)
                    said = errors.read().decode(errors="replace").strip().splitlines()
                    failed[name] = said[-1] if said else f"ended with {process.returncode}"
                    print(f"  failed: {name}: {failed[name]}", flush=True)
                    continue
                seconds = time.monotonic() - began
                print(f"  done: {name} in {minutes(seconds)}", flush=True)
                took.setdefault(p.job.kind, []).append(seconds / 60)
                for other in [p for p in waiting.values() if p.job.kind in took and not p.found]:
                    mean = statistics.fmean(took[other.job.kind])
                    waiting[other.job.name] = other._replace(minutes=mean)
            while some := [name for name, p in waiting.items() if failed.keys() & set(p.after)]:
                for name in some:
                    failed[name] = f"needs {next(x for x in waiting[name].after if x in failed)}"
                    del waiting[name]
            time.sleep(0.2 if running else 2.0 if waiting else 0.0)
    finally:
        for _, process, _, _ in running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        for _, process, _, _ in running.values():
            process.wait()
    return failed


def time_left(waiting: dict[str, Planned], running: dict, at_once: int) -> str:
    """The time until all is done, from what each should take and how long it has been running."""
    left, now = list(waiting.values()), time.monotonic()
    for p, *_, began in running.values():
        left.append(p._replace(minutes=max(p.minutes - (now - began) / 60, 0.0), after=()))
    at_least = "at least " if any(math.isnan(p.minutes) for p in left) else ""
    return at_least + minutes(60 * duration(left, at_once))


# -------------------------------------------------------------------------------------------------
# From finished runs to files
# -------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """The finished jobs of a data set and what they left."""

    evidence: Evidence
    runs: list[tuple[Job, Found, dict]]  # with results.json; measurements are not among them


def gather(w: World, seeds: int, check: bool = True, place: Path = Path("runs")) -> Known:
    """All that finished runs in a folder say about this data set, whatever they were started for.

    Without `check` the data need not be there; the runs' own files are believed.
    """
    jobs = {job.name: job for job in jobs_of(everything(w), w, seeds)}
    every, runs, rows, llama_rows, read = scan(place), [], [], [], []
    points: dict[str, list[Point]] = {}
    attr = SWEPT.get(w.data, "gender")
    letter = report.letters([attr])
    for job in jobs.values():
        found = find(job, every, jobs, check)
        if found is None or not found.finished:
            continue
        if job.leaves:
            left = json.loads((found.folder / job.leaves).read_text())
            if job.group in PROBES.values():
                probed = report.letters([job.leaves.removesuffix(".json").split("-")[2]])
                read.append((job.group, probed, job.seed, left))
            elif job.group == "soft discriminator":
                points.setdefault(job.group, []).extend(soft_points(job, left))
            else:
                points.setdefault("trade-off", []).extend(leace_points(left))
            continue
        results = read_results(found)
        runs.append((job, found, results))
        mine, drawn = rows_of(results), []
        if job.group == "llama prompts":
            llama_rows += mine
        elif job.group in SEVERAL_SEEDS:
            rows += mine
        if job.seed != 0:
            continue
        if job.group in ("prefix length", "lambda"):
            drawn = [point(row, letter, attr, job.setting) for row in mine if row.model == "CFP"]
            points.setdefault(job.group, []).extend(drawn)
        if job.group == "prompts":  # the default setting is one more point, and P5 the one without
            cfg = found.config["cfp"]
            for group, x in ("prefix length", cfg["prefix_len"]), ("lambda", cfg["lam"]):
                some = [r for r in mine if (r.model, r.hidden) in (("CFP", letter), ("P5", ""))]
                there = x in (PREFIX_LENGTHS if group == "prefix length" else LAMBDAS)
                points.setdefault(group, []).extend(
                    point(row, letter, *((attr, float(x)) if row.hidden else ("P5", math.nan)))
                    for row in some
                    if letter in row.values and not (there and row.hidden)
                )
        if job.group in ("adapters", "fair lambda"):
            games = found.config["games"]
            x = next((game["lam"] for game in games.values()), math.nan)
            for row in mine:
                fits = row.task == ("direct" if row.model in MATCHING else "sequential")
                if fits and letter in row.values and row.hidden in ("", letter):
                    at = float(x) if row.hidden else math.nan
                    points.setdefault("trade-off", []).append(point(row, letter, row.model, at))
    for p in points.get("lambda", []):
        points.setdefault("trade-off", []).append(
            p if p.series == "P5" else p._replace(series="CFP")
        )
    for group, some in points.items():
        once = {(p.series, setting_key(p.x), p.task): p for p in reversed(some)}
        points[group] = sorted(once.values(), key=lambda p: (p.series, p.task, setting_key(p.x)))
    sizes = next((results for job, _, results in runs if job.group == "prompts"), {})
    keys = "users", "candidates", "prompt candidates"
    sizes = {key: sizes[key] for key in keys if key in sizes}
    evidence = Evidence(w.data, w.backbone, w.llama, rows, llama_rows, read, points, sizes)
    return Known(evidence, runs)


MATCHING = "PMF", "SimpleX", "C-PMF", "C-SX"  # direct recommendation; their scores know no order


def setting_key(x: float) -> float:
    return -1.0 if math.isnan(x) else x


def point(row: Row, letter: str, series: str, x: float) -> Point:
    """A row as a point of a figure about one attribute."""
    values = {k: v for k, v in row.values.items() if k in report.HITS} | {"AUC": row.values[letter]}
    floor = row.floor.get(letter, math.nan)
    return Point(series, x, row.task, values, floor, row.ceiling.get(letter, math.nan))


def soft_points(job: Job, left: dict) -> list[Point]:
    """Figure 10's: what probes read through a prompt that was trained against a soft one."""
    names = {"soft prompt": "soft probing prompt"}
    return [
        Point(
            names.get(name, name),
            job.setting,
            "direct" if "direct" in name else "sequential",
            {"AUC": row["auc"]},
            math.nan,
            math.nan,
        )
        for name, row in left.items()
    ]


def leace_points(left: dict) -> list[Point]:
    """LEACE's place in the trade-off, on each task."""
    values = lambda row: {f"Hit@{k}": row[f"hit@{k}"] for k in (1, 3, 10)} | {"AUC": row["auc"]}
    return [Point("LEACE", math.nan, t, values(row), math.nan, math.nan) for t, row in left.items()]


def write_out(wanted: list[str], known: Known, w: World) -> list[Path]:
    """Write tables and figures; what has no runs behind it gets the table with ours blank, or no figure."""
    e, written = known.evidence, []
    w.folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        kind, number = name.split(" ")
        path, files = w.folder / f"{kind}-{number}", {}
        if kind == "table":
            files[".md"] = report.table_markdown(int(number), e)
            files[".csv"] = report.table_csv(int(number), e)
        elif report.figure_points(number, e):
            files[".csv"] = report.figure_csv(number, e)
            files[".md"] = report.figure_markdown(number, e)
        for ending, text in files.items():
            write_atomically(path.with_suffix(ending), text.encode())
            written.append(path.with_suffix(ending))
        if kind == "figure" and files and report.can_draw():
            report.draw(number, e, path.with_suffix(".png"))
            written.append(path.with_suffix(".png"))
    return written


# -------------------------------------------------------------------------------------------------
# RESULTS.md
# -------------------------------------------------------------------------------------------------

HEAD = """# Results

Measured; written by `python reproduce.py results` from the files in `records/`, and from nothing else.
Numbers are percent. Ours are means over seeds with the standard deviation; an interval is 95% over users,
and over several seeds the mean of their ends, moved outwards by the standard deviation.
`python reproduce.py table 4 --data toy` does one table, `.. all --data toy` all of a data set.

"""

RULE = """
A claim is a list of comparisons, each for it, against it, or open where two intervals overlap. It holds where
all are for it, does not hold where one is against it, and is not decided otherwise. The rules are in
`report.py`, `CLAIMS`. All of it is about the data and the backbones named here, not about the paper's.
"""


RECORDS = Path("records")


def keep_records() -> int:
    """Copy what finished runs in runs/ say into records/, over what is there of the same jobs.

    A record is a folder with config.json, results.json and what measurements left, without what is this
    machine's. Returns how many files were written.
    """
    written = 0
    for w in worlds(Path("runs")):
        every = scan()
        jobs = {job.name: job for job in jobs_of(everything(w), w, ANY_SEEDS)}
        for job in jobs.values():
            found = find(job, every, jobs, check=False)
            if found is None or not found.finished:
                continue
            folder = RECORDS / (job.on if job.leaves else job.name)
            left = [job.leaves] if job.leaves else ["results.json", "config.json"]
            contents = {name: (found.folder / name).read_bytes() for name in left}
            if not job.leaves:
                about = {"command": plain(found.config["command"]), "data dir": None, "base": None}
                config = found.config | about
                contents["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                write_atomically(folder / name, content)
            written += len(contents)
    return written


def results_markdown() -> str:
    """RESULTS.md, from what is in records/: the same files give the same bytes."""
    known = [gather(w, ANY_SEEDS, False, RECORDS) for w in worlds(RECORDS)]
    every = [one for one in known if one.runs]
    if not every:
        raise InputError("results: there is no finished run in runs/ yet; python reproduce.py all")
    parts = [HEAD, "## The claims of the paper\n\n"]
    parts += [report.claims_markdown([known.evidence for known in every]), "\n", RULE]
    for known in every:
        e = known.evidence
        parts.append(f"\n## {report.about(e)}\n\n{runs_markdown(known)}\n")
        for name in NEEDS:
            kind, number = name.split(" ")
            if kind == "table" and any(x.ours for x in report.entries(int(number), e)):
                parts.append("\n" + report.table_markdown(int(number), e))
            if kind == "figure" and report.figure_points(number, e) and belongs(name, e.data):
                parts.append("\n" + report.figure_markdown(number, e))
    return "".join(parts).rstrip("\n") + "\n"


def belongs(name: str, data: str) -> bool:
    """Whether a table or figure is about this data set; of the toy world's figures, one of each pair."""
    other = INSURANCE_ONLY if report.half_of(data) == "MovieLens" else MOVIELENS_ONLY
    return name not in other


def worlds(place: Path) -> list[World]:
    """A World for each data set and T5 that the runs in a folder are about."""
    found = []
    for data in DATA:
        runs = [f.config for f in scan(place) if f.config.get("data") == data]
        names = sorted({c["backbone"] for c in runs if "backbone" in c})
        t5s = [name for name in names if not is_llama(name)] or ["tiny"]
        llamas = [name for name in names if is_llama(name)] or ["tiny-llama"]
        llama = "tiny-llama" if "tiny-llama" in llamas else llamas[0]
        found += [World(data, None, t5, llama) for t5 in t5s]
    return found


def runs_markdown(known: Known) -> str:
    """The commands behind a data set's numbers with seeds, minutes and hardware."""
    by_command: dict[str, list[tuple[Job, Found, dict]]] = {}
    for job, found, results in known.runs:
        command = " ".join(plain(found.config["command"]))
        by_command.setdefault(command, []).append((job, found, results))
    lines = ["| command | seeds | minutes | hardware |", "|---|---|---|---|"]
    for command, some in by_command.items():
        seeds = ", ".join(str(job.seed) for job, _, _ in some)
        took = ", ".join(f"{results['seconds'] / 60:.1f}" for _, _, results in some)
        on = sorted({results.get("hardware", "not noted") for _, _, results in some})
        lines.append(f"| `{command}` | {seeds} | {took} | {'; '.join(on)} |")
    return "\n".join(lines)


def plain(command: list[str]) -> list[str]:
    """A command without what is this machine's or differs between seeds."""
    kept, flags = [], iter(command)
    for flag in flags:
        if flag in ("--out", "--data-dir", "--device", "--seed", "--base", "--run"):
            next(flags)
        else:
            kept.append(flag)
    return kept


# -------------------------------------------------------------------------------------------------
# The paper's own set-up
# -------------------------------------------------------------------------------------------------

# Section 5.1. # Paper silent: epochs, learning rates and what was chosen from the grid.
GRID = {"lam": (1, 5, 10, 100), "prefix length": (5, 15, 30), "T": (10, 20), "R": (20,)}
BATCH = 16
PEOPLE = {"ml-1m": 6040, "insurance": 29132}
SHAPES = {  # the published config.json's
    "t5-base": T5Config(32128, 768, 64, 3072, 12, 12, 12),
    "open_llama_3b": LlamaConfig(32000, 3200, 8640, 26, 32, 32, 100, 1e-6),
}
PROMPT_TOKENS = {"sequential": 160, "direct": 450}  # 20 items of history, 100 listed candidates
ANSWER_TOKENS = 4  # a number of up to three pieces, and the end


class Cost(NamedTuple):
    """What one step of the prefix costs: forward and backward of a batch through a frozen backbone."""

    weights: int
    flop: float  # additions and multiplications
    saved: int  # bytes in float32 that the forward pass keeps for the backward pass


def cost_of_step(name: str, tokens: int) -> Cost:
    """Counted on the real shapes and not computed: tensors on torch's "meta" device have no numbers."""
    with torch.device("meta"):
        model, cfp, inputs = step_of(name, tokens)
    own = {id(param) for param in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own:
            kept[id(base)] = base
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        target_loss(model, model.encode(*inputs[:2], cfp()), inputs[2]).backward()
    saved = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    weights = sum(param.numel() for param in model.parameters())
    return Cost(weights, counter.get_total_flops(), saved)


def step_of(name: str, tokens: int):
    """(frozen backbone of random weights, prefix, (ids (b, s), mask (b, s), answer (b, y)))."""
    cfg = SHAPES[name]
    model = (T5(cfg) if isinstance(cfg, T5Config) else Llama(cfg)).requires_grad_(False).eval()
    cfp = CFP(CFPConfig(prefix_len=30), cfg)
    mask = torch.ones(BATCH, tokens, dtype=torch.bool)
    answer = torch.ones(BATCH, ANSWER_TOKENS, dtype=torch.long)
    return model, cfp, (mask.long(), mask, answer)


def measured_step(name: str, tokens: int, device: torch.device, tries: int = 2) -> float:
    """Seconds of such a step with random weights on this machine, the best of some."""
    with device:
        model, cfp, inputs = step_of(name, tokens)
    best = math.inf
    for _ in range(tries):
        began = time.monotonic()
        target_loss(model, model.encode(*inputs[:2], cfp()), inputs[2]).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - began)
    return best


def paper_setup(tflops: float | None, measure: bool, device: torch.device) -> str:
    """What the paper's grids need in memory and hours, as text; `tflops` is what a GPU sustains."""
    points = math.prod(map(len, GRID.values()))
    grid = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in GRID.items())
    epochs = PAPER_SCHEDULE["epochs"]
    lines = [f"The paper's grid (section 5.1): {grid}; batch {BATCH}: {points} runs per attribute."]
    if measure:
        tokens = PROMPT_TOKENS["sequential"]
        seconds = measured_step("t5-base", tokens, device)
        tflops = cost_of_step("t5-base", tokens).flop / seconds / 1e12
        lines.append(
            f"Measured here ({hardware(device)}): a sequential step of t5-base with random weights takes "
            f"{seconds:.2f} s, which is {tflops:.3f} TFLOP/s; the hours are at this speed."
        )
    elif tflops is not None:
        lines.append(f"The hours are at {tflops:g} TFLOP/s, as given with --tflops; not measured.")
    else:
        lines.append(
            "Hours: give --tflops N that your GPU sustains, or --measure a step on this machine."
        )
    lines.append(
        f"Counted on the real shapes: a sequential prompt of {PROMPT_TOKENS['sequential']} tokens and a "
        f"direct one of {PROMPT_TOKENS['direct']} that lists 100 candidates; {epochs} epochs, ours, as the "
        "paper names none."
    )
    gib = lambda size: f"{size / 2**30:.1f} GiB"
    for name in SHAPES:
        costs = [cost_of_step(name, tokens) for tokens in PROMPT_TOKENS.values()]
        weights, flop = costs[0].weights, sum(cost.flop for cost in costs)
        saved = sum(cost.saved for cost in costs)
        lines += [
            "",
            f"{name}, {weights / 1e6:,.0f} M weights",
            f"  a prompt's training: {gib(4 * weights)} of frozen weights in float32 ({gib(2 * weights)} "
            f"with --dtype bf16) and {gib(saved)} kept for the backward pass of a batch in float32",
            f"  P5's training before it: {gib(20 * weights)} (20 bytes per weight: itself, its gradient, "
            "AdamW's two means and the best so far) and what is kept for its backward pass",
            f"  a step of the prefix: {flop / 1e12:.2f} TFLOP",
        ]
        for data, people in PEOPLE.items():
            steps = 3 * sum(
                people // BATCH * epochs * t * (1 + 1 / r)
                for _, _, t, r in itertools.product(*GRID.values())
            )
            text = (
                f"  {data}, three attributes: {3 * points} runs, {steps:,.0f} steps of the prefix"
            )
            if tflops is not None:
                text += f", {steps * flop / (tflops * 1e12) / 3600:,.0f} hours"
            lines.append(text)
    lines += ["", "Worked out, not run. The runs of one attribute begin with"]
    lines += [f"  python train.py {flags}" for flags in paper_commands("gender")[:2]]
    lines.append(f"and are {points}; --list prints all. P5 is trained once for all of them.")
    return "\n".join(lines)


def paper_commands(attr: str, backbone: str = "t5-base", data: str = "ml-1m") -> list[str]:
    """The flags of train.py for every point of the grid."""
    found = []
    for lam, length, t, r in itertools.product(*GRID.values()):
        found.append(
            f"--attr {attr} --data {data} --backbone {backbone} --paper-schedule --prompt-candidates 100 "
            f"--batch-size {BATCH} --lam {lam} --prefix-len {length} --inner-steps {t} --rec-steps {t} "
            f"--dis-steps {t} --every {r}"
        )
    return found


# -------------------------------------------------------------------------------------------------
# The command
# -------------------------------------------------------------------------------------------------

SAME_OF_LLAMA = {1: 10, 2: 11, 3: 12, 4: 13, 5: 14, 6: 15}


def is_llama(backbone: str) -> bool:
    """Whether --backbone names a Llama, by its config.json or else by its name."""
    if Path(backbone).is_dir():
        return read_config(Path(backbone))["model_type"] == "llama"
    return "llama" in backbone


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The paper's tables and figures with ours beside them: starts the runs that are missing, "
        "goes on with interrupted ones, and writes into runs/reproduce/.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "what",
        nargs="+",
        help="table N (1 to 15), figure N (3, 6 to 10, trade-off), all; results writes RESULTS.md from the "
        "runs that there are; paper says what the paper's own set-up would need",
    )
    add("--data", default="toy", choices=DATA, help="toy (default), ml-100k, ml-1m or insurance")
    add("--data-dir", type=Path, help="folder with the data set's files; else ml-1m is downloaded")
    add(
        "--backbone",
        help="as in train.py: a T5 for tables 1 to 9 and the figures (tiny), a Llama for tables 10 to 15 "
        "(tiny-llama)",
    )
    add(
        "--seeds",
        type=at_least(1),
        help=f"seeds 0, 1, .. of tables 1 to 6 ({SEEDS}; {SEEDS_OF_ALL['toy']} for all in the toy world); "
        "the rest has seed 0",
    )
    add("--dry-run", action="store_true", help="stop after the plan")
    add("--device", default="auto", help="cpu, cuda, or auto (default): cuda where there is one")
    add(
        "--at-once",
        type=at_least(1),
        help="runs at a time (one for each core up to four, one on a GPU); the cores are shared out",
    )
    add("--quick", action="store_true", help="miniatures in the toy world, to see that it works")
    group = parser.add_argument_group("with paper")
    group.add_argument("--tflops", type=rate, help="what your GPU sustains, in 10^12 a second")
    group.add_argument("--measure", action="store_true", help="measure a step of t5-base here")
    group.add_argument("--list", action="store_true", help="print the command of every run")
    return parser.parse_args(argv)


def asked(what: list[str], w: World) -> list[str]:
    """The keys of NEEDS that are asked for. Raises InputError where there is no such table or figure."""
    if what == ["all"]:
        return everything(w)
    name = " ".join(what)
    if name in NEEDS:
        if w.data != "toy" and name not in everything(w):
            about = "Insurance" if name in INSURANCE_ONLY else "MovieLens"
            raise InputError(f"{name} is not about {w.data}; the paper has it for {about}")
        return [name]
    tables = f"table 1 to {len(published.TABLES)}"
    if what[0] == "figure":
        raise InputError(f"{name}: the figures with results are {', '.join(FIGURES)}")
    raise InputError(f"{name}: there is {tables}, figure N, all, results and paper")


def world_of(args: argparse.Namespace, what: list[str]) -> World:
    """On what to run. Raises InputError where a flag does not go with what is asked for."""
    w = World(args.data, args.data_dir, device=args.device, quick=args.quick)
    if args.data_dir is None and args.data in ("ml-100k", "insurance"):
        raise InputError(f"--data {args.data} needs --data-dir, the folder with its files")
    if args.data_dir is not None and not args.data_dir.is_dir():
        raise InputError(f"--data-dir {args.data_dir}: there is no such folder; name one")
    if args.quick and args.data != "toy":
        raise InputError(f"--quick is for the toy world; leave out --data {args.data}")
    if args.backbone is None:
        return w
    if args.backbone not in (*SCRATCH, *PUBLISHED) and not Path(args.backbone).is_dir():
        known = ", ".join([*SCRATCH, *PUBLISHED])
        raise InputError(f"--backbone {args.backbone}: neither a folder nor one of {known}")
    llama = is_llama(args.backbone)
    if what[0] == "table" and len(what) == 2 and what[1].isdecimal():
        number, about = int(what[1]), "a Llama" if llama else "a T5"
        if (number in LLAMA) != llama:
            same = SAME_OF_LLAMA if llama else {b: a for a, b in SAME_OF_LLAMA.items()}
            other = f"; the same of {about} is table {same[number]}" if number in same else ""
            raise InputError(
                f"--backbone {args.backbone}: is {about}, table {number} is not{other}"
            )
    if what[0] == "figure" and llama:
        raise InputError(f"--backbone {args.backbone}: the figures are about a T5; choose one")
    return w._replace(**{"llama" if llama else "backbone": args.backbone})


def main(argv: list[str] | None = None) -> list[Path]:
    """What is asked for; returns the files that were written."""
    args = parse_args(argv)
    if args.what == ["results"]:
        written = keep_records()
        write_atomically(Path("RESULTS.md"), results_markdown().encode())
        print(f"{written} files written into {RECORDS}/ from runs/, and RESULTS.md from {RECORDS}/")
        return [Path("RESULTS.md")]
    if args.what == ["paper"]:
        print(paper_setup(args.tflops, args.measure, pick_device(args.device)))
        if args.list:
            print("\n".join(f"python train.py {flags}" for flags in paper_commands("gender")))
        return []
    w = world_of(args, args.what)
    wanted, device = asked(args.what, w), pick_device(args.device)
    if any(name.startswith("figure") for name in wanted) and not report.can_draw():
        said = "figures need matplotlib, which is not installed: pip install matplotlib"
        if args.what[0] == "figure":
            raise InputError(said)
        print(f"{said}; without it their numbers are written and nothing is drawn")
    seeds = SEEDS_OF_ALL.get(w.data, SEEDS) if args.what == ["all"] else SEEDS
    seeds = (1 if args.quick else seeds) if args.seeds is None else args.seeds
    at_once = args.at_once or (1 if device.type == "cuda" else min(cores(), 4))
    planned = plan(jobs_of(wanted, w, seeds), w)
    print(show_plan(planned, wanted if len(wanted) < 4 else ["everything"], w, at_once), flush=True)
    if args.dry_run:
        return []
    w.folder.mkdir(parents=True, exist_ok=True)
    held = lock(w.folder)  # two of these would start the same runs
    if w.data == "ml-1m" and w.data_dir is None:
        load_dataset(w.data)  # downloads it, once for all runs
    began = time.monotonic()
    try:
        failed = carry_out(planned, at_once)
    except KeyboardInterrupt:
        raise Interrupted("the same command goes on with what is not finished") from None
    written = write_out(wanted, gather(w, seeds), w)
    held.close()
    for path in written if len(wanted) == 1 else ():
        if path.suffix == ".md":
            print("\n" + path.read_text())
    print(f"{minutes(time.monotonic() - began)}; {len(written)} files are in {w.folder}")
    if failed:
        name, said = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(planned)} failed and are left blank; {name}: {said}"
        )
    return written


if __name__ == "__main__":
    run_command(main)
