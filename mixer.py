"""The prompt mixer: one attention layer over the prompts of whichever attributes a user wants ignored.

Section 4.1. Each attribute's counterfactually-fair prompt is trained alone (`cfp.py`); the mixer makes
one prefix of any number of them, of any lengths, for the same frozen model. `train.py` trains it.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import MASKED, Attention, LlamaConfig, Prefix, RMSNorm, T5Config


@dataclass(frozen=True)
class MixerConfig:
    """The hyper-parameters of the mixer; the game that trains it is `CFPConfig`'s, but for these."""

    hidden: int = 256  # width of the attention, all heads together
    n_heads: int = 8
    lam: float = 5.0  # lambda of Eq. 5, for labels of log 2 nats; of h nats, lam * log 2 / h
    # AdamW, a fifth of the prompts': the discriminators meet a choice in every fourth batch, and
    # a prefix that moves too fast escapes them (at 5e-3 gender is read with 79 behind all three).
    lr: float = 1e-3
    dis_lr: float = 1e-2  # of the discriminators, AdamW
    dis_steps: int = 16  # T of the discriminators in line 14: with 8 they did not keep up
    epochs: int = 55  # passes over the users


def subsets(attrs: list[str]) -> list[tuple[str, ...]]:
    """Every non-empty choice of the attributes, the smallest first; seven of three."""
    return [some for n in range(len(attrs)) for some in combinations(attrs, n + 1)]


def as_tokens(prefix: Prefix) -> Tensor:
    """A prefix of n tokens as vectors (b or 1, n, w): each token's keys and values of both stacks."""
    stacks = [stack for stack in prefix[:2] if stack is not None]  # (l, 2, b, h, n, e) each
    return torch.cat([s.permute(2, 4, 0, 1, 3, 5).flatten(2) for s in stacks], dim=-1)


def as_prefix(
    x_bnw: Tensor, shapes: dict[str, tuple[int, int, int]], mask: Tensor | None
) -> Prefix:
    """The way back from `as_tokens`."""
    widths = [2 * layers * heads * width for layers, heads, width in shapes.values()]
    stacks = {}
    for (name, (layers, heads, width)), x in zip(shapes.items(), x_bnw.split(widths, dim=-1)):
        stacks[name] = x.unflatten(2, (layers, 2, heads, width)).permute(2, 3, 0, 4, 1, 5)
    return Prefix(stacks.get("encoder"), stacks["decoder"], mask)


def concatenate(prefixes: list[Prefix]) -> Prefix:
    """The chosen prompts one beside the other: the simplest way to combine them, and the mixer's input."""
    stacks = zip(*(prefix[:2] for prefix in prefixes))
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
        self.attention = Attention(width, cfg.n_heads, cfg.n_heads, head_width, head_width**-0.5)
        # Scores begin with a standard deviation of 4, so that a token looks at a few others. Looking
        # at all alike, the tokens of a prompt would all be changed by the same vector.
        for projection in self.attention.q, self.attention.k:
            nn.init.normal_(projection.weight, std=2.0 * width**-0.5)
        nn.init.zeros_(self.attention.o.weight)

    def forward(self, prefixes: list[Prefix], chosen: Tensor | None = None) -> Prefix:
        """One prefix from those of the chosen attributes, as long as all of them together.

        `chosen` (b, attributes) says for each row of a batch which of the prefixes count for it; the
        others are padding there. Without it all of them count, for every row. A row that chose
        none reads a prefix of padding alone, which is none.
        """
        x_bnw, mask = as_tokens(concatenate(prefixes)), None
        lengths = torch.tensor([prefix.decoder.shape[-2] for prefix in prefixes])
        owner = torch.arange(len(prefixes)).repeat_interleave(lengths).to(x_bnw.device)
        # (1, n, n): of its own prompt a token sees nothing
        hidden = (owner == owner[:, None]).unsqueeze(0)
        if chosen is not None:
            mask = chosen[:, owner]
            x_bnw, hidden = x_bnw.expand(len(mask), -1, -1), hidden | ~mask[:, None, :]
        normed, attention = self.norm(x_bnw), self.attention
        # a key and a value of zeros in front: what a token may look at that says nothing
        keys, values = (F.pad(part, (0, 0, 1, 0)) for part in attention.keys_values(normed))
        bias = F.pad(MASKED * hidden[:, None].to(x_bnw.dtype), (1, 0))
        change = attention(attention.queries(normed), keys, values, bias)
        return as_prefix(x_bnw + change, self.shapes, mask)
