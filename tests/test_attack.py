"""AUC by hand, and attackers that find what is there and nothing else."""

from functools import partial

import numpy as np
import pytest
import torch

import probe
from probe import (
    ATTACKERS,
    TOGETHER,
    Scores,
    attack,
    attack_logistic,
    attack_quadratic,
    auc,
    floor,
    macro_auc,
    whom,
)
from support.expected import expected_labels
from support.screens import VERDICTS, verdict
from support.side_by_side import (
    FOLDS,
    as_ranks,
    five_folds,
    macro_aucs,
    make_folds,
    parts_of,
    standardised,
    whitened,
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


def test_who_teaches_decides_and_is_tested_by_hand():
    """Fold 1 is tested, fold 2 decides; after the last fold comes the first; -1 always teaches."""
    fold_of = np.array([2, 0, 1, -1, 2])
    train, valid, test = parts_of(fold_of, 1)
    assert (train.tolist(), valid.tolist(), test.tolist()) == ([1, 3], [0, 4], [2])
    assert parts_of(fold_of, 2)[1].tolist() == [1]
    # users 0 and 2 have two rows each, which go together
    rows = parts_of(fold_of, 1, whose=np.array([0, 0, 1, 2, 2, 3, 4]))
    assert [part.tolist() for part in rows] == [[2, 5], [0, 1, 6], [3, 4]]


@pytest.mark.parametrize(
    "auc, ends, floor, said",
    [
        (0.62, [0.57, 0.67], 0.05, "readable"),
        (0.38, [0.33, 0.43], 0.05, "readable"),  # who is always wrong
        (0.58, [0.53, 0.63], 0.05, "undecided"),
        (0.42, [0.37, 0.47], 0.05, "undecided"),
        (0.54, [0.49, 0.59], 0.05, "at chance"),
        (0.46, [0.41, 0.51], 0.05, "at chance"),
        (0.90, [0.60, 1.00], 0.45, "at chance"),  # of very few people
        (0.50, [0.30, 0.70], 0.05, "at chance"),
    ],
)
def test_the_verdict_by_hand(auc, ends, floor, said):
    row = {"auc": {"age": auc}, "auc interval": {"age": ends}}
    results = {"after": {"direct": row}, "floor": {"direct": {"age": floor}}}
    assert verdict(results, "age", "direct") == said
    assert VERDICTS[said].format("age").count("age") == 1


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
    """Twelve times nothing to find. The standard error of one AUC is 0.033, and what is chosen and turned
    around on validation users is on average a few points above one half, the more so with more settings.
    """
    values = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        features, labels = planted(rng, n=300)
        values.append(attack(features, rng.permutation(labels), [name], seed)["auc"][0])
    assert 0.48 < np.mean(values) < 0.57 and np.std(values) < 0.08


def test_mlp_reads_an_exclusive_or_and_logistic_regression_does_not(rng):
    features = rng.normal(size=(1500, 4))
    labels = ((features[:, 0] > 0) ^ (features[:, 1] > 0)).astype(int)
    found = attack(features, labels, None, 0)
    assert abs(found["by attacker"]["logistic regression"][0] - 0.5) < 0.08
    assert found["by attacker"]["seven-layer MLP"][0] > 0.8
    assert found["by attacker"]["two-layer MLP"][0] > 0.8
    assert found["strongest"] != "logistic regression"


def ring(rng, n=1200, d=4):
    """Features (n, d) whose distance from the middle tells the label; no direction does."""
    labels = rng.permutation(np.arange(n) % 2)
    features = rng.normal(size=(n, d))
    features *= (np.where(labels, 1.6, 1.0) / np.linalg.norm(features, axis=1))[:, None]
    return features + 0.25 * rng.normal(size=(n, d)), labels


def test_kernel_ridge_reads_a_ring_that_the_others_do_not(rng):
    """150 people are too few for a network to find it."""
    found = attack(*ring(rng, n=150, d=8), None, 0)["by attacker"]
    exact = "kernel ridge", "quadratic discriminant"
    others = [auc[0] for name, auc in found.items() if name not in (*exact, TOGETHER)]
    assert found["kernel ridge"][0] > max(max(others) + 0.05, 0.75), found
    assert abs(found["logistic regression"][0] - 0.5) < 0.12


def test_whitened_kernel_ridge_reads_where_features_hardly_vary(rng):
    """The label moves what is left of two features that are nearly the same."""
    labels, n = rng.permutation(np.arange(600) % 2), 600
    features = rng.normal(size=(n, 20))
    features[:, 1] = features[:, 0] + 0.02 * (labels + rng.normal(size=n))
    found = attack(features, labels, None, 0)["by attacker"]
    assert found["kernel ridge"][0] > 0.7


def test_quadratic_discriminant_reads_what_varies_though_it_is_small(rng):
    """Thirty features rise and fall together; what is left of five varies twice as much in one class."""
    labels, n = rng.permutation(np.arange(600) % 2), 600
    spread = np.where(np.arange(30) < 5, 2.0, 1.0) ** labels[:, None]
    features = 10 * rng.normal(size=(n, 2)) @ rng.normal(size=(2, 30))
    found = attack(features + spread * rng.normal(size=(n, 30)), labels, None, 0)["by attacker"]
    others = [found[name][0] for name in ATTACKERS if name != "quadratic discriminant"]
    assert found["quadratic discriminant"][0] > max(max(others) + 0.05, 0.7), found


def test_quadratic_discriminant_is_scikit_learns(rng):
    """Whitened first, covariances shrunk alike: the same order of the tested users."""
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    labels = rng.permutation(np.arange(300) % 3)
    features = rng.normal(size=(300, 6)) * (1 + 0.5 * (labels[:, None] == np.arange(6) % 3))
    problems = five_folds(labels[None], [0])
    x = torch.from_numpy(features).float()
    ours = attack_quadratic(x, problems, 3, 0)
    for share, scores in zip((0.5, 0.8, 0.95), ours):
        theirs = analysis.QuadraticDiscriminantAnalysis(reg_param=share)
        train, test = problems.train[0, 0].numpy(), problems.test[0, 0].numpy()
        white = whitened(x, 1e-6).numpy()
        found = theirs.fit(white[train], labels[train]).predict_log_proba(white[test])
        assert scores.test[0, 0].numpy() == pytest.approx(found, abs=0.05)


def test_who_is_always_wrong_is_right(rng, monkeypatch):
    """An attacker that puts validation and test users in the reverse order is turned around."""

    def wrong(x, problems, n_classes, seed):
        rows = problems.valid, problems.test
        reverse = (-problems.labels_of(r).float() + 0.8 * torch.randn(r.shape) for r in rows)
        return [Scores(*(torch.stack([-score, score], dim=-1) for score in reverse))]

    monkeypatch.setitem(ATTACKERS, "always wrong", [wrong])
    labels = np.arange(400) % 2
    found = attack(rng.normal(size=(400, 3)), labels, ["always wrong", "logistic regression"], 0)
    assert found["strongest"] in ("always wrong", TOGETHER) and found["auc"][0] > 0.7
    assert min(found["validation"].values()) >= 0.5


def test_only_the_tested_have_a_fold_and_the_others_help(rng):
    """The tested alone are scored, each once; everybody else is in every training set."""
    labels, tested = rng.integers(2, size=(2, 100)), np.arange(100) % 5 < 2
    problems = five_folds(labels, [0, 1], tested)
    for g in range(2):
        assert sorted(set(problems.test[g].ravel().tolist())) == np.flatnonzero(tested).tolist()
        for f in range(FOLDS):
            assert set(np.flatnonzero(~tested)) <= set(problems.train[g, f].tolist())
            parts = [set(part[g, f].tolist()) for part in problems[1:]]
            assert sum(map(len, parts)) == len(set.union(*parts))
    features, own = planted(rng, n=300, strength=2.0)
    some = np.arange(300) < 120
    nonsense = np.where(some, own, rng.permutation(own))
    found = attack(features, nonsense, ["logistic regression"], 0, tested=some)
    assert found["auc"][0] > 0.75  # of 300 with the labels of 180 shuffled it would be some 0.65


def test_users_without_a_label_are_in_no_attack(rng):
    """Theirs is that of the others alone, whatever they are."""
    features, labels = planted(rng, n=100)
    without, tested = np.arange(100) % 4 == 0, np.arange(100) < 60
    cut = np.where(without, -2, labels)
    for rows in None, tested:
        own = None if rows is None else rows[~without]
        alone = attack(features[~without], labels[~without], ["two-layer MLP"], tested=own)
        assert attack(features, cut, ["two-layer MLP"], tested=rows) == alone
    alone = floor(features[~without], labels[~without], shuffles=1, tested=tested[~without])
    assert floor(features, cut, shuffles=1, tested=tested) == alone


def test_whom_it_is_about(rng):
    labels, held_out = np.array([0, 1, -2, 1, -2]), np.array([True, False, True, False, False])
    assert whom(held_out, labels).tolist() == [True, False, False, False, False]
    held_out[0] = False  # the adversary knew all that there are
    assert whom(held_out, labels).tolist() == [True, True, False, True, False]


def hidden_from(x: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Features x (n, d) from which what varies with `told` (n,) in a straight line is taken out whole."""
    x, told = x - x.mean(0), told - told.mean()
    values, directions = np.linalg.eigh(x.T @ x / len(x))
    root = (directions * values**0.5) @ directions.T
    u = np.linalg.solve(root, x.T @ told)
    return x - np.outer(np.linalg.solve(root, x.T).T @ u / (u @ u), root @ u)


def test_people_whose_label_had_a_part_in_hiding_are_no_measure():
    """Histories that tell nothing of a coin: what is hidden is chance, and only those whose label was held
    out are unbiased. Their own label turns attackers around, and so do expected labels for everybody:
    nobody's own, but all are made of the others', which the attackers are trained on.
    """
    found = {"own": [], "expected, all": [], "expected, known": [], "expected, held out": []}
    for seed in range(16):
        rng = np.random.default_rng(seed)
        histories, y = rng.standard_normal((240, 60)), rng.permutation(np.arange(240) % 2)
        states = np.tanh(histories @ rng.standard_normal((60, 16)) / 8)
        known = np.where(rng.permutation(240) < 96, -1, y)
        told = lambda labels: expected_labels(torch.from_numpy(histories).float(), labels)[:, 1]
        of_all, of_known = (hidden_from(states, told(labels)) for labels in (y, known))
        everybody = np.full(240, True)
        for name, left, tested in (
            ("own", hidden_from(states, y), everybody),
            ("expected, all", of_all, everybody),
            ("expected, known", of_known, known >= 0),
            ("expected, held out", of_known, known < 0),
        ):
            features, seeds = standardised(left), [seed]
            problems = five_folds(y[None], seeds, tested)
            (scores,) = partial(attack_logistic, penalties=(0.1,))(features, problems, 2, seed)
            found[name].append(
                macro_aucs(scores.test, problems.labels_of(problems.test)).mean().item()
            )
    mean = {name: np.mean(values) for name, values in found.items()}
    error = {name: np.std(values) / 4 for name, values in found.items()}
    for name in "own", "expected, all", "expected, known":
        assert mean[name] < 0.5 - 3 * error[name], (mean, error)
    name = "expected, held out"
    assert abs(mean[name] - 0.5) < 3 * error[name] and error[name] < 0.03, (mean, error)


def test_the_strongest_is_chosen_on_validation_users(monkeypatch, rng):
    """One attacker is right on test users and blind on validation users, another the reverse."""
    labels = np.arange(200) % 2

    def knows(valid: bool, test: bool):
        def attacker(x, problems, n_classes, seed):
            parts, _ = [], torch.manual_seed(2)  # by chance the blind one is not turned around
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


def test_a_floor_holds_what_shuffled_labels_give(rng, monkeypatch):
    """Twenty fresh shuffles stay within it about 19 times; a planted attribute does not."""
    features, labels = planted(rng, n=300, strength=1.5)
    monkeypatch.setattr(
        probe, "ATTACKERS", {"logistic regression": ATTACKERS["logistic regression"]}
    )
    bound = floor(features, labels, 0)
    assert 0.01 < bound < 0.12 and bound == floor(features, labels, 0)
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
