"""The baselines: losses by hand, what a model may see, what stays frozen, patterns learnt in seconds."""

import copy
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import try_less

import cfp
from audit import command
from audit.surfaces import catalogue_ranks, gains
from data import TASKS, Asked, make_corpus, met_before
from evaluate import candidate_ranks
from reproduction import baselines, recommenders
from reproduction.baselines import (
    FAIR,
    PRESETS,
    Trial,
    interactions_of,
    lookup,
    make_fair,
    padded,
    serving,
    train_recommender,
    vectors_and_scores,
)
from reproduction.recommenders import (
    PMF,
    RECOMMENDERS,
    BERT4Rec,
    BERT4RecConfig,
    Filters,
    Interactions,
    PMFConfig,
    Prompt,
    SASRec,
    SASRecConfig,
    SimpleX,
    SimpleXConfig,
    cosine_contrastive_loss,
    draw_mask,
    draw_unseen,
    logistic_loss,
)
from support.candidates import rank_of_first
from support.configs import CFPConfig, P5Config
from support.datasets import Dataset, fingerprint
from support.expected import one_hot
from support.files import InputError, load_tensors, run_command
from support.screens import kept_cells

pytestmark = pytest.mark.usefixtures("no_checkpoints")
N = 12  # items of the small models, and the number of their padding
SEQUENCE_MODELS = [(SASRec, SASRecConfig), (BERT4Rec, BERT4RecConfig)]
PAIR_MODELS = [(PMF, PMFConfig), (SimpleX, SimpleXConfig)]


def name_of(kind):
    return kind[0].__name__


class Silent:
    """A run that says nothing and keeps what it was told of progress and metrics."""

    folder, in_training, interrupted = Path("nowhere"), False, False

    def __init__(self):
        self.lines, self.metrics = [], []

    def progress(self, stage, step, steps, **numbers):
        self.lines.append((stage, step, steps))

    def metric(self, **values):
        self.metrics.append(values)

    def say(self, text):
        self.lines.append(text)


def small(kind, config, **more):
    torch.manual_seed(0)
    return kind(config(**dict(d=8) | more), n_users=5, n_items=N).eval()


def fill(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values).reshape(parameter.shape))


def negatives_are(monkeypatch, *items):
    """Every positive of a loss gets these negatives."""
    drawn = lambda seen, users, k: torch.tensor([items]).expand(len(users), len(items))
    monkeypatch.setattr(recommenders, "draw_unseen", drawn)


@pytest.fixture()
def data(corpus):
    return interactions_of(corpus, torch.device("cpu"))


softplus = lambda x: math.log(1 + math.exp(x))  # -log sigmoid(-x)


# -------------------------------------------------------------------------------------------------
# Losses by hand
# -------------------------------------------------------------------------------------------------


def test_logistic_by_hand():
    """The positives' mean and, for each, the sum over its negatives."""
    positive, negative = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
    rows = [softplus(-1) + softplus(0) + softplus(2), softplus(0) + softplus(-1) + softplus(0)]
    assert logistic_loss(positive, negative).item() == pytest.approx(sum(rows) / 2)
    one = logistic_loss(positive, negative[:, :1]).item()  # SASRec's binary cross-entropy
    assert one == pytest.approx((softplus(-1) + softplus(0) + softplus(0) + softplus(-1)) / 2)


def test_cosine_contrastive_loss_by_hand():
    """What is no negative counts neither in the sum nor in the number; a row without any has none."""
    counts = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    cosines = torch.tensor([[0.9, 0.2, 1.0], [0.6, 0.4, 0.5], [1.0, 1.0, 1.0]])
    positive = torch.tensor([0.8, 0.5, -0.2])
    loss = cosine_contrastive_loss(positive, cosines, counts, 0.5, 10.0)
    rows = [0.2 + 10 * (0.4 + 0.0) / 2, 0.5 + 10 * (0.1 + 0.0 + 0.0) / 3, 1.2]
    assert loss.item() == pytest.approx(sum(rows) / 3)


def test_pmf_by_hand(monkeypatch):
    """Scores p q + b, the logistic loss, and the priors' penalty on the vector that the filter gives."""
    data = Interactions(torch.tensor([[0, 0]]), torch.tensor([[0]]), torch.zeros(1, 3).bool())
    negatives_are(monkeypatch, 1, 2)
    for fair, p in (None, 2.0), (lambda p_bd: 3 * p_bd, 6.0):
        model = PMF(PMFConfig(d=1, n_negatives=2, l2=0.1), 1, 3)
        fill(model.user.weight, [2.0])
        fill(model.item.weight, [1.0, -1.0, 0.5])
        fill(model.bias, [0.1, 0.0, -0.2])
        s = [p + 0.1, -p, p / 2 - 0.2]
        fit = softplus(-s[0]) + softplus(s[1]) + softplus(s[2])
        penalty = 0.1 / 2 * (p**2 + 1.0**2 + 1.0**2 + 0.5**2)
        loss = model.loss(data, torch.tensor([0]), fair).item()
        assert loss == pytest.approx(fit + penalty, rel=1e-5)
        twice = model.loss(data, torch.tensor([0, 0]), fair).item()
        assert twice == pytest.approx(loss, rel=1e-5)  # a mean over the interactions


