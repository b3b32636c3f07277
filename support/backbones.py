"""Folders of backbones: which one a name means, loading it loudly, keeping a trained one whole."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from support import processes
from support.configs import T5Config
from support.datasets import fingerprint
from support.files import enough_memory, refuse, save_tensors, try_folder, write_atomically
from support.flags import SCRATCH
from support.runs import Run, write_json
from support.tokens import Tokenizer, tokenizer_in
from support.weights import PUBLISHED, fetch_backbone, public_names, weights_fingerprint

SETTINGS = "settings.json"  # beside a P5 backbone that was trained here


def backbone_folder(name: str) -> Path | None:
    """The folder of the weights that --backbone names, downloaded if need be; None for from scratch.

    Raises InputError where there is no such thing.
    """
    if name in SCRATCH:
        return None
    if name in PUBLISHED and not Path(name).is_dir():
        return fetch_backbone(name, Path("weights") / name.replace("/", "-"))
    if not Path(name).is_dir():
        known = ", ".join([*SCRATCH, *PUBLISHED])
        others = "of any other model, download the folder and give its path"
        refuse(f"--backbone {name}", f"neither a folder nor one of {known}; {others}")
    return Path(name)


def fill_backbone(
    model: nn.Module, found: dict, folder: Path, dtype: torch.dtype, device: torch.device | str
) -> None:
    """Give a model on the meta device the weights in a folder, `found` as `read_weights` gives them.

    Every tensor of the files is used once, every parameter is filled, every shape is compared. Raises
    InputError naming the file and the key where that is not so. A tensor that has the wanted type already
    is not copied: it stays a view of the file.
    """
    device, state = torch.device(device), {}
    is_view = lambda tensor: tensor.dtype == dtype and device.type == "cpu"
    n_copied = sum(tensor.numel() for *_, tensor in found.values() if not is_view(tensor))
    what = f"loading {n_copied / 1e6:.1f} M weights from {folder} as {dtype}"
    or_else = ", or --dtype bf16" if dtype == torch.float32 else ""
    enough_memory(what, n_copied * dtype.itemsize, device, f"choose a smaller --backbone{or_else}")
    shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
    for ours, (path, theirs, tensor) in found.items():
        if tuple(tensor.shape) != shapes[ours]:
            makes = f"{folder / 'config.json'} makes it {shapes[ours]}; copy both again"
            refuse(path, f"{theirs} has shape {tuple(tensor.shape)}, {makes}")
        state[ours] = tensor.to(device=device, dtype=dtype)
    model.load_state_dict(state, assign=True)


@torch.no_grad()
def init_from_scratch(model: nn.Module, generator: torch.Generator) -> None:
    """Random weights with T5's standard deviations (Raffel et al. 2020, the released code).

    Llama's scaled attention has queries of unit variance where T5's have 1/e.
    """
    for name, param in model.named_parameters():
        kind = name.split(".")[-2]
        if "norm" in kind or param.dim() == 1:
            continue
        std = 1.0 if kind in ("embedding", "relative_bias") else param.shape[1] ** -0.5
        if kind == "q" and isinstance(model.cfg, T5Config):
            std *= model.cfg.d_kv**-0.5
        param.normal_(0.0, std, generator=generator)


def save_backbone(model: nn.Module, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` in the public layout into an existing folder."""
    config, ours = dataclasses.asdict(model.cfg), model.state_dict()
    names = public_names(config)
    save_tensors(folder / "model.safetensors", {key: ours[name] for key, name in names.items()})
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())


def own_memory(model: nn.Module, device: torch.device) -> None:
    """Copy weights that are views of their files, so that they can be trained.

    Raises InputError where memory does not suffice for training them.
    """
    n_weights = sum(param.numel() for param in model.parameters())
    remedy = "--p5-steps 0 takes them as they are, or choose a smaller --backbone"
    # of each in float32 itself, its gradient, AdamW's two means and the best so far
    enough_memory(f"training {n_weights / 1e6:.1f} M weights", 20 * n_weights, device, remedy)
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


class Place(NamedTuple):
    """Where a P5 backbone is, or will be once it is trained."""

    folder: Path
    is_there: bool
    settings: dict  # that decide it
    origin: str  # "from scratch" or "from FOLDER"

    def fill(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        """Save a trained model here. Its settings come last: without them nothing is there.

        Where several processes have trained, the first one saves and the others wait for it.
        """
        if processes.number() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            save_backbone(model, self.folder)
            write_atomically(self.folder / tokenizer.file, tokenizer.content)
            write_json(self.folder / SETTINGS, self.settings)
        processes.wait()


def place_of_p5(command, p5, run: Run) -> Place:
    """The P5 backbone that a command (see `read_command`) with the config `p5` is about.

    Published weights that are not trained further are used where they are. Every other one is in
    runs/p5-NAME-KEY, KEY a hash of the settings, of the data and of the weights that it starts from.
    """
    start, name = command.folder, command.args.backbone
    if start is not None and p5.steps == 0:
        run.say(f"P5 backbone: {start} as it is")
        return Place(start, True, {}, "")
    settings = {
        "data": fingerprint(command.dataset),
        "backbone": name if start is None else weights_fingerprint(start),
        "p5": dataclasses.asdict(p5),
        "seed": command.args.seed,
    }
    if start is not None:
        settings["tokenizer"] = tokenizer_in(start).fingerprint
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    target = Path("runs") / f"p5-{command.dataset.name}-{key}"
    is_there = (target / SETTINGS).exists() and (bool(run.so_far()) or not command.args.retrain)
    if is_there:
        how = "trained before with these settings (--retrain trains anew)"
        run.say(f"P5 backbone: reusing {target}, {how}")
    else:
        try_folder(target.parent)
    return Place(target, is_there, settings, "from scratch" if start is None else f"from {start}")
