"""What a user's history tells of an attribute, in place of the label: for an adversary that lacks labels.

A recommender knows of an attribute z only what histories tell. So its states co-vary with z as they do with
E[z | history]; what is left of z is chance, which no prompt can hide and none needs to. An adversary that
learns from a few hundred labels takes some of that chance for what is to be hidden, and what the prompt then
erases lies beside what is there. The expected label has less of it, and everybody has one.
# Differs from the paper, whose adversary knows every label.
"""

import numpy as np
import torch

from attack import FOLDS, Problems, attack_logistic, make_folds, standardised
from data import Corpus

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)


def training_history(corpus: Corpus) -> np.ndarray:
    """(users, items): 1 for each training item of each user."""
    features = np.zeros((len(corpus.split.train), len(corpus.numbers)), dtype=np.float32)
    for user, items in enumerate(corpus.split.train):
        features[user, items] = 1.0
    return features


def expected_labels(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How likely each class is of each user, (users, c), given features (users, d) of everybody.

    `known` (users,) has the class indices, negative where they are held out. Logistic regression, fitted five
    times on four fifths of the known users: a known user's row comes from the one that did not see that
    user's label, another's is the mean of the five. The penalty is the one that explains the labels
    not seen best.
    """
    rows, n_classes = np.flatnonzero(known >= 0), int(known.max()) + 1
    fold_of = make_folds(known[rows], np.random.default_rng(11))
    parts = [(rows[fold_of != fold], rows[fold_of == fold]) for fold in range(FOLDS)]
    n_train = min(len(train) for train, _ in parts)
    n_left_out = max(len(left_out) for _, left_out in parts)
    problems = Problems(  # one more or less in a fold: a user is left out or comes twice
        torch.from_numpy(known.clip(0))[None],
        torch.from_numpy(np.stack([train[:n_train] for train, _ in parts]))[None],
        torch.from_numpy(np.stack([np.resize(some, n_left_out) for _, some in parts]))[None],
        torch.arange(len(known)).repeat(1, FOLDS, 1),
    )
    y = problems.labels_of(problems.valid)
    found, least = None, np.inf
    for scores in attack_logistic(standardised(features), problems, n_classes, 0, PENALTIES):
        loss = -scores.valid.gather(3, y.unsqueeze(-1)).mean().item()
        if loss < least:
            found, least = scores, loss
    expected = found.test[0].exp().mean(0)
    expected[problems.valid.flatten()] = found.valid.exp().flatten(0, 2)
    return expected.numpy()
