"""One person's view: the two lists, what moved, and how sure attackers are."""

import numpy as np
import pytest
import torch
from conftest import random_t5

from audit.person import compare, comparison, find_user
from audit.surfaces import surfaces
from cfp import CFP, CFPConfig
from data import met_before
from mixer import Mixer, MixerConfig
from p5 import Opened
from support.files import InputError


@pytest.fixture(scope="module")
def opened(corpus):
    model = random_t5(corpus.tokenizer.vocab_size).requires_grad_(False).eval()
    torch.manual_seed(0)
    prefixes = {
        attr: CFP(CFPConfig(prefix_len=3), model.cfg).frozen() for attr in ("gender", "age")
    }
    held_out = {attr: np.zeros(60, dtype=bool) for attr in prefixes}
    return Opened({}, corpus, model, prefixes, Mixer(MixerConfig(), model.cfg), held_out)


def test_the_lists_are_the_best_of_what_was_not_met(opened, task):
    corpus, hide = opened.corpus, ("age",)
    found = compare(opened, "42", hide, task, top=7, seed=0)
    number = {int(n): i for i, n in enumerate(corpus.numbers)}
    for key, prefix in ("without", None), ("hiding", opened.hiding(hide)):
        read = surfaces(opened.model, corpus, task, "test", np.array([41]), prefix, ("scores",))
        scores = read["scores"][0]
        scores[met_before(corpus, 41, "test")] = -np.inf
        listed = [number[item["number"]] for item in found["lists"][key]]
        assert listed == np.argsort(-scores, kind="stable")[:7].tolist()
        assert [item[key] for item in found["lists"][key]] == list(range(1, 8))
    where = {item["number"]: item["hiding"] for item in found["lists"]["hiding"]}
    assert all(
        item["hiding"] == where.get(item["number"], item["hiding"])
        for item in found["lists"]["without"]
    )
    assert found["met"] == len(met_before(corpus, 41, "test"))
    assert [item["number"] for item in found["last"]] == [
        int(n) for n in corpus.numbers[met_before(corpus, 41, "test")[-5:]]
    ]


def test_hiding_nothing_moves_nothing(opened):
    found = compare(opened, "7", (), "direct", top=10, seed=0)
    assert found["lists"]["without"] == found["lists"]["hiding"]
    assert all(row["without"] == row["hiding"] for row in found["sure"].values())
    text = comparison(found)
    assert text.count("hiding nothing") >= 2 and "no longer listed" not in text


def test_what_is_shown_is_what_was_found(opened):
    found = compare(opened, "7", ("gender", "age"), "sequential", top=4, seed=0)
    text = comparison(found)
    for key in "without", "hiding":
        for item in found["lists"][key]:
            assert f"{item['number']}   {item['title']}" in text
    for n, item in enumerate(found["lists"]["hiding"], 1):
        line = next(line for line in text.splitlines() if line.startswith(f"{n:>3}  "))
        was = item["without"]
        moved = "" if was == n else f"up from {was}" if was > n else f"down from {was}"
        assert line.endswith(f"new, was {was}" if was > 4 else moved or item["title"])
    for item in found["lists"]["without"]:
        gone = f"{item['number']} {item['title']}, now {item['hiding']}"
        assert (gone in text) == (item["hiding"] > 4)
    assert "gender*" in text and "age*" in text and "occupation*" not in text
    for attr, row in found["sure"].items():
        assert 0 <= row["without"] <= 1 and 0 < row["share"] <= 1
        assert row["class"] in opened.corpus.dataset.classes[attr]


def test_a_short_catalogue_gives_a_short_list(opened):
    found = compare(opened, "7", ("age",), "direct", top=100, seed=0)
    left = len(opened.corpus.numbers) - found["met"]
    assert len(found["lists"]["without"]) == min(100, left)


def test_nobody_of_that_id(corpus):
    assert find_user(corpus, "60") == 59
    for name in "61", "0", "user_3", "":
        with pytest.raises(InputError, match="has no such user; its 60 are 1, 2, 3, .. 60"):
            find_user(corpus, name)
