"""The attack: what fresh classifiers still read about people from the features of each of them.

AUC: who is attacked, with what, on whom. Attackers are trained after the fact on the features of some
users and tested on users they never saw; they never took part in the prompt's training. Nothing in
here knows a recommender: features and labels are arrays with a row per user. What is drawn is drawn on the
CPU, so attackers that are given a GPU are the same ones up to rounding.
"""

from functools import partial
from typing import Callable, Iterator, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfp import MLPs

FOLDS = 5
SHUFFLES = 20  # repetitions of a whole attack on shuffled labels, behind every floor
BOOTSTRAP = 1000  # resamples of the users behind every 95% interval


# -------------------------------------------------------------------------------------------------
# AUC
# -------------------------------------------------------------------------------------------------


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """P(score of a positive > score of a negative) + half P(equal), in [0, 1].

    `scores` (users,), `positive` (users,) bool. `weights` (users, draws) counts every user that
    often and gives one value per draw; NaN where a draw has no positives or no negatives.
    """
    weights = np.ones((len(scores), 1), np.int32) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    scores, positives = scores[order], np.flatnonzero(positive[order])
    weights = np.take(weights, order, axis=0)
    up_to = np.cumsum(weights, axis=0, dtype=weights.dtype)  # (users, draws)
    n_users, up_to = up_to[-1], np.concatenate([np.zeros_like(up_to[:1]), up_to])
    starts, ends = (np.searchsorted(scores, scores[positives], side) for side in ("left", "right"))
    drawn = weights[positives].astype(float)  # exact: all are whole numbers
    n_positive = drawn.sum(0)
    # a sum of mean ranks (Mann and Whitney 1947), less what the positives win among themselves
    won = (drawn * (up_to[starts] + up_to[ends])).sum(0) / 2.0 - n_positive**2 / 2.0
    pairs = n_positive * (n_users - n_positive)
    return np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)


