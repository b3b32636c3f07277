"""The audit: surfaces, usefulness, counterfactuals, LEACE, and what is said about them."""

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from conftest import random_t5, some_without_gender, tokenizer_for

from audit.erase import leace
from audit.report import (
    audit_table,
    counterfactuals,
    distances,
    history_effect,
    ideal_ranks,
    leanings,
    lists_of_pair,
    overlaps,
    plot,
    usefulness,
)
from audit.surfaces import SURFACES, catalogue_ranks, surfaces
from data import Asked, P5Config, collate, hold_out, make_corpus, people_with
from evaluate import popularity_ranks
from mixer import open_run
from model import target_loss
from probe import ATTACKERS, attack, user_states
from support import datasets, toy


def test_surfaces_are_what_they_are_called(corpus, task):
    """Each surface of one user, computed once more in the plainest way."""
    model = random_t5(corpus.tokenizer.vocab_size).eval()
    asked = Asked(corpus, task, "test", np.arange(7))
    found = surfaces(model, asked)
    assert np.allclose(found["user tokens"], user_states(model, asked), atol=1e-5)
    user = 4
    batch = collate(corpus, [asked.example(user)])
    with torch.no_grad():
        encoded = model.encode(batch.input_ids, batch.mask)
        state = model.decode(torch.zeros(1, 1, dtype=torch.long), encoded)[0, 0]
    assert np.allclose(found["all tokens"][user], encoded.states[0].mean(0), atol=1e-5)
    assert np.allclose(found["first decoder state"][user], state, atol=1e-5)
    held_out = collate(corpus, [asked.example(user)]).target_ids
    alone = -target_loss(model, encoded, held_out)
    item = corpus.split.test[user]
    assert found["scores"][user, item] == pytest.approx(alone.item(), abs=1e-3)
    top = np.flatnonzero(found["top 10"][user])
    met = corpus.dataset.histories[user][:-1]
    assert len(top) == 10 and not set(top) & set(met)
    others = np.setdiff1d(np.arange(len(corpus.numbers)), np.append(top, met))
    assert found["scores"][user, top].min() >= found["scores"][user, others].max()


def test_usefulness_by_hand():
    found = usefulness(np.array([1, 3, 11, 2]), np.array([0, 0, 1, 1]), ["F", "M"], seed=0)
    assert (found["hit@1"], found["hit@3"], found["hit@10"]) == (0.25, 0.75, 0.75)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 0 + 1 / np.log2(3)) / 4)
    assert found["hit@10 by class"] == {"F": 1.0, "M": 0.5} and found["gap"] == 0.5


def test_rank_in_the_catalogue_leaves_out_what_was_met(corpus, rng):
    asked = Asked(corpus, "direct", "test", np.arange(5))
    scores = rng.normal(size=(5, 160)).astype(np.float32)
    for user, rank in zip(asked.users, catalogue_ranks(asked, scores)):
        others = np.setdiff1d(np.arange(160), corpus.dataset.histories[user])
        assert rank == 1 + (scores[user, others] >= scores[user, corpus.split.test[user]]).sum()
    assert (catalogue_ranks(asked, np.zeros((5, 160))) > 100).all()  # ties count against it


def test_distance_and_overlap_by_hand():
    half = np.log(np.array([[0.5, 0.5, 1e-30, 1e-30]]))
    other = np.log(np.array([[1e-30, 1e-30, 0.5, 0.5]]))
    assert distances(half, half) == pytest.approx(0, abs=1e-6)
    assert distances(half, other) == pytest.approx(1)  # nothing in common, in bits
    assert distances(half + 7, other - 3) == pytest.approx(1)  # scores need no normalisation
    one, two = np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]])
    assert overlaps(one, two) == pytest.approx(2 / 4)
    assert leanings(one, np.array([[1.0, 1.0, -1.0, -1.0]])) == pytest.approx(1 / 3)


