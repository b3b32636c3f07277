"""The tests in two processes, so that two cores are at work; each is given a file whenever it is free.

pytest-xdist does this and much more, and is one package more to install. A file stays in one process, so what
its fixtures prepare is prepared once. All this is for the whole suite on two cores: whoever names files, asks
with -k or looks with -s or --pdb gets pytest's own single process.
"""

import os
import subprocess
import sys
import warnings
from collections import deque
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import pytest
import torch

from support import CORES

CHANNEL = os.environ.pop("TESTS_CHANNEL", None)  # has a process that runs tests; not what it begins
SLOWEST = "full_size train audit reproduce checkpoints layout baselines first_day processes probe"


def files_of(session: pytest.Session) -> dict[str, list[pytest.Item]]:
    """The tests of each file; the slowest files are first, lest one core waits for the other at the end."""
    found = {}
    for item in session.items:
        found.setdefault(item.path.stem.removeprefix("test_"), []).append(item)
    return {
        name: found[name] for name in dict.fromkeys([*SLOWEST.split(), *found]) if name in found
    }


def whole_suite(config: pytest.Config) -> bool:
    option = config.option
    named = config.args_source is not config.ArgsSource.TESTPATHS or option.keyword
    return not (named or option.collectonly or option.usepdb or option.capture == "no")


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if CHANNEL is not None:
        return run_what_is_given(session, Connection(int(CHANNEL)))
    if len(CORES) > 1 and whole_suite(session.config) and not session.testsfailed:
        return give_out(session)
    return None  # pytest runs them itself


def run_what_is_given(session: pytest.Session, channel: Connection) -> bool:
    """In one of the two: run each file that is named, tell everything to who names it."""
    hook, files = session.config.hook, files_of(session)
    torch.set_num_threads(1)  # the other core is the other's

    class Telling:
        def pytest_runtest_logreport(self, report):
            data = hook.pytest_report_to_serializable(config=session.config, report=report)
            channel.send(("report", data))

        def pytest_warning_recorded(self, warning_message, when, nodeid):
            seen = warning_message
            if when == "runtest":  # what was said before, who names the files has heard itself
                said = str(seen.message), seen.category, seen.filename, seen.lineno
                channel.send(("warning", (nodeid, said)))

    session.config.pluginmanager.register(Telling())
    with suppress(KeyboardInterrupt, OSError):  # who names the files has been stopped
        channel.send(("free", None))
        while name := channel.recv():
            others = [items[0] for other, items in files.items() if other != name]
            for item, following in zip(files[name], [*files[name][1:], *others[:1], None]):
                hook.pytest_runtest_protocol(item=item, nextitem=following)
            channel.send(("free", None))
    return True


def give_out(session: pytest.Session) -> bool:
    """Begin the two, name a file to each that is free, pass on what they tell."""
    files, untold = deque(files_of(session)), {item.nodeid for item in session.items}
    at_work = dict(begin(session.config) for _ in range(2))
    try:
        while at_work:
            for channel in wait(list(at_work)):
                try:
                    word, about = channel.recv()
                except EOFError:
                    code = at_work.pop(channel).wait()
                    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                        session.shouldfail = f"a process that ran tests ended with {code}"
                    continue
                if word == "free":
                    channel.send(files.popleft() if files else None)
                else:
                    untold.discard(pass_on(session.config, word, about))
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
    finally:
        for channel, process in at_work.items():
            channel.close()  # it sees that when its test has ended
            process.wait()
    if untold:
        session.shouldfail = f"not run: {', '.join(sorted(untold))}"
        raise session.Failed(session.shouldfail)
    return True


def pass_on(config: pytest.Config, word: str, about) -> str:
    """Give a report or a warning to pytest, as if it came from here; the name of its test."""
    if word == "warning":
        nodeid, said = about
        seen = dict(warning_message=warnings.WarningMessage(*said), nodeid=nodeid)
        seen |= dict(when="runtest", location=None)
        config.hook.pytest_warning_recorded.call_historic(kwargs=seen)
        return ""
    report = config.hook.pytest_report_from_serializable(config=config, data=about)
    config.hook.pytest_runtest_logreport(report=report)
    return report.nodeid


def begin(config: pytest.Config) -> tuple[Connection, subprocess.Popen]:
    """The channel to another pytest with the same arguments, and its process."""
    ours, theirs = Pipe()
    number, given = theirs.fileno(), config.invocation_params
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *given.args],
        cwd=given.dir,
        env=os.environ | {"TESTS_CHANNEL": str(number)},
        stdout=subprocess.DEVNULL,
        pass_fds=[number],
    )
    theirs.close()
    return ours, process
