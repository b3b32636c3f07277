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

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # each is tried until one does worse


def expected_labels(x: Tensor, known: np.ndarray, make_folds: Callable) -> np.ndarray:
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