def with_twins(effect: float, twins: int = 20, attr: str = "gender"):
    cfg = datasets.ToyConfig(users=60, effect=effect, twins=twins, twins_in=attr)
    dataset = datasets.load_toy(3, cfg)
    return make_corpus(dataset, tokenizer_for(dataset), P5Config(), seed=3)


@pytest.mark.parametrize("attr", ["gender", "age", "occupation"])
def test_twins_and_placebos_are_what_they_are_called(attr):
    corpus = with_twins(1.0, attr=attr)
    dataset, plain = corpus.dataset, datasets.load_toy(3, datasets.ToyConfig(users=60))
    copies = dataset.copies
    assert len(dataset.users) == 100 and dataset.is_person.sum() == 60
    assert all(
        (a == b).all() for a, b in zip(plain.histories, dataset.histories)
    )  # nobody else moves
    for row in range(20):
        for name, classes in dataset.attributes.items():
            person, twin, placebo = classes[[row, copies.twins[row], copies.placebos[row]]]
            assert person == placebo and (person != twin) == (name == attr)
    lengths = np.array([len(history) for history in dataset.histories])
    assert (lengths[copies.twins] == lengths[:20]).all()
    assert (lengths[copies.placebos] == lengths[:20]).all()
    changed = [
        np.mean([list(dataset.histories[i]) != list(dataset.histories[j[i]]) for i in range(20)])
        for j in (copies.twins, copies.placebos)
    ]
    assert min(changed) > 0.9
    assert np.abs(copies.coding).max() == 1 and history_effect(corpus, 0)[1] > 0


def test_without_an_effect_a_twin_lives_the_same_life():
    corpus = with_twins(0.0)
    for row, twin in enumerate(corpus.dataset.copies.twins):
        assert (corpus.dataset.histories[row] == corpus.dataset.histories[twin]).all()
    assert history_effect(corpus, 0) == [0, 0, 0]


def test_the_world_s_effect_grows():
    values = [history_effect(with_twins(effect), 0)[0] for effect in (0.0, 0.5, 1.0, 2.0)]
    assert values[0] == 0 and np.all(np.diff(values) > 0.05)


@pytest.mark.parametrize("attr", ["gender", "age", "occupation"])
def test_the_ideal_recommender_treats_people_of_other_classes_alike(attr):
    world = toy.make_world(0, 60)
    one, other = np.unique(world.attributes[attr], return_index=True)[1][:2]
    alike = {k: y.copy() for k, y in world.attributes.items()}
    for k in alike:
        alike[k][other] = alike[k][one] if k != attr else alike[k][other]
    taste = world.taste.copy()
    taste[other] = taste[one]
    world = replace(world, attributes=alike, taste=taste)
    hidden, full = toy.preferences(world, attr), toy.preferences(world)
    assert np.array_equal(hidden[one], hidden[other])
    assert np.abs(full[one] - full[other]).max() > 0.3


@pytest.mark.parametrize("task", ["sequential", "direct"])
def test_what_hiding_costs_whoever_knows_the_world(task):
    """Nothing where the attribute does nothing; else some, and popularity is far below."""
    for effect in 0.0, 1.0:
        cfg = datasets.ToyConfig(users=400, effect=effect)
        corpus = make_corpus(datasets.load_toy(3, cfg), None, P5Config(), seed=3)
        asked = Asked(corpus, task, "test", people_with(corpus, "test"))
        config = {"toy": asdict(cfg), "seed": 3}
        ranks = ideal_ranks(config, asked, "gender")
        whole, told, erased = (float((r <= 10).mean()) for r in ranks.values())
        assert min(told, erased) > float((popularity_ranks(asked) <= 10).mean()) + 0.06
        assert told == whole if effect == 0 else whole > told + 0.01 > erased


def test_copies_are_not_measured_and_their_labels_are_nobody_s():
    corpus = with_twins(1.0)
    assert people_with(corpus, "test").tolist() == list(range(60))
    assert (hold_out(corpus.dataset, "gender", 0.0, 0)[60:] == -1).all()
    assert (hold_out(corpus.dataset, "gender", 0.0, 0)[:60] >= 0).all()


