"""Every table and figure of the paper, one command each.

    python -m reproduction.tables table 4
    python -m reproduction.tables figure 8
    python -m reproduction.tables all --data toy --dry-run
    python -m reproduction.tables results

The first starts the runs of `train.py` and `baselines.py` that table 4 needs and that are not in runs/ yet,
goes on with those that were interrupted, and puts the paper's numbers and ours side by side into
runs/reproduce/. What is written there comes from `report.py` and `figures.py`, the paper's numbers from
`published.py`. `results` adds what the runs say to records/, which can be published, and writes
RESULTS.md from there.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Iterator, NamedTuple

from p5 import SCRATCH
from reproduction import claims, figures, published, report
from reproduction.plan import (
    ANY_SEEDS,
    DATA,
    INSURANCE_ONLY,
    LAMBDAS,
    NEEDS,
    PREFIX_LENGTHS,
    SEEDS,
    SEEDS_OF_ALL,
    SEVERAL_SEEDS,
    SWEPT,
    Found,
    Job,
    World,
    belongs,
    claim,
    done,
    everything,
    find,
    in_use,
    jobs_of,
    parsed,
    scan,
)
from reproduction.report import LLAMA, PROBES, Evidence, Point, Row, rows_of
from support.datasets import load_dataset
from support.files import InputError, Interrupted, lock, run_command, write_atomically
from support.flags import Parser, at_least, pick_device
from support.runs import ROOT, STARTED, minutes, new_folder
from support.weights import PUBLISHED, read_config

# -------------------------------------------------------------------------------------------------
# How long it takes
# -------------------------------------------------------------------------------------------------

# Minutes where no run of the kind is in runs/ yet, on an AMD EPYC. Of the toy world: whole runs with one
# thread, on one of two cores of 65 GFLOP/s; "P5" comes on top for whoever trains the backbone. Of the
# others: a whole run with one thread, its P5 included. What is not here is not known.
MINUTES = {
    "toy": {
        "P5": 1.1,
        "prompts": 14.0,
        "prompts of a Llama": 14.0,
        "prompt": 2.1,
        "prompt against a soft one": 6.1,
        "c-pmf, every attribute": 10.2,
        "c-sx, every attribute": 11.7,
        "c-pmf": 0.8,
        "c-sx": 0.9,
        "s-sas and sasrec": 1.7,
        "s-sas": 1.5,
        "s-b4 and bert4rec": 3.1,
        "s-b4": 2.3,
        "trivial": 0.1,
        "manual probe": 0.7,
        "soft probe": 0.5,
        "classifier probe": 0.1,
        "leace": 0.2,
    },
    "ml-100k": {"prompt": 7.0, "prompts": 20.0},
    "ml-1m": {"prompt": 53.0, "prompts": 150.0, "c-sx, every attribute": 121.0},
    "insurance": {
        "prompt": 15.0,  # with two threads, of an earlier version
        "prompts": 122.0,
        "c-pmf, every attribute": 73.0,
        "c-sx, every attribute": 54.0,
        "attack": 1.1,
        "s-sas and sasrec": 4.4,
        "s-sas": 5.0,
        "s-b4 and bert4rec": 8.3,
        "s-b4": 6.8,
    },
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
    """Which of the waiting could start now: first what others wait for, then the longest, then the first."""
    unfinished = {*waiting, *running}
    free = [p for p in waiting.values() if not unfinished & set(p.after)]
    needed = {name for p in waiting.values() for name in p.after}
    longest = lambda p: -(math.inf if math.isnan(p.minutes) else p.minutes)
    return sorted(free, key=lambda p: (p.job.name not in needed, longest(p)))


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
            "(`MINUTES`)"
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


def command_of(job: Job, found: Found | None, on: Found | None) -> list[str]:
    """What begins a job, or goes on with the run that was `found`; `on` is the run that it builds on."""
    flags = list(job.flags)
    if job.leaves:
        return [job.script, *flags, "--run", str(on.folder)]
    if found is not None:
        return [job.script, "--resume", str(found.folder)]
    flags += ["--base", str(on.folder)] if on is not None else []
    return [job.script, *flags, "--out", str(new_folder(None, job.name))]


def start(command: list[str], claimed: IO, environment: dict) -> tuple[subprocess.Popen, IO]:
    """(the process of a command, which holds the claim as long as it lives; the file of its errors)."""
    errors = tempfile.TemporaryFile()
    process = subprocess.Popen(
        [sys.executable, *STARTED[command[0]], *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=environment | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,  # Ctrl-C reaches them once, through this process
        pass_fds=(claimed.fileno(),) if os.name == "posix" else (),
    )
    return process, errors


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
                    every = scan()
                    found = find(p.job, every, jobs)
                    if found is not None and not p.job.leaves and in_use(found.folder):
                        continue  # somebody runs it by hand
                    del waiting[p.job.name]
                    if found is not None and found.finished:
                        continue
                    on = find(jobs[p.job.on], every, jobs) if p.job.on else None
                    command = command_of(p.job, found, on)
                    begun += 1
                    does = "goes on" if command[1] == "--resume" else "begins"
                    takes = "" if math.isnan(p.minutes) else f", about {p.minutes:.1f} min"
                    left = time_left({p.job.name: p} | waiting, running, at_once)
                    said = f"run {begun} of {n} {does}: {p.job.name}{takes}; {left} left"
                    print(said, flush=True)
                    process, errors = start(command, claimed, environment)
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
    runs, rows, llama_rows, read = [], [], [], []
    points: list[tuple[str, Point]] = []
    attr = SWEPT.get(w.data, "gender")
    for job, found in done(w, seeds, check, place):
        if job.leaves:
            left = json.loads((found.folder / job.leaves).read_text())
            if job.group in PROBES.values():
                probed = report.letters([job.leaves.removesuffix(".json").split("-")[2]])
                read.append((job.group, probed, job.seed, left))
            elif job.group == "soft discriminator":
                points += [(job.group, p) for p in soft_points(job, left)]
            else:
                points += [("trade-off", p) for p in leace_points(left)]
            continue
        results = read_results(found)
        runs.append((job, found, results))
        mine = rows_of(results)
        if job.group == "llama prompts":
            llama_rows += mine
        elif job.group in SEVERAL_SEEDS:
            rows += mine
        if job.seed == 0:
            points += points_of(job, found.config, mine, attr)
    drawn = {}
    for group in {group for group, _ in points}:
        once = {(p.series, setting_key(p.x), p.task): p for g, p in reversed(points) if g == group}
        drawn[group] = sorted(once.values(), key=lambda p: (p.series, p.task, setting_key(p.x)))
    sizes = next((results for job, _, results in runs if job.group == "prompts"), {})
    keys = "users", "candidates", "prompt candidates"
    sizes = {key: sizes[key] for key in keys if key in sizes}
    evidence = Evidence(w.data, w.backbone, w.llama, rows, llama_rows, read, drawn, sizes)
    return Known(evidence, runs)


MATCHING = "PMF", "SimpleX", "C-PMF", "C-SX"  # direct recommendation; their scores know no order


def points_of(job: Job, config: dict, rows: list[Row], attr: str) -> Iterator[tuple[str, Point]]:
    """The points that a run has in figures, each behind the figure's name: what it says of this attribute."""
    letter = report.letters([attr])

    def swept(group: str, row: Row, x: float) -> Iterator[tuple[str, Point]]:
        yield group, point(row, letter, attr if row.hidden else row.model, x)
        if group == "lambda":
            yield "trade-off", point(row, letter, row.model, x)

    for row in rows:
        if letter not in row.values or row.hidden not in ("", letter):
            continue
        if job.group in ("prefix length", "lambda") and row.hidden:
            yield from swept(job.group, row, job.setting)
        elif job.group == "prompts" and row.model in ("CFP", "P5"):
            # P5 is the point without, the default setting one more where no run is about it
            cfg, about = config["cfp"], {"prefix length": PREFIX_LENGTHS, "lambda": LAMBDAS}
            for group, x in ("prefix length", cfg["prefix_len"]), ("lambda", cfg["lam"]):
                if not row.hidden or x not in about[group]:
                    yield from swept(group, row, x)
        elif job.group in ("adapters", "fair lambda"):
            x = next((game["lam"] for game in config["games"].values()), math.nan)
            if row.task == ("direct" if row.model in MATCHING else "sequential"):
                yield "trade-off", point(row, letter, row.model, x)


