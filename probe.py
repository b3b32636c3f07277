"""The paper's three probes (appendix A): what can be had by asking, by tuning and by training.

    python probe.py --kind classifier --attr gender --run runs/toy-gender-seed0 [--hide gender]

reads an attribute off a run's frozen backbone, bare or, with --hide, through the run's prefix.
"""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attack import attack, macro_auc, macro_ovo, make_folds, with_interval
from audit.surfaces import user_states
from cfp import StackPrefix, set_rates, step
from data import TASKS, Corpus, Example, collate, encode_prompt, people_with
from mixer import concatenate
from model import NO_TOKEN, Backbone, LlamaConfig, Prefix, T5Config, target_loss
from p5 import Opened, open_run, to_hide
from support.candidates import score_candidates
from support.files import run_command, write_atomically
from support.flags import Parser, at_least


def class_names(corpus: Corpus, attr: str) -> list[str]:
    """What a person would call each class: the paper's Female and Male, the others as the data do."""
    names = corpus.dataset.classes[attr]
    return [{"F": "Female", "M": "Male"}.get(n, n) for n in names] if attr == "gender" else names


def class_answers(corpus: Corpus, attr: str) -> list[tuple[int, ...]]:
    """The token ids, with the end token, by which the model would name each class."""
    token = corpus.tokenizer.word
    return [
        (*(i for word in name.split(" ") for i in token(word)), corpus.tokenizer.eos_id)
        for name in class_names(corpus, attr)
    ]


def history_of(corpus: Corpus, user: int) -> str:
    """The numbers of the newest training items, as many as a sequential prompt shows."""
    items = corpus.split.train[user][-corpus.window :]
    return ", ".join(str(corpus.numbers[item]) for item in items)


# -------------------------------------------------------------------------------------------------
# A.1: asking
# -------------------------------------------------------------------------------------------------


def question(corpus: Corpus, user: int, attr: str, with_history: bool, asked: bool) -> str:
    """The paper's words, "Input" of the discrete prompts of appendix A.1.

    Without history the paper asks "for user_N" directly and "of user_N" in a context (`asked` False).
    """
    plural, _, verb = corpus.dataset.nouns
    name = f"user_{user + 1}"
    if not with_history:
        return f"What is the {attr} {'for' if asked else 'of'} {name}?"
    seen = f"User_{user + 1} has {verb} {plural} {history_of(corpus, user)}."
    return f"{seen} What is the {attr} of {name}?"


def manual_prompt(
    corpus: Corpus,
    user: int,
    attr: str,
    with_history: bool,
    known: np.ndarray,
) -> str:
    """A question about `user`; before it those about the `known` users with their answers, if any.

    As many of them are taken, in their order, as `corpus.max_tokens` allows.
    """
    encode = lambda text: len(encode_prompt(text, user + 1, corpus.tokenizer)[0])
    asked = question(corpus, user, attr, with_history, asked=len(known) == 0)
    length, context = encode(asked), []
    names = class_names(corpus, attr)
    for other in known:
        answer = names[corpus.dataset.attributes[attr][other]]
        text = f"{question(corpus, other, attr, with_history, asked=False)} {answer}."
        length += encode(text)
        if length > corpus.max_tokens:
            break
        context.append(text)
    return " ".join([*context, asked])


