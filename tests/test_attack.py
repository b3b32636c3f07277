"""AUC by hand, and attackers that find what is there and nothing else."""

import numpy as np
import pytest
import torch

from probe import (
    ATTACKERS,
    FOLDS,
    TOGETHER,
    Scores,
    as_ranks,
    attack,
    auc,
    five_folds,
    floor,
    macro_auc,
    macro_aucs,
    make_folds,
)


def test_auc_by_hand():
    """Positives 0.8 and 0.4, negatives 0.4, 0.1 and 0.9: won 1 + 1 + 0 and 1/2 + 1 + 0 of 6 pairs."""
    scores, positive = np.array([0.8, 0.4, 0.4, 0.1, 0.9]), np.array(
        [True, True, False, False, False]
    )
    assert auc(scores, positive)[0] == pytest.approx(3.5 / 6)
    assert auc(-scores, positive)[0] == pytest.approx(2.5 / 6)
    # of two draws 0.8 twice against 0.4 and 0.9; no positive
    draws = np.array([[2, 0, 1, 0, 1], [0, 0, 1, 1, 1]])
    assert auc(scores, positive, draws.T) == pytest.approx([0.5, np.nan], nan_ok=True)


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


@pytest.mark.parametrize("classes", [2, 3])
def test_many_aucs_at_once_are_the_same_as_one_by_one(rng, classes):
    scores = rng.normal(size=(4, 5, 30, classes)).round(1)  # with ties
    labels = rng.integers(classes, size=(4, 5, 30))
    labels[0, 0] = (
        labels[0, 0] % (classes - 1) if classes == 3 else labels[0, 0]
    )  # a class is missing
    together = macro_aucs(torch.from_numpy(scores), torch.from_numpy(labels))
    for i in range(4):
        for j in range(5):
            assert together[i, j].item() == pytest.approx(macro_auc(scores[i, j], labels[i, j])[0])


def test_ranks_within_a_fold_share_the_mean_rank():
    scores = torch.tensor([[5.0], [1.0], [5.0], [9.0]])[None, None]
    assert as_ranks(scores).ravel().tolist() == [2 / 4, 0.5 / 4, 2 / 4, 3.5 / 4]


def test_folds_are_apart_and_stratified(rng):
    labels = np.array([0] * 70 + [1] * 30 + [2] * 5)
    folds = make_folds(labels, rng)
    assert sorted(np.bincount(folds)) == [21] * 5
    for c, count in ((0, 14), (1, 6), (2, 1)):
        assert np.bincount(folds[labels == c]).tolist() == [count] * 5


def test_attackers_are_tested_on_users_they_never_saw(rng):
    """Each user is tested once; training, validation and test users of a fold are apart."""
    labels = np.stack([rng.permutation(np.arange(103) % 2) for _ in range(3)])
    problems = five_folds(labels, [0, 1, 2])
    for g in range(3):
        tested = []
        for f in range(FOLDS):
            groups = [set(part[g, f].tolist()) for part in problems[1:]]
            union = set.union(*groups)
            assert sum(map(len, groups)) == len(union) and len(union) >= 101
            tested += groups[2]
        assert sorted(tested) == list(range(103))
        rows = problems.labels_of(problems.train)
        assert (rows[g, 2] == torch.from_numpy(labels)[g][problems.train[g, 2]]).all()


def test_training_users_are_all_that_an_attacker_learns_from(rng):
    """Where validation and test users' labels are turned round, the same scores come out."""
    features, labels = planted(rng, n=200)
    x = torch.from_numpy(features).float()
    problems = five_folds(labels[None], [0])
    for setting in [settings[-1] for settings in ATTACKERS.values()]:
        one_fold = type(problems)(problems.labels, *(part[:, :1] for part in problems[1:]))
        wrong = problems.labels.clone()
        test = problems.test[0, 0]
        wrong[0, test] = 1 - wrong[0, test]
        other = one_fold._replace(labels=wrong)
        for one, two in zip(*(setting(x, p, 2, 0) for p in (one_fold, other))):
            assert (one.test == two.test).all() and (one.valid == two.valid).all()


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
    assert found["by attacker"]["two-layer MLP"][0] > 0.8
    assert found["strongest"] != "logistic regression"


def test_the_strongest_is_chosen_on_validation_users(monkeypatch, rng):
    """One attacker is right on test users and blind on validation users, another the reverse."""
    labels = np.arange(200) % 2

    def knows(valid: bool, test: bool):
        def attacker(x, problems, n_classes, seed):
            parts = []
            for known, rows in (valid, problems.valid), (test, problems.test):
                right = problems.labels_of(rows).float() if known else torch.rand(rows.shape)
                parts.append(torch.stack([-right, right], dim=-1))
            return [Scores(*parts)]

        return attacker

    monkeypatch.setitem(ATTACKERS, "on test", [knows(False, True)])
    monkeypatch.setitem(ATTACKERS, "on validation", [knows(True, False)])
    found = attack(rng.normal(size=(200, 3)), labels, ["on test", "on validation"], 0)
    assert found["strongest"] == "on validation" and found["by attacker"]["on test"][0] == 1.0
    assert found["auc"] == found["by attacker"]["on validation"] and found["auc"][0] < 0.7
    assert set(found["by attacker"]) == {"on test", "on validation", TOGETHER}


def test_a_floor_holds_what_shuffled_labels_give(rng):
    """Twenty fresh shuffles stay within it about 19 times; a planted attribute does not."""
    features, labels = planted(rng, n=300, strength=1.5)
    bound = floor(features, labels, ["logistic regression"], 0)
    assert 0.01 < bound < 0.12 and bound == floor(features, labels, ["logistic regression"], 0)
    fresh = [
        attack(features, np.random.default_rng(i).permutation(labels), ["logistic regression"], i)
        for i in range(20)
    ]
    assert sum(abs(found["auc"][0] - 0.5) <= bound for found in fresh) >= 14
    assert abs(attack(features, labels, ["logistic regression"], 0)["auc"][0] - 0.5) > 2 * bound


def test_attack_is_deterministic(rng):
    features, labels = planted(rng, n=200)
    assert attack(features, labels, None, 3) == attack(features, labels, None, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_attackers_on_a_gpu_are_the_same_up_to_rounding(rng):
    labels = rng.integers(3, size=300)
    features = rng.standard_normal((300, 8)).astype(np.float32)
    features[np.arange(300), labels] += 1.0
    here, there = (attack(features, labels, device=device) for device in ("cpu", "cuda"))
    assert there["auc"] == pytest.approx(here["auc"], abs=5e-3)
    assert there["by attacker"].keys() == here["by attacker"].keys()
    chance = [floor(features, labels, shuffles=2, device=device) for device in ("cpu", "cuda")]
    assert chance[1] == pytest.approx(chance[0], abs=5e-3)
