"""The three probes: the paper's words, Eq. 6 by hand, and the command."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from commands import begin, command
from conftest import random_llama, random_t5, tokenizer_for, write_miniature

import probe
import train
from cfp import CFP, CFPConfig
from data import P5Config, encode_prompt, make_corpus
from mixer import Opened, Study
from model import NO_TOKEN
from probe import macro_ovo
from support.candidates import score_candidates
from support.datasets import ToyConfig, load_toy
from support.expected import one_hot
from support.files import InputError
from support.runs import Run


def test_questions_are_the_papers(corpus):
    history = probe.history_of(corpus, 4)
    assert (
        probe.question(corpus, 4, "gender", False, asked=True) == "What is the gender for user_5?"
    )
    assert (
        probe.question(corpus, 4, "gender", False, asked=False) == "What is the gender of user_5?"
    )
    assert (
        probe.question(corpus, 4, "age", True, asked=True)
        == f"User_5 has watched movies {history}. What is the age of user_5?"
    )


@pytest.mark.parametrize("with_history", [False, True])
def test_context_holds_others_answers_and_the_question_comes_last(corpus, with_history):
    """As many examples as fit, one more would not; nobody's held-out item, nor the asked user's answer."""
    known = np.array([user for user in range(60) if user != 7])
    text = probe.manual_prompt(corpus, 7, "gender", with_history, known)
    asked = probe.question(corpus, 7, "gender", with_history, asked=False)
    assert text.endswith(asked) and text.count("user_8?") == 1
    n_examples = text.count("Female.") + text.count("Male.")
    first = corpus.dataset.attributes["gender"][known[0]]
    assert n_examples > 1 and f"user_1? {('Female', 'Male')[first]}." in text
    length = len(encode_prompt(text, 8, corpus.tokenizer)[0])
    assert length <= corpus.max_tokens < length * (n_examples + 2) / n_examples
    for user in known[:n_examples]:
        held_out = corpus.numbers[corpus.split.test[user]], corpus.numbers[corpus.split.valid[user]]
        shown = probe.history_of(corpus, user).split(", ")
        assert not set(map(str, held_out)) & set(shown)


def test_answers_are_distinct_and_end(corpus):
    for attr in "gender", "age", "occupation":
        answers = probe.class_answers(corpus, attr)
        assert len(set(answers)) == len(corpus.dataset.classes[attr])
        assert all(ids[-1] == corpus.tokenizer.eos_id for ids in answers)
        names = [corpus.tokenizer.decode(list(i)).replace("▁", " ").strip() for i in answers]
        expected = ["Female", "Male"] if attr == "gender" else corpus.dataset.classes[attr]
        assert names == expected


@pytest.fixture(params=["t5", "llama"])
def opened(request, corpus):
    random = random_t5 if request.param == "t5" else random_llama
    model = random(corpus.tokenizer.vocab_size).requires_grad_(False).eval()
    prefix = CFP(CFPConfig(prefix_len=3), model.cfg).frozen()
    known = {"gender": np.zeros(60, dtype=bool)}
    return Opened({}, corpus, model, {"gender": prefix}, None, known, CFPConfig())


def test_eq6_by_hand(opened):
    """Minus the sum of the log-probabilities of the answer's tokens, given input and prompt."""
    torch.manual_seed(0)
    soft = probe.soft_prompt(opened.model.cfg, length=4)()
    ids, mask = probe.as_batch(
        opened.corpus, np.array([3, 9]), partial(probe.soft_text, opened.corpus), "cpu"
    )
    answers = probe.class_answers(opened.corpus, "gender")
    longest = max(map(len, answers))
    padded = [[*answer, *[NO_TOKEN] * (longest - len(answer))] for answer in answers]
    loss = probe.soft_loss(opened.model, soft, ids, mask, torch.tensor(padded))
    scores = score_candidates(opened.model, opened.model.encode(ids, mask, soft), [answers])
    assert loss.item() == pytest.approx(-(scores[0, 0] + scores[1, 1]).item() / 2, rel=1e-4)


def test_soft_prompt_follows_the_prefix_that_is_probed_through(opened):
    soft = probe.soft_prompt(opened.model.cfg, length=4)
    assert len(soft.decoder.hidden) == 2  # three layers with the last; the encoder's has two
    prefix = opened.hiding(("gender",))
    for side, alone, joined in zip(prefix, soft(), probe.after(prefix, soft)):
        if side is not None:
            assert torch.equal(joined[..., :3, :], side) and torch.equal(joined[..., 3:, :], alone)
    assert soft.encoder is None or len(soft.encoder.hidden) == 1


