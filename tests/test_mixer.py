"""The prompt mixer: any choice of attributes, prompts of any lengths, in any order."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_llama, random_t5
from test_cfp import SMALL, study_of

import cfp
import train
from cfp import CFP, adversarial_loss, forward
from data import collate, training_example
from mixer import Mixer, as_prefix, as_tokens, concatenate, subsets
from model import Prefix
from support.configs import CFPConfig, MixerConfig
from support.expected import one_hot

pytestmark = pytest.mark.usefixtures("no_checkpoints")
KINDS = {"t5": random_t5, "llama": random_llama}
SMALL_MIXER = MixerConfig(hidden=8, n_heads=2, dis_steps=3, epochs=1)


@pytest.fixture(params=KINDS)
def backbone(request, corpus):
    return KINDS[request.param](corpus.tokenizer.vocab_size).requires_grad_(False).eval()


def prompts_of(model, *lengths):
    torch.manual_seed(1)
    return [CFP(replace(SMALL, prefix_len=n), model.cfg).frozen() for n in lengths]


def trained_mixer(model, seed=2):
    """A mixer whose layer does something."""
    torch.manual_seed(seed)
    mixer = Mixer(SMALL_MIXER, model.cfg)
    with torch.no_grad():
        mixer.attention.o.weight.normal_(0, 0.3)
    return mixer.requires_grad_(False)


def stacks(prefix):
    return [stack for stack in prefix if stack is not None]


def batch_of(corpus, task, size):
    rng = np.random.default_rng(0)
    return collate(corpus, [training_example(corpus, task, u, 3 + u, rng) for u in range(size)])


def test_every_choice_but_none():
    assert subsets(["g", "a", "o"]) == [
        *(("g",), ("a",), ("o",)),
        *(("g", "a"), ("g", "o"), ("a", "o")),
        ("g", "a", "o"),
    ]


def test_tokens_and_back(backbone):
    (prefix,) = prompts_of(backbone, 4)
    tokens = as_tokens(prefix)
    assert tokens.shape[:2] == (1, 4)
    back = as_prefix(tokens, backbone.cfg.prefix_shapes)
    assert all(torch.equal(a, b) for a, b in zip(stacks(prefix), stacks(back)))


def test_one_token_holds_its_keys_and_values_of_all_layers(backbone):
    """Changing token 2 of every stack changes row 2 of the mixer's input and no other."""
    (prefix,) = prompts_of(backbone, 4)
    other = Prefix(*(None if s is None else s.clone() for s in prefix))
    for stack in stacks(other):
        stack[..., 2, :] += 1.0
    changed = (as_tokens(prefix) != as_tokens(other))[0]
    assert changed[2].all() and not changed[[0, 1, 3]].any()


def test_before_training_the_mixer_puts_the_prompts_one_beside_the_other(backbone):
    prompts = prompts_of(backbone, 3, 5)
    mixer = Mixer(SMALL_MIXER, backbone.cfg)
    for chosen in prompts[:1], prompts:
        for a, b in zip(stacks(mixer(chosen)), stacks(concatenate(chosen))):
            assert torch.equal(a, b) and a.shape[-2] == sum(p.decoder.shape[-2] for p in chosen)


def test_a_prompt_that_is_chosen_alone_stays_what_it_is(backbone):
    (prompt,), mixer = prompts_of(backbone, 4), trained_mixer(backbone)
    assert all(torch.equal(a, b) for a, b in zip(stacks(mixer([prompt])), stacks(prompt)))


