"""Equations 3 and 4 by hand, the prefix, and who moves in which phase of Algorithm 1."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_llama, random_t5

import cfp
import train
from cfp import (
    CFP,
    Discriminator,
    Linears,
    MLPs,
    adversarial_loss,
    discriminator_loss,
    forward,
    hsic,
    mean_user_state,
    step,
)
from data import TASKS, collate, hold_out, training_example
from mixer import Study
from model import NO_TOKEN
from probe import game_of
from support.configs import PAPER_SCHEDULE, CFPConfig
from support.expected import in_units, one_hot

pytestmark = pytest.mark.usefixtures("no_checkpoints")
SMALL = CFPConfig(prefix_len=3, prefix_hidden=8, epochs=1, batch_size=16, dis_hidden=8)


class SilentRun:
    """Takes what a Run takes, and keeps it."""

    def __init__(self):
        self.lines, self.metrics = [], []
        self.folder, self.in_training, self.interrupted = Path("nowhere"), False, False

    def progress(self, stage, step, steps, **numbers):
        self.lines.append((stage, step, steps, numbers))

    def metric(self, **values):
        self.metrics.append(values)


def batch_of(corpus, rng, size=6):
    users = rng.permutation(len(corpus.dataset.users))[:size]
    return users, [
        collate(corpus, [training_example(corpus, task, u, 4, rng) for u in users])
        for task in TASKS
    ]


def test_eq3_mean_of_the_users_tokens_by_hand():
    states = torch.tensor(
        [[[1.0, 0.0], [3.0, 2.0], [100.0, 100.0]], [[5.0, 5.0], [9.0, 9.0], [1.0, 3.0]]]
    )
    user_mask = torch.tensor([[True, True, False], [False, False, True]])
    assert mean_user_state(states, user_mask).tolist() == [[2.0, 1.0], [1.0, 3.0]]


def test_eq3_cross_entropy_by_hand():
    """One linear member with known weights on two standardised users: +-1 / sqrt(2)."""
    cfg = replace(SMALL, dis_depths=(1,), dis_noise=0.0)
    discriminator = Discriminator(cfg, d_model=1, n_classes=2, n_readings=1)
    with torch.no_grad():
        discriminator.members[0].layers[0].weight.copy_(torch.tensor([[[0.0, 2.0]]]))
        discriminator.members[0].layers[0].bias.zero_()
    loss = discriminator_loss(discriminator, [torch.tensor([[3.0], [5.0]])], torch.eye(2))
    logit = 2 / math.sqrt(2)  # of class 1 for the second user, minus that for the first
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-logit))], rel=1e-4)


def test_blind_discriminator_loses_log_c():
    cfg = replace(SMALL, dis_noise=0.0)
    discriminator = Discriminator(cfg, 4, 7, 2)
    for param in discriminator.parameters():
        torch.nn.init.zeros_(param)
    u_emb = [torch.randn(9, 4), torch.randn(9, 4)]
    loss = discriminator_loss(discriminator, u_emb, torch.eye(7)[torch.arange(9) % 7])
    assert loss.tolist() == pytest.approx([math.log(7)] * 2)


def test_eq4_by_hand():
    """L = rec_loss - lambda * dis_loss; the sign of lambda, the mean over tasks, the cap of each."""
    rec, dis = torch.tensor(5.0), torch.tensor([0.5, 0.9])
    assert adversarial_loss(rec, [dis], [10.0], [math.inf]).item() == pytest.approx(5 - 10 * 0.7)
    assert adversarial_loss(rec, [dis], [10.0], [0.6]).item() == pytest.approx(5 - 10 * 0.55)
    assert adversarial_loss(rec, [torch.tensor(0.5)], [2.0], [9.0]).item() == pytest.approx(4.0)


def test_at_the_cap_the_prefix_gains_nothing_from_a_worse_discriminator():
    dis = torch.tensor([0.5, 0.9], requires_grad=True)
    adversarial_loss(torch.tensor(5.0), [dis], [10.0], [0.6]).backward()
    assert dis.grad.tolist() == [-5.0, 0.0]


def test_empty_prefix_changes_nothing(corpus, model, rng):
    empty = CFP(replace(SMALL, prefix_len=0), model.cfg).frozen()
    _, batch = batch_of(corpus, rng)
    for (rec, u_emb), (rec_without, u_emb_without) in [
        (forward(model, empty, batch), forward(model, None, batch))
    ]:
        assert torch.equal(rec, rec_without)
        assert all(torch.equal(a, b) for a, b in zip(u_emb, u_emb_without))


def test_prefix_has_the_shape_of_keys_and_values():
    backbone = random_t5(50, num_layers=3, num_decoder_layers=1)
    prefix = CFP(replace(SMALL, prefix_len=5), backbone.cfg)()
    assert prefix.encoder.shape == (3, 2, 1, 4, 5, 16)
    assert prefix.decoder.shape == (1, 2, 1, 4, 5, 16)
    llama = random_llama(50, num_hidden_layers=3, num_key_value_heads=2)
    prefix = CFP(replace(SMALL, prefix_len=5), llama.cfg)()
    assert prefix.encoder is None and prefix.decoder.shape == (3, 2, 1, 2, 5, 16)


def test_forward_takes_the_state_at_the_users_tokens(corpus, model, rng):
    _, batch = batch_of(corpus, rng)
    _, u_emb = forward(model, None, batch)
    encoded = model.encode(batch[0].input_ids, batch[0].mask).states
    by_hand = torch.stack([row[mask].mean(0) for row, mask in zip(encoded, batch[0].user_mask)])
    assert torch.allclose(u_emb[0], by_hand, atol=1e-6)


def test_classifier_has_no_state_that_moves_and_gives_logits():
    net = MLPs(1, 4, 3, depth=7, hidden=8, dropout=0.0)
    assert sum(isinstance(m, Linears) for m in net.modules()) == 7
    assert list(net.buffers()) == []
    assert not torch.allclose(net(torch.randn(1, 5, 4) * 100).sum(-1), torch.ones(5))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_mlps_side_by_side_are_each_an_ordinary_one(dropout):
    """Copied into nn.Linear layers, each gives the same; in training a half is dropped or doubled."""
    torch.manual_seed(0)
    nets, x = MLPs(3, 4, 2, depth=3, hidden=8, dropout=dropout).eval(), torch.randn(3, 5, 4)
    for one, logits in enumerate(nets(x)):
        h = x[one]
        for number, layer in enumerate(nets.layers):
            linear = torch.nn.Linear(*layer.weight.shape[1:])
            linear.weight.data, linear.bias.data = layer.weight[one].T, layer.bias[one, 0]
            h = linear(h if number == 0 else F.leaky_relu(h))
        assert torch.allclose(logits, h, atol=1e-6)
    alone = MLPs(1, 1, 1, depth=2, hidden=1000, dropout=dropout)
    with torch.no_grad():  # the sum of a thousand hidden ones
        alone.layers[0].weight.zero_(), alone.layers[0].bias.fill_(1.0)
        alone.layers[1].weight.fill_(1.0), alone.layers[1].bias.zero_()
    total = alone(torch.zeros(1, 1, 1)).item()
    assert total == 1000 if dropout == 0.0 else 0 < abs(total - 1000) < 150 and total % 2 == 0


def test_step_moves_its_own_player_alone_and_forgets_old_gradients():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    before = copy.deepcopy(b.state_dict())
    optimizer = torch.optim.SGD(a.parameters(), lr=1.0)
    for param in a.parameters():
        param.grad = torch.full_like(param, 1e6)  # left over from somewhere
    kept = a.weight.detach().clone()
    loss = b(a(torch.ones(1, 2))).sum()
    expected = torch.autograd.grad(loss, a.weight, retain_graph=True)[0]
    step(optimizer, loss, max_norm=1e9)
    assert torch.allclose(a.weight, kept - expected)
    assert all(torch.equal(b.state_dict()[key], value) for key, value in before.items())
    assert all(param.grad is None for param in b.parameters())


class Spy:
    """Stands in for `train.step`: notes who moved, whose gradients exist, and takes the step."""

    def __init__(self, model, monkeypatch):
        self.calls, self.model = [], model
        self.players = {}
        real_cfp, real_dis, real_step = CFP, Discriminator, train.step
        monkeypatch.setattr(train, "CFP", lambda *a: self.players.setdefault("P", real_cfp(*a)))
        monkeypatch.setattr(
            cfp, "Discriminator", lambda *a: self.players.setdefault("C", real_dis(*a))
        )

        def spy_step(optimizer, loss):
            everyone = [name for name in "MPC" if name == "M" or name in self.players]
            before = {name: self.snapshot(name) for name in everyone}
            real_step(optimizer, loss)
            moved = "".join(
                name for name in everyone if not self.same(before[name], self.snapshot(name))
            )
            self.calls.append(moved)
            assert all(param.grad is None for param in self.model.parameters())

        monkeypatch.setattr(train, "step", spy_step)

    def snapshot(self, name):
        player = self.model if name == "M" else self.players[name]
        return {key: value.clone() for key, value in player.state_dict().items()}

    @staticmethod
    def same(a, b):
        return all(torch.equal(a[key], b[key]) for key in a)


def study_of(corpus, model, seed=0, tasks=TASKS):
    return Study(corpus, model, list(tasks), seed, SilentRun())


def run_algorithm_1(corpus, model, cfg, seed=0):
    labels = {"gender": one_hot(corpus.dataset.labels("gender"))}
    return train.train_cfp(study_of(corpus, model, seed), labels, cfg)


def test_algorithm_1_moves_one_player_per_phase(corpus, model, monkeypatch):
    """T = 2 prefix steps a batch; at every third (R) batch T' = 3 on L_rec and 4 of the discriminator."""
    cfg = replace(SMALL, inner_steps=2, rec_steps=3, dis_steps=4, every=3, epochs=2, batch_size=10)
    spy = Spy(model, monkeypatch)
    before = copy.deepcopy(model.state_dict())
    run_algorithm_1(corpus, model, cfg)
    a_batch, an_rth = ["P"] * 2, ["P"] * 3 + ["C"] * 4
    assert spy.calls == (a_batch * 2 + a_batch + an_rth) * 4  # 60 users: 6 batches, twice
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(param.requires_grad or param.grad is not None for param in model.parameters())


