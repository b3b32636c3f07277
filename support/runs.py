"""A run's folder and what a person sees while it runs."""

import json
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from support.files import InputError, Interrupted, lock, write_atomically

ROOT = Path(__file__).resolve().parent.parent
# The first word of a run's recorded command, and what python is given today in order to start it.
STARTED = {
    "train.py": [str(ROOT / "train.py")],
    "evaluate.py": [str(ROOT / "evaluate.py")],
    "probe.py": [str(ROOT / "probe.py")],
    "erase.py": ["-m", "audit.erase"],
    "baselines.py": ["-m", "reproduction.baselines"],
}


def called(script: str) -> str:
    """What a person types after `python` for a recorded command's first word."""
    return " ".join(STARTED[script]).replace(f"{ROOT}{os.sep}", "")


class Run:
    """A new folder under runs/: config.json, log.txt, metrics.jsonl, and the progress on the screen.

    Every line that `say` and `progress` print is in log.txt too. Raises InputError if `folder`
    exists and is not empty; without a folder the first free one of runs/NAME, runs/NAME-2, .. is
    taken.
    """

    def __init__(self, folder: Path | None, name: str, config: dict):
        self.folder, self.config, self.frozen = new_folder(folder, name), config, {}
        self.write_json("config.json", config)
        self.open(0.0)

    @classmethod
    def resume(cls, folder: Path, config: dict) -> "Run":
        """The interrupted run in `folder`, to go on with. Raises InputError where it is another one's.

        `config` is what a new run would write: what decides the result has to be as it was.
        """
        run, was = cls.__new__(cls), read_config_of(folder)
        run.folder, run.config, run.frozen = Path(folder), config, {}
        refuse_another(f"--resume {folder}", was, run.decides(), "make it as it was or begin anew")
        run.open(run.so_far().get("seconds", 0.0))
        for path in run.folder.glob(".*.*"):  # a killed run's half-written files
            path.unlink()
        run.say(f"resuming {folder}")
        return run

    def decides(self) -> dict:
        """What has to be the same for this run to go on: its settings, and what it trains a prompt for.

        `frozen` has the latter's fingerprints, "backbone" and "tokenizer", as soon as they are known.
        """
        config = {key: value for key, value in self.config.items() if key != "command"}
        return json.loads(json.dumps(config | self.frozen))  # its tuples are lists in files

    def open(self, seconds: float) -> None:
        """Hold the folder and go on writing its log; the clock shows `seconds`."""
        try:
            self.lock = lock(self.folder)
            self.log = (self.folder / "log.txt").open("a", buffering=1)
            self.metrics = (self.folder / "metrics.jsonl").open("a", buffering=1)
        except OSError as error:
            raise InputError(
                f"cannot write into {self.folder}: {error.strerror}; choose another folder"
            ) from None
        self.began, self.stage = time.monotonic() - seconds, ""
        self.stage_began, self.first_step, self.last = 0.0, 1, 0.0
        self.open_line = False  # an unfinished progress line stands on the terminal
        # in a training Ctrl-C waits for the end of the step, elsewhere it ends the run at once
        self.in_training, self.interrupted = False, False
        self.handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, *_) -> None:
        if not self.in_training or self.interrupted:
            raise Interrupted(self.how_to_go_on())
        self.interrupted = True

    def went_on(self, seconds: float) -> None:
        """The clock shows `seconds` at least: what was spent before an interruption counts."""
        self.began = min(self.began, time.monotonic() - seconds)

    def how_to_go_on(self) -> str:
        return f"python {called(self.config['command'][0])} --resume {self.folder} goes on with it"

    def so_far(self) -> dict:
        """What `keep` was last given; {} before that."""
        path = self.folder / "unfinished.json"
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise InputError(f"{path} is no JSON ({error}); remove it, or begin anew") from None

    def keep(self, results: dict) -> None:
        """Note what is known so far of results.json: a run that is resumed does not do it again."""
        self.write_json("unfinished.json", results | {"seconds": self.seconds()})

    def finish(self, results: dict) -> None:
        """Add to the results what they were computed on and write results.json, in place of what was kept."""
        results["hardware"] = hardware(torch.device(self.config.get("device", "cpu")))
        self.write_json("results.json", results)
        (self.folder / "unfinished.json").unlink(missing_ok=True)
        if threading.current_thread() is threading.main_thread():
            # Ctrl-C belongs again to the run that began this one, or to nobody
            signal.signal(signal.SIGINT, self.handler)

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
        if stage != self.stage:  # which may begin in the middle, where a run is resumed
            self.stage, self.stage_began, self.first_step = stage, now - 1e-3, step
        left = (now - self.stage_began) / (step - self.first_step + 1) * (steps - step)
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


def refuse_another(where: str, was: dict, now: dict, remedy: str) -> None:
    """Raises InputError, with the two values, where something of `now` was another one."""
    for what, value in now.items():
        if was.get(what) != value:
            raise InputError(
                f"{where}: its {what} was {json.dumps(was.get(what))} and is now {json.dumps(value)}; "
                f"{remedy}"
            )


def new_folder(folder: Path | None, name: str) -> Path:
    """`folder`, which has to be new or empty, or else the first free one of runs/NAME, runs/NAME-2, .."""
    taken, wanted = 2, Path(folder) if folder else Path("runs") / name
    try:
        while folder is None:
            try:
                wanted.mkdir(parents=True)  # fails where it exists: no two runs take the same
                return wanted
            except FileExistsError:
                wanted, taken = Path("runs") / f"{name}-{taken}", taken + 1
        wanted.mkdir(parents=True, exist_ok=True)
        if any(path for path in wanted.iterdir() if path.name[0] != "."):
            raise InputError(f"--out {wanted} is not empty; choose a new folder or remove it")
    except OSError as error:
        raise InputError(
            f"cannot write into --out {wanted}: {error.strerror}; choose another folder"
        ) from None
    return wanted


def read_config_of(folder: Path) -> dict:
    """config.json of an interrupted run. Raises InputError where there is nothing to go on with."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"--resume {folder}: {path}: {error.strerror}; name a run's folder"
        ) from None
    except ValueError as error:
        raise InputError(f"--resume {folder}: {path} is no JSON ({error}); begin anew") from None
    if (Path(folder) / "results.json").exists():
        raise InputError(f"--resume {folder}: this run is finished; see its results.json")
    if not isinstance(config, dict) or not config.get("command"):
        raise InputError(f"--resume {folder}: {path} names no command; name a run's folder")
    return config


def hardware(device: torch.device) -> str:
    """What a run was computed on: the GPU, or the processor and how many of its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, path = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    for row in path.read_text().splitlines() if path.exists() else ():
        if row.startswith("model name"):
            name = row.split(":", 1)[1].strip()
            break
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def minutes(seconds: float) -> str:
    """3:07 for 187 seconds, 1:02:05 for over an hour."""
    seconds = max(round(seconds), 0)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