def test_soft_probe_reads_what_is_planted():
    """Where users' tokens carry the label in plain sight the tuned prompt reads it; shuffled, not."""
    dataset = load_toy(3, ToyConfig(users=400))
    corpus = make_corpus(dataset, tokenizer_for(dataset), P5Config(window=3), seed=3)
    model = random_t5(corpus.tokenizer.vocab_size).requires_grad_(False).eval()
    labels = dataset.attributes["gender"]
    pieces = [corpus.tokenizer.word(f"user_{user + 1}")[-1] for user in range(400)]
    auc = []
    for planted in labels, np.random.default_rng(0).permutation(labels):
        model.embedding.weight[pieces, :4] = torch.from_numpy(8.0 * (2 * planted - 1)).float()[
            :, None
        ]
        opened = Opened({}, corpus, model, {}, None, {}, CFPConfig())
        auc.append(
            probe.probe_soft(opened, "gender", None, seed=0, epochs=20)["soft prompt"]["auc"]
        )
    assert auc[0][0] >= 0.9 and auc[1][1] <= 0.5 <= auc[1][2]


def test_one_vs_one_by_hand():
    """Three classes; every pair's two AUCs, worked out on paper, and their mean."""
    labels = np.array([0, 0, 1, 1, 2])
    scores = np.array([[3, 0, 0], [1, 2, 0], [2, 1, 1], [0, 3, 0], [0, 0, 2]], dtype=float)
    # 0 and 1 by score 0: {3, 1} against {2, 0}: 3 of 4; by score 1: {1, 3} against {0, 2}: 3 of 4
    # 0 and 2: by 0 {3, 1} against {0}: 2 of 2; by 2 {2} against {0, 0}: 2 of 2
    # 1 and 2: by 1 {1, 3} against {0}: 2 of 2; by 2 {2} against {1, 0}: 2 of 2
    assert macro_ovo(scores, labels) == pytest.approx((0.75 + 0.75 + 4) / 6)


def test_the_command_on_a_run(tmp_path):
    arguments = "--attr gender --toy-users 60 --p5-steps 6 --epochs 1 --batch-size 20 --out r"
    assert command(tmp_path, arguments, briefly=True).returncode == 0
    kinds = {"manual": 4, "soft": 1, "classifier": 2}
    asked = "--attr age --run r --hide gender --kind"
    begun = {kind: begin(tmp_path, f"{asked} {kind}", "probe.py") for kind in kinds}
    for kind, rows in kinds.items():
        done = begun[kind]()
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / f"r/probe-{kind}-age-hiding-gender.json").read_text())
        assert len(found) == rows and "through the prefix that hides gender" in done.stdout
        for row in found.values():
            low, high = row["auc"][1:]
            assert 0 <= low <= high <= 1 and 0 <= row["one-vs-one"] <= 1
            assert f"{100 * row['auc'][0]:.1f} [" in done.stdout
    mistakes = {
        "--attr size --run r": "--attr size: toy has no such attribute",
        "--attr age --run r --hide age": "--hide age: this run has no prompt for age, only for gender",
        "--attr age --run r --hide size": "--hide size: toy has no attribute 'size'; its are gender, age",
        "--attr age --run nowhere": "nowhere/config.json: No such file or directory",
    }
    for mistake, expected in mistakes.items():
        done = command(tmp_path, f"--kind classifier {mistake}", "probe.py")
        assert done.returncode == 2 and expected in done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_run_whose_data_or_backbone_changed_is_refused(tmp_path):
    write_miniature(tmp_path, "mini")
    text = (tmp_path / "mini.user").read_text()
    users = "".join(f"v{i}\t20\t{'FM'[i % 2]}\tDE\n" for i in range(40))
    (tmp_path / "mini.user").write_text(text + users)
    items = (tmp_path / "mini.item").read_text() + "i4\tFourth\tWar\ni5\tFifth\tWar\n"
    (tmp_path / "mini.item").write_text(items)
    inter = "".join(f"v{i}\ti{j}\t1\t{j}\n" for i in range(40) for j in (1, 2, 3, 4))
    (tmp_path / "mini.inter").write_text((tmp_path / "mini.inter").read_text() + inter)
    arguments = (
        "--attr gender --data mini --data-dir . --p5-steps 4 --epochs 1 --batch-size 8 --out r"
    )
    done = command(tmp_path, arguments, briefly=True)
    assert done.returncode == 0, done.stderr
    probed = "--kind classifier --attr gender --run r"
    assert command(tmp_path, probed, "probe.py").returncode == 0
    inter = (tmp_path / "mini.inter").read_text()
    (tmp_path / "mini.inter").write_text(inter.replace("v3\ti1\t1\t1", "v3\ti1\t1\t9"))
    done = command(tmp_path, probed, "probe.py")
    assert done.returncode == 2 and "--run r: its data were" in done.stderr
    (tmp_path / "mini.inter").write_text(inter)
    (weights,) = (tmp_path / "runs").glob("p5-*/model.safetensors")
    right = weights.read_bytes()
    weights.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    done = command(tmp_path, probed, "probe.py")
    assert done.returncode == 2 and "--run r: its backbone was" in done.stderr
    assert "or bring back what was in runs/p5-" in done.stderr
    weights.write_bytes(right)
    config = json.loads((tmp_path / "r/config.json").read_text())
    (tmp_path / "r/config.json").write_text(json.dumps(config | {"attr": config.pop("attrs")}))
    done = command(tmp_path, probed, "probe.py")
    assert done.returncode == 2 and "was made by an older version" in done.stderr
    (tmp_path / "r/config.json").write_text(json.dumps(config | {"attrs": ["gender"]}))
    (folder,) = (tmp_path / "runs").glob("p5-*")
    folder.rename(tmp_path / "away")
    done = command(tmp_path, probed, "probe.py")
    assert done.returncode == 2 and "its backbone" in done.stderr


