"""What a training loop needs and the paper does not speak of: its rates, what it says, the best weights so
far, and where it stood when it was interrupted. `train.py` and `reproduction/baselines.py` have the loops.

A checkpoint is one file with everything that decides how the loop goes on, tensors as tensors and the rest
as JSON in its header, so that there is no moment at which half of it is new. The one before is kept as well.
"""

import json
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from support.files import InputError, read_safetensors, refuse, save_tensors
from support.runs import Run, refuse_another

FILE, BEFORE = "checkpoint.safetensors", "checkpoint-before.safetensors"
PATIENCE = 2  # validation scores in a row not above the best, then P5's training ends
EVERY = 60.0  # seconds between two of them, or ten times what the last one took to write
# Times the loss of a blind guess. One that guesses blindly for good would not be noticed here: that is
# what a prompt aims at, and the fresh attackers at the end tell the two apart.
COLLAPSED = 10.0


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Each parameter group's learning rate becomes `factor` times its initial one."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor


def p5_optimizer(model: torch.nn.Module, cfg) -> Optimizer:
    """AdamW, with a rate of its own for embeddings, head and relative biases."""
    tables, others = [], []
    for name, param in model.named_parameters():
        kind = name.split(".")[-2]
        (tables if kind in ("embedding", "head", "relative_bias") else others).append(param)
    of_tables = dict(lr=cfg.embedding_lr, weight_decay=cfg.embedding_decay)
    groups = [dict(params=tables) | of_tables, dict(params=others, lr=cfg.lr)]
    return torch.optim.AdamW(groups, betas=(0.8, 0.98), weight_decay=0.01, fused=True)


def in_parts(loss_of: Callable[[list], Tensor], examples: list, n: int) -> Tensor:
    """`loss_of` a batch's examples, a mean over them, in the memory that one of `n` parts takes.

    With several parts nothing of a part is kept but its loss: where its gradient is wanted it is computed
    again (`torch.utils.checkpoint`), a third to a half more time. The step is that of the whole batch.
    """
    if n == 1:
        return loss_of(examples)
    parts = [part for i in range(n) if (part := examples[i::n])]
    losses = [len(part) * checkpoint(loss_of, part, use_reentrant=False) for part in parts]
    return sum(losses) / len(examples)


def refuse_astray(optimizer: Optimizer, loss: Tensor, norm: Tensor) -> NoReturn:
    """Raises InputError: the gradient of the next step, of this length, is not a number."""
    first = optimizer.state.get(optimizer.param_groups[0]["params"][0])
    number = int(first["step"]) + 1 if first else 1
    rates = " and ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
    raise InputError(
        f"training went astray in step {number} at learning rate {rates}: the loss is {loss.item():g}, "
        f"the length of its gradient {norm.item():g}; try a smaller rate (--help lists them)"
    )


def check_discriminators(dis_loss: float, blind: float, cfg, when: str) -> None:
    """Raises InputError where the loss that they have just descended is far worse than a blind guess's."""
    if dis_loss > COLLAPSED * blind:
        loss = f"the discriminators' loss is {dis_loss:.3g} after their {cfg.dis_steps} steps at learning "
        loss += f"rate {cfg.dis_lr:g}, a blind guess has {blind:.3g}"
        refuse(when, f"{loss}: they have collapsed; try a smaller one")


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
        refuse(path, f"not a checkpoint ({error!r}), copy it again")


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
        found, problem = None, None
        for path in self.run.folder / FILE, self.run.folder / BEFORE:
            if path.exists():
                try:
                    found = read_checkpoint(path)
                    break
                except InputError as error:
                    problem = error
                    self.run.say(f"{error}; trying the one before it")
        if found is None and problem is not None:
            raise InputError(f"{problem}; or remove it, and this training begins anew") from problem
        if found is None or found["stage"] != self.stage:
            return start
        refuse_another(str(path), found.get("of", {}), self.run.decides(), "begin anew")
        for name, part in self.parts.items():
            part.load_state_dict(found["parts"][name])
        torch.set_rng_state(found["generator"])
        if found["cuda"]:
            torch.cuda.set_rng_state_all(found["cuda"])
        # what was spent before the interruption counts
        self.run.began = min(self.run.began, time.monotonic() - found["seconds"])
        self.run.say(f"{self.stage}: going on after step {found['step']}")
        return found["loop"]

    def keep(self, step: int, steps: int, **loop: Any) -> None:
        """After step `step` of `steps`: write a checkpoint if it is time to, or if Ctrl-C was pressed.

        Raises Interrupted in the second case, and InputError where it cannot be written; what was there
        before still is.
        """
        if self.run.interrupted or time.monotonic() - self.last > self.wait:
            began, tensors = time.monotonic(), {}
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
            text, newest = json.dumps(pack(state, tensors)), self.run.folder / FILE
            whole = newest.with_name(f".{FILE}.next")
            save_tensors(whole, tensors, {"state": text})
            if newest.exists():  # not every disk could give it a second name
                os.replace(newest, newest.with_name(BEFORE))
            os.replace(whole, newest)
            self.last = time.monotonic()
            self.wait = max(EVERY, 10 * (self.last - began))
        if self.run.interrupted:
            self.run.end_here(self.run.interrupted)
        self.run.in_training = step < steps