def macro_auc(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """AUC of an attribute with any number of classes: (draws,), or one value without weights.

    `scores` (users, c), `labels` (users,). Binary: the AUC of class 1 against class 0.
    Source: section 5.1.
    # Paper silent: AUC for more than two classes; we take the mean over the classes of each class
    against all others (macro one-vs-rest), over all classes that occur.
    """
    n_classes = scores.shape[1]
    if n_classes == 2:
        return auc(scores[:, 1] - scores[:, 0], labels == 1, weights)
    per_class = [auc(scores[:, c], labels == c, weights) for c in np.unique(labels)]
    return np.nanmean(per_class, axis=0)


def macro_ovo(scores: np.ndarray, labels: np.ndarray) -> float:
    """AUC of an attribute as the mean over all pairs of classes that occur (Hand and Till 2001).

    `scores` (users, c). Of each pair's users, the AUC of one class's score against the other's and of
    the other's against the one's. This is what the paper's release computes.
    """
    classes, values = np.unique(labels), []
    for i, a in enumerate(classes):
        for b in classes[i + 1 :]:
            pair = (labels == a) | (labels == b)
            for c in a, b:
                values.append(auc(scores[pair, c], labels[pair] == c)[0])
    return float(np.mean(values))


def macro_aucs(scores: Tensor, labels: Tensor) -> Tensor:
    """`macro_auc` of many attackers at once: scores (.., users, c), labels (.., users) -> (..)."""
    if scores.shape[-1] == 2:
        scores, positive = scores[..., 1:] - scores[..., :1], (labels == 1).unsqueeze(-2)
    else:
        classes = torch.arange(scores.shape[-1], device=labels.device)
        positive = labels.unsqueeze(-2) == classes[:, None]
    below, up_to = places(scores.transpose(-1, -2))  # (.., c, users)
    n_positive = positive.sum(-1)
    pairs = n_positive * (scores.shape[-2] - n_positive)
    # a sum of mean ranks (Mann and Whitney 1947), less what the positives win among themselves
    won = ((below + up_to) / 2.0 * positive).sum(-1) - n_positive.square() / 2.0
    return (won / pairs.clamp(min=1)).masked_fill(pairs == 0, torch.nan).nanmean(-1)


def places(values: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the values (.., users) are smaller than each, and how many are not larger."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    return torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)


def with_interval(scores: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> list[float]:
    """[AUC, low, high] of scores (users, c), with a 95% interval over resampled users."""
    n, part = len(labels), BOOTSTRAP // 10  # ten times a tenth, to keep the memory small
    first = n * np.arange(part)[:, None]
    draws = []
    for _ in range(10):
        # how often each user is drawn; NumPy's multinomial takes five times as long
        drawn = (first + rng.integers(n, size=(part, n))).ravel()
        counts = np.bincount(drawn, minlength=part * n).reshape(part, n)
        draws.append(macro_auc(scores, labels, counts.T.astype(np.int32, order="C")))
    interval = np.nanquantile(draws, [0.025, 0.975])
    return [float(macro_auc(scores, labels)[0]), *map(float, interval)]


# -------------------------------------------------------------------------------------------------
# Attackers
# -------------------------------------------------------------------------------------------------


def make_folds(labels: np.ndarray, rng: np.random.Generator, n: int = FOLDS) -> np.ndarray:
    """Fold 0 .. n-1 of each user (users,), every class spread evenly over the folds."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % n
    return folds


class Problems(NamedTuple):
    """What the attackers are to learn: one problem per labelling and fold, all solved side by side.

    A labelling is the true one or a shuffled one. Of a problem's users a fifth is tested, another fifth
    decides between attackers and the others are trained on. `train` holds (g, f, users) row numbers;
    in `valid` and `test` a row is repeated where a fold has one user fewer than the others.
    """

    labels: Tensor  # (g, n)
    train: Tensor  # (g, f, n_train)
    valid: Tensor  # (g, f, n_valid)
    test: Tensor  # (g, f, n_test)

    def to(self, device: str | torch.device) -> "Problems":
        return Problems(*(part.to(device) for part in self))

    def labels_of(self, rows: Tensor) -> Tensor:
        """The labels (g, f, users) of some rows (g, f, users)."""
        return self.labels[:, None].expand(-1, rows.shape[1], -1).gather(2, rows)


def make_problems(labels: np.ndarray, seeds: list[int]) -> Problems:
    """Five folds for each labelling (g, n), stratified by its classes; a seed for each labelling."""
    parts = []
    for classes, seed in zip(labels, seeds):
        folds = make_folds(classes, np.random.default_rng([seed, 4]))
        for fold in range(FOLDS):
            is_test, is_valid = folds == fold, folds == (fold + 1) % FOLDS
            parts += map(np.flatnonzero, (~is_test & ~is_valid, is_valid, is_test))
    n_train = min(map(len, parts[0::3]))  # the user or two more that some folds have are left out
    n_fold = max(map(len, parts[1::3]))
    shape = len(labels), FOLDS, -1
    rows = [np.stack([part[:n_train] for part in parts[0::3]])]
    rows += [np.stack([np.resize(part, n_fold) for part in parts[k::3]]) for k in (1, 2)]
    return Problems(torch.from_numpy(labels), *(torch.from_numpy(r).view(shape) for r in rows))


class Scores(NamedTuple):
    """What an attacker makes of its validation and test users: log-probabilities (g, f, users, c)."""

    valid: Tensor
    test: Tensor


def attack_logistic(
    x: Tensor, problems: Problems, n_classes: int, seed: int, penalties: tuple[float, ...]
) -> list[Scores]:
    """Logistic regression on x (users, d): mean cross-entropy + penalty / 2 * |weights|^2, each of them.

    All problems go through the same users in one matrix product, with every penalty, and are told apart
    by who counts. Accelerated gradient descent (Nesterov 1983), 300 steps; the step is one over the
    largest curvature.
    """
    (n, d), (g, f, n_train), k = x.shape, problems.train.shape, len(penalties)
    counts = x.new_zeros(g, f, n).scatter_(2, problems.train, 1.0 / n_train)
    counts = counts.flatten(0, 1).T.repeat(1, k).unsqueeze(1)  # (n, 1, k*g*f)
    one_hot = F.one_hot(problems.labels, n_classes).float()  # (g, n, c)
    one_hot = one_hot.permute(1, 2, 0).repeat_interleave(f, dim=2).repeat(1, 1, k)  # (n, c, k*g*f)
    x = torch.cat([x, x.new_ones(n, 1)], dim=1)  # the bias, which is penalised like the others
    penalty = x.new_tensor(penalties).repeat_interleave(g * f).repeat(n_classes)  # (c*k*g*f)
    curvature = 0.5 * torch.linalg.matrix_norm(x, 2).square() / n_train + penalty
    weight = x.new_zeros(d + 1, len(penalty))
    ahead = weight
    for i in range(300):
        # classes in the middle: a softmax over a short last axis takes four times as long
        p = (x @ ahead).view(n, n_classes, k * g * f).softmax(1)
        gradient = x.T @ p.sub_(one_hot).mul_(counts).flatten(1) + penalty * ahead
        previous, weight = weight, ahead - gradient / curvature
        ahead = weight + i / (i + 3) * (weight - previous)
    logits = (x @ weight).view(n, n_classes, k, g, f).permute(2, 3, 4, 0, 1).log_softmax(-1)
    pick = lambda one, rows: one.gather(2, rows.unsqueeze(-1).expand(-1, -1, -1, n_classes))
    return [Scores(pick(one, problems.valid), pick(one, problems.test)) for one in logits]


def attack_mlp(
    x: Tensor,
    problems: Problems,
    n_classes: int,
    seed: int,
    depth: int,
    lr: float,
    hidden: int = 64,
    n_seeds: int = 2,
) -> list[Scores]:
    """An MLP on x (users, d); depth 7 is the paper's (appendix A.3). Mean of `n_seeds` of them.

    All problems' networks are trained side by side with AdamW, for 24 passes over their
    training users at most. A labelling's networks are tested as they were after the pass whose AUC
    on validation users, mean over the folds, was best, and are not looked at any more when six in a
    row were not better (up to 30 and ten read the same). No dropout: with 0.3 it reads at most half
    a point more on MovieLens-1M without a prompt, and one and a half points less through one.
    """
    torch.manual_seed(seed)
    g, f, n_train = problems.train.shape
    together = lambda rows: rows.repeat(n_seeds, 1, 1).flatten(0, 1)  # (s*g*f, users), s the seeds
    train, rest = together(problems.train), together(torch.cat(problems[2:], dim=2))
    y = together(problems.labels_of(problems.train))
    valid_y = problems.labels_of(problems.valid)
    nets = MLPs(len(train), x.shape[1], n_classes, depth, hidden, dropout=0.0).to(x.device)
    optimizer = torch.optim.AdamW(nets.parameters(), lr=lr, weight_decay=0.3, fused=True)
    best, waited, kept = x.new_full((g,), -1.0), x.new_zeros(g), None
    for _ in range(24):
        order = torch.rand(train.shape).argsort(1).to(x.device)
        for some in order.split(max(128, n_train // 32), dim=1):  # (nets, b)
            logits = nets(x[train.gather(1, some)])
            loss = F.cross_entropy(logits.flatten(0, 1), y.gather(1, some).flatten()) * len(train)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = nets(x[rest]).log_softmax(-1).unflatten(0, (n_seeds, g, f)).mean(0)
        scores = Scores(*logits.split([problems.valid.shape[2], problems.test.shape[2]], dim=2))
        valid_auc = macro_aucs(scores.valid, valid_y).mean(1)  # (g,)
        better = (valid_auc > best) & (waited < 6)
        best, waited = torch.where(better, valid_auc, best), torch.where(better, 0, waited + 1)
        keep = better[:, None, None, None]
        kept = scores if kept is None else Scores(*map(lambda a, b: a.where(keep, b), scores, kept))
        if (waited >= 6).all():
            break
    return [kept]


ATTACKERS: dict[str, list[Callable[..., list[Scores]]]] = {  # each with its settings
    "logistic regression": [partial(attack_logistic, penalties=(1.0, 0.1, 0.01, 0.001))],
    "seven-layer MLP": [partial(attack_mlp, depth=7, lr=lr) for lr in (1e-3, 4e-3)],
    "two-layer MLP": [partial(attack_mlp, depth=2, lr=lr) for lr in (1e-3, 1e-2)],
}
TOGETHER = "all attackers together"


def scores_of(
    name: str, x: Tensor, problems: Problems, n_classes: int, seed: int
) -> Iterator[Scores]:
    """What that attacker makes of the users with each of its settings, one after the other."""
    for attacker in ATTACKERS[name]:
        yield from attacker(x, problems, n_classes, seed)


def as_ranks(scores_gfuc: Tensor) -> Tensor:
    """Scores (g, f, users, c) as ranks in (0, 1) within each fold, column by column; equal ones share one.

    Five models have no common scale, so this comes before their scores are pooled or averaged.
    """
    below, up_to = places(scores_gfuc.transpose(-1, -2))
    return ((below + up_to) / 2.0 / scores_gfuc.shape[-2]).transpose(-1, -2)


def standardised(features: np.ndarray) -> Tensor:
    """Features (users, d) with mean 0 and standard deviation 1 in every column."""
    x = torch.from_numpy(features).float()
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def cross_fit(
    features: np.ndarray,
    labels: np.ndarray,
    names: list[str] | None,
    seeds: list[int],
    device: str | torch.device,
) -> tuple[list[str], Tensor, Tensor]:
    """Every attacker on features (users, d) and one or more labellings (g, users), each with its seed.

    Returns the attackers' names, their AUC on validation users (a, g), the mean over the folds, and
    each tested user's ranks (a, g, users, c), on the CPU. Of an attacker's settings the one with the best
    validation AUC counts, for each labelling. Where there are more attackers than one, the mean of
    their ranks is another. Features are standardised (no label is looked at for that).
    """
    problems = make_problems(labels, seeds).to(device)
    y_valid, n_classes = problems.labels_of(problems.valid), int(labels.max()) + 1
    x, found = standardised(features).to(device), []
    for name in names or ATTACKERS:
        best = None
        for scores in scores_of(name, x, problems, n_classes, seeds[0]):
            ranks = Scores(*map(as_ranks, scores))
            valid_auc = macro_aucs(ranks.valid, y_valid).mean(1)
            if best is None:
                best_auc, best = valid_auc, ranks
            better = (valid_auc > best_auc)[:, None, None, None]
            best = Scores(*(torch.where(better, a, b) for a, b in zip(ranks, best)))
            best_auc = torch.maximum(valid_auc, best_auc)
        found.append((name, best_auc, best))
    if len(found) > 1:
        mean = Scores(*(sum(parts) / len(found) for parts in zip(*(best for _, _, best in found))))
        found.append((TOGETHER, macro_aucs(mean.valid, y_valid).mean(1), mean))
    rows = problems.test.flatten(1).unsqueeze(-1).expand(-1, -1, n_classes)
    pooled = [
        x.new_zeros(*labels.shape, n_classes).scatter_(1, rows, best.test.flatten(1, 2))
        for _, _, best in found
    ]
    return (
        [name for name, _, _ in found],
        torch.stack([v for _, v, _ in found]).cpu(),
        torch.stack(pooled).cpu(),
    )


def attack(
    features: np.ndarray,
    labels: np.ndarray,
    names: list[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict:
    """Let fresh attackers predict each user's class from features (users, d) of users they never saw.

    Five folds over the users, stratified by class: an attacker is tested on one, a second decides
    whatever is to be decided and it is trained on the other three, so that every user is tested
    once. Decided are the settings, the pass at which a network is taken and which attacker is the
    strongest, each once for all five folds; so a tested user's label has a part in a choice among a
    few dozen, through the network of another fold. That errs towards finding a leak, and
    `floor` repeats it. Returns "auc", the strongest attacker's [AUC, low, high] on tested users, with
    a 95% interval over resampled users; "strongest", its name; for every attacker "by attacker" the
    same triple, "validation" the AUC by which the strongest was chosen, and "one-vs-one".
    """
    assert (np.bincount(labels) >= FOLDS).sum() >= 2, "an attack needs two classes of five users"
    tried, valid_auc, ranks = cross_fit(features, labels[None], names, [seed], device)
    rng, ranks = np.random.default_rng([seed, 15]), ranks[:, 0].numpy()
    by_attacker = {name: with_interval(one, labels, rng) for name, one in zip(tried, ranks)}
    strongest = tried[valid_auc[:, 0].argmax()]
    return {
        "auc": by_attacker[strongest],
        "strongest": strongest,
        "by attacker": by_attacker,
        "validation": dict(zip(tried, valid_auc[:, 0].tolist())),
        "one-vs-one": {name: macro_ovo(one, labels) for name, one in zip(tried, ranks)},
    }


def certainty(
    features: np.ndarray,
    labels: np.ndarray,
    row: int,
    names: list[str] | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, str]:
    """(probability of each class (c,), the attacker's name): what it thinks of one user it never saw.

    `row` is the user among features (users, d). The attackers learn from three of the five folds without
    that user. Asked is the one who finds the classes of a fourth's users likeliest: best by AUC may be
    one who puts them in order and is never sure.
    """
    problems, n_classes = make_problems(labels[None], [seed]), int(labels.max()) + 1
    fold, place = (int(i) for i in torch.nonzero(problems.test[0] == row)[0])
    alone = Problems(problems.labels, *(rows[:, fold : fold + 1] for rows in problems[1:]))
    x, found = standardised(features), []
    for name in names or ATTACKERS:
        for scores in scores_of(name, x, alone, n_classes, seed):
            own = scores.valid.gather(3, alone.labels_of(alone.valid).unsqueeze(-1))
            found.append((own.mean().item(), name, scores.test[0, 0, place].exp().numpy()))
    _, name, probabilities = max(found, key=lambda tried: tried[0])
    return probabilities, name


def floor(
    features: np.ndarray,
    labels: np.ndarray,
    names: list[str] | None = None,
    seed: int = 0,
    shuffles: int = SHUFFLES,
    device: str | torch.device = "cpu",
) -> float:
    """How far from one half `attack` gets on these features when there is nothing to find.

    The whole of it, the choice of the strongest included, is repeated on shuffled labels; returned is
    the 95% quantile of the distances between its AUC on tested users and one half.
    """
    rng, distances = np.random.default_rng([seed, 13]), []
    shuffled = np.stack([rng.permutation(labels) for _ in range(shuffles)])
    for some in np.array_split(np.arange(shuffles), -(-shuffles // 5)):  # fast, in little memory
        seeds = (seed + 1 + some).tolist()
        _, valid_auc, ranks = cross_fit(features, shuffled[some], names, seeds, device)
        strongest = ranks[valid_auc.argmax(0), torch.arange(len(some))]
        distances.append((macro_aucs(strongest, torch.from_numpy(shuffled[some])) - 0.5).abs())
    return float(np.quantile(torch.cat(distances).numpy(), 0.95))


def leace(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that takes out of features (users, d) what is linear about the labels, and no more.

    Source: Belrose et al. 2023, theorem 4.3: x - W^+ P W (x - mean), where W whitens the features and P
    projects onto the whitened covariances with the one-hot labels, of the users that are given here.
    """
    x = features.astype(np.float64)
    mean = x.mean(0)
    centred = x - mean
    one_hot = np.eye(labels.max() + 1)[labels]
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    kept = values > values.max() * 1e-10
    root = np.sqrt(values[kept])
    whiten = (vectors[:, kept] / root) @ vectors[:, kept].T  # W, and its pseudo-inverse
    unwhiten = (vectors[:, kept] * root) @ vectors[:, kept].T
    covariance = whiten @ centred.T @ (one_hot - one_hot.mean(0)) / len(x)  # (d, c)
    u, sizes, _ = np.linalg.svd(covariance, full_matrices=False)
    u = u[:, sizes > sizes.max() * 1e-8]
    projection = whiten @ u @ u.T @ unwhiten  # (d, d), for rows
    return lambda other: (other - (other - mean) @ projection).astype(np.float32)
