"""What a user's history tells of an attribute, in place of the label: for an adversary that lacks labels.

A recommender knows of an attribute z only what histories tell. So its states co-vary with z as they do with
E[z | history]; what is left of z is chance, which no prompt can hide and none needs to. An adversary that
learns from a few hundred labels takes some of that chance for what is to be hidden, and what the prompt then
erases lies beside what is there. The expected label has less of it, and everybody has one.
# Differs from the paper, whose adversary knows every label.
"""

from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from support.datasets import NO_LABEL
from support.side_by_side import make_folds, standardised

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # each is tried until one does worse


def marks_of(histories: list[np.ndarray], n_items: int) -> np.ndarray:
    """Histories as an array (users, items): 1 for each item that is in the user's."""
    marks = np.zeros((len(histories), n_items), dtype=np.float32)
    for row, items in enumerate(histories):
        marks[row, items] = 1.0
    return marks


def labels_for_game(
    known: dict[str, np.ndarray], histories: np.ndarray, hard: bool
) -> dict[str, np.ndarray]:
    """What a game's adversary is told: of each attribute how likely each class is of each user (users, c).

    `known` has class indices (users,), negative where they are held out. `hard`: the labels themselves, 1 or
    0, and zeros where they are held out. Else what `histories` (users, items) tell of everybody, and zeros
    where there is no label at all (NO_LABEL).
    """
    if hard:
        return {k: one_hot(y) for k, y in known.items()}
    x = standardised(histories)
    return {k: expected_labels(x, y) for k, y in known.items()}


def one_hot(known: np.ndarray) -> np.ndarray:
    """Class indices (users,) as how likely each class is (users, c): 1 or 0, all 0 where not known."""
    return (known[:, None] == np.arange(known.max() + 1)).astype(np.float32)


def entropy_of(labels: np.ndarray) -> float:
    """Entropy of the classes' shares, in nats: the cross-entropy of a blind guess. `labels` (users, c)."""
    shares = labels.sum(0) / labels.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def in_units(labels: np.ndarray) -> np.ndarray:
    """Labels (users, c), each class with mean 0 and all together with variance 1; rows of zeros stay so."""
    known = labels.any(1)
    centred = (labels - labels[known].mean(0)) * known[:, None]
    spread = centred[known].std(0)
    return np.divide(centred, spread * np.sqrt(len(spread)), out=centred * 0, where=spread > 0)


def expected_labels(x: Tensor, known: np.ndarray) -> np.ndarray:
    """How likely each class is of each user, (users, c), given standardised features x (users, d) of all.

    `known` (users,) has the class indices, negative where they are held out. Logistic regression, fitted five
    times on four fifths of the known users: a known user's row comes from the one that did not see that
    user's label, another's is the mean of the five. The penalty is the one that explains best the labels
    that were not seen.
    """
    y = torch.from_numpy(known)
    rows, n_classes = np.flatnonzero(known >= 0), int(known.max()) + 1
    fold_of = make_folds(known[rows], np.random.default_rng(11))
    found, least = None, np.inf
    for penalty in PENALTIES:
        of_models, unseen = [], torch.zeros(len(rows), n_classes)
        for fold in np.unique(fold_of):
            fitted, left_out = rows[fold_of != fold], fold_of == fold
            of_models.append(fit_logistic(x[fitted], y[fitted], n_classes, penalty)(x))
            unseen[left_out] = of_models[-1][rows[left_out]]
        loss = F.nll_loss(unseen.log(), y[rows]).item()
        # the penalties after one that does worse do worse still, and take longest
        if found is not None and loss >= least:
            break
        least, found = loss, torch.stack(of_models).mean(0)
        found[rows] = unseen
    found[y == NO_LABEL] = 0.0  # of these the data say nothing to hide
    return found.numpy()


def fit_logistic(x: Tensor, y: Tensor, n_classes: int, penalty: float) -> Callable:
    """Logistic regression of y (users,) on x (users, d): gives the classes' probabilities (.., c).

    Descends the mean cross-entropy + penalty / 2 * |weights|^2. The bias is not penalised, as
    it is in `attack_logistic`, so that on average the probabilities are the classes' shares.
    """
    weight = torch.zeros(x.shape[1], n_classes, requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    weight, bias = weight.detach(), bias.detach()
    return lambda other: (other @ weight + bias).softmax(-1)
