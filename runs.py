"""A run's folder and what a person sees while it runs."""

import json
import sys
import time
from pathlib import Path

from files import InputError, write_atomically


class Run:
    """A new folder under runs/: config.json, log.txt, metrics.jsonl, and the progress on the screen.

    Every line that `say` and `progress` print is in log.txt too. Raises InputError if `folder`
    exists and is not empty; without a folder the first free one of runs/NAME, runs/NAME-2, .. is
    taken.
    """

    def __init__(self, folder: Path | None, name: str, config: dict):
        taken = 2
        self.folder = Path(folder) if folder else Path("runs") / name
        while folder is None and self.folder.exists():
            self.folder, taken = Path("runs") / f"{name}-{taken}", taken + 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise InputError(
                    f"--out {self.folder} is not empty; choose a new folder or remove it"
                )
            self.write_json("config.json", config)
            self.log = (self.folder / "log.txt").open("a", buffering=1)
            self.metrics = (self.folder / "metrics.jsonl").open("a", buffering=1)
        except OSError as error:
            raise InputError(f"cannot write into --out {self.folder}: {error.strerror}") from None
        self.began, self.stage, self.stage_began, self.last = time.monotonic(), "", 0.0, 0.0
        self.open_line = False  # an unfinished progress line stands on the terminal

    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def write_json(self, name: str, value) -> None:
        write_atomically(self.folder / name, (json.dumps(value, indent=2) + "\n").encode())

    def say(self, text: str) -> None:
        """Print a line of text, to the screen and to log.txt."""
        if self.open_line:
            print()
            self.open_line = False
        print(text, flush=True)
        self.log.write(text + "\n")

    def progress(self, stage: str, step: int, steps: int, **numbers: float) -> None:
        """Stage, step of steps, numbers and the time left; called after every step.

        On a terminal one line is redrawn in place, elsewhere and in log.txt a line appears every
        tenth of the way. The same lines, as JSON, are in metrics.jsonl.
        """
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.stage_began = stage, now - 1e-3
        left = (now - self.stage_began) / step * (steps - step)
        shown = "  ".join(f"{key} {value:.3f}" for key, value in numbers.items())
        line = f"{stage:<22}{step:>6} of {steps}   {shown}   {minutes(left)} left"
        tenth = step == steps or step * 10 // steps > (step - 1) * 10 // steps
        if sys.stdout.isatty() and (tenth or now - self.last > 0.2):
            print("\r\x1b[K" + line, end="\n" if step == steps else "", flush=True)
            self.open_line, self.last = step < steps, now
        elif tenth:
            print(line, flush=True)
        if tenth:
            self.log.write(line + "\n")
            self.metric(stage=stage, step=step, steps=steps, **numbers)

    def metric(self, **values) -> None:
        """A line of metrics.jsonl."""
        self.metrics.write(json.dumps({"seconds": round(self.seconds(), 3), **values}) + "\n")


def minutes(seconds: float) -> str:
    """3:07 for 187 seconds, 1:02:05 for over an hour."""
    seconds = max(round(seconds), 0)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
