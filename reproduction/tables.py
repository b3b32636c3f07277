"""Every table and figure of the paper, one command each.

The command starts the runs of `train.py` and `baselines.py` that a table needs and that are not in runs/ yet,
goes on with those that were interrupted, and puts the paper's numbers and ours side by side into
runs/reproduce/. `results` adds what the runs say to records/, which can be published, and writes RESULTS.md
from there.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reproduction import claims, figures, plan, report
from reproduction.plan import NEEDS, Found, Job, World
from reproduction.report import Evidence, gather
from support import files
from support.datasets import load_dataset
from support.fields import at_least
from support.files import InputError, run_command, show, write_atomically
from support.flags import Parser, check_toy_flags, pick_device
from support.runs import ROOT, STARTED, minutes, new_folder


def show_plan(planned: list[tuple[Job, Found | None]], about: str) -> str:
    """The plan as text: each run with what there is of it."""
    lines = [f"{about}: {len(planned)} runs and measurements"]
    width = max(len(job.name) for job, _ in planned) + 2
    for number, (job, found) in enumerate(planned, 1):
        there = "" if found is None else f"is in {found.folder}"
        if found is not None and not found.finished:
            there = "to be read" if job.leaves else f"goes on in {found.folder}"
        lines.append(f"  {number:>3}  {job.name:<{width}}{there}".rstrip())
    return "\n".join([*lines, f"{len(to_do(planned))} to do, one after the other"])


def to_do(planned: list[tuple[Job, Found | None]]) -> list[Job]:
    return [job for job, found in planned if found is None or not found.finished]


def command_of(job: Job, found: Found | None, on: Found | None) -> list[str]:
    """The command that begins a job, or resumes the run that was `found`; `on` is the run it builds on."""
    if job.leaves:
        return [job.script, *job.flags, "--run", str(on.folder)]
    if found is not None:
        return [job.script, "--resume", str(found.folder)]
    base = ["--base", str(on.folder)] if on is not None else []
    return [job.script, *job.flags, *base, "--out", str(new_folder(None, job.name))]


def run(command: list[str]) -> str:
    """Run a command to its end. Returns the last line of what it complained of, "" where it succeeded.

    On Ctrl-C and SIGTERM it writes its checkpoint and ends first.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *STARTED[command[0]], *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,  # Ctrl-C reaches it once, through this process
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    return "" if code == 0 else said[-1] if said else f"ended with {code}"


def carry_out(planned: list[tuple[Job, Found | None]]) -> dict[str, str]:
    """Run what is not finished, one after the other, with a line for each that begins or ends.

    Returns the last line of each that failed; what needs one of these is left out, the rest goes on.
    """
    jobs, waiting, failed = {job.name: job for job, _ in planned}, to_do(planned), {}
    for number, job in enumerate(waiting, 1):
        if job.on in failed:
            failed[job.name] = f"needs {job.on}"
            continue
        every = plan.scan()
        found = plan.find(job, every, jobs)
        if found is not None and found.finished:  # one before it was of the same settings
            continue
        on = plan.find(jobs[job.on], every, jobs) if job.on else None
        command, began = command_of(job, found, on), time.monotonic()
        does = "goes on" if command[1] == "--resume" else "begins"
        show(f"run {number} of {len(waiting)} {does}: {job.name}")
        if why := run(command):
            failed[job.name] = why
            show(f"  failed: {job.name}: {why}")
        else:
            show(f"  done: {job.name} in {minutes(time.monotonic() - began)}")
    return failed


def texts_of(name: str, e: Evidence) -> dict[str, str]:
    """The texts of a table or a figure, by file ending; {} for a figure without points."""
    kind, number = name.split(" ")
    if kind == "table":
        table = int(number)
        return {".md": report.table_markdown(table, e), ".csv": report.table_csv(table, e)}
    if not figures.figure_points(number, e):
        return {}
    return {".md": figures.figure_markdown(number, e), ".csv": figures.figure_csv(number, e)}