def test_phases_descend_what_they_should(corpus, model, monkeypatch):
    """Each call's loss is the one of its lines: L, then L_rec, then L_dis."""
    cfg = replace(
        SMALL,
        adversary="game",
        inner_steps=1,
        rec_steps=1,
        dis_steps=1,
        batch_size=60,
        dis_noise=0.0,
        dis_dropout=0.0,
    )
    seen = []

    def note(place, name):
        real = getattr(place, name)

        def wrapped(*args):
            out = real(*args)
            seen.append((name, args, out))
            return out

        monkeypatch.setattr(place, name, wrapped)

    for name in "forward", "u_emb_of", "step":
        note(train, name)
    for name in "discriminator_loss", "adversarial_loss":
        note(cfp, name)
    run_algorithm_1(corpus, model, cfg)
    assert [name for name, *_ in seen] == [
        *("forward", "discriminator_loss", "adversarial_loss", "step"),  # lines 4-7
        *("forward", "step"),  # 11-12
        *("u_emb_of", "discriminator_loss", "step"),  # 15-17
    ]
    rec_loss, dis_loss = seen[0][2][0], seen[1][2]
    assert seen[3][1][1].item() == pytest.approx(
        adversarial_loss(rec_loss, [dis_loss], [cfg.lam], [1.15 * math.log(2)]).item(), rel=1e-6
    )
    assert seen[5][1][1] is seen[4][2][0]  # L_rec
    assert seen[8][1][1].item() == pytest.approx(seen[7][2].sum().item())  # L_dis
    assert not any(u.requires_grad for u in seen[6][2])  # line 15 under no_grad