def test_the_layer_by_hand():
    """softmax(q k) v with known weights: a token looks at the others' tokens and at nothing."""
    cfg = random_llama(
        9, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=1
    ).cfg
    mixer = Mixer(MixerConfig(hidden=1, n_heads=1), cfg)
    with torch.no_grad():
        for name, weight in ("q", [[1.0, 0.0]]), ("k", [[0.0, 1.0]]), ("v", [[1.0, 1.0]]):
            getattr(mixer.attention, name).weight.copy_(torch.tensor(weight))
        mixer.attention.o.weight.copy_(torch.tensor([[2.0], [-1.0]]))
    texts = [(3.0, 4.0)], [(1.0, -1.0), (2.0, 2.0)]  # (key, value) of the tokens of two prompts
    prompts = [
        Prefix(None, torch.tensor(tokens).T.reshape(1, 2, 1, 1, len(tokens), 1)) for tokens in texts
    ]
    mixed = mixer(prompts).decoder.detach().view(2, 3)  # (key or value, token)
    tokens = [token for text in texts for token in text]
    normed = [torch.tensor(t) / math.sqrt((t[0] ** 2 + t[1] ** 2) / 2) for t in tokens]
    for i, others in enumerate([[1, 2], [0], [0]]):
        scores = torch.stack([torch.tensor(0.0), *(normed[i][0] * normed[j][1] for j in others)])
        values = torch.stack([torch.tensor(0.0), *(normed[j].sum() for j in others)])
        seen = (scores.softmax(0) * values).sum()
        assert mixed[0, i].item() == pytest.approx(float(tokens[i][0] + 2 * seen), abs=1e-5)
        assert mixed[1, i].item() == pytest.approx(float(tokens[i][1] - seen), abs=1e-5)


def test_eq5_by_hand():
    """L = rec_loss - sum over the chosen of lambda_k * dis_loss_k, each up to its own entropy."""
    rec, gender, age = torch.tensor(5.0), torch.tensor([0.5, 0.7]), torch.tensor([1.0, 3.0])
    none = [math.inf, math.inf]
    assert adversarial_loss(rec, [gender], [9.0], none[:1]).item() == pytest.approx(5 - 9 * 0.6)
    both = adversarial_loss(rec, [gender, age], [9.0, 3.0], none)
    assert both.item() == pytest.approx(5 - 9 * 0.6 - 3 * 2.0)
    capped = adversarial_loss(rec, [gender, age], [9.0, 3.0], [0.6, 2.0])
    assert capped.item() == pytest.approx(5 - 9 * 0.55 - 3 * 1.5)


@pytest.mark.parametrize("lengths", [(3, 5, 2), (4, 4, 4), (1, 7, 1)])
def test_order_and_length_are_free(corpus, backbone, lengths, task):
    """Any choice, any lengths, any order: the same states and the same answers."""
    prompts, mixer = prompts_of(backbone, *lengths), trained_mixer(backbone)
    batch, seen = batch_of(corpus, task, 4), []
    for chosen in subsets(range(3)):
        ways = []
        for order in chosen, chosen[::-1]:
            rec_loss, (state,) = forward(backbone, mixer([prompts[i] for i in order]), [batch])
            ways.append((rec_loss, state))
        assert torch.allclose(ways[0][0], ways[1][0], atol=1e-4)
        assert torch.allclose(ways[0][1], ways[1][1], atol=1e-4)
        seen.append(ways[0][1])
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(seen) for b in seen[:i])


class Spy:
    """Stands in for `train.step` and notes which of the mixer, the discriminators and the rest moved."""

    def __init__(self, model, prefixes, monkeypatch):
        self.calls, self.players = [], {"M": model, "prompts": None}
        self.fixed = [stack for prefix in prefixes.values() for stack in stacks(prefix)]
        self.before = [stack.clone() for stack in self.fixed]
        real_mixer, real_dis, real_step = train.Mixer, cfp.Discriminator, train.step
        discriminators = torch.nn.ModuleList()
        self.players = {"M": model, "C": discriminators}

        def mixer(*args):
            self.players["P"] = real_mixer(*args)
            return self.players["P"]

        def discriminator(*args):
            discriminators.append(real_dis(*args))
            return discriminators[-1]

        def spy_step(optimizer, loss):
            before = {n: copy.deepcopy(p.state_dict()) for n, p in self.players.items()}
            real_step(optimizer, loss)
            moved = [
                name
                for name, player in self.players.items()
                if any(not torch.equal(before[name][k], v) for k, v in player.state_dict().items())
            ]
            self.calls.append("".join(moved))
            assert all(torch.equal(a, b) for a, b in zip(self.fixed, self.before))

        monkeypatch.setattr(train, "Mixer", mixer)
        monkeypatch.setattr(cfp, "Discriminator", discriminator)
        monkeypatch.setattr(train, "step", spy_step)