def write_out(wanted: list[str], e: Evidence, folder: Path) -> list[Path]:
    """Write tables and figures: without runs a table has ours blank, and a figure is left out."""
    written = []
    for name in wanted:
        path, texts = folder / name.replace(" ", "-"), texts_of(name, e)
        for ending, text in texts.items():
            write_atomically(path.with_suffix(ending), text.encode())
        if name.startswith("figure") and texts and figures.can_draw():
            figures.draw(name.split(" ")[1], e, path.with_suffix(".png"))
            texts[".png"] = ""
        written += [path.with_suffix(ending) for ending in texts]
    return written


RECORDS, RESULTS = Path("reproduction/records"), Path("reproduction/RESULTS.md")


def keep_records() -> int:
    """Copy what finished runs in runs/ say into records/, in place of older records of the same jobs.

    A record is a folder with config.json, results.json and what measurements left, without paths of this
    machine. Returns how many files were written.
    """
    written = 0
    for w in plan.worlds(Path("runs")):
        for job, found in plan.finished_jobs(w, plan.ANY_SEEDS, check=False):
            folder = RECORDS / (job.on if job.leaves else job.name)
            folder.mkdir(parents=True, exist_ok=True)
            for name in [job.leaves] if job.leaves else ["results.json", "config.json"]:
                left = json.loads((found.folder / name).read_text(encoding="utf-8"))
                if name == "config.json":
                    paths = dict.fromkeys(["data dir", "base", "working folder"])
                    left |= {"command": plain(left["command"])} | paths
                write_atomically(folder / name, (json.dumps(left) + "\n").encode())
                written += 1
    return written


def results_markdown() -> str:
    """RESULTS.md, from what is in records/: the same files give the same bytes."""
    every = [gather(w, plan.ANY_SEEDS, False, RECORDS) for w in plan.worlds(RECORDS)]
    every = [e for e in every if e.runs]
    if not every:
        hint = "python -m reproduction.tables all"
        raise InputError(f"results: there is no finished run in runs/ yet; {hint}")
    head = Path(__file__).with_name("results_head.md").read_text(encoding="utf-8")
    parts = [head.format(claims=claims.claims_markdown(every))]
    for e in every:
        parts.append(f"\n## {e.title}\n\n{runs_markdown(e)}\n")
        for name in plan.everything(World(e.data)):
            if name.startswith("table"):
                shown = any(x.ours for x in report.entries(int(name.split(" ")[1]), e))
            else:
                shown = plan.belongs(name, e.data)
            if shown and (texts := texts_of(name, e)):
                parts.append("\n" + texts[".md"])
    return "".join(parts).rstrip("\n") + "\n"


def runs_markdown(e: Evidence) -> str:
    """The commands behind a data set's numbers with seeds, minutes and hardware."""
    by_command: dict[str, list[dict]] = {}
    for command, results, of_today in e.runs:
        mark = "" if of_today else " (an earlier version)"
        by_command.setdefault(f"`{' '.join(plain(command))}`{mark}", []).append(results)
    rows = []
    for command, alike in by_command.items():
        seeds = ", ".join(str(results["seed"]) for results in alike)
        took = ", ".join(f"{results['seconds'] / 60:.1f}" for results in alike)
        on = sorted({results.get("hardware", "not noted") for results in alike})
        rows.append([command, seeds, took, "; ".join(on)])
    return "\n".join(report.grid(["command", "seeds", "minutes", "hardware"], rows))


def plain(command: list[str]) -> list[str]:
    """A command without the flags that name paths, the device or the seed."""
    left_out = "--out", "--data-dir", "--device", "--seed", "--base", "--run"
    out = {i + more for i, flag in enumerate(command) if flag in left_out for more in (0, 1)}
    return [word for i, word in enumerate(command) if i not in out]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    text = "The paper's tables and figures with ours beside them: starts the runs that are missing, goes "
    parser = Parser(f"{text}on with interrupted ones, and writes into runs/reproduce/.")
    add = parser.add_argument
    text = "table N (1 to 15), figure N (3, 6 to 10, trade-off), all; results keeps what the runs say in "
    add("what", nargs="+", help=f"{text}records/ and writes RESULTS.md from there")
    text = "toy (default), ml-100k, ml-1m or insurance"
    add("--data", default="toy", choices=plan.DATA, help=text)
    add("--data-dir", type=Path, help="folder with the data set's files; else ml-1m is downloaded")
    text = "backbone of tables"
    add("--t5", default="tiny", help=f"{text} 1 to 9 and of the figures, as in train.py (tiny)")
    add("--llama", default="tiny-llama", help=f"{text} 10 to 15 (tiny-llama)")
    text = f"{plan.SEEDS}; {plan.SEEDS_OF_ALL['toy']} for all in the toy world"
    text = f"seeds 0, 1, .. of tables 1 to 6 ({text}); the rest has seed 0"
    add("--seeds", type=at_least(1), help=text)
    add("--dry-run", action="store_true", help="stop after the plan")
    add("--device", default="auto", help="cpu, cuda, or auto (default): cuda where there is one")
    return parser.parse_args(argv)