def test_the_papers_schedule_is_the_papers():
    cfg = CFPConfig(**PAPER_SCHEDULE)
    assert (cfg.inner_steps, cfg.rec_steps, cfg.dis_steps, cfg.every) == (10, 10, 10, 20)
    assert (cfg.batch_size, cfg.dis_depths, cfg.cap, cfg.dis_noise) == (16, (7,), None, 0.0)


def test_same_seed_same_prompt(corpus, model):
    one, _ = run_algorithm_1(corpus, model, SMALL, seed=4)
    two, _ = run_algorithm_1(corpus, model, SMALL, seed=4)
    other, _ = run_algorithm_1(corpus, model, SMALL, seed=5)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters())]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def test_every_user_is_met_once_per_epoch(corpus, model, rng):
    batches = train.user_batches(study_of(corpus, model), SMALL, rng)
    met = [user for users, _ in batches for user in users]
    assert len(met) == len(set(met)) == 48  # three batches of 16 of 60 users


def test_a_user_with_one_training_item_counts_in_l_dis_alone(corpus, model, rng):
    """The prompt without an answer adds nothing to L_rec, and the user's state is there all the same."""
    examples = [training_example(corpus, "sequential", 0, p, rng) for p in (0, 3)]
    batch = collate(corpus, examples)
    assert (batch.target_ids[0] == NO_TOKEN).all() and batch.user_mask[0].any()
    both, u_emb = forward(model, None, [batch])
    alone, _ = forward(model, None, [collate(corpus, examples[1:])])
    assert both.item() == pytest.approx(alone.item() / 2, rel=1e-4)
    assert u_emb[0].shape == (2, 64) and u_emb[0].isfinite().all()
    nobody, _ = forward(model, None, [collate(corpus, examples[:1])])
    assert nobody.item() == 0.0


