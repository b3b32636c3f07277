"""Counterfactually-fair prompting: the prefix, the discriminator, the losses of Eq. 2-5, the game of both.

The axes' letters are explained at the top of `model.py`. `train.py` plays Algorithm 1 with these pieces;
`probe.py` attacks what came out of it.
"""

import math
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Batch
from model import Backbone, Encoded, Prefix, target_loss
from support.configs import CFPConfig, LlamaConfig, T5Config
from support.expected import entropy_of, in_units
from support.processes import all_rows, average
from support.side_by_side import standardised, whitened
from support.training import refuse_astray


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
        out = self.out(x).unflatten(1, self.shape)  # (n, l*2*h*e) -> (n, l, 2, h, e)
        return out.permute(1, 2, 3, 0, 4).unsqueeze(2)  # (l, 2, 1, h, n, e)


class CFP(nn.Module):
    """A counterfactually-fair prompt: `forward()` gives the Prefix that the frozen model reads.

    p_enc and p_dec of Eq. 2; a decoder-only model has p_dec alone (section 4). # Paper silent: which
    layers receive them; we give every self-attention layer of encoder and decoder its own keys and
    values (as prefix tuning does), cross-attention none. A length of 0 gives a prefix that changes
    nothing.
    """

    def __init__(self, cfg: CFPConfig, model_cfg: T5Config | LlamaConfig, decoder_depth: int = 2):
        super().__init__()
        shapes, size = model_cfg.prefix_shapes, (cfg.prefix_len, cfg.prefix_hidden)
        self.encoder = StackPrefix(*size, shapes["encoder"]) if "encoder" in shapes else None
        self.decoder = StackPrefix(*size, shapes["decoder"], decoder_depth)

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
            user_rbd = standardised(user_rbd)
        if self.training and self.noise:
            user_rbd = user_rbd + self.noise * torch.randn_like(user_rbd)
        return [member(user_rbd) for member in self.members]


def mean_user_state(encoded_bsd: Tensor, user_mask: Tensor) -> Tensor:
    """mean(E_u) of Eq. 3: the mean of the encoder states at the user's tokens, (b, d).

    `user_mask` (b, s) is True there, at one token or more in every row.
    """
    weight = user_mask.float().unsqueeze(-1)
    return (encoded_bsd * weight).sum(1) / weight.sum(1)  # float32 whatever the backbone's type


def read_user_tokens(
    model: Backbone, encoded: list[Encoded], batches: list[Batch], prefix: Prefix | None
) -> list[Tensor]:
    """u_emb of Algorithm 1: mean(E_u) (b, d) of each task's prompts, as encoded behind a prefix.

    Where several processes share a batch, each gets the rows of all: a discriminator looks at the whole
    batch. (`model` and `prefix` are for adversaries who read something else; see `probe.py`.)
    """
    pairs = zip(encoded, batches)
    return [all_rows(mean_user_state(e.states, batch.user_mask)) for e, batch in pairs]


def forward(
    model: Backbone, prefix: Prefix | None, batches: list[Batch], read: Callable = read_user_tokens
) -> tuple[Tensor, list[Tensor]]:
    """rec_loss and u_emb of Algorithm 1, lines 4 and 11, for one batch of prompts per task.

    rec_loss (Eq. 2) is in nats, the mean over the tasks; u_emb is what `read` makes of the prompts.
    """
    encoded = [model.encode(batch.input_ids, batch.mask, prefix) for batch in batches]
    pairs = zip(encoded, batches)
    rec_losses = [target_loss(model, e, batch.target_ids, batch.first_ids) for e, batch in pairs]
    return torch.stack(rec_losses).mean(), read(model, encoded, batches, prefix)


@torch.no_grad()
def u_emb_of(
    model: Backbone, prefix: Prefix, batches: list[Batch], read: Callable = read_user_tokens
) -> list[Tensor]:
    """u_emb of Algorithm 1, line 15, alone and without a gradient: the answers are not decoded."""
    encoded = [model.encode(batch.input_ids, batch.mask, prefix) for batch in batches]
    return read(model, encoded, batches, prefix)


def discriminator_loss(discriminator: Discriminator, u_emb: list[Tensor], labels: Tensor) -> Tensor:
    """L_dis of Eq. 3 in nats, (readings,): about log c where the discriminator guesses blindly.

    `u_emb` is what `forward` gives, a tensor (b, d) for each reading. `labels` (b, c) say how likely each
    class is of each user; a row of zeros, of somebody whose label is not known, counts in nothing here.
    Each entry is the mean over the users that count and over the members.
    """
    n_known = labels.sum().clamp(min=1e-9)  # a batch without a single label has a loss of 0
    log_probs = [logits_rbc.log_softmax(-1) for logits_rbc in discriminator(torch.stack(u_emb))]
    nll_rb = -torch.stack([(one * labels).sum(-1) for one in log_probs]).mean(0)
    return nll_rb.sum(1) / n_known


def hsic(x_bd: Tensor, y_bc: Tensor) -> Tensor:
    """How strongly states x (b, d) depend on labels y (b, c): a scalar, 0 on average where they do not.

    HSIC(X, Y) = E[k(X, X') l(Y, Y')] of pairs of users, the kernel k without the means of its rows and
    columns: the Hilbert-Schmidt independence criterion (Gretton et al. 2005), in the unbiased form of Song
    et al. 2012. l(y, y') is the inner product. k is the inner product as well, and its square: they see
    classes with other means and other covariances, as linear and quadratic attackers do. Each counts in
    units of its own spread over the pairs; returned is their mean. States are whitened first, or a prefix
    could hide by making loud what says nothing. At least four users.
    """
    b, off = len(x_bd), 1 - torch.eye(len(x_bd), device=x_bd.device)  # pairs of two users
    x_bd = whitened(x_bd, 0.1)  # a tenth of a state's mean variance is too quiet to count
    inner, found = x_bd @ x_bd.T, 0.0
    for k in off * inner, off * inner.square():
        means = (k.sum(0) + k.sum(1, keepdim=True)) / (b - 2) - k.sum() / ((b - 1) * (b - 2))
        centred = off * (k - means)
        spread = (centred.square().sum() / (b * (b - 3)) + 1e-6).sqrt()  # 0 if all are the same
        found += (centred * (y_bc @ y_bc.T)).sum() / (b * (b - 3)) / spread
    return found / 2