def setting_key(x: float) -> float:
    return -1.0 if math.isnan(x) else x


def point(row: Row, letter: str, series: str, x: float) -> Point:
    """A row as a point of a figure about one attribute, at x where something is hidden."""
    values = {k: v for k, v in row.values.items() if k in report.HITS} | {"AUC": row.values[letter]}
    floor = row.floor.get(letter, math.nan)
    x = float(x) if row.hidden else math.nan
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
        elif figures.figure_points(number, e):
            files[".csv"] = figures.figure_csv(number, e)
            files[".md"] = figures.figure_markdown(number, e)
        for ending, text in files.items():
            write_atomically(path.with_suffix(ending), text.encode())
            written.append(path.with_suffix(ending))
        if kind == "figure" and files and figures.can_draw():
            figures.draw(number, e, path.with_suffix(".png"))
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
`claims.py`, `CLAIMS`. All of it is about the data and the backbones named here, not about the paper's.
"""


RECORDS, RESULTS = Path("reproduction/records"), Path("reproduction/RESULTS.md")


def keep_records() -> int:
    """Copy what finished runs in runs/ say into records/, over what is there of the same jobs.

    A record is a folder with config.json, results.json and what measurements left, without what is this
    machine's. Returns how many files were written.
    """
    written = 0
    for w in worlds(Path("runs")):
        for job, found in done(w, ANY_SEEDS, check=False):
            folder = RECORDS / (job.on if job.leaves else job.name)
            left = [job.leaves] if job.leaves else ["results.json", "config.json"]
            contents = {name: json.loads((found.folder / name).read_text()) for name in left}
            if not job.leaves:
                about = {"command": plain(found.config["command"]), "data dir": None, "base": None}
                contents["config.json"] |= about
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                write_atomically(folder / name, (json.dumps(content) + "\n").encode())
            written += len(contents)
    return written


def results_markdown() -> str:
    """RESULTS.md, from what is in records/: the same files give the same bytes."""
    known = [gather(w, ANY_SEEDS, False, RECORDS) for w in worlds(RECORDS)]
    every = [one for one in known if one.runs]
    if not every:
        raise InputError(
            "results: there is no finished run in runs/ yet; python -m reproduction.tables all"
        )
    parts = [HEAD, "## The claims of the paper\n\n"]
    parts += [claims.claims_markdown([known.evidence for known in every]), "\n", RULE]
    for known in every:
        e = known.evidence
        parts.append(f"\n## {report.about(e)}\n\n{runs_markdown(known)}\n")
        for name in NEEDS:
            kind, number = name.split(" ")
            about = e.data == "toy" or belongs(name, e.data)
            if kind == "table" and about and any(x.ours for x in report.entries(int(number), e)):
                parts.append("\n" + report.table_markdown(int(number), e))
            if kind == "figure" and figures.figure_points(number, e) and belongs(name, e.data):
                parts.append("\n" + figures.figure_markdown(number, e))
    return "".join(parts).rstrip("\n") + "\n"


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
# The command
# -------------------------------------------------------------------------------------------------

SAME_OF_LLAMA = {1: 10, 2: 11, 3: 12, 4: 13, 5: 14, 6: 15}


def is_llama(backbone: str) -> bool:
    """Whether --backbone names a Llama, by its config.json or else by its name."""
    if Path(backbone).is_dir():
        return read_config(Path(backbone))["model_type"] == "llama"
    return "llama" in backbone


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="The paper's tables and figures with ours beside them: starts the runs that are missing, "
        "goes on with interrupted ones, and writes into runs/reproduce/.",
    )
    add = parser.add_argument
    add(
        "what",
        nargs="+",
        help="table N (1 to 15), figure N (3, 6 to 10, trade-off), all; results keeps what the runs "
        "say in records/ and writes RESULTS.md from there",
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
    return parser.parse_args(argv)


def refuse_idle_flags(args: argparse.Namespace) -> None:
    """Raises InputError for a flag that has no part in what is asked for."""
    plain = vars(parse_args(args.what))
    given = [name for name, value in vars(args).items() if value != plain[name]]
    if args.what == ["results"] and given:
        raise InputError(
            f"results --{given[0].replace('_', '-')}: changes nothing here; leave it out"
        )


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
        raise InputError(f"{name}: the figures with results are {', '.join(figures.FIGURES)}")
    raise InputError(f"{name}: there is {tables}, figure N, all and results")


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
    refuse_idle_flags(args)
    if args.what == ["results"]:
        written = keep_records()
        write_atomically(RESULTS, results_markdown().encode())
        print(f"{written} files written into {RECORDS}/ from runs/, and RESULTS.md from {RECORDS}/")
        return [RESULTS]
    w = world_of(args, args.what)
    wanted, device = asked(args.what, w), pick_device(args.device)
    if any(name.startswith("figure") for name in wanted) and not figures.can_draw():
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