def test_prefix_can_fool_a_fixed_discriminator_and_keep_the_answers(corpus, model):
    """Phase (1) alone does what Eq. 4 asks: L_dis rises against a discriminator that stays fixed."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    cfg = replace(SMALL, dis_noise=0.0, prefix_len=10)
    users, batch = batch_of(corpus, rng, size=60)
    labels = torch.from_numpy(one_hot(corpus.dataset.labels("gender"))[users])
    cfp, discriminator = CFP(cfg, model.cfg), Discriminator(cfg, 64, 2, 2)
    dis_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    _, u_emb = forward(model, None, batch)
    for _ in range(60):
        step(dis_optimizer, discriminator_loss(discriminator, u_emb, labels).sum())
    prefix_optimizer = torch.optim.Adam(cfp.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        rec_loss, u_emb = forward(model, cfp(), batch)
        dis_loss = discriminator_loss(discriminator, u_emb, labels)
        step(prefix_optimizer, adversarial_loss(rec_loss, [dis_loss], [10.0], [math.inf]))
        losses.append(dis_loss.mean().item())
    assert losses[0] < 0.3 and losses[-1] > losses[0] + 0.3


def test_cross_entropy_is_not_fed_probabilities():
    """A confident right answer costs nearly nothing; after a softmax it could not go below 0.31."""
    cfg = replace(SMALL, dis_depths=(1,), dis_noise=0.0)
    discriminator = Discriminator(cfg, 1, 2, 1)
    with torch.no_grad():
        discriminator.members[0].layers[0].weight.copy_(torch.tensor([[[-20.0, 20.0]]]))
        discriminator.members[0].layers[0].bias.zero_()
    loss = discriminator_loss(discriminator, [torch.tensor([[-1.0], [1.0]])], torch.eye(2))
    assert loss.item() < 1e-6
    assert F.cross_entropy(torch.tensor([[0.0, 1.0]]), torch.tensor([1])).item() > 0.31


def test_held_out_labels_never_reach_the_adversary(corpus, model):
    """Whatever the held-out users' labels are, prefix and discriminator come out the same."""
    labels = corpus.dataset.attributes["gender"]
    known = hold_out(corpus.dataset, "gender", 0.4, seed=3)
    assert [(known[labels == c] < 0).sum() for c in (0, 1)] == [
        round(0.4 * (labels == c).sum()) for c in (0, 1)
    ]
    assert (known[known >= 0] == labels[known >= 0]).all()
    assert (hold_out(corpus.dataset, "gender", 0.4, seed=3) == known).all()
    assert (hold_out(corpus.dataset, "gender", 0.0, seed=3) == labels).all()
    seen = []
    original = cfp.discriminator_loss

    def spy(discriminator, u_emb, batch_labels):
        seen.append(batch_labels)
        return original(discriminator, u_emb, batch_labels)

    cfp.discriminator_loss = spy
    try:
        cfg = replace(SMALL, batch_size=30, dis_steps=3)
        train.train_cfp(study_of(corpus, model, seed=3), {"gender": one_hot(known)}, cfg)
    finally:
        cfp.discriminator_loss = original
    seen = torch.cat(seen)
    rows = torch.tensor([[0, 0], [1, 0], [0, 1]])
    counts = torch.tensor([(seen == row).all(1).sum() for row in rows])
    # 2 batches, each user once; one prefix step and three of the discriminator per batch
    assert counts.tolist() == [(1 + 3) * int((known == c).sum()) for c in (-1, 0, 1)]


