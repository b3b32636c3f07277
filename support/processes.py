"""Several processes, one batch: what `torchrun` needs, on several GPUs, machines or cores.

    torchrun --nproc-per-node 2 train.py --attr gender

Every process has the whole model, reads its own rows of every batch, and moves by the mean of all gradients:
all stay alike, and as one process with the whole batch would be. Without torchrun there is one process and
every function here returns what it was given.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from support.files import InputError


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def start(device: torch.device) -> torch.device:
    """Join the others, if torchrun started this process; its own device. Only the first one speaks."""
    if "LOCAL_RANK" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if number() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    return device


def folder_of(out: Path | None) -> Path | None:
    """Where a run's files go: `out` in the first process, in the others a folder that goes with them."""
    if number() == 0:
        return out
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def wait() -> None:
    """Until all processes have come here."""
    if count() > 1:
        dist.barrier()


def first_goes_on() -> bool:
    """Leave the others; True in the process that does alone what follows, the measuring."""
    first = number() == 0
    wait()
    if count() > 1:
        dist.destroy_process_group()
    return first


def own(rows: list) -> list:
    """This process's part of a batch's rows. Raises InputError where they cannot be dealt out evenly."""
    share, left_over = divmod(len(rows), count())
    if left_over:
        what = f"a batch of {len(rows)} prompts cannot be shared evenly by {count()} processes"
        raise InputError(f"{what}; choose another --batch-size or --nproc-per-node")
    return rows[number() * share : (number() + 1) * share]


def all_rows(own_bd: Tensor) -> Tensor:
    """The rows (b, d) of all processes, in the order that `own` dealt them.

    Only a process's own rows carry a gradient, as many times as there are processes: `average` takes the mean
    of what each found for its own rows, and a loss of all rows together wants their sum.
    """
    if (n := count()) == 1:
        return own_bd
    parts = [torch.empty_like(own_bd) for _ in range(n)]
    dist.all_gather(parts, own_bd.detach().contiguous())
    if own_bd.requires_grad:
        own_bd = own_bd.view_as(own_bd)  # the hook is for this use alone
        own_bd.register_hook(lambda gradient: gradient * n)
    parts[number()] = own_bd
    return torch.cat(parts)


def average(params: list[Tensor]) -> None:
    """Every process's gradients become the mean of all processes'."""
    if count() == 1:
        return
    grads = [param.grad for param in params if param.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for grad, mean in zip(grads, (flat / count()).split([grad.numel() for grad in grads])):
        grad.copy_(mean.view_as(grad))
