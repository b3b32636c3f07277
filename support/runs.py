"""A run's folder and what a person sees while it runs."""

import contextlib
import importlib.util
import io
import json
import os
import platform
import runpy
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Iterator, NoReturn

import numpy as np
import torch
from torch import nn

from support import CORES, ROOT
from support.files import (
    InputError,
    Interrupted,
    fill,
    lock,
    on_request_to_end,
    read_object,
    read_safetensors,
    refuse,
    show,
    try_folder,
    write_atomically,
)

# The first word of a run's recorded command, and what python is given in order to start it.
STARTED = {
    "train.py": [str(ROOT / "train.py")],
    "evaluate.py": [str(ROOT / "evaluate.py")],
    "probe.py": [str(ROOT / "probe.py")],
    "erase.py": ["-m", "audit.erase"],
    "baselines.py": ["-m", "reproduction.baselines"],
}


def called(script: str) -> str:
    """What a person types after `python` for a recorded command's first word."""
    if Path(sys.argv[0]).name == script:  # as it was typed, from wherever one stands
        return shlex.quote(sys.argv[0])
    return " ".join(STARTED[script]).replace(f"{ROOT}{os.sep}", "")


def noted(path: Path, folder: Path) -> str:
    """`path` as files in a run's `folder` have it: as seen from there, so that all can be moved together;
    absolute where one of the two is not in the working folder.
    """
    path, folder, here = path.resolve(), folder.resolve(), Path.cwd().resolve()
    together = path.is_relative_to(here) and folder.is_relative_to(here)
    return os.path.relpath(path, folder) if together else str(path)


def place_of(text: str, folder: Path) -> Path:
    """The path that `noted` has noted in a run's folder, as short as it can be said here."""
    path = Path(os.path.normpath(folder.resolve() / text))
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