def test_lists_of_a_pair_are_of_what_neither_has_met():
    """A recommender that gives everybody the same has no effect, however different the two have lived."""
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.normal(size=(1, 8, 50)), 2, axis=0)
    met = rng.random((2, 8, 50)) < 0.4
    one, two = lists_of_pair(scores, met)
    assert (one == two).all() and (one.sum(1) == 10).all()
    assert not (one * met.any(0)).any()
    order = np.argsort(-scores[0, 3])
    assert set(np.flatnonzero(one[3])) == {i for i in order if not met[:, 3, i].any()} & set(
        [i for i in order if not met[:, 3, i].any()][:10]
    )


def test_a_recommender_that_follows_the_attribute_is_found_out(monkeypatch):
    """Planted scores: noise alone has no effect, and the twin's class in the scores has a large one."""
    from audit import report as audit

    corpus = with_twins(1.0)
    copies, gender = corpus.dataset.copies, corpus.dataset.attributes["gender"]
    rng = np.random.default_rng(0)
    for strength in 0.0, 2.0:

        def planted(model, asked, prefix, names):
            leaning = np.where(gender[asked.users] == gender[0], -1, 1)[:, None] * copies.coding[0]
            return {"scores": rng.normal(size=(len(asked.users), 160)) + strength * leaning}

        monkeypatch.setattr(audit, "surfaces", planted)
        found = counterfactuals(None, corpus, "direct", None, 0)
        low, high = found["twin"]["effect"][1:]
        assert (low <= 0 <= high) if strength == 0 else low > 0.5
        low, high = found["placebo"]["effect"][1:]
        assert low <= 0 <= high
        assert found["random pair"]["distance"][0] > 0


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