def adversarial_loss(
    rec_loss: Tensor, dis_losses: Tensor | list[Tensor], lams: list[float], caps: list[float]
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


def lambdas(lam: float, entropy: dict[str, float]) -> dict[str, float]:
    """lambda_k of Eq. 5 for each attribute k, of whose labels the entropy in nats is given.

    # Paper silent: how they differ. A loss counts in units of its labels' entropy: with one lambda for
    all, the prefix mostly follows the 21 occupations and gender stays readable.
    """
    if len(entropy) == 1:
        return {attr: lam for attr in entropy}
    return {attr: lam * math.log(2) / nats for attr, nats in entropy.items()}


class Game:
    """Algorithm 1 as seen by its adversary: the discriminators, what they read, what their losses count.

    `labels` says of each attribute how likely each class is of each user (users, c), zeros where the
    adversary may know nothing. `choices` are what can be hidden together: one for a
    prompt; of the mixer's, one is drawn for each batch (K of Eq. 5). `size` says how wide a state is
    and how many are read of each user.
    # Paper silent: whether a mixer's discriminators know which choice they face. Ours do, there is a
    set for each; one for all left up to nine points more of the AUC.
    # Differs from the paper, but for `adversary` "game": the prefix also makes the dependence of the
    # states on the attribute small (`hsic`), or that alone: it has no opponent that could fall behind.
    """

    read = staticmethod(read_user_tokens)  # what the discriminators are given
    can_collapse = True  # as a classifier can, which begins with a blind guess

    def __init__(
        self,
        labels: dict[str, np.ndarray],
        choices: list[tuple[str, ...]],
        cfg: CFPConfig,
        size: tuple[int, int],
        rng: np.random.Generator,
        device: torch.device,
    ):
        self.cfg, self.choices, self.size, self.rng = cfg, choices, size, rng
        guesses = cfg.adversary != "dependence"  # which alone has no discriminators
        make = lambda k: self.discriminator(labels[k].shape[1]).to(device)
        self.adversary = {attrs: {k: make(k) for k in attrs if guesses} for attrs in choices}
        everyone = (c for of_choice in self.adversary.values() for c in of_choice.values())
        self.members, self.optimizer = nn.ModuleList(everyone), None
        if self.members:
            rates = dict(lr=cfg.dis_lr, weight_decay=cfg.dis_weight_decay, fused=True)
            self.optimizer = torch.optim.AdamW(self.members.parameters(), **rates)
        self.labels = {k: torch.from_numpy(y).to(device) for k, y in labels.items()}
        self.in_units = {k: torch.from_numpy(in_units(y)).to(device) for k, y in labels.items()}
        self.entropy = {k: entropy_of(y) for k, y in labels.items()}
        self.lams = lambdas(cfg.lam, self.entropy)
        cap = math.inf if cfg.cap is None else cfg.cap
        self.caps = {k: cap * nats for k, nats in self.entropy.items()}

    def discriminator(self, n_classes: int) -> nn.Module:
        """A new one, for an attribute of so many classes."""
        width, n_readings = self.size
        return Discriminator(self.cfg, width, n_classes, n_readings)

    def draw(self) -> tuple[str, ...]:
        """K of Eq. 5: which attributes the next batch hides."""
        return self.choices[self.rng.integers(len(self.choices))]

    def dis_loss(
        self, attrs: tuple[str, ...], u_emb: list[Tensor], users: np.ndarray | Tensor
    ) -> Tensor:
        """L_dis of lines 5 and 16, (attributes, readings), in nats; see `discriminator_loss`."""
        C, y = self.adversary[attrs], self.labels
        if not C:  # dependence alone
            return torch.zeros(len(attrs), 1)
        return torch.stack([discriminator_loss(C[k], u_emb, y[k][users]) for k in attrs])

    def dependence(
        self, attrs: tuple[str, ...], u_emb: list[Tensor], users: np.ndarray | Tensor
    ) -> Tensor | float:
        """What the states' dependence on these attributes adds to L: a sum of `hsic`, mean over readings."""
        found = 0.0
        for k in attrs if self.cfg.adversary != "game" else ():
            known = self.labels[k][users].any(1)
            y = self.in_units[k][users][known]
            if len(y) >= 4:  # as `hsic` needs; else too few in the batch have a label
                # less than chance would leave is read as well, by whoever turns the answer around
                found += torch.stack([hsic(x_bd[known], y) for x_bd in u_emb]).abs().mean()
        return self.cfg.hsic * found

    def adversarial_loss(
        self, rec_loss: Tensor, dis_loss: Tensor, attrs: tuple[str, ...]
    ) -> Tensor:
        """L of line 6; see `adversarial_loss`."""
        lams, caps = [self.lams[k] for k in attrs], [self.caps[k] for k in attrs]
        return adversarial_loss(rec_loss, dis_loss, lams, caps)

    def blind(self, attrs: tuple[str, ...]) -> float:
        """The mean loss in nats of blind guesses at these attributes."""
        return sum(self.entropy[k] for k in attrs) / len(attrs)


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
        refuse_astray(optimizer, loss, norm)
    optimizer.step()