def test_users_without_a_label_count_in_nothing():
    torch.manual_seed(0)
    discriminator = Discriminator(replace(SMALL, dis_noise=0.0, dis_dropout=0.0), 4, 2, 1)
    user_bd = torch.randn(5, 4)
    labels = torch.tensor([0, -1, 1, -1, 1])
    rows = torch.from_numpy(one_hot(labels.numpy()))
    loss = discriminator_loss(discriminator, [user_bd], rows)
    known = labels >= 0
    by_hand = torch.stack(
        [
            F.cross_entropy(logits[0, known], labels[known])
            for logits in discriminator(user_bd[None])
        ]
    ).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)


def game_that_hides_from(hide_from, study):
    labels = {"gender": one_hot(study.corpus.dataset.labels("gender"))}
    return game_of(study, labels, [("gender",)], replace(SMALL, hide_from=hide_from))


@pytest.mark.parametrize("random", [random_t5, random_llama])
def test_hidden_from_scores_the_adversary_reads_the_first_decoder_state_too(corpus, random):
    """It is what the answer's first token is predicted from, and follows the tasks' user states."""
    model = random(corpus.tokenizer.vocab_size).requires_grad_(False).eval()
    prefix = CFP(SMALL, model.cfg).frozen()
    rng = np.random.default_rng(0)
    examples = [
        [training_example(corpus, task, user, 5, rng) for user in range(4)] for task in TASKS
    ]
    batches = [collate(corpus, some) for some in examples]
    game = game_that_hides_from("scores", study_of(corpus, model))
    rec_loss, u_emb = forward(model, prefix, batches, game.read)
    plain_loss, plain = forward(model, prefix, batches)
    assert len(plain) == 2 and len(u_emb) == 4 and rec_loss == plain_loss
    assert all((a == b).all() for a, b in zip(plain, u_emb))
    for batch, state in zip(batches, u_emb[2:]):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        first = model.logits(state[:, None]).log_softmax(-1)[:, 0]  # of every possible first token
        start = torch.full((4, 1), model.cfg.decoder_start_token_id)
        ids = torch.cat([start, batch.target_ids.clamp(min=0)], dim=1)
        whole = model.logits(model.decode(ids, encoded)).log_softmax(-1)[:, 0]
        assert torch.allclose(first, whole, atol=1e-5)
    discriminator = Discriminator(SMALL, model.cfg.d_model, 2, 4)
    losses = discriminator_loss(discriminator, u_emb, torch.eye(2)[[0, 1, 0, 1]])
    assert losses.shape == (4,)