def test_simplex_by_hand():
    """CCL of cosines with h_u of the history without the target; every item not seen is a negative."""
    cfg = SimpleXConfig(d=2, gate=0.25, margin=0.3, negative_weight=4.0, dropout=0.0, l2=0.1)
    model = SimpleX(cfg, 1, 5).eval()
    e = [[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [5.0, 5.0], [-1.0, 0.0]]
    fill(model.user.weight, [2.0, -1.0])
    fill(model.item.weight, e)
    fill(model.project.weight, [[1.0, 1.0], [0.0, 2.0]])
    seen = torch.tensor([[True, True, True, False, False]])
    data = Interactions(torch.tensor([[0, 0]]), torch.tensor([[0, 1, 2]]), seen)
    mean = [(1.0 + 0.0) / 2, (0.0 + 2.0) / 2]  # of items 1 and 2
    h = [0.25 * 2.0 + 0.75 * (mean[0] + mean[1]), 0.25 * -1.0 + 0.75 * 2 * mean[1]]
    cos = lambda x: (h[0] * x[0] + h[1] * x[1]) / math.hypot(*h) / math.hypot(*x)
    ccl = 1 - cos(e[0]) + 4.0 * (max(0, cos(e[3]) - 0.3) + max(0, cos(e[4]) - 0.3)) / 2
    penalty = 0.1 / 2 * (2.0**2 + 1.0**2 + 3.0**2 + 4.0**2)
    assert model.loss(data, torch.tensor([0])).item() == pytest.approx(ccl + penalty, rel=1e-5)


def test_sasrec_by_hand(monkeypatch):
    """Binary cross-entropy of each next item and of a negative, the mean over positions with a history."""
    model = SASRec(SASRecConfig(d=1), 2, 3)
    fill(model.encoder.symbol.weight, [1.0, 2.0, 3.0, 0.0])
    # the state of item i is i + 1
    model.encoder.forward = lambda ids, fair: (ids + 1.0).unsqueeze(2)
    negatives_are(monkeypatch, 1)
    histories = torch.tensor([[3, 0, 1], [2, 0, 2]])  # 3 is padding
    data = Interactions(torch.empty(0), histories, torch.zeros(2, 3).bool())
    follows = [(1.0, 2.0), (3.0, 1.0), (1.0, 3.0)]  # (state, vector of what follows): 0>1, 2>0, 0>2
    by_hand = sum(softplus(-a * b) + softplus(a * 2.0) for a, b in follows) / 3
    assert model.loss(data, torch.arange(2)).item() == pytest.approx(by_hand, rel=1e-5)
    # of a long history as many positions as the window has, each with what follows
    model.cfg = SASRecConfig(d=1, window=2)
    long = Interactions(data.pairs, torch.tensor([[0, 0, 2, 1]]), data.seen)
    follows = [(1.0, 3.0), (3.0, 2.0)]
    by_hand = sum(softplus(-a * b) + softplus(a * 2.0) for a, b in follows) / 2
    assert model.loss(long, torch.arange(1)).item() == pytest.approx(by_hand, rel=1e-5)


def test_bert4rec_by_hand(monkeypatch):
    """Cross-entropy over the whole catalogue, the mean over the masked positions and no others."""
    model = BERT4Rec(BERT4RecConfig(d=2, window=4), 2, 3).eval()
    fill(model.encoder.symbol.weight, [0.0] * 10)  # so that the biases are all the logits
    fill(model.bias, [0.0, math.log(2), math.log(3)])
    mask = torch.tensor([[False, True, True], [False, False, True]])
    monkeypatch.setattr(recommenders, "draw_mask", lambda *_: mask)
    data = Interactions(torch.empty(0), torch.tensor([[0, 1, 2], [3, 1, 0]]), torch.empty(0))
    by_hand = -(math.log(2 / 6) + math.log(3 / 6) + math.log(1 / 6)) / 3
    assert model.loss(data, torch.arange(2)).item() == pytest.approx(by_hand, rel=1e-5)


def test_bert4rec_guesses_from_the_masked_sequence(monkeypatch):
    """What is masked is not read, with random weights: it may be anything, the state stays the same."""
    model, read = small(BERT4Rec, BERT4RecConfig, window=4), []
    mask = torch.tensor([[False, True, False, True]])
    monkeypatch.setattr(recommenders, "draw_mask", lambda *_: mask)
    real = model.encoder.forward
    model.encoder.forward = lambda ids, fair: read.append(ids) or real(ids, fair)
    data = Interactions(torch.empty(0), torch.tensor([[4, 5, 6, 7]]), torch.empty(0))
    loss = model.loss(data, torch.arange(1)).item()
    assert read[0].tolist() == [[4, model.mask_id, 6, model.mask_id]]
    logits = model.scores(real(read[0])[mask])
    by_hand = logits.logsumexp(1) - logits[[0, 1], [5, 7]]
    assert loss == pytest.approx(by_hand.mean().item(), rel=1e-5)


# -------------------------------------------------------------------------------------------------
# What a model may see
# -------------------------------------------------------------------------------------------------


def test_held_out_items_are_nowhere_in_the_training_data(corpus, data):
    held_out = np.column_stack([corpus.split.valid, corpus.split.test])
    for user, items in enumerate(held_out):
        assert not data.seen[user, items].any()
        assert not set(items) & set(data.histories[user].tolist())
        assert not set(items) & set(data.pairs[data.pairs[:, 0] == user, 1].tolist())
        assert data.histories[user][-1] == corpus.split.train[user][-1]
    assert len(data.pairs) == data.seen.sum() == sum(map(len, corpus.split.train))


def test_vectors_are_what_each_user_is_before_the_held_out_item(corpus):
    """Training items and, before the test item, the validation item; whatever the batch."""
    torch.manual_seed(0)
    for kind, config in RECOMMENDERS.values():
        model, users = kind(config(d=8), 60, 160).eval(), np.array([7, 2, 30, 31])
        for part in "valid", "test":
            asked = Asked(corpus, TASKS[0], part, users)
            states, scores = vectors_and_scores(model, asked)
            again = vectors_and_scores(model, asked, batch_size=1)
            assert np.allclose(states, again[0], atol=1e-5)
            assert np.allclose(scores, again[1], atol=1e-4)
            met = torch.from_numpy(met_before(corpus, 30, part))[None]
            with torch.no_grad():
                alone = model.state(torch.tensor([30]), met)
                assert np.allclose(states[2], alone[0], atol=1e-5)
                assert np.allclose(scores[2], model.scores(alone)[0], atol=1e-4)
        assert scores.shape == (4, 160)


def test_negatives_are_unseen():
    generator = np.random.default_rng(0)
    seen = torch.from_numpy(generator.random((3, N)) < 0.4)
    drawn = draw_unseen(seen, torch.tensor([2, 0, 1, 2]), 300)
    for row, user in enumerate([2, 0, 1, 2]):
        assert set(drawn[row].tolist()) == set((~seen[user]).nonzero()[:, 0].tolist())
    seen = torch.ones(3, N, dtype=torch.bool)  # somebody who has seen everything: any item, no end
    seen[:, 4] = seen[1, 7] = False
    drawn = draw_unseen(seen, torch.tensor([0, 1, 2]), 50)
    assert (~seen[torch.arange(3)[:, None], drawn]).float().mean() > 0.8
    assert draw_unseen(torch.ones(1, N).bool(), torch.tensor([0]), 4).shape == (1, 4)


def test_simplex_reads_the_whole_history_in_training_and_after():
    """Of seven hundred items the first counts as much as the last."""
    n, user = 702, np.array([0])
    titles = [str(item) for item in range(n)]
    dataset = Dataset("long", ["u"], {}, {}, titles, [""] * n, [np.arange(n)])
    corpus = make_corpus(dataset, None, P5Config(), 0)
    torch.manual_seed(0)
    model = SimpleX(SimpleXConfig(d=4), 1, n).eval()
    seen = interactions_of(corpus, torch.device("cpu")).seen
    states, _ = vectors_and_scores(model, Asked(corpus, TASKS[0], "valid", user))
    with torch.no_grad():
        assert np.allclose(states, model.fuse(torch.tensor([0]), seen.float()), atol=1e-6)
    assert seen.sum() == 700


def test_simplex_history_is_without_the_target():
    model, user = small(SimpleX, SimpleXConfig), torch.tensor([2])
    seen = torch.zeros(5, N, dtype=torch.bool)
    seen[2, [1, 3, 5]] = True
    met = SimpleX.met_without(seen, user, torch.tensor([3]))
    assert met.nonzero()[:, 1].tolist() == [1, 5] and seen[2, 3]  # and what was seen stays so
    given = model.state(user, torch.tensor([[N, 1, 5]]))
    assert torch.allclose(model.fuse(user, met), given)
    mean = model.item.weight[[1, 5]].mean(0)
    by_hand = 0.5 * model.user.weight[2] + 0.5 * model.project.weight @ mean
    assert torch.allclose(given[0], by_hand, atol=1e-6)
    nothing = model.state(user, torch.tensor([[N]]))  # the mean of no items is 0
    assert torch.allclose(nothing[0], 0.5 * model.user.weight[2])


def test_a_later_item_changes_no_earlier_state():
    ids = torch.tensor([[N, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    other = ids.clone()
    other[:, 3] = 11
    causal = small(SASRec, SASRecConfig, window=6)
    a, b = causal.encoder(ids), causal.encoder(other)
    assert torch.equal(a[:, :3], b[:, :3]) and not torch.isclose(a[:, 3:], b[:, 3:]).all(2).any()
    both_ways = small(BERT4Rec, BERT4RecConfig, window=6)
    a, b = both_ways.encoder(ids), both_ways.encoder(other)
    assert not torch.isclose(a[ids != N], b[ids != N]).all(1).any()  # every position reads it


@pytest.mark.parametrize("kind", SEQUENCE_MODELS, ids=name_of)
@pytest.mark.parametrize("length", [None, 3])
def test_padding_changes_nothing(kind, length):
    """At any position, alone or beside a longer history, with a prompt or without."""
    model, user = small(*kind, window=7), torch.tensor([0])
    prompt = None if length is None else Prompt(model.encoder, length)
    short, long = torch.tensor([[1, 2, 3]]), torch.tensor([[N, N, N, 1, 2, 3]])
    both = torch.tensor([[N, N, 1, 2, 3], [4, 5, 6, 7, 8]])
    alone = model.state(user, short, prompt)
    assert torch.allclose(alone, model.state(user, long, prompt), atol=1e-6)
    beside = model.state(user.repeat(2), both, prompt)
    assert torch.allclose(alone[0], beside[0], atol=1e-6) and beside.isfinite().all()
    a, b = model.encoder(short, prompt), model.encoder(long, prompt)
    assert torch.allclose(a, b[:, 3:], atol=1e-6)


@pytest.mark.parametrize("kind", SEQUENCE_MODELS, ids=name_of)
@pytest.mark.parametrize("more", [0, 5])
def test_the_window_holds_the_newest_items(kind, more):
    """Of a history as long as the window or longer; BERT4Rec's oldest makes room for [MASK]."""
    window, user = 4, torch.tensor([0])
    model = small(*kind, window=window)
    history = torch.arange(window + more)[None]
    kept = window if kind[0] is SASRec else window - 1
    ids = history[:, -kept:]
    if kind[0] is BERT4Rec:
        ids = torch.cat([ids, torch.tensor([[model.mask_id]])], dim=1)
    state = model.state(user, history)
    assert ids.shape[1] == window and torch.equal(state, model.encoder(ids)[:, -1])
    for place in range(window + more):
        other = history.clone()
        other[0, place] = 11
        same = torch.allclose(model.state(user, other), state, atol=1e-6)
        assert same == (place < window + more - kept)
    assert model.scores(state).shape == (1, N)


def test_masks_are_drawn_where_they_may_be():
    """One at least in each row, none on padding; about `share`, the last alone in `last_only`."""
    ids = torch.tensor([[N, N, 1, 2, 3]]).repeat(4000, 1)
    torch.manual_seed(0)
    mask = draw_mask(ids, N, 0.2, 0.1)
    assert mask.any(1).all() and not mask[:, :2].any()
    empty, alone = 0.8**3, 0.1  # rows without a draw, and those of the last item, have the last
    assert mask[:, 2].float().mean() == pytest.approx(0.2 * (1 - alone), abs=0.02)
    assert mask[:, 4].float().mean() == pytest.approx(alone + (1 - alone) * (0.2 + empty), abs=0.03)
    last = torch.tensor([False, False, False, False, True])
    assert (draw_mask(ids, N, 0.2, 1.0) == last).all()
    drawn = draw_mask(torch.ones(200, 50).long(), N, 0.3, 0.0)
    assert drawn.float().mean() == pytest.approx(0.3, abs=0.02)
    assert (draw_mask(ids[:50], N, 0.0, 0.0) == last).all()
    assert (draw_mask(ids[:50], N, 1.0, 0.0) == (ids[:50] != N)).all()


def test_a_stretch_is_of_neighbours():
    model = small(BERT4Rec, BERT4RecConfig, window=4)
    long = torch.arange(10).repeat(300, 1)
    found = model.stretch(long)
    assert (found.diff(dim=1) == 1).all() and found.shape == (300, 4)
    assert set(found[:, 0].tolist()) == set(range(7))  # each start occurs, no other
    short = torch.tensor([[N] * 8 + [1, 2], [N] * 5 + [3, 4, 5, 6, 7]]).repeat(50, 1)
    found = model.stretch(short)
    assert (found[::2] == torch.tensor([N, N, 1, 2])).all()  # the whole of it
    assert {tuple(row) for row in found[1::2].tolist()} == {(3, 4, 5, 6), (4, 5, 6, 7)}
    assert model.stretch(torch.tensor([[N, N, 5]])).tolist() == [[5]]


def test_a_user_with_one_item_teaches_what_is_possible():
    """SASRec nothing, as nothing follows; BERT4Rec that this one may be asked for."""
    histories = torch.tensor([[N, N, 1], [1, 2, 3], [N, 4, 5]])
    data = Interactions(torch.empty(0), histories, torch.zeros(5, N).bool())
    assert small(SASRec, SASRecConfig).examples(data).tolist() == [1, 2]
    model = small(BERT4Rec, BERT4RecConfig)
    assert model.examples(data).tolist() == [0, 1, 2]
    assert model.loss(data, torch.tensor([0])).isfinite()


# -------------------------------------------------------------------------------------------------
# Ranks
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_candidate_ranks_with_ties_and_nan(corpus, task):
    users = np.arange(6)
    scores = np.random.default_rng(0).random((6, 160))
    target, negatives = corpus.split.test[users], corpus.negatives[users]
    scores[0] = 1.0  # a model that knows nothing gets the last rank
    scores[1, target[1]] = np.nan  # no number beats nothing
    scores[2, target[2]] = 2.0
    scores[3, target[3]], scores[3, negatives[3, 7]] = 2.0, np.nan  # stands before it
    scores[4, target[4]] = scores[4, negatives[4, :2]] = 2.0  # and so do two equals
    ranks = candidate_ranks(Asked(corpus, task, "test", users), scores)
    assert ranks[:5].tolist() == [101, 101, 1, 2, 3]
    row = np.append(scores[5, target[5]], scores[5, negatives[5]])
    assert ranks[5] == rank_of_first(row[None], [101])[0] == 1 + (row[1:] >= row[0]).sum()


def test_catalogue_ranks_by_hand(corpus):
    """Among what was not met before: ties and NaN count against, what was met in no way."""
    users = np.arange(6)
    scores = np.random.default_rng(1).random((6, 160))
    target = corpus.split.test[users]
    scores[0] = 1.0
    scores[1, target[1]] = np.nan
    scores[2, target[2]] = 2.0
    for user in 2, 3:
        scores[user, corpus.split.train[user]] = scores[user, corpus.split.valid[user]] = 9.0
    ranks = catalogue_ranks(Asked(corpus, TASKS[0], "test", users), scores)
    unmet = [set(range(160)) - set(met_before(corpus, user, "test")) for user in users]
    assert ranks[0] == len(unmet[0]) and ranks[1] >= len(unmet[1]) and ranks[2] == 1
    for user in 3, 4, 5:
        others = unmet[user] - {target[user]}
        beaten_by = [item for item in others if scores[user, item] >= scores[user, target[user]]]
        assert ranks[user] == 1 + len(beaten_by)
    # before the validation item neither that nor the test item has been met
    scores[5, corpus.split.valid[5]], scores[5, target[5]] = 2.0, 3.0
    assert catalogue_ranks(Asked(corpus, TASKS[0], "valid", users), scores)[5] == 2
    assert scores[3, corpus.split.train[3][0]] == 9.0  # what is given stays as it is


def test_ndcg_by_hand():
    ranks = np.array([1, 3, 10, 11])
    by_hand = (1 + 1 / math.log2(4) + 1 / math.log2(11) + 0) / 4
    assert gains(ranks, 10).mean() == pytest.approx(by_hand)
    assert gains(ranks, 2).mean() == 0.25 and gains(np.array([1, 1]), 10).mean() == 1.0


def test_lookup_by_hand():
    """Six people, five items; the test item is the last, the validation item the one before."""
    histories = [[0, 1, 2, 3], [1, 0, 4], [0, 2], [1, 4], [3], [2, 1, 0, 3]]
    histories = [np.array(history) for history in histories]
    people, items = list("abcdef"), list("vwxyz")
    tiny = make_corpus(
        Dataset("tiny", people, {}, {}, items, [""] * 5, histories), None, P5Config(), 0
    )
    prior = np.array([2, 4, 1, 1, 0]) / 8  # of items 0 to 4 in training
    scores = lookup(Asked(tiny, TASKS[0], "test", np.array([0, 1, 3])))
    assert scores[0] == pytest.approx(prior)  # nobody has 0, 1, 2 and one more: popularity
    assert scores[1] == pytest.approx((prior + [0, 0, 2, 0, 0]) / 3)  # 0, 1 go with 2, twice
    assert scores[2] == pytest.approx((prior + [1, 0, 0, 0, 0]) / 2)  # 1 goes with 0, once
    # of training items alone: 1 with 0 and with 2
    scores = lookup(Asked(tiny, TASKS[0], "valid", np.array([1])))
    assert scores[0] == pytest.approx((prior + [1, 0, 1, 0, 0]) / 3)


def test_lookup_falls_back_to_popularity(corpus):
    # nobody else has the same thirty movies
    scores = lookup(Asked(corpus, TASKS[0], "test", np.arange(10)))
    counts = np.bincount(np.concatenate(corpus.split.train), minlength=160)
    assert np.allclose(scores, counts / counts.sum()) and np.allclose(scores.sum(1), 1)


# -------------------------------------------------------------------------------------------------
# What makes them fair
# -------------------------------------------------------------------------------------------------


def test_filters_combine_by_the_mean_of_those_asked_for():
    torch.manual_seed(0)
    filters, x = Filters(["gender", "age", "type"], 8).eval(), torch.randn(4, 8)
    one = {attr: filters(x, (attr,)) for attr in filters.attrs}
    assert torch.equal(one["age"], filters.filters[1](x))
    for asked in ("gender", "type"), ("gender", "age", "type"):
        mean = sum(one[attr] for attr in asked) / len(asked)
        assert torch.allclose(filters(x, asked), mean, atol=1e-6)
        assert torch.allclose(filters(x, asked[::-1]), filters(x, asked), atol=1e-6)
        assert torch.equal(serving(filters, asked)(x), filters(x, asked))


@pytest.mark.parametrize("kind", SEQUENCE_MODELS, ids=name_of)
def test_an_empty_prompt_changes_nothing_and_a_prompt_something(kind):
    model, user = small(*kind, window=6), torch.tensor([0])
    history, prompt = torch.tensor([[N, 1, 2, 3]]), Prompt(model.encoder, 0)
    for adapters in prompt.adapters:
        for one in adapters:
            torch.nn.init.zeros_(one[3].weight)
    bare = model.state(user, history)
    assert torch.allclose(model.state(user, history, prompt), bare, atol=1e-6)
    adapted = copy.deepcopy(prompt)
    torch.nn.init.normal_(adapted.adapters[1][0][3].weight)
    assert not torch.allclose(model.state(user, history, adapted), bare)
    longer = Prompt(model.encoder, 3)
    longer.adapters = prompt.adapters
    assert not torch.allclose(model.state(user, history, longer), bare)
    # the first position reads it too
    first = model.encoder(history, longer)[:, 1]
    assert not torch.allclose(first, model.encoder(history)[:, 1])


class Spy:
    """Stands in for `baselines.step` and notes who moved, the model, what makes it fair or a C, how fast."""

    def __init__(self, model, monkeypatch):
        self.calls, self.rates = [], []
        self.players = {"model": model}
        real_dis, real_serving = cfp.Discriminator, baselines.serving
        real_step = baselines.step

        def discriminator(*args):
            one = self.players[f"C{len(self.players) - 1}"] = real_dis(*args)
            return one

        def spy_serving(fair, attrs):
            self.players["fair"] = fair
            return real_serving(fair, attrs)

        def spy_step(optimizer, loss, *args):
            before = {n: copy.deepcopy(p.state_dict()) for n, p in self.players.items()}
            real_step(optimizer, loss, *args)
            self.rates.append([group["lr"] for group in optimizer.param_groups])
            self.calls.append(
                {
                    name
                    for name, player in self.players.items()
                    if any(
                        not torch.equal(before[name][k], v) for k, v in player.state_dict().items()
                    )
                }
            )

        monkeypatch.setattr(cfp, "Discriminator", discriminator)
        monkeypatch.setattr(baselines, "serving", spy_serving)
        monkeypatch.setattr(baselines, "step", spy_step)


@pytest.mark.parametrize("name", FAIR)
def test_the_game_moves_one_player_each_and_nothing_frozen(corpus, data, name, monkeypatch):
    """The fair part, with the model where filters are trained, then the drawn choice's discriminators."""
    kind, config = RECOMMENDERS[FAIR[name]]
    torch.manual_seed(0)
    model = kind(config(d=8), len(data.seen), data.seen.shape[1])
    before, spy = copy.deepcopy(model.state_dict()), Spy(model, monkeypatch)
    known = {attr: corpus.dataset.labels(attr) for attr in ("gender", "age")}
    labels = {attr: one_hot(y) for attr, y in known.items()}
    cfg = CFPConfig(epochs=3, batch_size=20, prefix_len=2, dis_depths=(1,), dis_steps=2)
    fair = make_fair(Trial(corpus, data, known, labels, 0, Silent()), model, cfg, name)
    frozen = name.startswith("s-")
    n_choices = 1 if frozen else 3
    assert len(spy.calls) == 3 * 3 * n_choices * (1 + 2)  # 60 users are three batches
    player = {"fair"} if frozen else {"fair", "model"}
    assert all(moved == player for moved in spy.calls[::3])
    if not frozen:  # a game three times as long as one about gender moves the model no farther
        assert all(model == pytest.approx(fair / 3) for fair, model in spy.rates[::3])
    caught_up = {frozenset(moved) for call in (1, 2) for moved in spy.calls[call::3]}
    # a discriminator for each attribute of each choice: gender, age, and both; prompts have the last
    choices = [{"C0", "C1"}] if frozen else [{"C0"}, {"C1"}, {"C2", "C3"}]
    assert caught_up == set(map(frozenset, choices))
    same = all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert same == frozen
    if frozen:
        assert not model.training
        assert all(w.grad is None and not w.requires_grad for w in model.parameters())
    users = torch.arange(4)
    given = serving(fair.eval(), ("gender", "age"))
    moved = model.eval().state(users, data.histories[users], given)
    assert not torch.allclose(moved, model.state(users, data.histories[users]))


# -------------------------------------------------------------------------------------------------
# Training
# -------------------------------------------------------------------------------------------------


def test_the_best_weights_on_validation_are_kept(corpus, data, monkeypatch):
    """Looks in which NDCG@10 is .39, 1, .5, .5 and .5: of the second, and three without a gain are enough."""
    ranks, states = iter([5, 1, 3, 3, 3, 1]), []

    def scripted(model, *_):
        states.append(copy.deepcopy(model.state_dict()))
        return None, None

    monkeypatch.setattr(baselines, "vectors_and_scores", scripted)
    monkeypatch.setattr(baselines, "candidate_ranks", lambda *_: np.array([next(ranks)]))
    model, run = PMF(PMFConfig(d=4, epochs=40, check=2, patience=3), 60, 160), Silent()
    train_recommender(Trial(corpus, data, {}, {}, 0, run), model, "pmf")
    assert len(states) == 5 and [m["epoch"] for m in run.metrics] == [2, 4, 6, 8, 10]
    kept, last = states[1], states[-1]
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    assert not torch.equal(kept["item.weight"], last["item.weight"])
    assert run.lines[-1] == "PMF: no gain in 3 looks, stopped after 10 epochs"


def successors(seed: int, n_users: int = 120) -> Interactions:
    """Everybody goes round the items in order, from a random place on and for a while of their own."""
    rng = np.random.default_rng(seed)
    walks = [(rng.integers(N) + np.arange(rng.integers(2, 10))) % N for _ in range(n_users)]
    histories = padded(walks, N)
    pairs = torch.tensor([(user, item) for user, walk in enumerate(walks) for item in walk])
    seen = torch.zeros(n_users, N, dtype=torch.bool)
    seen[pairs[:, 0], pairs[:, 1]] = True
    return Interactions(pairs, histories, seen)


def descend(model, data, steps):
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-2)
    for _ in range(steps):
        baselines.step(optimizer, model.loss(data, model.examples(data)), 5.0)


@pytest.mark.parametrize("kind", SEQUENCE_MODELS, ids=name_of)
def test_sequence_models_learn_what_follows(kind):
    """Hit@1 of the last item of other people's walks."""
    data, others = successors(0), successors(1)
    torch.manual_seed(0)
    cfg, users = kind[1](d=16, window=10, dropout=0.1), torch.arange(120)
    model = kind[0](cfg, len(data.seen), N)

    @torch.no_grad()
    def hit() -> float:
        best = model.eval().scores(model.state(users, others.histories[:, :-1])).argmax(1)
        return (best == others.histories[:, -1]).float().mean().item()

    assert hit() < 0.3  # chance is a twelfth
    descend(model, data, 300)
    assert hit() > 0.7


@pytest.mark.parametrize("kind", PAIR_MODELS, ids=name_of)
def test_pair_models_learn_blocks(kind):
    """Even users take even items; of each one is kept back. Hit@1 among that and the odd ones."""
    users, items = torch.arange(40), torch.arange(N)
    own = (users[:, None] % 2) == (items % 2)
    kept_back = 2 * (users // 2 % 6) + users % 2
    seen = own.clone()
    seen[users, kept_back] = False
    histories = padded([s.nonzero()[:, 0].numpy() for s in seen], N)
    data = Interactions(seen.nonzero(), histories, seen)
    torch.manual_seed(0)
    model = kind[0](kind[1](d=8), 40, N)

    @torch.no_grad()
    def hit() -> float:
        scores = model.eval().scores(model.state(users, histories))
        others = scores.masked_fill(own, -math.inf).max(1).values
        return (scores[users, kept_back] > others).float().mean().item()

    assert hit() < 0.5  # chance is a seventh
    descend(model, data, 200)
    assert hit() > 0.9


# -------------------------------------------------------------------------------------------------
# The command
# -------------------------------------------------------------------------------------------------

SHORT = "--toy-users 60 --d 8 --epochs 2"
TINY = f"{SHORT} --fair-epochs 1 --fair-batch-size 20"


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    """Where the command is run, whose rows may be attacked less well here."""
    try_less(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: str) -> dict:
    """What results.json holds after the command has run in this process."""
    return json.loads(json.dumps(baselines.main(arguments.split())))


def numbers(results: dict) -> list[dict]:
    """All rows without the clock."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in results["rows"]]


def test_a_tiny_run_and_its_base(folder, capsys):
    results = run(f"--model c-pmf --attr gender,age {TINY} --out first")
    assert results == json.loads((folder / "first" / "results.json").read_text())
    assert (results["data"], results["attrs"], results["seed"]) == ("toy", ["gender", "age"], 0)
    assert results["users"] == 60 and results["candidates"] == {task: [101, 101] for task in TASKS}
    assert set(results["ceiling"]) == {"gender", "age"} and results["seconds"] > 0
    rows = {(row["model"], *row["hidden"]): row for row in results["rows"]}
    assert list(rows) == [
        ("popularity",),
        ("pmf",),
        ("c-pmf", "gender"),
        ("c-pmf", "age"),
        ("c-pmf", "gender", "age"),
    ]
    shown = capsys.readouterr().out
    for key, row in rows.items():
        for task in TASKS:
            one = row[task]
            assert 0 <= one["hit@1"] <= one["hit@3"] <= one["hit@10"] <= 1
            assert 0 <= one["ndcg@10"] <= one["hit@10"] and one["full hit@10"] <= one["hit@10"]
            low, high = one["hit@10 interval"]
            assert low <= one["hit@10"] <= high
            assert f"{100 * one['hit@10']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in shown
            if key == ("popularity",):  # no vector, nothing to attack
                assert "auc" not in one and row["floor"] == {}
                assert results["popularity"][task].items() <= one.items()
            else:
                assert set(one["auc"]) == set(row["floor"]) == {"gender", "age"}
    (line,) = [line for line in shown.splitlines() if line.startswith("  C-PMF, hiding age")]
    one = rows["c-pmf", "age"]["sequential"]
    hit, before, popular = (
        found["sequential"]["hit@10"]
        for found in (rows["c-pmf", "age"], rows["pmf",], rows["popularity",])
    )
    above = (hit - popular) / (before - popular) if before > popular else None
    assert one["kept"][0] == pytest.approx(hit / before if before else None)
    assert one["kept above popularity"][0] == pytest.approx(above)
    assert ("PMF is not above popularity" in line) == (above is None)
    assert all(cell in line for cell in kept_cells(one)) and "kept" not in rows["pmf",]["direct"]
    assert "C-PMF, hiding gender, age" in shown
    config = json.loads((folder / "first" / "config.json").read_text())
    assert config["recommenders"]["pmf"]["epochs"] == 2 and config["games"]["c-pmf"]["epochs"] == 1
    assert config["recommenders"]["pmf"]["d"] == 8 and config["command"][0] == "baselines.py"
    weights = load_tensors(folder / "first" / "c-pmf.safetensors")
    assert "recommender.user.weight" in weights and "fair.filters.1.4.running_mean" in weights
    assert (folder / "first" / "negatives.npy").exists()

    # the same seed gives the same result twice, and so does the recommender of another run
    again = run(f"--model c-pmf --attr gender,age {TINY} --out second --base first")
    assert "PMF   " not in capsys.readouterr().out.split("C-PMF")[0]  # not trained
    assert numbers(again) == numbers(results)
    files = [folder / name / "pmf.safetensors" for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()
    anew = run(f"--model pmf --attr gender,age {SHORT} --out third")
    assert numbers(anew) == numbers(results)[:2]
    with pytest.raises(InputError, match="--run first: is a run of baselines.py, .*; name one of"):
        command.main("--run first --audit".split())


def test_the_trivial_ones(folder, capsys):
    for name, rows in ("popularity", ["popularity"]), ("lookup", ["popularity", "lookup"]):
        results = run(f"--model {name} --toy-users 60 --seed 1")
        assert [row["model"] for row in results["rows"]] == rows
        assert f"\n  {name}  " in capsys.readouterr().out
        assert (folder / f"runs/toy-{name}-gender-seed1/results.json").exists()


@pytest.mark.parametrize("data", ["toy", "ml-1m", "ml-100k", "insurance", "few"])
def test_settings_are_defaults_then_the_datas_then_the_flags(folder, data, monkeypatch):
    """A flag with `fair-` is the game's, one without the recommender's; both players have rates."""

    class Asked(Exception):
        pass

    def stop(_, name, config):
        raise Asked(config)

    def ask(arguments):
        with pytest.raises(Asked) as asked:
            place = "" if data == "toy" else "--data-dir ."
            baselines.main(f"--data {data} {place} {arguments}".split())
        config = asked.value.args[0]
        return config["recommenders"], config["games"]

    toy = toy_of_sixty()
    monkeypatch.setattr(baselines, "Run", stop)
    monkeypatch.setattr(baselines, "load_dataset", lambda *_: toy)
    preset = lambda model: PRESETS.get(f"{data} {model}", {})
    for fair, name in FAIR.items():
        trained, games = ask(f"--model {fair}")
        config, game = RECOMMENDERS[name][1](**preset(name)), CFPConfig(**preset(fair))
        assert trained == {name: dataclasses.asdict(config)}
        assert games == {fair: dataclasses.asdict(game)}
    own = "--lr 0.5 --epochs 3 --batch-size 5 --d 6 --check 7 --patience 8"
    fair = "--fair-lr 0.25 --fair-epochs 4 --fair-batch-size 9 --lam 2 --dis-lr 0.1 --dis-steps 11"
    trained, games = ask(f"--model s-sas {own} {fair} --prefix-len 12")
    given = dict(lr=0.5, epochs=3, batch_size=5, d=6, check=7, patience=8)
    assert given.items() <= trained["sasrec"].items()
    given = dict(lr=0.25, epochs=4, batch_size=9, lam=2.0, dis_lr=0.1, dis_steps=11, prefix_len=12)
    assert given.items() <= games["s-sas"].items()
    assert list(ask("--model all")[0]) == list(RECOMMENDERS) and ask("--model lookup") == ({}, {})


def toy_of_sixty() -> Dataset:
    return baselines.load_dataset("toy", None, 0, baselines.ToyConfig(60))


def test_all_of_them(folder, capsys):
    results = run(f"--model all {TINY}")
    rows = [(row["model"], row["hidden"]) for row in results["rows"]]
    plain = ["popularity", "lookup", *RECOMMENDERS]
    assert rows == [*((name, []) for name in plain), *((name, ["gender"]) for name in FAIR)]
    for row in results["rows"]:
        for task in TASKS:
            assert {"hit@1", "ndcg@10", "full hit@10", "full ndcg@10"} <= set(row[task])
    shown = capsys.readouterr().out
    assert {"S-B4", "BERT4Rec"} <= {line[2:].split("  ")[0] for line in shown.splitlines()}
    kinds = {path.name for path in (folder / "runs" / "toy-all-gender-seed0").glob("*.safetensors")}
    assert kinds == {f"{name}.safetensors" for name in [*RECOMMENDERS, *FAIR]}


MISTAKES = {
    "": "--model",
    "--model svd": "--model: invalid choice: 'svd'",
    "--model pmf --attr size": "--attr size: toy has no such attribute; choose from gender, age",
    "--model pmf --attr gender,": "--attr 'gender,': an attribute is missing before or after a comma",
    "--model pmf --attr age,age": "--attr age,age: age is named twice",
    "--model all --attr gender,age": "--model all --attr gender,age: its rows are about one attribute",
    "--model pmf --lam 3": "--lam: --model pmf does not go by it; leave it out, or choose --model c-pmf",
    "--model sasrec --fair-batch-size 9": "--fair-batch-size: --model sasrec does not go by it",
    "--model lookup --base x": "--base: --model lookup does not go by it",
    "--model popularity --epochs 3": "--epochs: --model popularity does not go by it",
    "--model c-pmf --prefix-len 3": "leave it out, or choose --model s-sas, s-b4, all",
    "--model pmf --data ml-100k": "--data ml-100k needs --data-dir",
    "--model pmf --data ml-100k --data-dir nowhere": "nowhere/u.user is missing",
    "--model pmf --data films --data-dir .": "--data films: neither toy, ml-1m",
    "--model pmf --data ml-1m --toy-users 60": "--data ml-1m: --toy-users is for toy",
    "--model pmf --toy-users 4": "--attr gender: fewer than two classes of toy have the 5 users",
    "--model pmf --device tpu": "--device tpu: not to be had here",
    "--model bert4rec --d 7": "--d 7: no multiple of 2, BERT4Rec's heads",
    "--model s-b4 --d 7": "--d 7: no multiple of 2, BERT4Rec's heads",
    "--model pmf --out file": "cannot write into --out file",
    "--model pmf --epochs 0": "--epochs: '0' is not a whole number from 1 on",
    "--model pmf --batch-size 0": "--batch-size: '0' is not a whole number from 1 on",
    "--model pmf --lr 0": "--lr: '0' is not a number above 0",
    "--model pmf --d x": "--d: 'x' is not a whole number from 1 on",
    "--model pmf --check 0": "--check: '0' is not a whole number from 1 on",
    "--model pmf --patience 0": "--patience: '0' is not a whole number from 1 on",
    "--model pmf --seed -1": "--seed: '-1' is not a whole number from 0 on",
    "--model c-pmf --lam -1": "--lam: '-1' is not a number from 0 on",
    "--model c-pmf --fair-epochs 0": "--fair-epochs: '0' is not a whole number from 1 on",
    "--model c-pmf --fair-batch-size 1": "--fair-batch-size: '1' is not a whole number from 2 on",
    "--model c-pmf --fair-lr nan": "--fair-lr: 'nan' is not a number above 0",
    "--model c-pmf --dis-lr inf": "--dis-lr: 'inf' is not a number above 0",
    "--model c-pmf --dis-steps 0": "--dis-steps: '0' is not a whole number from 1 on",
    "--model s-sas --prefix-len -1": "--prefix-len: '-1' is not a whole number from 0 on",
}
# What is only to be seen in other files.
NO_BASE = "--base {}: has no PMF of these data, seed and settings"
WRONG_FOLDERS = {
    "--model pmf --base nowhere": "--base nowhere: nowhere/config.json: No such file",
    "--model pmf --base broken": "--base broken: broken/config.json is no JSON",
    "--model pmf --d 4 --base other": NO_BASE.format("other"),
    "--model pmf --seed 1 --base other": NO_BASE.format("other"),
    "--model pmf --toy-users 61 --base other": NO_BASE.format("other"),
    "--model c-pmf --base strange": NO_BASE.format("strange"),
    "--model pmf --base other": "other/pmf.safetensors: No such file",
}


def fails(arguments: str, monkeypatch, capsys) -> str:
    """What the command says on stderr; it ends with exit code 2 and one line of error."""
    monkeypatch.setattr(sys, "argv", ["baselines.py", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        run_command(baselines.main)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(error.splitlines()) == 1
    return error


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_gives_one_line_and_exit_code_2(folder, arguments, monkeypatch, capsys):
    (folder / "file").write_text("in the way")
    assert MISTAKES[arguments] in fails(arguments, monkeypatch, capsys)
    assert [path.name for path in folder.iterdir()] == ["file"]  # nothing half-written


def write_wrong_folders(folder: Path) -> None:
    """Runs to be named by --base that do not fit; `other` lacks only its weights."""
    toy, cfg = toy_of_sixty(), PMFConfig(**PRESETS["toy pmf"])
    strange = {"data fingerprint": fingerprint(toy), "seed": 0}
    other = strange | {"recommenders": {"pmf": dataclasses.asdict(cfg)}}
    texts = {"broken": "{", "other": json.dumps(other), "strange": json.dumps(strange)}
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)


@pytest.mark.parametrize("arguments", WRONG_FOLDERS)
def test_a_wrong_folder_gives_one_line_and_exit_code_2(folder, arguments, monkeypatch, capsys):
    write_wrong_folders(folder)
    full = arguments if "--toy-users" in arguments else f"{arguments} --toy-users 60"
    assert WRONG_FOLDERS[arguments] in fails(full, monkeypatch, capsys)


@pytest.mark.parametrize(
    "arguments",
    ["--model pmf --base nowhere", "--model all --base strange", "--model all --base nowhere"],
)
def test_a_wrong_folder_is_found_before_anything_is_trained_or_written(
    folder, arguments, monkeypatch, capsys
):
    write_wrong_folders(folder)
    trained = lambda *_: pytest.fail("trained for nothing")
    monkeypatch.setattr(baselines, "train_recommender", trained)
    fails(f"{arguments} --toy-users 60", monkeypatch, capsys)
    assert {path.name for path in folder.iterdir()} == {"broken", "other", "strange"}


def write_people(folder: Path, n_items: int) -> None:
    """A data set of forty people with `n_items` items each, of twenty."""
    rng = np.random.default_rng(0)
    people = "".join(f"u{i}\t{'FM'[i % 2]}\n" for i in range(40))
    (folder / "few.user").write_text(f"user_id:token\tgender:token\n{people}")
    met = "".join(f"u{i}\ti{j}\n" for i in range(40) for j in rng.permutation(20)[:n_items])
    (folder / "few.inter").write_text(f"user_id:token\titem_id:token\n{met}")


@pytest.mark.parametrize("model", ["sasrec", "s-sas"])
def test_nobody_with_two_training_items_is_one_line(folder, model, monkeypatch, capsys):
    write_people(folder, 3)
    error = fails(f"--model {model} --data few --data-dir .", monkeypatch, capsys)
    expected = (
        "few: nobody has two training items, so SASRec cannot learn what follows; choose another"
    )
    assert expected in error


@pytest.mark.parametrize("model", ["pmf", "bert4rec", "c-pmf"])
def test_people_without_a_validation_item_are_trained_on_and_tested(folder, model):
    write_people(folder, 2)
    game = "--fair-epochs 1" if model in FAIR else ""
    results = run(f"--model {model} --data few --data-dir . --epochs 1 --d 8 {game}")
    assert results["rows"][-1]["model"] == model and results["users"] == 40


def test_too_few_with_a_validation_item_are_one_line(folder):
    """Six of forty, three of each class: too few to choose by, which is said before anything is trained."""
    write_people(folder, 2)
    with (folder / "few.inter").open("a") as file:
        file.writelines(f"u{i}\tnew\n" for i in range(6))
    with pytest.raises(InputError, match="--attr gender: of the . users of few with a validation"):
        run("--attr gender --data few --data-dir . --model c-pmf")
    assert not (folder / "runs").exists()
    # what is not chosen needs nobody to choose by
    assert run("--model pmf --data few --data-dir . --epochs 1 --d 8")["users"] == 40


def test_too_few_with_a_test_item_are_one_line(folder):
    write_people(folder, 1)
    with pytest.raises(InputError, match="--attr gender: of the 0 users of few with a test item"):
        run("--model pmf --data few --data-dir .")


@pytest.mark.parametrize("model", ["c-pmf", "s-b4"])
def test_ruined_discriminators_are_not_taken_for_a_fair_version(folder, model):
    with pytest.raises(InputError, match="they have collapsed|went astray") as error:
        run(f"--model {model} {SHORT} --fair-batch-size 20 --fair-epochs 40 --dis-lr 1000")
    assert "learning rate" in str(error.value) and "smaller" in str(error.value)


@pytest.mark.parametrize("model", ["pmf", "c-pmf", "c-sx", "s-sas"])
def test_a_batch_of_one_is_a_batch(folder, model):
    """What --batch-size allows, all models can do, or the command says that one cannot."""
    with_a_few = "--data few --data-dir . --epochs 1 --d 8 --batch-size 1"
    with_a_few += " --fair-epochs 1" if model in FAIR else ""
    write_people(folder, 4)
    try:
        results = run(f"--model {model} {with_a_few}")
    except InputError as error:
        assert "--batch-size 1" in str(error) and "\n" not in str(error)
    else:
        assert results["rows"][-1]["model"] == model