class Run:
    """A new folder under runs/: config.json, log.txt, metrics.jsonl, and the progress on the screen.

    Every line that `say` and `progress` print is in log.txt too. `folder` is as for `new_folder`. Paths in
    `config` are noted as seen from the folder, and so is where the run was begun.
    """

    def __init__(self, folder: Path | None, name: str, config: dict):
        self.folder, self.frozen = new_folder(folder, name), {}
        self.config = self.as_noted(config)
        write_json(self.folder / "config.json", self.config)
        self.open(0.0)

    def as_noted(self, config: dict) -> dict:
        config |= {"working folder": Path.cwd(), "threads": torch.get_num_threads()}
        is_path = lambda value: isinstance(value, Path)
        return {k: noted(v, self.folder) if is_path(v) else v for k, v in config.items()}

    @classmethod
    def resume(cls, folder: Path, config: dict) -> "Run":
        """The interrupted run in `folder`, to go on with. Raises InputError where it is another one's.

        `config` is what a new run would write: what decides the result has to be as it was.
        """
        run, was = cls.__new__(cls), read_config_of(folder)
        run.folder, run.frozen = Path(folder), {}
        run.config = run.as_noted(config)
        refuse_another(f"--resume {folder}", was, run.decides(), "make it as it was or begin anew")
        run.open(run.so_far().get("seconds", 0.0))
        for path in run.folder.glob(".[!_]*.*"):  # a killed run's half-written files, not a Mac's
            if path.is_file():
                path.unlink()
        run.say(f"resuming {folder}")
        return run

    def decides(self) -> dict:
        """What has to be the same for this run to go on: its settings, and what it trains a prompt for.

        The latter are the fingerprints in `frozen`, "backbone" and "tokenizer", as soon as they are known.
        """
        free = "command", "threads"
        config = {key: value for key, value in self.config.items() if key not in free}
        return json.loads(json.dumps(config | self.frozen))  # its tuples are lists in files

    def open(self, seconds: float) -> None:
        """Hold the folder and go on writing its log; the clock shows `seconds`."""
        try:
            self.lock = lock(self.folder)
            text = dict(buffering=1, encoding="utf-8", errors="backslashreplace")
            self.log = (self.folder / "log.txt").open("a", **text)
            self.metrics = (self.folder / "metrics.jsonl").open("a", **text)
        except OSError as error:
            refuse(f"cannot write into {self.folder}", f"{error.strerror}; choose another folder")
        self.began, self.stage = time.monotonic() - seconds, ""
        self.stage_began, self.first_step, self.last_drawn = 0.0, 1, 0.0
        self.open_line = False  # an unfinished progress line stands on the terminal
        # in a training Ctrl-C waits for the end of the step, elsewhere it ends the run at once
        self.in_training, self.interrupted = False, 0  # the number of the signal
        self.handlers = on_request_to_end(self.interrupt)
        if (n := torch.get_num_threads()) < len(CORES):
            threads = f"{n} thread{'s' if n > 1 else ''} for {len(CORES)} cores"
            self.say(f"{threads} (OMP_NUM_THREADS changes that)")

    def interrupt(self, number: int, *_) -> None:
        if not self.in_training or self.interrupted:
            self.end_here(number)
        self.interrupted = number

    def end_here(self, number: int) -> NoReturn:
        script, folder = called(self.config["command"][0]), shlex.quote(str(self.folder))
        raise Interrupted(f"python {script} --resume {folder} goes on with it", number)

    def so_far(self) -> dict:
        """What `keep` was last given; {} before that."""
        path = self.folder / "unfinished.json"
        again = "remove it, or begin anew"
        return read_object(path, f"--resume {self.folder}", again) if path.exists() else {}

    def keep(self, results: dict) -> None:
        """Note what is known so far of results.json: a run that is resumed does not do it again."""
        write_json(self.folder / "unfinished.json", results | {"seconds": self.seconds()})

    @contextlib.contextmanager
    def spending(self, results: dict, clock: dict, name: str) -> Iterator[None]:
        """Note in `clock`, a part of the results, the seconds spent within; then keep the results."""
        began = self.seconds()
        yield
        clock[name] = self.seconds() - began
        self.keep(results)

    def finish(self, results: dict) -> None:
        """Add to the results what they were computed on and write results.json, in place of what was kept."""
        results["hardware"] = hardware(torch.device(self.config.get("device", "cpu")))
        write_json(self.folder / "results.json", results)
        (self.folder / "unfinished.json").unlink(missing_ok=True)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)  # Ctrl-C is for whoever began this run, or for nobody

    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """Print a line of text, to the screen and to log.txt."""
        if self.open_line:
            show()
            self.open_line = False
        show(text)
        self.log.write(text + "\n")

    def progress(self, stage: str, step: int, steps: int, **numbers: float) -> None:
        """Stage, step of steps, numbers and the time left; called after every step.

        On a terminal one line is redrawn in place, elsewhere and in log.txt a line appears every
        tenth of the way. The same lines, as JSON, are in metrics.jsonl.
        """
        time_now = time.monotonic()
        if stage != self.stage:  # it may begin in the middle, where a run is resumed
            self.stage, self.stage_began, self.first_step = stage, time_now - 1e-3, step
        left = (time_now - self.stage_began) / (step - self.first_step + 1) * (steps - step)
        values = "  ".join(f"{key} {value:.3f}" for key, value in numbers.items())
        line = f"{stage:<22}{step:>6} of {steps}   {values}   {minutes(left)} left"
        tenth = step == steps or step * 10 // steps > (step - 1) * 10 // steps
        if sys.stdout and sys.stdout.isatty() and (tenth or time_now - self.last_drawn > 0.2):
            show("\r\x1b[K" + line, end="\n" if step == steps else "")
            self.open_line, self.last_drawn = step < steps, time_now
        elif tenth:
            show(line)
        if tenth:
            self.log.write(line + "\n")
            self.metric(stage=stage, step=step, steps=steps, **numbers)

    def metric(self, **values) -> None:
        """A line of metrics.jsonl."""
        self.metrics.write(json.dumps({"seconds": round(self.seconds(), 3), **values}) + "\n")


def write_json(path: Path, value) -> None:
    """A JSON file, whole or as it was."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def save_array(path: Path, array: np.ndarray) -> None:
    """A NumPy file, whole or as it was."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_atomically(path, content.getvalue())


def run_module(name: str) -> None:
    """Hand a command over to a module of another folder, which gets the same arguments.

    Raises InputError where that folder has been left out.
    """
    folder = name.split(".")[0]
    if importlib.util.find_spec(folder) is None:
        needed = "which this command needs; copy it there"
        raise InputError(f"the folder {folder}/ is missing, {needed}")
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def refuse_another(where: str, before: dict, after: dict, remedy: str) -> None:
    """Raises InputError, with the two values, where something in `after` was another one `before`."""
    for what, value in after.items():
        if before.get(what) != value:
            was, is_now = json.dumps(before.get(what)), json.dumps(value)
            raise InputError(f"{where}: its {what} was {was} and is now {is_now}; {remedy}")


