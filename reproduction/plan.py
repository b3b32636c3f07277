"""The runs behind each table and figure of the paper, and which of them are there already.

plan.txt has the groups of runs from which each table and figure is drawn, `NEEDS`, and what each consists of,
`GROUPS`. A `Job` is one run or measurement; `find` finds its folder, whatever command it was begun with.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import re
from pathlib import Path
from typing import Iterable, NamedTuple

import torch

from reproduction import baselines
from support.datasets import ToyConfig, fingerprint, load_dataset
from support.files import InputError
from support.flags import SCRATCH, pick_device, read_attrs, settings, train_args
from support.weights import read_config

# The groups of tables 1 to 6, which have several seeds for them; all else has seed 0.
SEVERAL_SEEDS = "prompts", "filters", "adapters", "trivial"
# Of the paper's halves, what is about MovieLens alone, and the toy world with it, and what about Insurance.
MOVIELENS_ONLY = "table 5", "table 14", "figure 6", "figure 8"
INSURANCE_ONLY = "table 6", "table 15", "figure 7", "figure 9"

PREFIX_LENGTHS = 5, 10, 15, 30  # section 6
LAMBDAS = 0.1, 1, 10, 100  # section 6
FAIR_LAMBDAS = 0.3, 3  # of the fair baselines' trade-off, ours, in addition to their defaults
SEEDS = 3  # of tables 1 to 6, where --seeds says nothing; everything else has one
# `all` in the toy world is to end within 90 minutes on two cores.
SEEDS_OF_ALL = {"toy": 2}
ANY_SEEDS = 10  # whoever looks for finished runs looks for seeds below this
DATA = "toy", "ml-100k", "ml-1m", "insurance"
# Whose half of the paper's tables stands beside ours.
HALF = dict.fromkeys(DATA, "MovieLens") | {"insurance": "Insurance"}


def tag(backbone: str) -> str:
    """What tells the names of runs with this backbone from others."""
    return "" if backbone == "tiny" else f"-{Path(backbone).name}"


class World(NamedTuple):
    """The data set and the backbones on which everything is run."""

    data: str = "toy"
    data_dir: Path | None = None
    t5: str = "tiny"  # of tables 1 to 9 and the figures
    llama: str = "tiny-llama"  # of tables 10 to 15
    device: str = "auto"

    @property
    def attrs(self) -> tuple[str, ...]:
        """What the paper hides in these data."""
        insurance = self.data == "insurance"
        return ("age", "marital", "occupation") if insurance else ("gender", "age", "occupation")

    @property
    def swept(self) -> str:
        """The attribute that the figures are about."""
        return "marital" if self.data == "insurance" else "gender"

    @property
    def folder(self) -> Path:
        """Where its tables and figures go."""
        return Path("runs") / "reproduce" / f"{self.data}{tag(self.t5)}"

    @property
    def words(self) -> dict[str, Iterable[str]]:
        """What plan.txt has in braces, each with all its values."""
        # tables 1 and 2 have gender's AUC on Insurance as well
        beyond = [] if "gender" in self.attrs else ["gender"]
        (first, *other), every = self.attrs, ",".join(self.attrs)
        words = {"first": [first], "other": other, "all": [every], "beyond": beyond}
        words |= {"probed": dict.fromkeys(["gender", *self.attrs]), "swept": [self.swept]}
        words |= {"hidden": [every, *beyond]}  # in one run, with a mixer
        words |= {"t5": [self.t5], "tag": [tag(self.t5)]}
        words |= {"llama": [self.llama], "llama_tag": [tag(self.llama)]}
        swept = {"length": PREFIX_LENGTHS, "lam": LAMBDAS, "fair_lam": FAIR_LAMBDAS}
        return words | {word: [f"{x:g}" for x in settings] for word, settings in swept.items()}


class Job(NamedTuple):
    """A run, or a measurement in the folder of a run: a command that can be started."""

    name: str  # of a run its folder under runs/, if that is free
    group: str  # of plan.txt
    script: str
    flags: tuple[str, ...]  # without --out, --run and --base
    seed: int
    setting: float = math.nan  # prefix length or lambda, where a figure is drawn over it
    on: str = ""  # the job whose folder --run or --base names
    leaves: str = ""  # of a measurement, its file in that folder


def read() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What plan.txt says: the groups of each table and figure, and the lines of each group."""
    text = Path(__file__).with_name("plan.txt").read_text(encoding="utf-8")
    _, drawn, *blocks = text.strip().split("\n\n")
    needs = (line.split(": ") for line in drawn.splitlines())
    groups = (block.split("\n  ") for block in blocks)
    return {name: text.split(", ") for name, text in needs}, {name: top for name, *top in groups}