def asked(what: list[str], data: str) -> list[str]:
    """The keys of NEEDS that are asked for. Raises InputError where there is no such table or figure."""
    name, names = " ".join(what), plan.everything(World(data))
    if name == "all":
        return names
    if name in names:
        return [name]
    if name in NEEDS:
        about = "Insurance" if name in plan.INSURANCE_ONLY else "MovieLens"
        raise InputError(f"{name} is not about {data}; the paper has it for {about}")
    if what[0] == "figure":
        raise InputError(f"{name}: the figures with results are {', '.join(figures.FIGURES)}")
    raise InputError(f"{name}: there is table 1 to 15, figure N, all and results")


def world_of(args: argparse.Namespace) -> World:
    """What the flags say to run on. Raises InputError where they do not fit each other."""
    check_toy_flags(args)
    for flag, name in ("t5", args.t5), ("llama", args.llama):
        if plan.is_llama(name) != (flag == "llama"):
            its = "a" if flag == "t5" else "no"
            raise InputError(f"--{flag} {name}: is {its} Llama; choose another")
    return World(args.data, args.data_dir, args.t5, args.llama, args.device)


def main(argv: list[str] | None = None) -> list[Path]:
    """What is asked for; returns the files that were written."""
    args = parse_args(argv)
    if args.what == ["results"]:
        if args.given or args.dry_run:
            flag = min([*args.given, *["--dry-run"] * args.dry_run])
            raise InputError(f"results {flag}: changes nothing here; leave it out")
        for folder in RECORDS, RESULTS.parent:
            files.try_folder(folder)
        written = keep_records()
        write_atomically(RESULTS, results_markdown().encode())
        show(f"{written} files written into {RECORDS}/ from runs/, and RESULTS.md from {RECORDS}/")
        return [RESULTS]
    w = world_of(args)
    wanted = asked(args.what, w.data)
    pick_device(args.device)  # says so where it is not to be had
    if any(name.startswith("figure") for name in wanted) and not figures.can_draw():
        missing = "figures need matplotlib, which is not installed: pip install matplotlib"
        if args.what[0] == "figure":
            raise InputError(missing)
        show(f"{missing}; without it their numbers are written and nothing is drawn")
    of_all = plan.SEEDS_OF_ALL.get(w.data, plan.SEEDS)
    seeds = args.seeds or (of_all if args.what == ["all"] else plan.SEEDS)
    planned = plan.look(plan.jobs_of(wanted, w, seeds))
    about = f"{' '.join(args.what) if len(wanted) < 4 else 'everything'} on {w.data}"
    show(show_plan(planned, about))
    if args.dry_run:
        return []
    load_dataset(
        w.data, w.data_dir
    )  # says so where files are missing; downloads ml-1m for all runs
    files.try_folder(w.folder)
    held = files.lock(w.folder)  # two of these would start the same runs
    began = time.monotonic()
    try:
        failed = carry_out(planned)
    except KeyboardInterrupt:
        raise files.Interrupted("the same command goes on with what is not finished") from None
    written = write_out(wanted, gather(w, seeds), w.folder)
    held.close()
    for path in written if len(wanted) == 1 else ():
        if path.suffix == ".md":
            show("\n" + path.read_text(encoding="utf-8"))
    show(f"{minutes(time.monotonic() - began)}; {len(written)} files are in {w.folder}")
    if failed:
        name, why = next(iter(failed.items()))
        some = f"{len(failed)} of {len(planned)}"
        raise InputError(f"{some} failed and are left blank; {name}: {why}")
    return written


if __name__ == "__main__":
    run_command(main)
