"""Where a training stands, kept in the run's folder: `--resume RUN` of train.py and baselines.py goes
on from there.

One file holds everything that decides how it goes on, tensors as tensors and the rest as JSON in the same
file's header, so that there is no moment at which half of it is new. Written beside the old one and
renamed; the one before is kept as well.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from support.files import InputError, Interrupted, read_safetensors, save_tensors
from support.runs import Run, refuse_another

FILE, BEFORE = "checkpoint.safetensors", "checkpoint-before.safetensors"
EVERY = 60.0  # seconds between two of them, or ten times what the last one took to write


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Nested dicts, lists and tuples of tensors, numbers and text as JSON; the tensors go into `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs: the keys of JSON are text, an optimizer's are numbers
        return {"dict": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(v, tensors) for v in value]}
    if isinstance(value, list):
        return [pack(v, tensors) for v in value]
    return value


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The way back from `pack`; the tensors are copies."""
    if isinstance(value, list):
        return [unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensors[inside].clone()
    if kind == "tuple":
        return tuple(unpack(v, tensors) for v in inside)
    return {unpack(k, tensors): unpack(v, tensors) for k, v in inside}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Checkpoint.keep` has written. Raises InputError for anything else."""
    tensors, metadata = read_safetensors(path)
    try:
        return unpack(json.loads(metadata["state"]), tensors)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a checkpoint ({error!r}), copy it again") from None


class Checkpoint:
    """Keeps a training loop that `run` is in: its `parts`, torch's generators and what the loop adds.

    `stage` tells the loops of a run apart. A part is anything with state_dict and load_state_dict. On the
    CPU the loop goes on bit for bit as it would have.
    """

    def __init__(self, run: Run, stage: str, parts: dict[str, Any]):
        self.run, self.stage, self.parts = run, stage, parts
        self.last, self.wait = time.monotonic(), EVERY

    def restore(self, start: dict[str, Any]) -> dict[str, Any]:
        """What `keep` was last given in this stage, all parts set back to then; or else `start`.

        Where the newest file cannot be read the one before is taken, and said. Raises InputError where
        neither can, and where it is about other settings, data, backbone or tokenizer.
        """
        self.run.in_training = True
        found, source, problem = None, None, None
        for path in self.run.folder / FILE, self.run.folder / BEFORE:
            if found is None and path.exists():
                try:
                    found, source = read_checkpoint(path), path
                except InputError as error:
                    problem = error
                    self.run.say(f"{error}; trying the one before it")
        if found is None and problem is not None:
            raise InputError(f"{problem}; or remove it, and this training begins anew") from problem
        if found is None or found["stage"] != self.stage:
            return start
        refuse_another(str(source), found.get("of", {}), self.run.decides(), "begin anew")
        for name, part in self.parts.items():
            part.load_state_dict(found["parts"][name])
        torch.set_rng_state(found["generator"])
        if found["cuda"]:
            torch.cuda.set_rng_state_all(found["cuda"])
        self.run.went_on(found["seconds"])
        self.run.say(f"{self.stage}: going on after step {found['step']}")
        return found["loop"]

    def keep(self, step: int, steps: int, **loop: Any) -> None:
        """After step `step` of `steps`: write a checkpoint if it is time to, or if Ctrl-C was pressed.

        Raises Interrupted in the second case, and InputError where it cannot be written; what was there
        before still is.
        """
        if self.run.interrupted or time.monotonic() - self.last > self.wait:
            began = time.monotonic()
            state = {
                "of": self.run.decides(),
                "stage": self.stage,
                "step": step,
                "seconds": self.run.seconds(),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "generator": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "loop": loop,
            }
            tensors: dict[str, Tensor] = {}
            text = json.dumps(pack(state, tensors))
            keep_the_one_before(self.run)
            save_tensors(self.run.folder / FILE, tensors, {"state": text})
            self.last = time.monotonic()
            self.wait = max(EVERY, 10 * (self.last - began))
        if self.run.interrupted:
            raise Interrupted(self.run.how_to_go_on())
        self.run.in_training = step < steps


def keep_the_one_before(run: Run) -> None:
    """Give the newest checkpoint a second name, under which it outlives the next."""
    newest, before = run.folder / FILE, run.folder / BEFORE
    if newest.exists():
        linked = run.folder / f".{BEFORE}"
        linked.unlink(missing_ok=True)
        os.link(newest, linked)
        os.replace(linked, before)
        # renaming one name of a file to another of its names leaves both, after a kill between the two
        linked.unlink(missing_ok=True)


def forget(run: Run) -> None:
    """Remove the checkpoints of a run that is finished."""
    for name in FILE, BEFORE:
        (run.folder / name).unlink(missing_ok=True)
