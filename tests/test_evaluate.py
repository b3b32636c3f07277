"""Ranks with ties, AUC by hand, and attackers that find what is there and nothing else."""

import numpy as np
import pytest
import torch
from conftest import random_t5

import ranks
from data import TASKS, candidates_of, collate, held_out_example
from evaluate import (
    ATTACKERS,
    FOLDS,
    attack,
    auc,
    in_words,
    leace,
    macro_auc,
    make_folds,
    ranks_within,
    surfaces,
    user_states,
)
from model import target_loss
from ranks import held_out_ranks, hit_at, popularity_ranks, rank_of_first


def test_ranks_with_ties_and_bounds():
    scores = np.array(
        [
            [3.0, 2.0, 1.0, 0.0],  # best
            [0.0, 2.0, 1.0, 3.0],  # last
            [2.0, 2.0, 1.0, 2.0],  # two others are as good: they stand before it
            [1.0, 1.0, 1.0, 1.0],  # a model that knows nothing gets the last rank
            [np.nan, 1.0, 1.0, 1.0],  # no number beats nothing
            [2.0, np.nan, 1.0, 1.0],  # a candidate without a number stands before it
            [5.0, 4.0, -np.inf, -np.inf],  # only two candidates
        ]
    )
    assert rank_of_first(scores, [4, 4, 4, 4, 4, 4, 2]).tolist() == [1, 4, 3, 4, 4, 2, 1]


def test_hit_at_k_by_hand():
    value, low, high = hit_at(np.array([1, 2, 3, 4, 11]), 3, seed=0)
    assert value == 0.6 and low < 0.6 < high
    assert hit_at(np.array([1, 1]), 1, seed=0) == [1.0, 1.0, 1.0]


def test_interval_has_the_binomial_width():
    ranks = np.r_[np.ones(300), np.full(700, 50)]
    value, low, high = hit_at(ranks, 10, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000), rel=0.1)


def test_auc_by_hand():
    """Positives 0.8 and 0.4, negatives 0.4, 0.1 and 0.9: won 1 + 1 + 0 and 1/2 + 1 + 0 of 6 pairs."""
    scores, positive = np.array([0.8, 0.4, 0.4, 0.1, 0.9]), np.array(
        [True, True, False, False, False]
    )
    assert auc(scores, positive)[0] == pytest.approx(3.5 / 6)
    assert auc(-scores, positive)[0] == pytest.approx(2.5 / 6)
    weights = np.array(
        [[2, 0, 1, 0, 1], [0, 0, 1, 1, 1]]
    )  # 0.8 twice against 0.4 and 0.9; no positive
    assert auc(scores, positive, weights) == pytest.approx([0.5, np.nan], nan_ok=True)


def test_macro_auc_by_hand():
    """Three classes one-vs-rest: 1, 3/4 and 1/2 (of 4, 4 and 3 pairs), and never one-hot's argmax."""
    labels = np.array([0, 1, 2, 2])
    scores = np.array([[9.0, 0.0, 0.0], [1.0, 5.0, 2.0], [2.0, 1.0, 1.0], [3.0, 6.0, 3.0]])
    per_class = [1.0, 2 / 3, 3 / 4]
    assert macro_auc(scores, labels)[0] == pytest.approx(np.mean(per_class))


def test_binary_macro_auc_is_the_auc_of_class_1():
    labels, scores = np.array([0, 0, 1, 1]), np.array(
        [[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 4.0]]
    )
    assert macro_auc(scores, labels)[0] == 0.75


def test_macro_auc_leaves_no_class_out(rng):
    labels, scores = np.array([0] * 50 + [1] * 50 + [2]), rng.normal(size=(101, 3))
    scores[:, 2] = -np.arange(101.0)  # the only user of class 2 comes last: AUC 0
    others = [auc(scores[:, c], labels == c)[0] for c in (0, 1)]
    assert macro_auc(scores, labels)[0] == pytest.approx(sum(others) / 3)


def test_ranks_within_share_the_mean_rank():
    assert ranks_within(np.array([[5.0], [1.0], [5.0], [9.0]])).ravel().tolist() == [
        2.5 / 4,
        1 / 4,
        2.5 / 4,
        1.0,
    ]


