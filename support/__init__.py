"""What every program needs and the paper says nothing of.

Every command imports this first, before torch, which takes two seconds to load: what Ctrl-C does meanwhile,
and what else the machine is doing.
"""

import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def seconds_at_work() -> tuple[float, float, float] | None:
    """(on the clock, of our cores at work, of them for this process); None where the system does not say."""
    try:
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = {name: [int(n) for n in numbers] for name, *numbers in rows if name[:3] == "cpu"}
        # user, nice, system, idle, waiting for a disk, two sorts of interrupts, taken by other machines
        busy = sum(sum(ticks[f"cpu{n}"][:8]) - sum(ticks[f"cpu{n}"][3:5]) for n in CORES)
        return time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()
    except (OSError, KeyError, ValueError, AttributeError):
        return None


# train.py and the others are in ROOT; of `python -m audit.erase` this much is known while audit is imported
SCRIPT = Path(sys.argv[0]).resolve()
IS_COMMAND = sys.argv[0] == "-m" or (SCRIPT.parent == ROOT and SCRIPT.suffix == ".py")
BEGAN = seconds_at_work() if IS_COMMAND else None


def idle_cores() -> int:
    """How many of our cores, one at least, nobody else has kept busy since this was imported.

    All of them where that is not known, or not a command's affair.
    """
    if BEGAN is None or (ended := seconds_at_work()) is None:
        return len(CORES)
    clock, busy, own = (after - before for before, after in zip(BEGAN, ended))
    return max(1, int(len(CORES) - (busy - own) / clock + 0.4))


def end_at_once(*_) -> None:
    os.write(2, b"\ninterrupted\n")
    os._exit(130)  # an exception would be taken by whatever is being imported


if IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)  # until `run_command`