@torch.no_grad()
def manual_scores(
    opened: Opened,
    attr: str,
    prefix: Prefix | None,
    with_history: bool,
    in_context: bool,
    users: np.ndarray,
    seed: int,
    batch_size: int = 32,
) -> np.ndarray:
    """log P(class | question), (users, c): the answer is constrained to the attribute's values.

    Source: appendix A.1; the constraint De Cao et al. 2021. Every value is scored exactly. The users
    in a context are drawn at random from all others.
    """
    corpus, model = opened.corpus, opened.model
    device, rng = next(model.parameters()).device, np.random.default_rng([seed, 9])
    answers, rows = [class_answers(corpus, attr)], []
    for batch in np.array_split(users, -(-len(users) // batch_size)):
        examples = []
        for user in batch:
            others = np.setdiff1d(np.flatnonzero(corpus.dataset.is_person), [user])
            known = rng.permutation(others)[: 64 if in_context else 0]
            text = manual_prompt(corpus, user, attr, with_history, known)
            examples.append(Example(user, *encode_prompt(text, user + 1, corpus.tokenizer), -1))
        asked = collate(corpus, examples, device)
        encoded = model.encode(asked.input_ids, asked.mask, prefix)
        rows.append(score_candidates(model, encoded, answers).cpu().numpy())
    return np.concatenate(rows)


def probe_manual(opened: Opened, attr: str, prefix: Prefix | None, seed: int) -> dict:
    """AUC of each way of asking (appendix A.1): direct and in context, without and with history."""
    users = np.flatnonzero(opened.corpus.dataset.is_person)
    labels, found = opened.corpus.dataset.labels(attr)[users], {}
    for in_context in False, True:
        for with_history in False, True:
            name = f"{'in-context' if in_context else 'direct'}, "
            name += f"{'with' if with_history else 'without'} interactions"
            scores = manual_scores(opened, attr, prefix, with_history, in_context, users, seed)
            found[name] = measured(scores, labels, seed)
    return found


# -------------------------------------------------------------------------------------------------
# A.2: tuning a soft prompt
# -------------------------------------------------------------------------------------------------


class SoftPrompt(nn.Module):
    """The soft probing prompt of Eq. 6: the encoder's from a two-layer MLP, the decoder's from a three-layer.

    Source: appendix A.2. # Differs from the paper: keys and values in every layer, like the CFP's, in
    place of vectors before the text; they read more (the paper's reference for the MLPs, Li and
    Liang 2021, has them in every layer too).
    """

    def __init__(self, model_cfg: T5Config | LlamaConfig, length: int = 15, hidden: int = 64):
        super().__init__()
        shapes = model_cfg.prefix_shapes
        self.encoder = None
        if "encoder" in shapes:
            self.encoder = StackPrefix(length, hidden, shapes["encoder"], depth=2)
        self.decoder = StackPrefix(length, hidden, shapes["decoder"], depth=3)

    def forward(self, before: Prefix | None = None) -> Prefix:
        """The soft prompt, after the prefix `before` that is to be probed through."""
        soft = Prefix(None if self.encoder is None else self.encoder(), self.decoder())
        if before is None:
            return soft
        return concatenate([before, soft])


def soft_batch(corpus: Corpus, users: np.ndarray, device) -> tuple[Tensor, Tensor]:
    """The discrete part of the soft probe's input (appendix A.2), ids and mask (b, s)."""
    plural, _, verb = corpus.dataset.nouns
    examples = []
    for user in users:
        text = f"User user_{user + 1} has {verb} {plural} {history_of(corpus, user)}."
        examples.append(Example(user, *encode_prompt(text, user + 1, corpus.tokenizer), -1))
    batch = collate(corpus, examples, device)
    return batch.input_ids, batch.mask


@torch.no_grad()
def soft_scores(
    model: Backbone, corpus: Corpus, prefix: Prefix, answers: list, users: np.ndarray
) -> np.ndarray:
    """log P(class | input, prompt), (users, c), the answer constrained to the attribute's values."""
    device, rows = next(model.parameters()).device, []
    for batch in np.array_split(users, -(-len(users) // 256)):
        encoded = model.encode(*soft_batch(corpus, batch, device), prefix)
        rows.append(score_candidates(model, encoded, [answers]).cpu().numpy())
    return np.concatenate(rows)


def answer_tokens(corpus: Corpus, attr: str, device) -> Tensor:
    """The answer that names each class, token ids (c, y) filled up with NO_TOKEN."""
    answers = class_answers(corpus, attr)
    longest = max(map(len, answers))
    padded = [[*ids, *[NO_TOKEN] * (longest - len(ids))] for ids in answers]
    return torch.tensor(padded, device=device)


def soft_loss(
    model: Backbone, prefix: Prefix, ids: Tensor, mask: Tensor, answer_ids: Tensor
) -> Tensor:
    """L of Eq. 6 in nats: minus the log-probability of the answer's tokens, mean over the users.

    `answer_ids` (b, y) are filled up with NO_TOKEN.
    """
    return target_loss(model, model.encode(ids, mask, prefix), answer_ids)


def probe_soft(
    opened: Opened, attr: str, prefix: Prefix | None, seed: int, epochs: int = 40
) -> dict:
    """AUC of a soft prompt that was tuned on nine tenths of the users, on the last tenth.

    Source: appendix A.2. One ninth of the nine tenths is kept aside to choose the epoch.
    """
    corpus, model = opened.corpus, opened.model
    labels = corpus.dataset.labels(attr)
    rng = np.random.default_rng([seed, 10])
    torch.manual_seed(seed)
    people = np.flatnonzero(corpus.dataset.is_person)
    tenth = make_folds(labels[people], rng, 10)
    test, valid, train = people[tenth == 0], people[tenth == 1], people[tenth > 1]
    device = next(model.parameters()).device
    answers, answer_ids = class_answers(corpus, attr), answer_tokens(corpus, attr, device)
    soft = SoftPrompt(model.cfg).to(device)
    optimizer = torch.optim.AdamW(soft.parameters(), 5e-3, weight_decay=0.0, fused=True)
    best, best_auc = None, -1.0
    for epoch in range(epochs):
        set_rates(optimizer, 1 - epoch / epochs)
        for users in np.array_split(rng.permutation(train), -(-len(train) // 64)):
            ids, mask = soft_batch(corpus, users, device)
            step(optimizer, soft_loss(model, soft(prefix), ids, mask, answer_ids[labels[users]]))
        with torch.no_grad():
            scores = soft_scores(model, corpus, soft(prefix), answers, valid)
        valid_auc = macro_auc(scores, labels[valid])[0]
        if valid_auc > best_auc:
            best_auc, best = valid_auc, copy.deepcopy(soft)
    with torch.no_grad():
        scores = soft_scores(model, corpus, best(prefix), answers, test)
    return {"soft prompt": measured(scores, labels[test], seed)}


# -------------------------------------------------------------------------------------------------
# A.3: training a classifier
# -------------------------------------------------------------------------------------------------


def probe_classifier(opened: Opened, attr: str, prefix: Prefix | None, seed: int) -> dict:
    """AUC of the seven-layer classifier on the user-token states, per task (appendix A.3).

    # Differs from the paper: one state per user and task and five folds over the users, so that
    # everybody is tested and nobody is tested on a sentence about a person seen in training.
    """
    corpus, found = opened.corpus, {}
    users = people_with(corpus, "test")
    labels = corpus.dataset.labels(attr)[users]
    for task in TASKS:
        states = user_states(opened.model, corpus, task, "test", users, prefix)
        attacked = attack(states, labels, ["seven-layer MLP"], seed)
        found[f"classifier, {task} prompts"] = {
            "auc": attacked["auc"],
            "one-vs-one": attacked["one-vs-one"]["seven-layer MLP"],
            "users": len(users),
        }
    return found


PROBES = {"manual": probe_manual, "soft": probe_soft, "classifier": probe_classifier}


def measured(scores: np.ndarray, labels: np.ndarray, seed: int) -> dict:
    """AUC of log-probabilities (users, c) with its interval, the same one-vs-one, and of how many users.

    They are normalised first: with the answer constrained to the classes, these are all there is.
    """
    scores = scores.astype(np.float64)
    scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
    rng = np.random.default_rng([seed, 11])
    return {
        "auc": with_interval(scores, labels, rng),
        "one-vs-one": macro_ovo(scores, labels),
        "users": len(labels),
    }


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(
        description="Read an attribute off a run's frozen backbone with one of the paper's three probes.",
    )
    parser.add_argument("--kind", required=True, choices=PROBES, help="appendix A.1, A.2 or A.3")
    parser.add_argument("--attr", required=True, help="what to read")
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished run")
    parser.add_argument(
        "--hide",
        default="none",
        help="read through the run's prefix for this, such as gender,age (none)",
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="of folds, prompts and attackers (0)"
    )
    args = parser.parse_args(argv)
    opened = open_run(args.run, torch.device("cpu"))
    opened.corpus.dataset.labels(args.attr)  # says so where there is no such attribute
    hide = to_hide(args.hide, opened)
    prefix = opened.hiding(hide)
    found = PROBES[args.kind](opened, args.attr, prefix, args.seed)
    through = f"through the prefix that hides {args.hide}" if hide else "the bare backbone"
    print(f"{args.kind} probe of {args.attr}, {through} (AUC in %, 50 is chance)")
    print(f"  {'':<34}{'one-vs-rest':<20}{'one-vs-one':<13}users tested")
    for name, row in found.items():
        value, low, high = (100 * number for number in row["auc"])
        cells = f"{value:.1f} [{low:.1f}, {high:.1f}]", f"{100 * row['one-vs-one']:.1f}"
        print(f"  {name:<34}{cells[0]:<20}{cells[1]:<13}{row['users']}")
    hidden = f"-hiding-{'+'.join(hide)}" if hide else ""
    path = args.run / f"probe-{args.kind}-{args.attr}{hidden}.json"
    write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
    return found


if __name__ == "__main__":
    run_command(main)