def test_folds_are_apart_and_stratified(rng):
    labels = np.array([0] * 70 + [1] * 30 + [2] * 5)
    folds = make_folds(labels, rng)
    assert sorted(np.bincount(folds)) == [21] * 5
    for c, count in ((0, 14), (1, 6), (2, 1)):
        assert np.bincount(folds[labels == c]).tolist() == [count] * 5


def test_attackers_are_tested_on_users_they_never_saw(monkeypatch, rng):
    """Each user is tested once; training, validation and test users of a fold are apart."""
    labels, tested = np.arange(100) % 2, []

    def spy(x, y, parts, n_classes, seed):
        assert len(parts) == FOLDS
        for train, valid, test in parts:
            groups = [set(part.tolist()) for part in (train, valid, test)]
            assert set.union(*groups) == set(range(100)) and sum(map(len, groups)) == 100
            tested.extend(groups[2])
        return np.zeros((100, 2))

    monkeypatch.setitem(ATTACKERS, "spy", spy)
    attack(rng.normal(size=(100, 3)), labels, ["spy"], 0)
    assert sorted(tested) == list(range(100))


def planted(rng, n=500, d=12, classes=2, strength=1.0):
    labels = rng.permutation(np.arange(n) % classes)
    features = rng.normal(size=(n, d))
    features[np.arange(n), labels] += strength
    return features, labels


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("classes", [2, 4])
def test_every_attacker_reads_a_planted_attribute(rng, name, classes):
    features, labels = planted(rng, classes=classes, strength=2.0)
    value, low, high = attack(features, labels, [name], 0)["auc"]
    assert value > 0.85 and low < value < high


@pytest.mark.parametrize("name", ATTACKERS)
def test_no_attacker_reads_shuffled_labels(name):
    """Twelve times nothing to find; the standard error of one AUC is 0.026."""
    values = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        features, labels = planted(rng, n=300)
        values.append(attack(features, rng.permutation(labels), [name], seed)["auc"][0])
    assert abs(np.mean(values) - 0.5) < 0.035 and np.std(values) < 0.08


def test_mlp_reads_an_exclusive_or_and_logistic_regression_does_not(rng):
    features = rng.normal(size=(1500, 4))
    labels = ((features[:, 0] > 0) ^ (features[:, 1] > 0)).astype(int)
    found = attack(features, labels, None, 0)
    assert abs(found["by attacker"]["logistic regression"][0] - 0.5) < 0.08
    assert found["by attacker"]["seven-layer MLP"][0] > 0.8
    assert found["strongest"] == "seven-layer MLP"
    assert found["auc"] == found["by attacker"]["seven-layer MLP"]


def test_a_leak_in_reverse_counts_as_a_leak(monkeypatch, rng):
    labels = np.arange(200) % 2
    reverse = np.stack([labels, 1.0 - labels], axis=1)
    monkeypatch.setitem(ATTACKERS, "reverse", lambda *args: reverse)
    monkeypatch.setitem(ATTACKERS, "weak", lambda *args: rng.normal(size=(200, 2)))
    found = attack(rng.normal(size=(200, 3)), labels, ["weak", "reverse"], 0)
    assert found["strongest"] == "reverse" and found["auc"][0] == 0.0


def test_attack_is_deterministic(rng):
    features, labels = planted(rng, n=200)
    assert attack(features, labels, None, 3) == attack(features, labels, None, 3)


def test_popularity_counts_training_interactions_alone(corpus):
    counts = np.zeros(160)
    for train in corpus.split.train:
        counts[train] += 1
    users = np.arange(10)
    for user, rank in zip(users, popularity_ranks(corpus, "sequential", "test", users)):
        items = candidates_of(corpus, "sequential", user, "test")
        assert rank == 1 + sum(counts[item] >= counts[items[0]] for item in items[1:])


@pytest.mark.parametrize("task", TASKS)
def test_ranks_and_states_do_not_depend_on_the_batch(corpus, task):
    model = random_t5(corpus.tokenizer.vocab_size).eval()
    users = np.arange(12)
    for function in (held_out_ranks, user_states):
        together = function(model, corpus, task, "test", users, None, 12)
        apart = function(model, corpus, task, "test", users, None, 1)
        assert np.allclose(together, apart, atol=1e-5)


def test_the_held_out_item_is_among_the_candidates_once(corpus):
    for task in TASKS:
        for user in range(20):
            items = candidates_of(corpus, task, user, "test")
            assert items[0] == corpus.split.test[user] and len(set(items)) == 101


