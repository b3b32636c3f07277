"""The runs behind each table and figure of the paper, and which of them are there already.

`NEEDS` is the plain list: of each table and figure the groups of runs that it is drawn from. A `Job` is one
run or measurement, `find` its folder, whatever command it was begun with.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import shlex
from pathlib import Path
from typing import IO, NamedTuple

import torch

from data import TASKS
from p5 import SCRATCH, read_attrs
from reproduction import baseline_flags, report
from reproduction.report import LLAMA, PROBES
from support.datasets import ToyConfig, fingerprint, load_dataset
from support.files import InputError, lock
from support.flags import parse_args as train_args
from support.flags import pick_device, settings
from support.weights import read_config

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
    return [name for name in NEEDS if w.data == "toy" or belongs(name, w.data)]


def belongs(name: str, data: str) -> bool:
    """Whether a table or figure is about this data set; of the toy world's figures, one of each pair."""
    return name not in (INSURANCE_ONLY if report.half_of(data) == "MovieLens" else MOVIELENS_ONLY)


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
    parse = train_args if script == "train.py" else baseline_flags.parse_args
    try:
        return parse(list(flags))
    except InputError:
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
        recommenders, games = baseline_flags.configs(args, attrs)
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


def done(
    w: World, seeds: int, check: bool = True, place: Path = Path("runs")
) -> list[tuple[Job, Found]]:
    """The jobs of everything about this data set that are finished in a folder, and where."""
    jobs, every = {job.name: job for job in jobs_of(everything(w), w, seeds)}, scan(place)
    found = [(job, find(job, every, jobs, check)) for job in jobs.values()]
    return [(job, there) for job, there in found if there is not None and there.finished]


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