def test_the_prefix_is_moved_by_what_the_decoder_shows(corpus, model):
    """With `hide_from` "scores" the decoder's prefix gets a gradient from the discriminator alone."""
    rng = np.random.default_rng(0)
    batch = collate(corpus, [training_example(corpus, "direct", u, 5, rng) for u in range(6)])
    labels = torch.eye(2)[[0, 1] * 3]
    for hide_from, moved in ("user-tokens", False), ("scores", True):
        game = game_that_hides_from(hide_from, study_of(corpus, model, tasks=["direct"]))
        torch.manual_seed(0)
        cfp = CFP(SMALL, model.cfg)
        _, u_emb = forward(model, cfp(), [batch], game.read)
        discriminator = Discriminator(SMALL, 64, 2, len(u_emb))
        discriminator_loss(discriminator, u_emb, labels).sum().backward()
        gradient = cfp.decoder.out.weight.grad
        assert (gradient is not None and gradient.abs().sum() > 0) == moved


def test_hsic_by_hand():
    """Four users in two pairs, labels alike within a pair: of k two values, alike within and between."""
    x, y = torch.tensor([[0.0], [0.0], [9.0], [9.0]]), torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    # the inner product is 1 within a pair and -1 between, in some unit: row sums -1, sum -4
    mean = 2 * -1 / 2 - -4 / 6
    within, between = 1 - mean, -1 - mean
    spread = math.sqrt((4 * within**2 + 8 * between**2) / (4 * 1))
    inner = (4 * within - 8 * between) / (4 * 1) / spread
    # its square is the same for all pairs, so it says nothing
    assert hsic(x, y).item() == pytest.approx(inner / 2, rel=1e-4)


