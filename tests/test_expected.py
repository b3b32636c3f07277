"""The labels that an adversary is given where it does not know everybody's."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch

import train
from cfp import CFPConfig, Discriminator, discriminator_loss
from data import hold_out
from probe import auc
from support import command
from support.datasets import ToyConfig
from support.expected import entropy_of, expected_labels, labels_for_game, marks_of, one_hot
from support.side_by_side import standardised


def world(n: int = 400, d: int = 40, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Histories (n, d) of ones and zeros whose first items are liked by class 1, and classes (n,).

    Three in ten are of class 1.
    """
    rng = np.random.default_rng(5)
    z = (rng.random(n) < 0.3).astype(int)
    chance = 0.3 + strength * 0.3 * np.outer(z, np.arange(d) < 8)
    return (rng.random((n, d)) < chance).astype(np.float32), z


def test_rows_are_shares_and_tell_what_the_history_tells():
    features, z = world()
    known = np.where(np.arange(len(z)) < 240, z, -1)
    found = expected_labels(standardised(features), known)
    assert found.shape == (400, 2) and np.allclose(found.sum(1), 1, atol=1e-5)
    best = auc(features[:, :8].sum(1), z == 1)[0]  # of whoever knows how the world is made
    for some in known >= 0, known < 0:
        assert auc(found[some, 1], z[some] == 1)[0] > best - 0.08
        assert abs(found[some, 1].mean() - z[some].mean()) < 0.06


def test_a_known_label_has_no_part_in_its_own_row():
    """Where histories tell nothing the rows do not either, though forty items can be fitted to 60 labels."""
    features, z = world(n=300, strength=0.0)
    known = np.where(np.arange(len(z)) < 60, z, -1)
    found = expected_labels(standardised(features), known)[known >= 0]
    assert abs(auc(found[:, 1], z[:60] == 1)[0] - 0.5) < 0.2
    assert np.abs(found[:, 1] - z[:60].mean()).max() < 0.25  # and it is known how little they tell


def test_a_class_of_a_single_known_user_does_no_harm():
    features, z = world(n=60)
    known = np.where(np.arange(len(z)) == 7, 2, z)
    found = expected_labels(standardised(features), known)
    assert found.shape == (60, 3) and np.isfinite(found).all() and found[:, 2].mean() < 0.1


def test_whatever_the_held_out_labels_are_the_prompt_comes_out_the_same(tmp_path, monkeypatch):
    """Of the whole command: the adversary is told nothing that hangs on them."""
    load, measure = command.load_dataset, lambda *args: {}
    known = hold_out(load("toy", None, 0, ToyConfig(60)), "gender", 0.4, 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "hold_out", lambda *args: known)
    monkeypatch.setattr(train, "before_and_after", measure)
    monkeypatch.setattr(train, "table", lambda *args: "")
    monkeypatch.setattr(train, "labels_for_game", spy := Mock(wraps=labels_for_game))
    flags = "--attr gender --toy-users 60 --p5-steps 4 --epochs 2 --batch-size 30"
    for name in "true", "false":
        train.main([*flags.split(), "--out", name])
        others = lambda *args: turned(load(*args), known)
        monkeypatch.setattr(command, "load_dataset", others)
    for file in "cfp-gender.safetensors", "discriminator-gender.safetensors":
        assert (tmp_path / "true" / file).read_bytes() == (tmp_path / "false" / file).read_bytes()
    assert [call.args[2] for call in spy.call_args_list] == [False, False]  # what histories tell
    flags = flags.replace("--batch-size 30", "--batch-size 16 --paper-schedule --out paper")
    train.main(flags.split())
    assert spy.call_args.args[2]  # it is given the labels themselves, those that it may know


def turned(dataset, known):
    """The same people, but those whose label is held out are all of the other class."""
    labels = dataset.attributes["gender"]
    labels[known < 0] = 1 - labels[known < 0]
    return dataset


def test_a_history_is_the_training_items(corpus):
    history = marks_of(corpus.split.train, len(corpus.numbers))
    for user in 0, 17:
        assert set(np.flatnonzero(history[user])) == set(corpus.split.train[user])
        assert not history[user, corpus.split.test[user]]


def test_the_loss_against_shares_is_their_cross_entropy():
    cfg = CFPConfig(dis_depths=(1,), dis_dropout=0.0, dis_noise=0.0)
    torch.manual_seed(0)
    discriminator = Discriminator(cfg, 3, 2, 2).eval()
    u_emb = [torch.randn(4, 3), torch.randn(4, 3)]
    shares = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    loss = discriminator_loss(discriminator, u_emb, shares)
    (logits,) = discriminator(torch.stack(u_emb))
    by_hand = -(shares * logits.log_softmax(-1)).sum(-1).mean(1)
    assert torch.allclose(loss, by_hand)


def test_a_blind_guess_at_shares_has_the_entropy_of_their_mean():
    shares = np.array([[0.2, 0.8], [0.6, 0.4]])
    assert entropy_of(shares) == pytest.approx(-(0.4 * np.log(0.4) + 0.6 * np.log(0.6)))
    assert entropy_of(one_hot(np.array([0, 1, -1, 1, 0]))) == pytest.approx(np.log(2))