def train_small(corpus, model, cfg, attrs=("gender", "age"), seed=0):
    prefixes = dict(zip(attrs, prompts_of(model, 3, 4, 2)))
    labels = {attr: one_hot(corpus.dataset.labels(attr)) for attr in attrs}
    study = study_of(corpus, model, seed)
    mixer, game = train.train_mixer(study, prefixes, labels, cfg, SMALL_MIXER)
    return mixer, game, study.run


def test_the_mixers_phases_move_one_player_each(corpus, model, monkeypatch):
    """Backbone and prompts are never touched; the mixer and the discriminators take turns."""
    prefixes = dict(zip(("gender", "age"), prompts_of(model, 3, 4)))
    spy = Spy(model, prefixes, monkeypatch)
    labels = {attr: one_hot(corpus.dataset.labels(attr)) for attr in prefixes}
    cfg = replace(SMALL, inner_steps=2, rec_steps=1, every=3, batch_size=10)
    train.train_mixer(study_of(corpus, model), prefixes, labels, cfg, SMALL_MIXER)
    a_batch, an_rth = ["P"] * 2, ["P"] + ["C"] * 3
    assert spy.calls == (a_batch * 3 + an_rth) * 2  # 60 users: six batches
    assert all(param.grad is None for param in model.parameters())
    assert len(spy.players["C"]) == 2  # one per attribute


def test_same_seed_same_mixer(corpus, model):
    (one, _, _), (two, _, _), (other, _, _) = (
        train_small(corpus, model, SMALL, seed=seed) for seed in (0, 0, 1)
    )
    weights = [list(mixer.state_dict().values()) for mixer in (one, two, other)]
    assert all(torch.equal(a, b) for a, b in zip(*weights[:2]))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2]))


def test_every_choice_of_two_or_more_is_drawn_and_no_other(corpus, model, monkeypatch):
    """The loss of a step has a term for each attribute that was drawn (Eq. 5) and its own lambda."""
    seen, lam_of, real = [], {}, cfp.adversarial_loss

    def note(rec_loss, dis_losses, lams, caps):
        seen.append(tuple(caps))
        lam_of.update(zip(caps, lams))
        assert len(dis_losses) == len(caps)
        return real(rec_loss, dis_losses, lams, caps)

    monkeypatch.setattr(cfp, "adversarial_loss", note)
    attrs = "gender", "age", "occupation"
    train_small(corpus, model, replace(SMALL, batch_size=3, adversary="game"), attrs)
    entropy = [cfp.entropy_of(one_hot(corpus.dataset.labels(attr))) for attr in attrs]
    assert len(seen) == 20
    by_hand = [5.0 * math.log(2) / h for h in entropy]
    caps = [CFPConfig.cap * h for h in entropy]
    assert [lam_of[cap] for cap in caps] == pytest.approx(by_hand)
    assert set(seen) == {tuple(chosen) for chosen in subsets(caps) if len(chosen) > 1}


def test_the_mixer_learns_on_both_backbones(corpus, backbone):
    mixer, _, run = train_small(corpus, backbone, SMALL)
    assert mixer.attention.o.weight.abs().sum() > 0
    stage, done, of, numbers = run.lines[-1]
    assert (
        done == of == 3 and stage.startswith("mixer") and np.isfinite(list(numbers.values())).all()
    )
