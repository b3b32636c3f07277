"""Many attackers side by side: the problems that they solve, their ranks and AUC in torch.

`probe.py` has the attackers and the AUC itself, and says what it means.
"""

from typing import Callable, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FOLDS = 5


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


def make_folds(labels: np.ndarray, rng: np.random.Generator, n: int = FOLDS) -> np.ndarray:
    """Fold 0 .. n-1 of each user (users,), every class spread evenly over the folds."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % n
    return folds


def parts_of(fold_of: np.ndarray, fold: int, whose: np.ndarray | None = None) -> list[np.ndarray]:
    """Row numbers of who is trained on, who decides and who is tested when `fold` is: three arrays.

    The next fold decides. `fold_of` (users,) is negative for who is trained on in every fold. `whose` (rows,)
    is each row's user where a user has several, as sentences in the paper's attack: all of them go together.
    Without it row i is user i.
    """
    folds = fold_of if whose is None else fold_of[whose]
    is_test, is_valid = folds == fold, folds == (fold + 1) % (fold_of.max() + 1)
    return [*map(np.flatnonzero, (~is_test & ~is_valid, is_valid, is_test))]


def five_folds(labels: np.ndarray, seeds: list[int], tested: np.ndarray | None = None) -> Problems:
    """What the attackers learn: of each labelling (g, n) five problems, split with that labelling's seed.

    Only `tested` users (n,), all if None, are in a fold; the others are trained on in every problem.
    """
    in_folds, parts = slice(None) if tested is None else tested, []
    for of_labels, seed in zip(labels, seeds):
        folds = np.full(len(of_labels), -1)
        folds[in_folds] = make_folds(of_labels[in_folds], np.random.default_rng([seed, 4]))
        for fold in range(n_folds := int(folds.max()) + 1):
            parts += parts_of(folds, fold)
    n_train = min(map(len, parts[0::3]))  # the user or two more that some folds have are left out
    n_fold = max(map(len, parts[1::3]))
    shape = len(labels), n_folds, -1
    rows = [np.stack([part[:n_train] for part in parts[0::3]])]
    rows += [np.stack([np.resize(part, n_fold) for part in parts[k::3]]) for k in (1, 2)]
    return Problems(torch.from_numpy(labels), *(torch.from_numpy(r).view(shape) for r in rows))


def standardised(features: np.ndarray | Tensor) -> Tensor:
    """Features (.., users, d) with mean 0 and standard deviation 1 over the users."""
    x = torch.as_tensor(features).float()
    return (x - x.mean(-2, keepdim=True)) / (x.std(-2, keepdim=True) + 1e-6)


class Scores(NamedTuple):
    """What an attacker makes of its validation and test users: log-probabilities (g, f, users, c)."""

    valid: Tensor
    test: Tensor


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


def as_ranks(scores_gfuc: Tensor) -> Tensor:
    """Scores (g, f, users, c) as ranks in (0, 1) within each fold, column by column; equal ones share one.

    Five models have no common scale, so this comes before their scores are pooled or averaged.
    """
    below, up_to = places(scores_gfuc.transpose(-1, -2))
    return ((below + up_to) / 2.0 / scores_gfuc.shape[-2]).transpose(-1, -2)


def best_of(tried: list[Scores], y_valid: Tensor) -> tuple[Tensor, Scores]:
    """The AUC on validation users (g,), mean over the folds, and the ranks of the scores that are best there.

    Of each labelling another. Where that AUC is below one half the scores are turned around first.
    """
    aucs, ranks = [], []
    for scores in tried:
        of_scores = Scores(*map(as_ranks, scores))
        valid_auc = macro_aucs(of_scores.valid, y_valid).mean(1)
        wrong = (valid_auc < 0.5)[:, None, None, None]
        ranks.append(Scores(*(torch.where(wrong, 1 - part, part) for part in of_scores)))
        aucs.append(torch.maximum(valid_auc, 1 - valid_auc))
    best_auc, best = torch.stack(aucs).max(0)
    each = torch.arange(len(best), device=best.device)
    return best_auc, Scores(*(torch.stack(parts)[best, each] for parts in zip(*ranks)))


def one_by_one(problems: Problems, n_classes: int, solve: Callable) -> list[Scores]:
    """What each setting of an attacker makes of the problems, which are solved one after the other.

    `solve(train, y, others)` learns from users `train` (n,) with classes y (n, c), 1 or 0, and gives scores
    (settings, others, c) of the `others`.
    """
    one_hot = F.one_hot(problems.labels, n_classes).float()
    solved = [
        solve(train, y[train], torch.cat([valid, test]))
        for y, *folds in zip(one_hot, *problems[1:])
        for train, valid, test in zip(*folds)
    ]
    together = torch.stack(solved, 1).unflatten(1, problems.test.shape[:2])  # (settings, g, f, ..)
    sizes = problems.valid.shape[2], problems.test.shape[2]
    return [Scores(*of_setting.split(sizes, dim=2)) for of_setting in together]


def in_place(of_tests: Tensor, problems: Problems) -> Tensor:
    """What each test user (g, f, n_test, c) has, in the users' order (g, n, c); 0 of who is never tested."""
    rows = problems.test.flatten(1).unsqueeze(-1).expand(-1, -1, of_tests.shape[-1])
    found = of_tests.new_zeros(*problems.labels.shape, of_tests.shape[-1])
    return found.scatter_(1, rows, of_tests.flatten(1, 2)).cpu()


def ridge(x: Tensor, y: Tensor, others: Tensor) -> Tensor:
    """Ridge regression of y (users, c) on x (users, d), solved for three penalties: (3, others, c)."""
    mean, eye = x.mean(0), torch.eye(x.shape[1], device=x.device)
    centred, found = x - mean, []
    gram, towards = centred.T @ centred / len(x), centred.T @ (y - y.mean(0)) / len(x)
    for penalty in (1e-2, 1e-3, 1e-4):
        weight = torch.cholesky_solve(towards, torch.linalg.cholesky(gram + penalty * eye))
        found.append((others - mean) @ weight)
    return torch.stack(found)


def whitened(x: Tensor, shrinkage: float = 1e-6) -> Tensor:
    """Features (users, d) without their correlations: mean 0, and every direction varies alike.

    `shrinkage` times the unit matrix is added to their covariance, in units of their variances, so that
    directions which vary less than so much stay small.
    """
    x = standardised(x).double()
    covariance = x.T @ x / len(x) + shrinkage * torch.eye(x.shape[1], device=x.device)
    root = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(root, x.T, upper=False).T.float()
