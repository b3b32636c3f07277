"""The prompt mixer: one attention layer over the prompts of whichever attributes a user wants ignored.

Section 4.1. Each attribute's counterfactually-fair prompt is trained alone (`cfp.py`); the mixer makes
one prefix of any number of them, of any lengths, for the same frozen model. `train.py` trains it;
`open_run` at the end opens what it left, so that any choice of attributes can be hidden.
"""

from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfp import CFP
from data import Corpus, hold_out, make_corpus
from model import MASKED, Attention, Backbone, Prefix, RMSNorm, load_backbone
from support.command import read_finished
from support.configs import CFPConfig, LlamaConfig, MixerConfig, T5Config
from support.flags import DTYPES
from support.runs import Run, load_part


def subsets(attrs: list[str]) -> list[tuple[str, ...]]:
    """Every non-empty choice of the attributes, the smallest first; seven of three."""
    return [some for n in range(len(attrs)) for some in combinations(attrs, n + 1)]


def as_tokens(prefix: Prefix) -> Tensor:
    """A prefix of n tokens as vectors (b or 1, n, w): each token's keys and values of both stacks."""
    stacks = [stack for stack in prefix if stack is not None]  # (l, 2, b, h, n, e) each
    return torch.cat([s.permute(2, 4, 0, 1, 3, 5).flatten(2) for s in stacks], dim=-1)


def as_prefix(x_bnw: Tensor, shapes: dict[str, tuple[int, int, int]]) -> Prefix:
    """The way back from `as_tokens`."""
    widths = [2 * layers * heads * width for layers, heads, width in shapes.values()]
    stacks = {}
    for (name, (layers, heads, width)), x in zip(shapes.items(), x_bnw.split(widths, dim=-1)):
        stacks[name] = x.unflatten(2, (layers, 2, heads, width)).permute(2, 3, 0, 4, 1, 5)
    return Prefix(stacks.get("encoder"), stacks["decoder"])


def concatenate(prefixes: list[Prefix]) -> Prefix:
    """The chosen prompts one beside the other: the simplest way to combine them, and the mixer's input."""
    stacks = zip(*prefixes)
    return Prefix(*(None if parts[0] is None else torch.cat(parts, dim=-2) for parts in stacks))


class Mixer(nn.Module):
    """One attention layer from the tokens of the chosen prompts to those of a new one (section 4.1).

    Every token looks at the tokens of the other prompts and is changed by what it sees there; it may
    also look at nothing. So a prompt that is chosen alone stays what it is, and before training,
    when the change is zero, the new prompt is `concatenate`'s. No token has a position: the
    order in which prompts are given does not matter.
    # Paper silent: what an "embedding" of a prompt is, the layer's width, and whether there is a
    # residual path; a token here is its keys and values in all layers of both stacks.
    """

    def __init__(self, cfg: MixerConfig, model_cfg: T5Config | LlamaConfig):
        super().__init__()
        self.shapes = model_cfg.prefix_shapes
        width = sum(2 * layers * heads * e for layers, heads, e in self.shapes.values())
        head_width = cfg.hidden // cfg.n_heads
        self.norm = RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, (cfg.n_heads, cfg.n_heads, head_width), head_width**-0.5)
        # Scores begin with a standard deviation of 4, so that a token looks at a few others. Looking
        # at all alike, the tokens of a prompt would all be changed by the same vector.
        for projection in self.attention.q, self.attention.k:
            nn.init.normal_(projection.weight, std=2.0 * width**-0.5)
        nn.init.zeros_(self.attention.o.weight)

    def forward(self, prefixes: list[Prefix]) -> Prefix:
        """One prefix from those of the chosen attributes, as long as all of them together."""
        x_bnw = as_tokens(concatenate(prefixes))
        lengths = torch.tensor([prefix.decoder.shape[-2] for prefix in prefixes])
        owner = torch.arange(len(prefixes)).repeat_interleave(lengths).to(x_bnw.device)
        # (1, n, n): of its own prompt a token sees nothing
        hidden = (owner == owner[:, None]).unsqueeze(0)
        normed, attention = self.norm(x_bnw), self.attention
        # a key and a value of zeros in front: what a token may look at that says nothing
        keys, values = (F.pad(part, (0, 0, 1, 0)) for part in attention.keys_values(normed))
        bias = F.pad(MASKED * hidden[:, None].to(x_bnw.dtype), (1, 0))
        change = attention(attention.queries(normed), keys, values, bias)
        return as_prefix(x_bnw + change, self.shapes)


class Study(NamedTuple):
    """What everything in a run is about."""

    corpus: Corpus
    model: Backbone  # frozen
    tasks: list[str]
    seed: int
    run: Run  # its folder, log and progress

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class Opened(NamedTuple):
    """A finished run of `train.py`, ready to be measured."""

    config: dict  # its config.json
    corpus: Corpus
    model: Backbone  # frozen
    prefixes: dict[str, Prefix]  # of each attribute that the run hides
    mixer: Mixer | None  # of those of several
    held_out: dict[str, np.ndarray]  # of each, (users,) True where the adversary did not know it
    cfg: CFPConfig  # of its prompts

    def unseen(self, attr: str) -> np.ndarray:
        """(users,) True where the adversary did not know it; nowhere for what the run does not hide."""
        return self.held_out.get(attr, np.zeros(len(self.corpus.dataset.users), dtype=bool))

    def hiding(self, attrs: tuple[str, ...]) -> Prefix | None:
        """The prefix that hides these attributes of the run (section 4.1); None, no prefix, for none."""
        prompts = [self.prefixes[attr] for attr in attrs]
        if self.mixer is None or not prompts:
            return prompts[0] if prompts else None
        with torch.no_grad():
            return self.mixer(prompts)


def load_prompt(
    folder: Path, attr: str, cfg: CFPConfig, model: Backbone, frozen: dict[str, str]
) -> Prefix:
    """The prompt of an attribute that a run has trained for this model; see `load_part`."""
    path = folder / f"cfp-{attr}.safetensors"
    return load_part(CFP(cfg, model.cfg), path, model, frozen).frozen()


def load_mixer(folder: Path, cfg: MixerConfig, model: Backbone, frozen: dict[str, str]) -> Mixer:
    """The mixer that a run has trained for this model; see `load_part`."""
    return load_part(Mixer(cfg, model.cfg), folder / "mixer.safetensors", model, frozen)


def open_run(folder: Path, device: torch.device) -> Opened:
    """The data, the frozen backbone, the prompts and the mixer of a run's folder.

    Raises InputError where the folder is no finished run, or its data or its backbone have changed.
    """
    folder = Path(folder)
    found = read_finished(folder)
    config, (p5, cfg, mixer_cfg), frozen = found.config, found.configs, found.frozen
    model = load_backbone(found.p5_folder, DTYPES[config["dtype"]], device)
    model = model.requires_grad_(False).eval()
    corpus = make_corpus(found.dataset, found.tokenizer, p5, config["seed"])
    prefixes = {attr: load_prompt(folder, attr, cfg, model, frozen) for attr in config["attrs"]}
    mixer = None if mixer_cfg is None else load_mixer(folder, mixer_cfg, model, frozen)
    share, seed = config["label holdout"], config["seed"]
    hidden = {attr: hold_out(found.dataset, attr, share, seed) < 0 for attr in prefixes}
    return Opened(config, corpus, model, prefixes, mixer, hidden, cfg)