def forget(run: Run) -> None:
    """Remove the checkpoints of a run that is finished."""
    for name in FILE, BEFORE:
        (run.folder / name).unlink(missing_ok=True)


class Training(Checkpoint):
    """P5's loop, that `run` is in, and the best weights so far; `order` draws the batches."""

    def __init__(
        self, run: Run, stage: str, cfg, parts: dict[str, Any], order: np.random.Generator
    ):
        super().__init__(run, stage, parts)
        self.n_steps, self.checks, self.order = cfg.steps, cfg.checks, order

    def steps(self) -> Iterator[int]:
        """The steps that are left, from 1; after each it is kept where the loop stands.

        They end before their number where PATIENCE validation scores in a row were not above the best.
        """
        rng = self.order.bit_generator
        start = dict(number=0, best=None, best_hit=-1.0, waited=0, rng=rng.state)
        self.step, self.best, self.best_hit, self.waited, rng.state = self.restore(start).values()
        while self.step < self.n_steps and self.waited < PATIENCE:
            self.step += 1
            yield self.step
            loop = dict(number=self.step, best=self.best, best_hit=self.best_hit)
            last = self.step if self.waited == PATIENCE else self.n_steps
            self.keep(self.step, last, **loop, waited=self.waited, rng=rng.state)

    def time_to_validate(self) -> bool:
        """Whether one of the moments to do so, evenly spread over the loop, has come with this step."""
        passed = lambda step: step * self.checks // self.n_steps
        return passed(self.step) > passed(self.step - 1)

    def keep_best(self, model: torch.nn.Module, hit: float) -> None:
        """Note a validation score, and the weights where there was no better one."""
        self.run.metric(stage=f"{self.stage} validation", step=self.step, **{"hit@10": hit})
        self.waited += 1
        if hit > self.best_hit:
            self.best = {key: value.clone() for key, value in model.state_dict().items()}
            self.best_hit, self.waited = hit, 0
        if self.waited == PATIENCE and self.step < self.n_steps:
            self.run.say(f"{self.stage}: validation stopped rising, {self.step} steps were enough")


class GameTraining(Checkpoint):
    """Algorithm 1's loop of epochs of `per_epoch` batches each: a player against the adversary of a game."""

    def __init__(self, study, stage: str, game, player, optimizer, per_epoch: int, order):
        self.game, self.optimizer, self.order, self.per_epoch = game, optimizer, order, per_epoch
        self.title = f"{stage} ({' + '.join(study.tasks)})"
        self.n_steps = game.cfg.epochs * per_epoch
        parts = dict(player=player, prefix_optimizer=optimizer)
        parts |= dict(members=game.members, dis_optimizer=game.optimizer) if game.members else {}
        super().__init__(study.run, stage, parts)

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, from 0; the first of them may have begun before an interruption."""
        order, draw = self.order.bit_generator, self.game.rng.bit_generator
        loop = self.restore(dict(batch_num=0, epoch=order.state, draw=draw.state))
        self.step, order.state, draw.state = loop.values()
        yield from range(self.step // self.per_epoch, self.game.cfg.epochs)

    def batches(self, epoch: int, drawn: Iterator[tuple]) -> Iterator[tuple]:
        """(batch_num, users, batch) of what is left of an epoch, whose batches are `drawn`.

        # Paper silent: the prefix's learning rate rises over 20 batches and falls to a twentieth.
        """
        self.beginning = self.order.bit_generator.state
        for users, batch in islice(drawn, self.step - epoch * self.per_epoch, None):
            self.step += 1
            set_rates(self.optimizer, min(self.step / 20, 1 - 0.95 * self.step / self.n_steps))
            yield self.step, users, batch

    def report(
        self, attrs: tuple[str, ...], rec_loss: Tensor, dis_loss: Tensor, dependence: Tensor | float
    ) -> None:
        """After a batch: say its losses, refuse collapsed discriminators, keep where the loop stands."""
        losses = dict(rec=rec_loss.item())
        if self.game.members:
            losses |= dict(dis=dis_loss.mean().item(), blind=self.game.blind(attrs))
        if self.game.cfg.adversary != "game":
            losses["dependence"] = dependence.item()
        if self.step % self.game.cfg.every == 0 and self.game.can_collapse and self.game.members:
            when = f"{self.stage}, batch {self.step}"
            check_discriminators(losses["dis"], losses["blind"], self.game.cfg, when)
        self.run.progress(self.title, self.step, self.n_steps, **losses)
        # of the users' order its beginning, for the rest of this epoch, or where the next begins
        epoch = self.beginning if self.step % self.per_epoch else self.order.bit_generator.state
        loop = dict(batch_num=self.step, epoch=epoch, draw=self.game.rng.bit_generator.state)
        self.keep(self.step, self.n_steps, **loop)
