"""What every program needs and the paper says nothing of.

Every command imports this first, before torch, whose two seconds belong to it: what Ctrl-C does meanwhile,
and how threads wait for each other, which is read when torch is loaded.
"""

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# train.py and the others are in ROOT; of `python -m audit.erase` this much is known while audit is imported
if sys.argv[0] == "-m" or Path(sys.argv[0]).resolve().parent == ROOT:

    def end_at_once(*_) -> None:
        os.write(2, b"\ninterrupted\n")
        os._exit(130)  # an exception would be taken by whatever is being imported

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)  # until `run_command`