NEEDS, GROUPS = read()


def job_of(line: str, words: dict[str, str], w: World, group: str, seed: int) -> Job:
    """The job of a line of a group in plan.txt, filled in with these words."""
    head, _, command = line.partition(": ")
    name, _, base = (part.format(**words).replace(",", "+") for part in head.partition(" < "))
    script, *flags = (part.format(**words) for part in command.split(" "))
    folder = lambda name: f"{w.data}-{name}-seed{seed}"
    on, leaves = folder(base) if base else "", name if name.endswith(".json") else ""
    if leaves:
        name, flags = f"{on}/{leaves.removesuffix('.json')}", [*flags, "--seed", str(seed)]
    else:
        name, place = folder(name), ["--data-dir", str(w.data_dir)] if w.data_dir else []
        about = ["--data", w.data, *place, "--device", w.device, "--seed", str(seed)]
        flags = about + flags
    setting = [float(words[k]) for k in ("length", "lam", "fair_lam") if k in words] or [math.nan]
    return Job(name, group, script, tuple(flags), seed, *setting, on, leaves)


def jobs_in(group: str, w: World, seed: int) -> list[Job]:
    """The jobs of a group with one seed, one for every way to fill in what a line has in braces."""
    jobs = []
    for line in GROUPS[group]:
        names = dict.fromkeys(re.findall(r"{(\w+)}", line))
        for some in itertools.product(*(w.words[name] for name in names)):
            jobs.append(job_of(line, dict(zip(names, some)), w, group, seed))
    return jobs


def jobs_of(wanted: list[str], w: World, seeds: int) -> list[Job]:
    """What tables and figures need, each job once, a job that another needs before it."""
    needed = lambda names: {group for name in names for group in NEEDS[name]}
    groups, repeated = needed(wanted), needed({f"table {n}" for n in range(1, 7)} & set(wanted))
    jobs: dict[str, Job] = {}
    for group in [g for g in GROUPS if g in groups]:
        for seed in range(seeds if group in repeated else 1):
            for job in jobs_in(group, w, seed):
                assert not job.on or job.on in jobs, f"{job.name} needs {job.on}"
                jobs.setdefault(job.name, job)
    return list(jobs.values())


def everything(w: World) -> list[str]:
    """All tables and figures that are about this data set."""
    other = INSURANCE_ONLY if HALF[w.data] == "MovieLens" else MOVIELENS_ONLY
    return [name for name in NEEDS if name not in other]


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
            config = json.loads(path.read_text(encoding="utf-8"))
            found.append(Found(path.parent, config, (path.parent / "results.json").exists()))
    return found


def is_llama(backbone: str) -> bool:
    """Whether this backbone is a Llama, by its config.json or else by its name."""
    if Path(backbone).is_dir():
        return read_config(Path(backbone))["model_type"] == "llama"
    return "llama" in backbone


def worlds(place: Path) -> list[World]:
    """A World for each data set and T5 that the runs in a folder are about."""
    found = []
    for data in DATA:
        configs = [run.config for run in scan(place) if run.config.get("data") == data]
        names = sorted({config["backbone"] for config in configs if "backbone" in config})
        llamas = [name for name in names if is_llama(name)]
        llama = "tiny-llama" if "tiny-llama" in llamas or not llamas else llamas[0]
        t5s = [name for name in names if name not in llamas] or ["tiny"]
        found += [World(data, None, t5, llama) for t5 in t5s]
    return found


