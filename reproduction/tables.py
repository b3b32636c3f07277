"""Every table and figure of the paper, one command each.

The command starts the runs of `train.py` and `baselines.py` that a table needs and that are not in runs/ yet,
goes on with those that were interrupted, and puts the paper's numbers and ours side by side into
runs/reproduce/. `results` adds what the runs say to records/, which can be published, and writes RESULTS.md
from there, with the numbers in CSV files and the figures as pictures beside it.
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

from reproduction import claims, figures, plan, published, report
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


def write_out(wanted: list[str], e: Evidence, folder: Path) -> list[Path]:
    """Write tables and figures: a table has what was run, and a figure without points is left out."""
    texts = {}
    for name in wanted:
        (kind, number), path = name.split(" "), folder / name.replace(" ", "-")
        if kind == "table":
            doubt = published.DOUBTS.get(int(number))
            text = f"{report.table_markdown(int(number), e)}\n{report.protocol(e)}\n"
            texts[path.with_suffix(".md")] = text + (f"\nIn the paper: {doubt}\n" if doubt else "")
            texts[path.with_suffix(".csv")] = report.table_csv([int(number)], e)
        elif figures.figure_points(number, e):
            texts[path.with_suffix(".csv")] = figures.figure_csv([number], e)
    for path, text in texts.items():
        write_atomically(path, text.encode())
    drawn = [path for path in texts if path.name.startswith("figure") and files.can_draw()]
    for path in drawn:
        figures.draw(path.stem.removeprefix("figure-"), e, path.with_suffix(".png"))
    return [*texts, *(path.with_suffix(".png") for path in drawn)]


HERE = Path("reproduction")
RECORDS, RESULTS = HERE / "records", HERE / "RESULTS.md"


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


def all_results() -> tuple[dict[Path, str], dict[Path, tuple[str, Evidence]]]:
    """RESULTS.md and its CSV files by path, and of each of its pictures the figure and what it is drawn from.

    All is from records/: the same files give the same text. Raises InputError where there are none.
    """
    every = [gather(w, plan.ANY_SEEDS, False, RECORDS) for w in plan.worlds(RECORDS)]
    every = [e for e in every if e.runs]
    if not every:
        hint = "python -m reproduction.tables all"
        raise InputError(f"results: there is no finished run in runs/ yet; {hint}")
    doubts = "\n".join(f"- Table {n}: {doubt}" for n, doubt in published.DOUBTS.items())
    head = Path(__file__).with_name("results_head.md").read_text(encoding="utf-8")
    parts = [head.format(claims=claims.claims_markdown(every), doubts=doubts).rstrip()]
    texts, pictures = {}, {}
    for e in every:
        stem, names = f"{e.data}{plan.tag(e.t5)}", plan.everything(World(e.data))
        about = (int(name.split(" ")[1]) for name in names if name.startswith("table"))
        tables = [n for n in about if any(ours for _, ours in report.entries(n, e).values())]
        drawn = [n for n in figures.FIGURES if f"figure {n}" in names and figures.is_shown(n, e)]
        texts_of = report.table_csv(tables, e), figures.figure_csv(drawn, e), runs_csv(e)
        csvs = dict(zip(("tables", "figures", "runs"), texts_of))
        texts |= {HERE / "numbers" / f"{stem}-{what}.csv": text for what, text in csvs.items()}
        links = ", ".join(f"[{what}](numbers/{stem}-{what}.csv)" for what in csvs)
        parts.append(f"## {e.name}{e.mark if e.mark == report.EARLIER else ''}")
        parts.append(f"{report.protocol(e)} All numbers, and the commands behind them: {links}.")
        parts += [report.table_markdown(n, e).rstrip() for n in tables if n not in report.PROBES]
        paths = {n: f"pictures/{stem}-figure-{n}.png" for n in drawn}
        pictures |= {HERE / path: (n, e) for n, path in paths.items()}
        images = (f"![figure {n}: {figures.FIGURES[n][0]}]({path})" for n, path in paths.items())
        if drawn:
            command = report.command_of("figure N", e)
            parts += [f"**Figures {', '.join(drawn)}.** {command}", "\n".join(images)]
    texts[RESULTS] = "\n\n".join(parts) + "\n"
    return texts, pictures


def write_results() -> list[Path]:
    """Write RESULTS.md, its CSV files and the pictures that are stale or not there. Returns what it wrote."""
    texts, pictures = all_results()
    is_drawn = lambda path, mark: path.exists() and mark.encode() in path.read_bytes()
    stale = [path for path, of in pictures.items() if not is_drawn(path, figures.drawn_from(*of))]
    for folder in {path.parent for path in (*texts, *pictures)}:
        files.try_folder(folder)
    for path, text in texts.items():
        write_atomically(path, text.encode())
    show(f"RESULTS.md and {len(texts) - 1} CSV files are written from {RECORDS}/")
    if stale and not files.can_draw():
        show(f"{len(stale)} pictures are stale; they need matplotlib: pip install matplotlib")
        return list(texts)
    for path in stale:
        figures.draw(*pictures[path], path)
        show(f"{path} is drawn")
    return [*texts, *stale]


def runs_csv(e: Evidence) -> str:
    """The runs behind a data set's numbers: command, seed, minutes, hardware, version."""
    rows = []
    for command, results, mark in e.runs:
        about = results["seed"], results["seconds"] / 60, results.get("hardware", "not noted")
        rows.append([" ".join(plain(command)), *about, report.VERSIONS[mark]])
    return report.csv_text("command seed minutes hardware version", rows)


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
    if name == "all" or name in names:
        return names if name == "all" else [name]
    if name in NEEDS:
        about = "Insurance" if name in plan.INSURANCE_ONLY else "MovieLens"
        raise InputError(f"{name} is not about {data}; the paper has it for {about}")
    raise InputError(f"{name}: there is table 1 to 15, figure 3, 6 to 10, trade-off, all, results")


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
        files.try_folder(RECORDS)
        written = keep_records()
        show(f"{written} files written into {RECORDS}/ from runs/")
        return write_results()
    w = world_of(args)
    wanted = asked(args.what, w.data)
    pick_device(args.device)  # says so where it is not to be had
    if any(name.startswith("figure") for name in wanted) and not files.can_draw():
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
    # says so where files are missing; downloads ml-1m for all runs
    load_dataset(w.data, w.data_dir)
    files.try_folder(w.folder)
    held = files.lock(w.folder)  # two of these would start the same runs
    began = time.monotonic()
    try:
        failed = carry_out(planned)
    except KeyboardInterrupt:
        raise files.Interrupted("the same command goes on with what is not finished") from None
    written = write_out(wanted, gather(w, seeds), w.folder)
    held.close()
    if len(wanted) == 1 and written[:1] and written[0].suffix == ".md":
        show("\n" + written[0].read_text(encoding="utf-8"))
    show(f"{minutes(time.monotonic() - began)}; {len(written)} files are in {w.folder}")
    if failed:
        name, why = next(iter(failed.items()))
        count = f"{len(failed)} of {len(planned)}"
        raise InputError(f"{count} failed and are left out; {name}: {why}")
    return written


if __name__ == "__main__":
    run_command(main)
