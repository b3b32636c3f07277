"""The functions of the seven exercises, for you to write in place of `raise NotImplementedError`.

README.md in this folder is the handout. Each is a function of the project: what you write takes its place
in a real run (`python -m lab.run`), and the project's own is the solution. Letters at the end of a tensor's
name are its axes: b users, s tokens, d width of a state, c classes, r readings (one for each task).
"""

# ruff: noqa: F401, F821, F841 (what the solutions will use)
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfp import CFP, Discriminator, Game, forward, u_emb_of
from mixer import Mixer, Study
from model import Prefix
from support.training import GameTraining
from train import batches_per_epoch, user_batches


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Exercise 1. P(score of a positive > score of a negative) + half P(equal), in [0, 1].

    `scores` (users,), `positive` (users,) bool. Every positive is compared with every negative.
    """
    raise NotImplementedError


def mean_user_state(encoded_bsd: Tensor, user_mask: Tensor) -> Tensor:
    """Exercise 2. mean(E_u) of Eq. 3: the mean of the encoder states at the user's tokens, (b, d).

    `user_mask` (b, s) is True there: at each piece of "user_42", at each mention, once at least in every row.
    Shorter texts of a batch are padded on the right.
    """
    raise NotImplementedError


def make_folds(labels: np.ndarray, rng: np.random.Generator, n: int = 5) -> np.ndarray:
    """Exercise 3. Fold 0 .. n-1 of each user (users,), drawn at random, every class spread evenly.

    `labels` (users,) are class indices. Folds differ by one user at most, and so does each class in them.
    """
    raise NotImplementedError


def parts_of(fold_of: np.ndarray, fold: int, whose: np.ndarray | None = None) -> list[np.ndarray]:
    """Exercise 3. Row numbers of who is trained on, who decides and who is tested: three arrays.

    `fold` is tested and the next one decides, after the last one fold 0. `fold_of` (users,) is negative
    for who is always trained on. `whose` (rows,) is each row's user where a user has several, as sentences
    in the paper's attack; without it row i is user i.
    """
    raise NotImplementedError


def discriminator_loss(discriminator: Discriminator, u_emb: list[Tensor], labels: Tensor) -> Tensor:
    """Exercise 4. L_dis of Eq. 3 in nats, (r,): the discriminators' cross-entropy in each reading.

    `u_emb` has states (b, d) of each reading; `discriminator(torch.stack(u_emb))` gives logits (r, b, c) of
    each member of an ensemble. `labels` (b, c) say how likely each class is of each user; a row of zeros,
    whose label nobody knows, counts in nothing. Each entry is the mean over who counts and over members.
    """
    raise NotImplementedError


def adversarial_loss(
    rec_loss: Tensor, dis_losses: Tensor | list[Tensor], lams: list[float], caps: list[float]
) -> Tensor:
    """Exercise 4. L of Eq. 4 (of Eq. 5 for several attributes), which the prefix descends: a scalar.

    Each list has an entry for every attribute: `dis_losses` (r,), of which each reading counts up to the cap
    and then the mean is taken; lambda; the cap in nats.
    """
    raise NotImplementedError


def step(optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float = 1.0) -> None:
    """Exercise 4. Descend `loss` in this optimizer's own parameters; all others get no gradient.

    Gradients of before do not count. One longer than `max_norm` is scaled down to it
    (`torch.nn.utils.clip_grad_norm_`).
    """
    raise NotImplementedError


def algorithm_1(
    study: Study,
    player: CFP | Mixer,
    prefix_of: Callable[[tuple[str, ...]], Prefix],
    game: Game,
    stage: str,
) -> None:
    """Exercise 5. Algorithm 1: the prefix P against the discriminators C of a game, on a frozen model M.

    Its lines 3 to 17 are made of these pieces:
        rec_loss, u_emb = forward(model, prefix_of(attrs), batch, game.read)    lines 4 and 11
        dis_loss = game.dis_loss(attrs, u_emb, users)                           lines 5 and 16
        loss = game.adversarial_loss(rec_loss, dis_loss, attrs)                 line 6
        u_emb = u_emb_of(model, prefix_of(attrs), batch, game.read)             line 15, no gradient
        step(prefix_optimizer, ..), step(dis_optimizer, dis_loss.sum())         lines 7, 12 and 17
    T is `cfg.inner_steps` in phase (1), `cfg.rec_steps` in (2), `cfg.dis_steps` in (3); (2) and (3) come
    where `batch_num` is a multiple of R, `cfg.every`.
    """
    model, cfg = study.model.requires_grad_(False).eval(), game.cfg
    rng = np.random.default_rng([study.seed, 6])
    per_epoch = batches_per_epoch(study.corpus, cfg)
    prefix_optimizer = torch.optim.AdamW(player.parameters(), cfg.lr, weight_decay=0.0, fused=True)
    dis_optimizer = game.optimizer
    training = GameTraining(study, stage, game, player, prefix_optimizer, per_epoch, rng)
    for epoch in training.epochs():
        batches = training.batches(epoch, user_batches(study, cfg, rng))
        for batch_num, users, batch in batches:
            attrs = game.draw()
            raise NotImplementedError
            training.report(attrs, rec_loss, dis_loss, 0.0)


def verdict(results: dict, attr: str, task: str) -> str:
    """Exercise 6. What results.json lets one say of an attribute behind the prompt.

    "readable" where the whole interval of the attackers who count lies farther from one half than
    shuffled labels get; "at chance" where their AUC itself does not; else "undecided". The file has, as
    `results[..][task]`, "before" and "after" with "auc" and "auc interval" of fresh attackers, "co-trained
    auc" of the training adversary, and "floor", a distance from one half; each under `attr`.
    """
    raise NotImplementedError


def concatenate(prefixes: list[Prefix]) -> Prefix:
    """Exercise 7. Prompts side by side: what reads them sees the tokens of all.

    `Prefix(encoder, decoder)` has keys and values (l, 2, b, h, n, e) of two stacks: layers, keys and values,
    users, heads, tokens, width of a head. Prompts differ in n alone; an encoder may be None in all.
    """
    raise NotImplementedError