@functools.cache
def parsed(script: str, flags: tuple[str, ...]) -> argparse.Namespace | None:
    """The flags of a command as its script reads them; None where it would not take them."""
    parse = train_args if script == "train.py" else baselines.parse_args
    with contextlib.suppress(InputError):
        return parse(list(flags))
    return None


@functools.cache
def settings_of(job: Job) -> dict:
    """What config.json of a run with this job's flags says as long as the defaults are today's."""
    args = parsed(job.script, job.flags)
    assert args is not None, job
    attrs = read_attrs(args.attr, "--attr")
    about = {"label holdout": args.label_holdout}
    if job.script == "train.py":
        published = "llama" if is_llama(args.backbone) else "t5"
        kind = args.backbone if args.backbone in SCRATCH else published
        p5, cfg, mixer_cfg = settings(args, attrs, kind)
        about |= {"p5": p5, "cfp": cfg, "mixer": mixer_cfg if len(attrs) > 1 else None}
    else:
        about["recommenders"], about["games"] = baselines.configs(args, attrs)
    return json.loads(json.dumps(about, default=dataclasses.asdict))


WHERE = "out", "data_dir", "device", "base", "resume", "given", "seed"  # what is no setting


def is_of(found: Found, job: Job, any_version: bool = False) -> bool:
    """Whether a folder's run is the job's: the same flags, in whatever order, and the same settings.

    With `any_version` the flags are enough, whatever the defaults were when it ran.
    """
    script, *flags = found.config.get("command", [""])
    alike = script == job.script and found.config.get("seed") == job.seed
    args = parsed(script, tuple(flags)) if alike else None
    plain = lambda a: {key: value for key, value in vars(a).items() if key not in WHERE}
    if args is None or plain(args) != plain(parsed(script, job.flags)):
        return False
    return any_version or settings_of(job).items() <= found.config.items()


@functools.cache
def data_of(data: str, data_dir: Path | None, seed: int, toy_users: int, twins_in: str) -> str:
    return fingerprint(load_dataset(data, data_dir, seed, ToyConfig(toy_users, twins_in=twins_in)))


def find(job: Job, every: list[Found], jobs: dict[str, Job], check: bool = True) -> Found | None:
    """The folder of a job's run, a finished one if there is one; for a measurement, that of its run.

    With `check`, runs on other data or another P5 and unfinished runs that cannot go on here do not count.
    """
    if job.leaves:
        on = find(jobs[job.on], every, jobs, check)
        return None if on is None else on._replace(finished=(on.folder / job.leaves).exists())
    candidates = [found for found in every if is_of(found, job, any_version=not check)]
    if check and candidates:
        args = parsed(job.script, job.flags)
        about = args.data, args.data_dir, args.seed, args.toy_users, read_attrs(args.attr, "")[0]
        same = {"data fingerprint": data_of(*about)}
        here = same | {"torch": torch.__version__, "device": str(pick_device(args.device))}
        fits = lambda f: (same if f.finished else here).items() <= f.config.items()
        candidates = [found for found in candidates if fits(found)]
    return min(candidates, key=lambda found: not found.finished, default=None)


def look(
    jobs: list[Job], check: bool = True, place: Path = Path("runs")
) -> list[tuple[Job, Found | None]]:
    """Each job with the folder of its run, if there is one; see `find`."""
    every, by_name = scan(place), {job.name: job for job in jobs}
    return [(job, find(job, every, by_name, check)) for job in jobs]


def finished_jobs(
    w: World, seeds: int, check: bool = True, place: Path = Path("runs")
) -> list[tuple[Job, Found]]:
    """All jobs about this data set whose runs in a folder are finished, with the folders of these runs."""
    found = look(jobs_of(everything(w), w, seeds), check, place)
    return [(job, there) for job, there in found if there is not None and there.finished]