@pytest.mark.usefixtures("no_checkpoints")  # or the second game goes on from the first one's
def test_a_soft_prompt_is_a_discriminator_too(dataset, corpus, model, tmp_path):
    """Section 6: Algorithm 1 with Eq. 6 in place of Eq. 3; the prompt learns, M stays as it was."""
    settings = dict(discriminator="soft", adversary="game", prefix_len=3, prefix_hidden=8)
    settings |= dict(batch_size=20, epochs=4)
    cfg, classes = CFPConfig(**settings, dis_steps=4), dataset.labels("gender")
    labels = {"gender": one_hot(classes)}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    study = Study(corpus, model, ["sequential"], 0, Run(tmp_path / "run", "soft", {}))
    cfp, game = train.train_cfp(study, labels, cfg)
    assert all((value == before[key]).all() for key, value in model.state_dict().items())
    (soft,) = game.adversary["gender",].values()
    assert isinstance(soft, CFP) and len(soft.decoder.hidden) == 2
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    losses = [line["dis"] for line in metrics if line.get("steps") == 12]
    assert losses[-1] < 0.8 * losses[0]
    # it is heard: its loss is far above the labels' entropy, where the classifiers' would be capped
    alone = dataclasses.replace(cfg, lam=1e-9)
    unmoved, _ = train.train_cfp(study, labels, alone)
    assert not torch.allclose(unmoved.encoder.tokens, cfp.encoder.tokens, atol=1e-3)
    # L_dis of Algorithm 1 is Eq. 6 through the prefix: the answer's tokens, in the model's own words
    users = np.arange(4)
    answers = probe.answer_tokens(corpus, "gender", "cpu")
    asked = probe.as_batch(corpus, users, partial(probe.soft_text, corpus), "cpu")
    with torch.no_grad():
        given = cfp.frozen()
        found = probe.soft_loss(model, probe.after(given, soft), *asked, answers[classes[users]])
        rows = score_candidates(
            model,
            model.encode(*asked, probe.after(given, soft)),
            [probe.class_answers(corpus, "gender")],
        )
    by_hand = -rows[torch.arange(4), torch.from_numpy(classes[users])].mean()
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-4)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("--attr gender,age", "hides one attribute; leave out the other attributes"),
        ("--attr gender --adversary both", "--discriminator soft is the game alone; leave one out"),
        ("--attr gender --hide-from scores", "leave out --hide-from scores"),
    ],
)
def test_what_does_not_go_with_a_soft_discriminator(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        train.main(f"{arguments} --toy-users 60 --discriminator soft".split())