def test_hsic_of_independent_states_is_zero_on_average_and_of_dependent_ones_is_not(rng):
    y = torch.from_numpy(in_units(one_hot(np.arange(64) % 2)))
    draw = lambda shift: torch.from_numpy(rng.standard_normal((64, 5))).float() + shift * y[:, :1]
    values = torch.stack([hsic(draw(0.0), y) for _ in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 400**0.5
    assert hsic(draw(1.0), y) > 5 * values.std()
    # a ring: neither the mean nor the variance of any direction tells
    angle = torch.rand(64) * 2 * math.pi
    ring = torch.stack([angle.cos(), angle.sin()], 1) * torch.where(y[:, :1] > 0, 2.0, 0.5)
    assert hsic(ring, y) > 5 * values.std()


def test_hsic_sees_what_is_quiet_beside_something_loud(rng):
    """Of thirty states that rise and fall together, the label moves or stretches what is left."""
    y = torch.from_numpy(in_units(one_hot(np.arange(200) % 2)))
    loud = torch.from_numpy(rng.standard_normal((200, 2)) @ rng.standard_normal((2, 30))).float()
    quiet, sign = torch.from_numpy(rng.standard_normal((200, 30))).float(), y[:, :1].sign()
    half = (torch.arange(30) < 15).float()
    null = [hsic(3 * loud + quiet, y[torch.randperm(200)]).item() for _ in range(50)]
    assert hsic(3 * loud + quiet + 0.7 * half * sign, y) > 5 * np.std(null)
    assert hsic(3 * loud + quiet * (1 + 0.6 * half * sign), y) > 5 * np.std(null)


def test_hsic_of_states_that_are_all_the_same_is_a_number():
    """And its gradient too: a prefix may come by there."""
    x, y = torch.ones(8, 3, requires_grad=True), torch.tensor([[1.0], [-1.0]] * 4)
    found = hsic(x, y)
    found.backward()
    assert found.item() == pytest.approx(0.0, abs=1e-4) and x.grad.isfinite().all()


def test_hsic_is_the_same_for_any_scale_and_shift_of_the_states(rng):
    x = torch.from_numpy(rng.standard_normal((40, 6))).float()
    y = torch.from_numpy(in_units(one_hot(np.arange(40) % 3)))
    scale, shift = torch.tensor([0.1, 1.0, 7.0, 3.0, 0.5, 20.0]), torch.arange(6.0)
    assert hsic(x * scale + shift, y).item() == pytest.approx(hsic(x, y).item(), rel=1e-3)


def test_labels_in_units_have_variance_one_whatever_the_classes_are():
    """Rare classes count as much as others; users without a label stay zeros and shift nothing."""
    known = np.array([0] * 60 + [1] * 30 + [2] * 10 + [-1] * 20)
    found = in_units(one_hot(known))
    assert found[:100].mean(0) == pytest.approx([0, 0, 0], abs=1e-6)
    assert found[:100].var(0) == pytest.approx([1 / 3] * 3, rel=1e-5) and not found[100:].any()


@pytest.mark.parametrize("adversary", ["game", "dependence", "both"])
def test_the_dependence_moves_the_prefix_only(corpus, model, adversary):
    """Its gradient reaches the prefix; alone it has no discriminators, and in the game it is nothing."""
    labels = {"gender": one_hot(corpus.dataset.labels("gender"))}
    cfg = replace(SMALL, adversary=adversary, hsic=5.0)
    game = game_of(study_of(corpus, model), labels, [("gender",)], cfg)
    assert len(game.members) == (0 if adversary == "dependence" else 1)
    prompt, (users, batch) = CFP(SMALL, model.cfg), batch_of(
        corpus, np.random.default_rng(0), size=20
    )
    _, u_emb = forward(model.requires_grad_(False), prompt(), batch, game.read)
    found = game.dependence(("gender",), u_emb, users)
    if adversary == "game":
        assert found == 0.0
        return
    y = game.in_units["gender"][users]
    assert found.item() == pytest.approx(
        5 * sum(abs(hsic(x, y).item()) for x in u_emb) / 2, rel=1e-4
    )
    found.backward()
    assert prompt.encoder.out.weight.grad.abs().sum() > 0
    assert all(param.grad is None for param in [*model.parameters(), *game.members.parameters()])


def test_users_without_a_label_do_not_depend_on_anything(corpus, model):
    known = np.where(np.arange(len(corpus.dataset.users)) % 2, corpus.dataset.labels("gender"), -1)
    cfg = replace(SMALL, adversary="dependence", hsic=1.0)
    game = game_of(study_of(corpus, model), {"gender": one_hot(known)}, [("gender",)], cfg)
    users, states = np.arange(30), torch.randn(30, 5)
    whole = game.dependence(("gender",), [states], users)
    own = game.dependence(("gender",), [states[1::2]], users[1::2])
    assert whole.item() == pytest.approx(own.item(), rel=1e-5)


@pytest.mark.parametrize("discriminator", ["classifier", "soft"])
def test_a_batch_in_which_nobody_has_a_label_hides_nothing(corpus, model, discriminator):
    """It moves nobody, and neither the loss nor a gradient is infinite; three are no crowd either."""
    users, batch = batch_of(corpus, np.random.default_rng(0), size=20)
    three = np.setdiff1d(np.arange(60), users)[:3]
    known = np.where(np.isin(np.arange(60), three), np.arange(60) % 2, -1)
    cfg = replace(SMALL, adversary="both", discriminator=discriminator)
    study, prompt = study_of(corpus, model), CFP(SMALL, model.cfg)
    game = game_of(study, {"gender": one_hot(known)}, [("gender",)], cfg)
    _, u_emb = forward(model.requires_grad_(False), prompt(), batch, game.read)
    loss = game.dis_loss(("gender",), u_emb, users)
    assert not loss.any()
    before = [param.clone() for param in game.members.parameters()]
    step(torch.optim.SGD(game.members.parameters(), lr=1.0), loss.sum())
    assert all(map(torch.equal, before, game.members.parameters()))
    if discriminator == "classifier":
        for some in users, np.append(three, users[3:]):
            assert game.dependence(("gender",), u_emb, some) == 0.0


def test_a_run_against_dependence_alone_trains_one_player(corpus, model, monkeypatch):
    spy = Spy(model, monkeypatch)
    cfg = replace(SMALL, adversary="dependence", epochs=1, batch_size=20)
    run_algorithm_1(corpus, model, cfg)
    assert spy.calls == ["P"] * 3
