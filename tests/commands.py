"""The project's commands as a user types them, each in a process of its own.

The processes are forks of one that has everything imported: that takes six seconds on a slow machine, and
some sixty commands are tested. Each has one thread, so that two of them can share two cores.
"""

import importlib.util
import itertools
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from functools import cache
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Callable

import pytest
import torch

import evaluate  # noqa: F401  imported here once for all
import probe  # noqa: F401
import train  # noqa: F401
from support import expected
from support.runs import STARTED

for command_module in "audit.command", "audit.erase", "reproduction.baselines":
    if importlib.util.find_spec(
        command_module.split(".")[0]
    ):  # the core is tested without them too
        importlib.import_module(command_module)
NUMBERS, LOCK = itertools.count(1), threading.Lock()

torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports much when first made


@cache
def server():
    """Starts the process that is forked; before Python 3.13 it is not told where this one's imports are."""
    context, path = multiprocessing.get_context("forkserver"), os.environ.get("PYTHONPATH")
    context.set_forkserver_preload([__name__])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    os.environ |= {} if path is None else {"PYTHONPATH": path}
    return context


def fork(target: Callable, *args) -> BaseProcess:
    """A process that does this with everything imported, and is at work."""
    with LOCK:  # of threads that begin one each, the first starts the server
        process = server().Process(target=target, args=args, daemon=True)
        process.start()
    return process


def exit_code(process: BaseProcess, seconds: float | None = None) -> int | None:
    """What the process ended with; None where it is still at work after that many seconds.

    Whoever starts a process asks after all the others too, and an exit code can be read only once: of two
    threads that read it at one time the second gets 255. So neither is done while another thread is at it.
    """
    connection.wait([process.sentinel], seconds)
    with LOCK:
        return process.exitcode


def begin(
    folder: Path,
    arguments: str,
    script: str = "train.py",
    seconds: float = 300,
    briefly: bool = False,
) -> Callable[[], subprocess.CompletedProcess]:
    """Start the command in this folder; what is returned waits for its end and says what came of it.

    It is killed when it has been waited for that many seconds; `briefly`: with `try_less`.
    """
    number = next(NUMBERS)
    said = [folder.parent / f"{folder.name}-{number}.{name}" for name in ("out", "err")]
    words = [script, *arguments.split()]
    process = fork(be_script, words, folder, said, briefly)

    def wait() -> subprocess.CompletedProcess:
        code = exit_code(process, seconds)
        if code is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, seconds)
        return subprocess.CompletedProcess(words, code, *(p.read_text() for p in said))

    return wait


def command(*given, **more) -> subprocess.CompletedProcess:
    """The command from its beginning to its end; takes what `begin` takes."""
    return begin(*given, **more)()


def be_script(words: list[str], folder: Path, said: list[Path], briefly: bool) -> None:
    """In the new process: what `python` does with a script and its arguments."""
    settle(folder, said)
    if briefly:
        try_less(pytest.MonkeyPatch())
    *started, place = STARTED[words[0]]
    sys.argv = [place, *words[1:]]
    (runpy.run_module if started else runpy.run_path)(place, run_name="__main__")


def try_less(patch: pytest.MonkeyPatch) -> None:
    """From now on one setting of each attacker, and one penalty of what histories tell of labels.

    Saves half of a small run, where it plays no part how well it is attacked.
    """
    for name, settings in probe.ATTACKERS.items():
        patch.setitem(probe.ATTACKERS, name, settings[:1])
    patch.setattr(expected, "PENALTIES", expected.PENALTIES[:1])


def settle(folder: Path, said: list[Path]) -> None:
    """In a new process: at work in this folder, what is said added to these two files, one thread."""
    os.chdir(folder)
    for number, path in zip((1, 2), said):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    torch.set_num_threads(1)  # a second command is at work on the other core