def test_no_title_of_the_picture_is_cut_off(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    drawn, rng, tasks = [], np.random.default_rng(0), ("sequential", "direct")
    monkeypatch.setattr(pyplot, "close", drawn.append)
    row = {when: {"auc": [0.6, 0.5, 0.7]} for when in ("before", "after")} | {"floor": 0.05}
    places = {f"{task}, {name}": row for task in tasks for name in SURFACES}
    about = {"attr": "occupation", "users": 6040, "ceiling": {"auc": [0.8, 0.7, 0.9]}}
    states = {task: list(1e-3 * rng.normal(size=(2, 420, 4))) for task in tasks}  # long tick labels
    classes = [f"executive/managerial {c}" for c in range(21)]  # a wide legend
    picture = {"labels": np.arange(420) % 21, "classes": classes, "states": states}
    plot(about | {"surfaces": places}, picture, tmp_path / "audit.png")
    (figure,) = drawn
    for axes in figure.axes:
        ends, page = axes.title.get_window_extent(), figure.bbox
        assert page.x0 <= ends.x0 and ends.x1 <= page.x1, axes.get_title()
        assert page.y0 <= ends.y0 and ends.y1 <= page.y1, axes.get_title()


def test_the_audit_of_a_run(tmp_path):
    arguments = "--attr gender --toy-users 60 --toy-twins 12 --p5-steps 6 --epochs 1"
    train = f"{arguments} --batch-size 20 --hide-from scores --out r"
    done = command(tmp_path, train, briefly=True)
    assert done.returncode == 0, done.stderr
    audit = "--run r --audit --shuffles 2"
    done = command(tmp_path, f"{audit} --plot", "evaluate.py", briefly=True)
    if importlib.util.find_spec("matplotlib"):
        assert done.returncode == 0 and (tmp_path / "r/audit.png").stat().st_size > 10_000
    else:
        assert done.returncode == 2 and "--plot needs matplotlib" in done.stderr
        done = command(tmp_path, audit, "evaluate.py", briefly=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r/audit.json").read_text())
    assert len(found["surfaces"]) == 10 and (found["users"], found["known users"]) == (24, 36)
    for where, row in found["surfaces"].items():
        assert where in done.stdout and f"{100 * row['after']['auc'][0]:.1f} [" in done.stdout
        assert 0 < row["floor"] < 0.5 and f"50 +- {100 * row['floor']:.1f}" in done.stdout
        assert "after, known users" in row
    assert row["after"]["strongest"] in done.stdout and found["counterfactual"]["pairs"] == 12
    for task in "sequential", "direct":
        row = found["counterfactual"][task]["after"]["twin"]
        assert all(low <= value <= high for value, low, high in row.values())
        useful = found["utility"][task]
        assert useful["better off"] + useful["worse off"] <= 1
        results = json.loads((tmp_path / "r/results.json").read_text())
        for when in "before", "after":
            assert useful[when]["among candidates"]["hit@10"] == results[when][task]["hit@10"]
        for key in "kept", "kept above popularity", "kept in words":
            assert useful["after"]["among candidates"][key] == results["after"][task][key]
    assert "effect on the list" in done.stdout and "never seen by the adversary" in done.stdout
    assert "No twins to compare with" in audit_table(found | {"counterfactual": None})
    done = command(tmp_path, "--run r --audit --attr size", "evaluate.py")
    assert done.returncode == 2 and "--attr size: toy has no such attribute" in done.stderr


@pytest.mark.slow
def test_hidden_from_scores_the_list_hardly_follows_the_attribute(tmp_path, monkeypatch):
    """Users whose label the adversary never saw: states, scores and lists, with what the README promises."""
    arguments = "--attr gender --toy-twins 200 --hide-from scores --out scores"
    done = command(tmp_path, arguments, seconds=1800)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)  # where the run's backbone is
    opened = open_run(Path("scores"), torch.device("cpu"))
    users = people_with(opened.corpus, "test")
    users = users[opened.held_out["gender"][users]]
    labels = opened.corpus.dataset.labels("gender")[users]
    for task in ("sequential", "direct"):
        effects = []
        for prefix in (None, opened.hiding(("gender",))):
            read = surfaces(opened.model, Asked(opened.corpus, task, "test", users), prefix)
            for name in ("user tokens", "scores"):
                value = attack(read[name], labels)["auc"][0]
                assert value > 0.7 if prefix is None else abs(value - 0.5) < 0.12
            found = counterfactuals(opened.model, opened.corpus, task, prefix, 0)
            effects.append(found["twin"]["effect"][0])
        assert effects[0] > 0.5 and abs(effects[1]) < 0.35 * effects[0]
    results = json.loads(Path("scores/results.json").read_text())
    hit = lambda when, task: results[when][task]["hit@10"]
    assert hit("after", "sequential") > 0.75 * hit("before", "sequential")
    # hardly more than popularity is left of direct recommendation (74 to 89% of P5's Hit@10)
    assert hit("after", "direct") > 0.9 * hit("popularity", "direct")


def test_who_has_no_label_is_recommended_to_and_not_attacked(tmp_path):
    some_without_gender(tmp_path)
    small = "--p5-steps 4 --epochs 1 --batch-size 30 --prefix-len 3 --out run"
    done = command(tmp_path, f"--attr gender --data shop --data-dir . {small}")
    assert done.returncode == 0, done.stderr
    again = command(tmp_path, "--run run --audit --shuffles 1", "evaluate.py")
    assert "strongest fresh attacker on 28 users" in again.stdout, again.stderr
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["known users"] == 43
    useful = audit["utility"]["direct"]["after"]["among candidates"]["hit@10 by class"]
    assert useful.keys() == {"F", "M"}
    for user, of_user in ("u3", "age 18-24, gender not known"), ("u40", "gender F, age 18-24"):
        again = command(tmp_path, f"--run run --user {user} --hide gender", "evaluate.py")
        assert f"in the prompts): {of_user}\n" in again.stdout, again.stderr
        assert ("\n  gender*" in again.stdout) == (user == "u40")