def test_a_model_that_knows_the_answer_gets_rank_1(corpus, monkeypatch):
    model = random_t5(corpus.tokenizer.vocab_size).eval()

    def oracle(model, encoded, candidates):
        return torch.tensor([[0.0] + [-1.0] * (len(row) - 1) for row in candidates])

    monkeypatch.setattr(ranks, "score_candidates", oracle)
    assert (held_out_ranks(model, corpus, "direct", "test", np.arange(5)) == 1).all()


# -------------------------------------------------------------------------------------------------
# The audit
# -------------------------------------------------------------------------------------------------


def test_surfaces_are_what_they_are_called(corpus, task):
    """Each surface of one user, computed once more in the plainest way."""
    model, users = random_t5(corpus.tokenizer.vocab_size).eval(), np.arange(7)
    found = surfaces(model, corpus, task, users, None)
    assert np.allclose(
        found["user tokens"], user_states(model, corpus, task, "test", users), atol=1e-5
    )
    user = 4
    batch = collate(corpus, [held_out_example(corpus, task, user, "test")])
    with torch.no_grad():
        encoded = model.encode(batch.input_ids, batch.mask)
        state = model.decode(torch.zeros(1, 1, dtype=torch.long), encoded)[0, 0]
    assert np.allclose(found["all tokens"][user], encoded.states[0].mean(0), atol=1e-5)
    assert np.allclose(found["first decoder state"][user], state, atol=1e-5)
    held_out = collate(corpus, [held_out_example(corpus, task, user, "test")]).target_ids
    alone = -target_loss(model, encoded, held_out)
    item = corpus.split.test[user]
    assert found["scores"][user, item] == pytest.approx(alone.item(), abs=1e-3)
    top = np.flatnonzero(found["top 10"][user])
    met = corpus.dataset.histories[user][:-1]
    assert len(top) == 10 and not set(top) & set(met)
    others = np.setdiff1d(np.arange(len(corpus.numbers)), np.append(top, met))
    assert found["scores"][user, top].min() >= found["scores"][user, others].max()


def test_leace_brings_the_linear_attacker_to_chance_and_not_the_other():
    """A planted direction is erased, an exclusive-or of two others is not linear and stays."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(1500, 8)).astype(np.float32), rng.integers(2, size=1500)
    x[:, 0] += labels
    signs = rng.choice([-1, 1], size=1500)
    x[:, 1] = 2 * signs + 0.3 * rng.normal(size=1500)
    x[:, 2] = 2 * signs * (2 * labels - 1) + 0.3 * rng.normal(size=1500)
    erased = leace(x, labels)(x)
    means = [erased[labels == c].mean(0) for c in (0, 1)]
    assert np.allclose(*means, atol=1e-4)  # equal class means: no linear reader beats a constant
    read = {name: attack(x, labels, [name], 0)["auc"][0] for name in ATTACKERS}
    left = {name: attack(erased, labels, [name], 0)["auc"][0] for name in ATTACKERS}
    assert min(read.values()) > 0.7
    assert abs(left["logistic regression"] - 0.5) < 0.06 and left["seven-layer MLP"] > 0.9
    noise = erased[:, 3:] - x[:, 3:]  # what has nothing to do with the labels is hardly touched
    assert np.abs(noise).mean() < 0.1


def test_leace_with_many_classes_and_a_constant_column():
    rng = np.random.default_rng(1)
    labels = rng.integers(7, size=800)
    x = np.concatenate([rng.normal(size=(800, 5)) + labels[:, None], np.ones((800, 1))], axis=1)
    erased = leace(x, labels)(x)
    means = np.array([erased[labels == c].mean(0) for c in range(7)])
    assert np.allclose(means, means[0], atol=1e-3) and np.allclose(erased[:, 5], 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "auc_and_interval, is_chance",
    [([0.51, 0.48, 0.54], True), ([0.56, 0.49, 0.63], False), ([0.47, 0.45, 0.49], False)],
)
def test_chance_is_said_only_where_floor_and_interval_allow_it(auc_and_interval, is_chance):
    row = {"after": {"auc": auc_and_interval, "strongest": "logistic regression"}, "floor": 0.04}
    text = in_words("direct, scores", row)
    assert ("not distinguishable from chance" in text) == is_chance
    assert f"reaches {100 * auc_and_interval[0]:.1f}" in text and "direct, scores" in text
