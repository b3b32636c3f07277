"""Runs that are killed where a test wants it, and begun again."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import exit_code, fork, settle, try_less

import evaluate
import train
from reproduction import baselines
from support import files
from support.training import FILE, Checkpoint

# How a run dies: ("after", n) its n-th checkpoint, ("within", n) while that is put in its place,
# ("measuring", n) its n-th row, ("at", seconds) after its beginning.
Death = tuple[str, float]


def live(folder: Path, flags: str, death: Death | None = None) -> tuple[int, float]:
    """(exit code, seconds) of a run in this folder."""
    began = time.monotonic()
    process = fork(be_run, folder, flags.split(), death)
    code = exit_code(process, death[1] if death and death[0] == "at" else 300)
    if code is None:
        process.kill()
        code = exit_code(process)
    return code, time.monotonic() - began


def live_to_the_end(folder: Path, flags: str, death: Death) -> None:
    """A run that dies and is begun again as the README says, until it ends."""
    ended = live(folder, flags, death)[0]  # 0 where a moment comes too late
    said = folder / "out.txt"
    if death[0] == "at" and ended == 0:
        return
    assert ended == -signal.SIGKILL, f"{ended}: {said.read_text()}"
    script = "baselines.py " if flags.startswith("baselines.py") else ""
    begun = (folder / "run" / "config.json").exists()
    code, _ = live(folder, f"{script}--resume run" if begun else flags)
    assert code == 0, f"{code}: {said.read_text()}"


def be_run(folder: Path, flags: list[str], death: Death | None) -> None:
    """In the new process: a run that keeps every step, and attacks and ranks nothing.

    Measuring takes most of the time; so in place of what is measured of weights or of a prompt stands their
    sum, which tells whether they are the same.
    """
    n_measured = 0

    def measuring() -> None:
        nonlocal n_measured
        n_measured += 1
        if death == ("measuring", n_measured):
            os.kill(os.getpid(), signal.SIGKILL)

    def add_up(study, task, prefix, *args) -> tuple[dict, np.ndarray, None]:
        """In place of the attack on what a prefix leaves: its sum."""
        measuring()
        parts = [] if prefix is None else [part for part in prefix if part is not None]
        row = {"task": task, "sum": sum(float(part.sum()) for part in parts)}
        return row, np.zeros((len(study.corpus.dataset.users), 1)), None

    def size_of(model, *args) -> float:
        """In place of Hit@10 on validation items; falls from step to step, so that P5 ends early."""
        return sum(param.square().sum().item() for param in model.parameters())

    def row_of(m, name: str, hidden: tuple, seconds: float, read: tuple, *args) -> dict:
        measuring()
        row = {"model": name, "hidden": list(hidden), "seconds": seconds}
        return row | {"sum": float(read[1].sum())}

    evaluate.circumstances, evaluate.floor = lambda *args: {"shuffles": 1}, lambda *args: 0.0
    evaluate.measure = add_up
    train.validation_hit = size_of
    train.combinations_table = train.example = lambda *args: ""
    baselines.circumstances, baselines.table = lambda *args: {"shuffles": 1}, lambda *args: ""
    baselines.row_of = row_of
    try_less(pytest.MonkeyPatch())
    keep_every_step(death)
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder, [folder / "out.txt"] * 2)
    script = baselines if flags[0] == "baselines.py" else train
    files.run_command(lambda: script.main(flags[script is baselines :]))


def keep_every_step(death: Death | None) -> None:
    """From now on every step is kept, however short, and this process dies when it shall."""
    init, keep, replace, n_kept = Checkpoint.__init__, Checkpoint.keep, os.replace, 0

    def begin(self, *args) -> None:
        init(self, *args)
        self.wait = 0.0

    def keep_and_die(self, step: int, steps: int, **loop) -> None:
        nonlocal n_kept
        keep(self, step, steps, **loop)
        self.wait, n_kept = 0.0, n_kept + 1
        if death == ("after", n_kept):
            os.kill(os.getpid(), signal.SIGKILL)

    def die_or_replace(source: Path, target: Path) -> None:
        if Path(target).name == FILE and death == ("within", n_kept + 1):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    Checkpoint.__init__, Checkpoint.keep, os.replace = begin, keep_and_die, die_or_replace
