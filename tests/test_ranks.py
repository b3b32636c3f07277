"""Hit@k: ranks with ties, candidates, popularity."""

import numpy as np
import pytest
import torch
from conftest import random_llama, random_prefix, random_t5

from data import TASKS, Asked
from evaluate import held_out_ranks, popularity_ranks, rank_of_first, ranks_by_end
from probe import user_states
from support import candidates
from support.candidates import score_candidates
from support.hits import hits


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
    found = hits(np.array([1, 2, 3, 4, 11]), seed=0)
    low, high = found["hit@3 interval"]
    assert found["hit@3"] == 0.6 and low < 0.6 < high
    found = hits(np.array([1, 1]), seed=0)
    assert found["hit@1"] == 1.0 and found["hit@1 interval"] == [1.0, 1.0]


def test_interval_has_the_binomial_width():
    ranks = np.r_[np.ones(300), np.full(700, 50)]
    low, high = hits(ranks, seed=0)["hit@10 interval"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000), rel=0.1)


def test_popularity_counts_training_interactions_alone(corpus):
    counts = np.zeros(160)
    for train in corpus.split.train:
        counts[train] += 1
    asked = Asked(corpus, "sequential", "test", np.arange(10))
    for user, rank in zip(asked.users, popularity_ranks(asked)):
        items = asked.candidates(user)
        assert rank == 1 + sum(counts[item] >= counts[items[0]] for item in items[1:])


@pytest.mark.parametrize("task", TASKS)
def test_ranks_and_states_do_not_depend_on_the_batch(corpus, task, monkeypatch):
    model = random_t5(corpus.tokenizer.vocab_size).eval()
    asked, batches = Asked(corpus, task, "test", np.arange(12)), Asked.batches
    for function in (held_out_ranks, user_states):
        monkeypatch.setattr(Asked, "batches", lambda self, _, device: batches(self, 12, device))
        together = function(model, asked)
        monkeypatch.setattr(Asked, "batches", lambda self, _, device: batches(self, 1, device))
        apart = function(model, asked)
        assert np.allclose(together, apart, atol=1e-5)


def test_the_held_out_item_is_among_the_candidates_once(corpus):
    for task in TASKS:
        asked = Asked(corpus, task, "test", np.arange(20))
        for user in asked.users:
            items = asked.candidates(user)
            assert items[0] == corpus.split.test[user] and len(set(items)) == 101


def test_a_model_that_knows_the_answer_gets_rank_1(corpus, monkeypatch):
    model = random_t5(corpus.tokenizer.vocab_size).eval()

    def oracle(model, encoded, candidates):
        return torch.tensor([[0.0] + [-1.0] * (len(row) - 1) for row in candidates])

    monkeypatch.setattr(candidates, "score_candidates", oracle)
    asked = Asked(corpus, "direct", "test", np.arange(5))
    assert (held_out_ranks(model, asked) == 1).all()


@pytest.mark.parametrize("make", [random_t5, random_llama])
def test_ranks_by_end_are_those_of_all_scores(make):
    """Rows with few and many candidates, each of forty as the right one, prefixes for all and by row."""
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(2)
    model, ids = make(40).eval(), torch.randint(2, 40, (44, 9), generator=generator)
    ids[1, 6:], ids[4:] = 0, ids[4]
    rows = []
    for n in (3, 1, 400, 120, 40):
        words = {tuple(rng.integers(2, 40, rng.integers(1, 4))) for _ in range(n)}
        rows.append([(*map(int, word), 1) for word in sorted(words)])
        rng.shuffle(rows[-1])
    *rows, row = rows
    rows += [row[i:] + row[:i] for i in range(40)]
    for size in (0, 1, 44):
        prefix = random_prefix(model.cfg, 3, size) if size else None
        encoded = model.encode(ids, ids != 0, prefix)
        scores = score_candidates(model, encoded, rows)
        expected = rank_of_first(scores.numpy(), [*map(len, rows)])
        assert ranks_by_end(model, encoded, rows).tolist() == expected.tolist()
        assert len(set(expected)) > 20


def test_ranks_by_end_count_ties_and_what_is_no_number_against_the_model():
    model, ids = random_t5(40).eval(), torch.full((2, 4), 5)
    rows = [[(7, 1)] * 4 + [(8, 1)], [(8, 1), (7, 1), (9, 1)]]
    encoded = model.encode(ids, ids != 0)
    ties = ranks_by_end(model, encoded, rows)[0]
    assert ties == rank_of_first(score_candidates(model, encoded, rows).numpy(), [5, 3])[0] >= 4
    with torch.no_grad():
        model.embedding.weight[7] = torch.nan
    assert ranks_by_end(model, encoded, rows).tolist() == [5, 3]


def test_a_hopeless_candidate_s_end_is_never_looked_at(corpus, monkeypatch):
    """All but three beginnings are far less likely than the whole first answer: four ends are scored."""
    looked_at = []

    def scores(model, encoded, candidates):
        looked_at.append(candidates)
        value = lambda ids: -5.0 * ids[0] - 0.5 * (ids[-1] == 1)
        return torch.tensor([[value(ids) for ids in row] for row in candidates])

    monkeypatch.setattr(candidates, "score_candidates", scores)
    model = random_t5(50)
    row = [(6, 1), *((number, 1) for number in range(3, 40) if number != 6)]
    encoded = model.encode(torch.ones(1, 3).long(), torch.ones(1, 3).bool())
    assert ranks_by_end(model, encoded, [row]) == [4]
    assert looked_at[-1] == [[(6, 1), (3, 1), (4, 1), (5, 1)]]
