"""Counterfactually-fair prompting: the prefix, the discriminator and the three losses (Eq. 2-5).

The axes' letters are explained at the top of `model.py`. `train.py` plays the game of Algorithm 1
with these pieces; `evaluate.py` attacks what came out of it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Batch
from model import Backbone, Encoded, LlamaConfig, Prefix, T5Config, target_loss
from support.files import InputError
from support.processes import all_rows, average


@dataclass(frozen=True)
class CFPConfig:
    """The hyper-parameters of one counterfactually-fair prompt; the defaults are the fair game's.

    # Differs from the paper: with its T = 10 and R = 20 (`PAPER_SCHEDULE`) the discriminator is
    # out of date: the prefix hides from a classifier of long ago, and a fresh one still reads the
    # attribute. Here the discriminator moves `dis_steps` times after every single step of the
    # prefix. Lines 10-12 are left out (`rec_steps` 0): L_rec is in every step of line 6 as well.
    """

    prefix_len: int = 20  # tokens; the paper's {5, 15, 30}
    prefix_hidden: int = 64  # width of the reparametrising MLP
    lam: float = 2.0  # lambda of Eq. 4, weight of the discriminator; the paper's {1, 5, 10, 100}
    inner_steps: int = 1  # T of the prefix in line 3, per batch; the paper's {10, 20}
    rec_steps: int = 0  # T of the prefix in line 10; the paper's {10, 20}
    dis_steps: int = 3  # T of the discriminator in line 14; the paper's {10, 20}
    every: int = 1  # R, batches between two updates of the discriminator; the paper's 20
    epochs: int = 65  # passes over the users, who are each met once per epoch
    batch_size: int = 128  # users, each with one prompt per task; the paper's 16
    lr: float = 5e-3  # of the prefix, AdamW; falls linearly to a twentieth
    dis_lr: float = 5e-3  # of the discriminators, AdamW
    dis_depths: tuple[int, ...] = (1, 3, 7)  # linear layers of each member; the paper's one has 7
    dis_hidden: int = 128  # width between the discriminator's layers
    dis_dropout: float = 0.2
    dis_noise: float = 0.35  # standard deviations of Gaussian noise on the discriminator's input
    dis_weight_decay: float = 0.3
    # Beyond the paper: "scores" has the discriminator read the decoder's first state as well, from
    # which the answer is written, so that not only the user tokens are cleaned.
    hide_from: str = "user-tokens"
    # L_dis counts up to so many times the labels' entropy, None: always. Not 1: on users that they have
    # not met before, discriminators do a little worse than a blind guess where a fresh attacker
    # still reads, and more than half of the batches would count for nothing.
    cap: float | None = 1.15
    # or "soft": a soft probing prompt in its place, as in section 6, without the cap
    discriminator: str = "classifier"


# Section 5.1 and appendix A.3. # Paper silent: epochs and learning rates, which are ours; two
# epochs are 1,500 steps of the prefix in the toy world.
PAPER_SCHEDULE = dict(  # T, R and lambda of section 5.1
    prefix_len=15,
    lam=10.0,
    inner_steps=10,
    rec_steps=10,
    dis_steps=10,
    every=20,
    epochs=2,
    batch_size=16,
    dis_lr=1e-2,
    dis_depths=(7,),
    dis_dropout=0.0,
    dis_noise=0.0,
    dis_weight_decay=0.01,
    cap=None,
)


class StackPrefix(nn.Module):
    """Prefix keys and values of one stack, computed from n free vectors by an MLP of `depth` layers.

    Source: Li and Liang 2021, section 4.3 (training the vectors themselves is unstable).
    """

    def __init__(self, length: int, hidden: int, shape: tuple[int, int, int], depth: int = 2):
        super().__init__()
        n_layers, n_heads, head_width = shape
        self.shape = n_layers, 2, n_heads, head_width
        self.tokens = nn.Parameter(torch.randn(length, hidden))
        self.hidden = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth - 1))
        self.out = nn.Linear(hidden, n_layers * 2 * n_heads * head_width)

    def forward(self) -> Tensor:
        x = self.tokens
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        out = self.out(x)  # (n, l*2*h*e)
        return (
            out.unflatten(1, self.shape).permute(1, 2, 3, 0, 4).unsqueeze(2)
        )  # (l, 2, 1, h, n, e)


class CFP(nn.Module):
    """A counterfactually-fair prompt: `forward()` gives the Prefix that the frozen model reads.

    p_enc and p_dec of Eq. 2; a decoder-only model has p_dec alone (section 4). # Paper silent: which
    layers receive them; we give every self-attention layer of encoder and decoder its own keys and
    values (as prefix tuning does), cross-attention none. A length of 0 gives a prefix that changes
    nothing.
    """

    def __init__(self, cfg: CFPConfig, model_cfg: T5Config | LlamaConfig):
        super().__init__()
        shapes, size = model_cfg.prefix_shapes, (cfg.prefix_len, cfg.prefix_hidden)
        self.encoder = StackPrefix(*size, shapes["encoder"]) if "encoder" in shapes else None
        self.decoder = StackPrefix(*size, shapes["decoder"])

    def forward(self) -> Prefix:
        return Prefix(None if self.encoder is None else self.encoder(), self.decoder())

    @torch.no_grad()
    def frozen(self) -> Prefix:
        """The prefix without its history of computation, for measuring."""
        return self()


class Linears(nn.Module):
    """m linear layers that share nothing, one product for all: (m, b, d_in) -> (m, b, d_out)."""

    def __init__(self, m: int, d_in: int, d_out: int):
        super().__init__()
        bound = d_in**-0.5  # nn.Linear's
        self.weight = nn.Parameter(torch.empty(m, d_in, d_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(m, 1, d_out).uniform_(-bound, bound))

    def forward(self, x_mbd: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x_mbd, self.weight)


class MLPs(nn.Module):
    """m MLPs side by side that share nothing: (m, b, d) -> logits (m, b, c).

    `depth` linear layers each, with LeakyReLU and dropout between them: depth 1 is linear, depth 7 the
    paper's classifier (appendix A.3). No BatchNorm: its moving averages would change while the
    classifier is meant to stay fixed. No softmax: the cross-entropy has it.
    """

    def __init__(self, m: int, d_in: int, n_classes: int, depth: int, hidden: int, dropout: float):
        super().__init__()
        widths = [d_in, *[hidden] * (depth - 1), n_classes]
        self.layers = nn.ModuleList(Linears(m, a, b) for a, b in zip(widths, widths[1:]))
        self.dropout = dropout

    def forward(self, x_mbd: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x_mbd = F.leaky_relu(layer(x_mbd))
            if self.training and self.dropout:  # F.dropout draws three times as slowly on a CPU
                kept = torch.rand_like(x_mbd) >= self.dropout
                x_mbd = x_mbd * (kept / (1 - self.dropout))
        return self.layers[-1](x_mbd)


class Discriminator(nn.Module):
    """C of Algorithm 1: predicts the attribute's class from the mean user-token states.

    # Differs from the paper: several MLPs of different depth (`dis_depths`), because a prefix can
    # hide from one of them alone, and a set of them for each task, because one prefix serves both.
    # Their input is standardised over the batch, so that shifting or shrinking all states hides
    # nothing, and noised while they are trained, so that a thousand users are not learnt by heart.
    """

    def __init__(self, cfg: CFPConfig, d_model: int, n_classes: int, n_readings: int):
        super().__init__()
        self.noise, self.n_readings = cfg.dis_noise, n_readings
        self.members = nn.ModuleList(  # of each depth one for every reading
            MLPs(n_readings, d_model, n_classes, depth, cfg.dis_hidden, cfg.dis_dropout)
            for depth in cfg.dis_depths
        )

    def forward(self, user_rbd: Tensor) -> list[Tensor]:
        """Logits (r, b, c) of the members of each depth for the user states of every reading."""
        if user_rbd.shape[1] > 1:  # the batch's own statistics, kept nowhere; one user has none
            centred_rbd = user_rbd - user_rbd.mean(1, keepdim=True)
            user_rbd = centred_rbd / (user_rbd.std(1, keepdim=True) + 1e-6)
        if self.training and self.noise:
            user_rbd = user_rbd + self.noise * torch.randn_like(user_rbd)
        return [member(user_rbd) for member in self.members]


def mean_user_state(encoded_bsd: Tensor, user_mask: Tensor) -> Tensor:
    """mean(E_u) of Eq. 3: the mean of the encoder states at the user's tokens, (b, d).

    `user_mask` (b, s) is True there, at one token or more in every row.
    """
    weight = user_mask.float().unsqueeze(-1)
    return (encoded_bsd * weight).sum(1) / weight.sum(1)  # float32 whatever the backbone's type


def forward(
    model: Backbone, prefix: Prefix | None, batches: list[Batch], hide_from: str = "user-tokens"
) -> tuple[Tensor, list[Tensor]]:
    """rec_loss and u_emb of Algorithm 1, lines 4 and 11, for one batch of prompts per task.

    rec_loss (Eq. 2) is in nats, the mean over the tasks; u_emb is what `read` gives.
    """
    encoded = [model.encode(batch.input_ids, batch.mask, prefix) for batch in batches]
    rec_losses = [target_loss(model, e, batch.target_ids) for e, batch in zip(encoded, batches)]
    return torch.stack(rec_losses).mean(), read(model, encoded, batches, hide_from)


@torch.no_grad()
def u_emb_of(
    model: Backbone, prefix: Prefix, batches: list[Batch], hide_from: str = "user-tokens"
) -> list[Tensor]:
    """u_emb of Algorithm 1, line 15, alone and without a gradient: the answers are not decoded."""
    encoded = [model.encode(batch.input_ids, batch.mask, prefix) for batch in batches]
    return read(model, encoded, batches, hide_from)


def read(
    model: Backbone, encoded: list[Encoded], batches: list[Batch], hide_from: str
) -> list[Tensor]:
    """What the discriminator is given: the user states (b, d) of each task's prompts as encoded.

    With `hide_from` "scores" they are followed by the decoder's first state for each task. Where several
    processes share a batch, each gets the rows of all: the discriminator looks at the whole batch.
    """
    u_emb = [mean_user_state(e.states, batch.user_mask) for e, batch in zip(encoded, batches)]
    u_emb += [first_decoder_state(model, e) for e in encoded if hide_from == "scores"]
    return [all_rows(user_bd) for user_bd in u_emb]


def first_decoder_state(model: Backbone, encoded: Encoded) -> Tensor:
    """(b, d): what the first token of the answer is predicted from."""
    start = torch.full_like(encoded.mask[:, :1], model.cfg.decoder_start_token_id, dtype=torch.long)
    return model.decode(start, encoded)[:, 0].float()


def discriminator_loss(discriminator: Discriminator, u_emb: list[Tensor], labels: Tensor) -> Tensor:
    """L_dis of Eq. 3 in nats, (readings,): about log c where the discriminator guesses blindly.

    `u_emb` is what `forward` gives. `labels` (b,) are class indices, negative for users whose label is
    held out: they count in nothing here. Or they are (b, c), how likely each class is of each user
    (`expected.py`). Each entry is the mean over the users that count and over the members.
    """
    if labels.ndim == 1:
        n_known, y = (labels >= 0).sum(), labels.clamp(min=-1).repeat(len(u_emb))
    else:
        n_known, y = len(labels), labels.repeat(len(u_emb), 1)
    assert n_known > 0, "a batch without a single label teaches the discriminator nothing"
    nll = [  # (r * b) of each depth, 0 where the label is not known
        F.cross_entropy(logits_rbc.flatten(0, 1), y, ignore_index=-1, reduction="none")
        for logits_rbc in discriminator(torch.stack(u_emb))
    ]
    return torch.stack(nll).mean(0).view(len(u_emb), -1).sum(1) / n_known


def adversarial_loss(
    rec_loss: Tensor, dis_losses: list[Tensor], lams: list[float], caps: list[float]
) -> Tensor:
    """L of Eq. 4, rec_loss - lambda * dis_loss, a scalar; with several attributes L of Eq. 5.

    Each list has an entry for every attribute that is to be hidden: its `dis_losses`, a value or one
    per reading, its lambda, and its cap in nats.
    # Differs from the paper: a discriminator that does much worse than blind guessing, whose loss is
    # the labels' entropy, counts no further. Without an end the prefix would be rewarded for
    # writing the attribute in reverse, which a fresh attacker reads just as well.
    """
    capped = [dis_loss.clamp(max=cap).mean() for dis_loss, cap in zip(dis_losses, caps)]
    return rec_loss - sum(lam * dis_loss for lam, dis_loss in zip(lams, capped))


def step(optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float = 1.0) -> None:
    """Descend `loss` in this optimizer's own parameters; all others stay fixed and get no gradient.

    The gradient is scaled down to `max_norm` where it is longer. Raises InputError, before anything is
    moved, where it is not a number.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=params)
    average(params)
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm)
    if not norm.isfinite():
        number = int(optimizer.state[params[0]]["step"]) + 1 if optimizer.state else 1
        rates = " and ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
        raise InputError(
            f"training went astray in step {number} at learning rate {rates}: the loss is {loss.item():g}, "
            f"the length of its gradient {norm.item():g}; try a smaller rate (--help lists them)"
        )
    optimizer.step()


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Each parameter group's learning rate becomes `factor` times its initial one."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
