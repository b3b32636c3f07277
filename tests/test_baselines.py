"""The baselines: losses by hand, what a model may see, what stays frozen, patterns learnt in seconds."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import baselines
from baselines import catalogue_ranks, interactions_of, lookup, padded, parse_args, serving
from cfp import CFPConfig
from files import InputError
from ranks import candidate_ranks, ndcg_at
from recommenders import (
    PMF,
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
    bpr_loss,
    cosine_contrastive_loss,
    draw_mask,
    draw_unseen,
    logistic_loss,
)

ROOT = Path(__file__).parent.parent
N = 12  # items of the small models


class Silent:
    """A run that says nothing."""

    folder, in_training, interrupted = Path("nowhere"), False, False
    progress = say = metric = lambda *_, **__: None


def small(model, config, **more):
    torch.manual_seed(0)
    return model(config(d=8, **more), n_users=5, n_items=N).eval()


@pytest.fixture()
def data(corpus):
    return interactions_of(corpus, torch.device("cpu"))


def test_bpr_and_logistic_by_hand():
    positive, negative = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    log = lambda x: math.log(1 + math.exp(x))
    assert bpr_loss(positive, negative).item() == pytest.approx((log(-1) + log(1) + 2 * log(0)) / 4)
    assert logistic_loss(positive, negative).item() == pytest.approx(
        (log(-1) + log(0) + log(2) + log(0) + 2 * log(0)) / 2
    )


def test_cosine_contrastive_loss_by_hand():
    counts = torch.tensor([[True, True, False], [True, True, True]])
    cosines = torch.tensor([[0.9, 0.2, 1.0], [0.6, 0.4, 0.5]])
    loss = cosine_contrastive_loss(torch.tensor([0.8, 0.5]), cosines, counts, 0.5, 10.0)
    assert loss.item() == pytest.approx(((0.2 + 10 * 0.4 / 2) + (0.5 + 10 * 0.1 / 3)) / 2)


def test_negatives_are_unseen():
    seen = torch.ones(3, N, dtype=torch.bool)
    seen[:, 4] = seen[1, 7] = False
    drawn = draw_unseen(seen, torch.tensor([0, 1, 2]), 50)
    assert (~seen[torch.arange(3)[:, None], drawn]).float().mean() > 0.8
    assert set(drawn[1].tolist()) >= {4, 7}


def test_simplex_history_is_without_the_target():
    model = small(SimpleX, SimpleXConfig)
    seen = torch.zeros(5, N, dtype=torch.bool)
    seen[2, [1, 3, 5]] = True
    met = SimpleX.met_without(seen, torch.tensor([2]), torch.tensor([3]))
    assert met.nonzero()[:, 1].tolist() == [1, 5]
    given = model.state(torch.tensor([2]), torch.tensor([[N, 1, 5]]))
    assert torch.allclose(model.fuse(torch.tensor([2]), met), given)
    mean = model.item.weight[[1, 5]].mean(0)
    by_hand = 0.5 * model.user.weight[2] + 0.5 * model.project.weight @ mean
    assert torch.allclose(given[0], by_hand, atol=1e-6)


def test_a_later_item_changes_no_earlier_state():
    model = small(SASRec, SASRecConfig, window=6)
    ids = torch.tensor([[N, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    other = ids.clone()
    other[:, 3] = 11
    a, b = model.encoder(ids), model.encoder(other)
    assert torch.equal(a[:, :3], b[:, :3]) and not torch.allclose(a[:, 3:], b[:, 3:])
    bidirectional = small(BERT4Rec, BERT4RecConfig, window=6)
    assert not torch.allclose(
        bidirectional.encoder(ids)[:, :3], bidirectional.encoder(other)[:, :3]
    )


@pytest.mark.parametrize("kind", [(SASRec, SASRecConfig), (BERT4Rec, BERT4RecConfig)])
def test_padding_changes_nothing(kind):
    model, user = small(*kind, window=6), torch.tensor([0])
    short, long = torch.tensor([[1, 2, 3]]), torch.tensor([[N, N, N, 1, 2, 3]])
    both = torch.tensor([[N, N, 1, 2, 3], [4, 5, 6, 7, 8]])
    alone = model.state(user, short)
    assert torch.allclose(alone, model.state(user, long), atol=1e-6)
    assert torch.allclose(alone[0], model.state(user.repeat(2), both)[0], atol=1e-6)


def test_bert4rec_masks_and_the_mask_at_maximum_length():
    ids = torch.tensor([[N, N, 1, 2, 3]]).repeat(4000, 1)
    torch.manual_seed(0)
    mask = draw_mask(ids, N, 0.2, 0.1)
    assert mask.any(1).all() and not mask[:, :2].any()
    empty, alone = 0.8**3, 0.1  # rows without a draw, and those of the last item, have the last
    assert mask[:, 2].float().mean() == pytest.approx(0.2 * (1 - alone), abs=0.02)
    assert mask[:, 4].float().mean() == pytest.approx(alone + (1 - alone) * (0.2 + empty), abs=0.03)
    assert draw_mask(ids, N, 0.2, 1.0)[:, 4].all()
    model = small(BERT4Rec, BERT4RecConfig, window=4)
    full, newest = torch.tensor([[0, 1, 2, 3, 4]]), torch.tensor([[2, 3, 4]])
    user = torch.tensor([0])
    assert torch.equal(model.state(user, full), model.state(user, newest))
    by_hand = model.encoder(torch.tensor([[2, 3, 4, model.mask_id]]))[:, -1]
    assert torch.equal(model.state(user, full), by_hand)
    assert model.scores(by_hand).shape == (1, N)


def test_ranks_with_ties_and_nan(corpus):
    users = np.arange(4)
    scores = np.random.default_rng(0).random((4, 160))
    target = corpus.split.test[users]
    scores[0] = 1.0  # all the same: the last rank
    scores[1, target[1]] = np.nan
    scores[2, target[2]] = 2.0
    for ranks, worst in (
        (candidate_ranks(corpus, "sequential", "test", users, scores), [101, 101]),
        (
            catalogue_ranks(corpus, "test", users, scores),
            [160 - len(corpus.dataset.histories[u]) + 1 for u in (0, 1)],
        ),
    ):
        assert ranks[0] == worst[0] and ranks[1] >= worst[1] and ranks[2] == 1
    assert ndcg_at(np.array([1, 3, 11]), 10) == pytest.approx((1 + 0.5) / 3)


def test_lookup_falls_back_to_popularity(corpus):
    scores = lookup(corpus, "test", np.arange(10))  # nobody else has the same thirty movies
    counts = np.bincount(np.concatenate(corpus.split.train), minlength=160)
    assert np.allclose(scores, counts / counts.sum()) and np.allclose(scores.sum(1), 1)


def test_filters_combine_by_the_mean_of_those_asked_for():
    torch.manual_seed(0)
    filters, x = Filters(["gender", "age", "type"], 8).eval(), torch.randn(4, 8)
    one = {attr: filters(x, (attr,)) for attr in filters.attrs}
    both = filters(x, ("gender", "type"))
    assert torch.allclose(both, (one["gender"] + one["type"]) / 2)


@pytest.mark.parametrize("kind", [(SASRec, SASRecConfig), (BERT4Rec, BERT4RecConfig)])
def test_an_empty_prompt_changes_nothing_and_a_prompt_something(kind):
    model, user = small(*kind, window=6), torch.tensor([0])
    history, prompt = torch.tensor([[1, 2, 3]]), Prompt(model.encoder, 0)
    for adapters in prompt.adapters:
        for one in adapters:
            torch.nn.init.zeros_(one[3].weight)
    assert torch.allclose(model.state(user, history, prompt), model.state(user, history), atol=1e-6)
    longer = Prompt(model.encoder, 3)
    assert not torch.allclose(model.state(user, history, longer), model.state(user, history))


@pytest.mark.parametrize("name", ["s-sas", "s-b4", "c-pmf", "c-sx"])
def test_the_game_moves_its_players_and_nothing_frozen(corpus, data, name):
    kind, config = baselines.RECOMMENDERS[baselines.FAIR[name]]
    torch.manual_seed(0)
    model = kind(config(d=8), len(data.seen), data.seen.shape[1])
    before = copy.deepcopy(model.state_dict())
    labels = {attr: corpus.dataset.labels(attr) for attr in ("gender", "age")}
    cfg = CFPConfig(epochs=2, batch_size=20, prefix_len=2, dis_depths=(1,))
    fair = baselines.make_fair(corpus, data, model, labels, cfg, name, 0, Silent())
    same = all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert same == name.startswith("s-")
    users = torch.arange(4)
    given = serving(fair.eval(), ("gender", "age"))
    moved = model.eval().state(users, data.histories[users], given)
    assert not torch.allclose(moved, model.state(users, data.histories[users]))


def successors(seed: int, n_users: int = 120) -> Interactions:
    """Everybody goes round the items in order, from a random place on and for a while of their own."""
    rng = np.random.default_rng(seed)
    walks = [(rng.integers(N) + np.arange(rng.integers(2, 10))) % N for _ in range(n_users)]
    histories = torch.from_numpy(padded(walks, N))
    pairs = torch.tensor([(user, item) for user, walk in enumerate(walks) for item in walk])
    seen = torch.zeros(n_users, N, dtype=torch.bool)
    seen[pairs[:, 0], pairs[:, 1]] = True
    return Interactions(pairs, histories, seen)


@pytest.mark.parametrize("kind", [(SASRec, SASRecConfig), (BERT4Rec, BERT4RecConfig)])
def test_sequence_models_learn_what_follows(kind):
    data, others = successors(0), successors(1)
    torch.manual_seed(0)
    model = kind[0](kind[1](d=16, window=10, dropout=0.1), len(data.seen), N)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(300):
        baselines.step(optimizer, model.loss(data, model.examples(data)), 5.0)
    with torch.no_grad():
        best = (
            model.eval().scores(model.state(torch.arange(120), others.histories[:, :-1])).argmax(1)
        )
    assert (best == others.histories[:, -1]).float().mean() > 0.7  # chance is a twelfth


@pytest.mark.parametrize("kind", [(PMF, PMFConfig), (SimpleX, SimpleXConfig)])
def test_pair_models_learn_blocks(kind):
    """Even users take even items; of each one is kept back, and stands before the odd ones."""
    users, items = torch.arange(40), torch.arange(N)
    seen = (users[:, None] % 2) == (items % 2)
    kept_back = 2 * (users // 2 % 6) + users % 2
    seen[users, kept_back] = False
    histories = torch.from_numpy(padded([s.nonzero()[:, 0].numpy() for s in seen], N))
    data = Interactions(seen.nonzero(), histories, seen)
    torch.manual_seed(0)
    model = kind[0](kind[1](d=8), 40, N)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(200):
        baselines.step(optimizer, model.loss(data, model.examples(data)), 5.0)
    with torch.no_grad():
        scores = model.eval().scores(model.state(users, histories))
    others = scores.masked_fill((users[:, None] % 2) == (items % 2), -math.inf).max(1).values
    assert (scores[users, kept_back] > others).float().mean() > 0.9


def run(folder: Path, arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "baselines.py", *arguments.split()]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_tiny_run_and_its_base(tmp_path):
    tiny = "--toy-users 60 --epochs 2 --fair-epochs 1 --fair-batch-size 20"
    done = run(tmp_path, f"--model c-pmf --attr gender,age {tiny} --out first")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "first" / "results.json").read_text())
    rows = {(row["model"], *row["hidden"]): row for row in results["rows"]}
    assert list(rows) == [
        ("popularity",),
        ("pmf",),
        ("c-pmf", "gender"),
        ("c-pmf", "age"),
        ("c-pmf", "gender", "age"),
    ]
    for task in "sequential", "direct":
        assert rows["popularity",][task]["hit@10"] == results["popularity"][task]["hit@10"]
        row = rows["c-pmf", "gender", "age"][task]
        assert 0 <= row["hit@1"] <= row["hit@3"] <= row["hit@10"] <= 1 and set(row["auc"]) == {
            "gender",
            "age",
        }
    assert "C-PMF, hiding gender, age" in done.stdout
    again = run(tmp_path, f"--model pmf {tiny} --base first --out second")
    assert again.returncode == 0, again.stderr
    same = json.loads((tmp_path / "second" / "results.json").read_text())["rows"][1]
    assert same["direct"]["hit@10"] == rows["pmf",]["direct"]["hit@10"]


@pytest.mark.parametrize(
    "flags, says",
    [
        ("--model pmf --attr nothing", "no such attribute"),
        ("--model all --attr gender,age", "name one"),
        ("--model pmf --run x", "--model all"),
        ("--model pmf --base nowhere", "--base nowhere"),
        ("--model bert4rec --d 7", "no multiple of 2"),
        ("--model pmf --data ml-100k", "--data-dir"),
        ("--model pmf --device tpu", "cpu or auto"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(tmp_path, flags, says):
    with pytest.raises(InputError, match=says):
        baselines.main([*flags.split(), "--out", str(tmp_path / "out")])


def test_unknown_flags_end_with_code_2():
    with pytest.raises(SystemExit) as error:
        parse_args(["--model", "svd"])
    assert error.value.code == 2
