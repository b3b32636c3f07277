"""One person's view: the two lists, what moved, and how sure attackers are."""

import re

import numpy as np
import pytest
import torch
from conftest import random_t5

from audit.person import certainty, compare, comparison, find_user
from audit.surfaces import surfaces
from cfp import CFP, CFPConfig
from data import Asked, met_before
from mixer import Mixer, MixerConfig, Opened
from support.files import InputError


@pytest.fixture(scope="module")
def opened(corpus):
    model = random_t5(corpus.tokenizer.vocab_size).requires_grad_(False).eval()
    torch.manual_seed(0)
    prefixes = {
        attr: CFP(CFPConfig(prefix_len=3), model.cfg).frozen() for attr in ("gender", "age")
    }
    held_out = {attr: np.zeros(60, dtype=bool) for attr in prefixes}
    return Opened(
        {}, corpus, model, prefixes, Mixer(MixerConfig(), model.cfg), held_out, CFPConfig()
    )


def test_the_lists_are_the_best_of_what_was_not_met(opened, task):
    corpus, hide = opened.corpus, ("age",)
    found = compare(opened, "42", hide, task, top=7, seed=0)
    text, lines = comparison(found), comparison(found).splitlines()
    listed = []
    for order, prefix in zip(found.orders, (None, opened.hiding(hide))):
        asked = Asked(corpus, task, "test", np.array([41]))
        read = surfaces(opened.model, asked, prefix, ("scores",))
        scores = read["scores"][0]
        met = met_before(corpus, 41, "test")
        scores[met] = -np.inf
        best = np.argsort(-scores, kind="stable")
        assert order.tolist() == best[: len(scores) - len(met)].tolist()
        listed.append([f"{corpus.numbers[i]:<7}{corpus.dataset.titles[i]}" for i in best[:7]])
    for n, cells in enumerate(zip(*listed), 1):
        (line,) = [line for line in lines if line.startswith(f"{n:>3}  ")]
        assert all(cell in line for cell in cells)
    assert not any(line.startswith("  8  ") for line in lines)
    assert found.met.tolist() == met.tolist()
    assert f"{len(met)} interactions before the held-out one" in text
    assert [int(line.split()[0]) for line in lines[2:7]] == corpus.numbers[met[-5:]].tolist()


def test_hiding_nothing_moves_nothing(opened):
    found = compare(opened, "7", (), "direct", top=10, seed=0)
    without, hiding = found.orders
    assert (without == hiding).all()
    assert all(without == hiding for without, hiding in found.sure.values())
    text = comparison(found)
    assert text.count("hiding nothing") >= 2 and "no longer listed" not in text


def test_what_is_shown_is_what_was_found(opened):
    found = compare(opened, "7", ("gender", "age"), "sequential", top=4, seed=0)
    text = comparison(found)
    numbers, titles = opened.corpus.numbers, opened.corpus.dataset.titles
    without, hiding = (order.tolist() for order in found.orders)
    for item in without[:4] + hiding[:4]:
        assert f"{numbers[item]}   {titles[item]}" in text
    for n, item in enumerate(hiding[:4], 1):
        line = next(line for line in text.splitlines() if line.startswith(f"{n:>3}  "))
        was = without.index(item) + 1
        moved = "" if was == n else f"up from {was}" if was > n else f"down from {was}"
        assert line.endswith(f"new, was {was}" if was > 4 else moved or titles[item])
    for item in without[:4]:
        place = hiding.index(item) + 1
        gone = f"{numbers[item]} {titles[item]}, now {place}"
        assert (gone in text) == (place > 4)
    assert "gender*" in text and "age*" in text and "occupation*" not in text
    dataset = opened.corpus.dataset
    for attr, sure in found.sure.items():
        labels = dataset.attributes[attr]
        assert all(0 <= probability <= 1 for probability in sure)
        share = 100 * (labels == labels[6]).mean()
        line = next(row for row in text.splitlines()[10:] if row.startswith(f"  {attr}"))
        assert dataset.classes[attr][labels[6]] in line and 0 < share <= 100
        for value in (share, 100 * sure[0], 100 * sure[1]):
            assert f" {value:.0f}" in line


def test_a_short_catalogue_gives_a_short_list(opened):
    found = compare(opened, "7", ("age",), "direct", top=100, seed=0)
    left = len(opened.corpus.numbers) - len(found.met)
    listed = re.findall("^ *([0-9]+)  ", comparison(found), flags=re.MULTILINE)
    assert len(found.orders[0]) == left
    assert [int(n) for n in listed if int(n) < 1000] == list(range(1, min(100, left) + 1))


def test_nobody_of_that_id(corpus):
    assert find_user(corpus, "60") == 59
    for name in "61", "0", "user_3", "":
        with pytest.raises(InputError, match="has no such user; its 60 are 1, 2, 3, .. 60"):
            find_user(corpus, name)


def test_how_sure_an_attacker_is_of_one_user():
    """Sure where the class is planted, of its share where nothing is; a user is not learnt by heart."""
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 4 == 0).astype(int)
    planted = rng.normal(size=(200, 6)).astype(np.float32)
    planted[:, 2] += 6.0 * labels
    for row in 0, 1, 2, 40:
        probabilities = certainty(planted, labels, row)
        assert probabilities[labels[row]] > 0.9
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    nothing, sure = rng.normal(size=(200, 6)).astype(np.float32), []
    for row in range(0, 200, 10):
        sure.append(certainty(nothing, labels, row)[1])
    assert np.mean(sure) == pytest.approx(0.25, abs=0.05)
    names = np.zeros((200, 2), dtype=np.float32)
    names[40, 0] = 1.0  # who could be told from all others and is nobody's like
    assert certainty(names, labels, 40)[1] < 0.6