def finished(folder: Path) -> tuple[dict, dict]:
    """config.json and results.json of a run. Raises InputError where the folder is no finished run."""
    where, remedy = f"--run {folder}", "name the folder of a finished run"
    config = read_object(folder / "config.json", where, remedy)
    results = read_object(folder / "results.json", where, remedy)
    if "recommenders" in config:
        its = "is a run of baselines.py, whose attacks are in its results.json"
        refuse(where, f"{its}; name one of train.py")
    if "attrs" not in config or not {"p5 weights", "p5 tokenizer"} <= results.keys():
        refuse(where, "was made by an older version, or not by train.py; run train.py again")
    return config, results


def frozen_in(results: dict) -> dict[str, str]:
    """The fingerprints of the frozen backbone and of its tokenizer that results.json has."""
    return {"backbone": results["p5 weights"], "tokenizer": results.get("p5 tokenizer")}


def has_prompt(run: Run, attr: str, results: dict) -> bool:
    """Whether this run need not train the prompt of an attribute any more.

    It was trained here before an interruption; or, where there are several attributes, another finished run
    in runs/ has trained it with the same data, frozen weights, labels and settings of the game, and it is
    copied from there. That run is looked for when the attribute's turn comes: it may have ended meanwhile.
    """
    spent, config = results["cfp seconds"], run.decides()
    if attr in spent or len(results["attrs"]) == 1:
        return attr in spent
    keys = "data fingerprint", "label holdout", "tasks", "seed", "dtype", "cfp"
    files = f"cfp-{attr}.safetensors", f"discriminator-{attr}.safetensors"
    for path in sorted(Path("runs").glob(f"*/{files[0]}")):
        try:
            other, theirs = finished(path.parent)
        except InputError:
            continue  # was interrupted
        same_backbone = frozen_in(theirs) == run.frozen
        if same_backbone and all(other[key] == config[key] for key in keys):
            spent[attr] = theirs["cfp seconds"][attr]
            results["cfp from"][attr] = noted(path.parent, run.folder)
            run.say(f"CFP for {attr}: reusing the one of {path.parent}")
            for file in filter(lambda name: path.with_name(name).exists(), files):
                write_atomically(run.folder / file, path.with_name(file).read_bytes())
            return True
    return False


def load_part(part: nn.Module, path: Path, model: nn.Module, frozen: dict[str, str]) -> nn.Module:
    """A prompt or a mixer out of its file, on the device of the `model` that it was trained for.

    Raises InputError where the fingerprints in the file are not those in `frozen`: it belongs to another
    backbone or tokenizer.
    """
    tensors, belongs_to = read_safetensors(path)
    refuse_another(str(path), belongs_to, frozen, "it belongs to another; run train.py again")
    fill(part, path, tensors)
    return part.to(next(model.parameters()).device)


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
    except OSError as error:
        refuse(f"cannot write into {wanted}", f"{error.strerror}; choose another folder with --out")
    try_folder(wanted, "--out ")
    if any(path for path in wanted.iterdir() if path.name[0] != "."):
        raise InputError(f"--out {wanted} is not empty; choose a new folder or remove it")
    return wanted


def read_config_of(folder: Path) -> dict:
    """config.json of an interrupted run. Raises InputError where there is nothing to go on with."""
    where, remedy = f"--resume {folder}", "name a run's folder, or begin anew"
    config = read_object(Path(folder) / "config.json", where, remedy)
    if (Path(folder) / "results.json").exists():
        refuse(where, "this run is finished; see its results.json")
    if not config.get("command"):
        refuse(where, f"its config.json names no command; {remedy}")
    return config


def hardware(device: torch.device) -> str:
    """What a run was computed on: the GPU, or the processor and how many of its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, path = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    models = (row.split(":", 1)[1].strip() for row in rows if row.startswith("model name"))
    name, threads = next(models, name), torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def minutes(seconds: float) -> str:
    """3:07 for 187 seconds, 1:02:05 for over an hour."""
    seconds = max(round(seconds), 0)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
