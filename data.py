"""From people and items to the token ids that the recommender reads.

In this order: the leave-one-out split, the negatives, item numbers, the tokenizer, the paper's two
prompts, batches. Nothing but this file knows how text becomes tokens. Users and items are indices
into a `Dataset` here; the text calls user u `user_{u + 1}` and an item by its number.
"""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from support.datasets import Dataset
from support.files import InputError

TASKS = "sequential", "direct"
N_NEGATIVES = 100  # section 5.1


class Split(NamedTuple):
    """Leave-one-out: per user the training items and two held-out ones, -1 for none."""

    train: list[np.ndarray]
    valid: np.ndarray  # (users,)
    test: np.ndarray  # (users,)


def leave_one_out(histories: list[np.ndarray]) -> Split:
    """The last interaction is the test item, the one before it for validation, the rest training.

    Source: section 5.1.

    # Paper silent: users with fewer than three. With two, the last is the test item, the other is
    # for training and there is no validation item; with one, it is for training and the user is
    # not tested.
    """
    train = [history[: -2 if len(history) > 2 else 1] for history in histories]
    valid = np.array([history[-2] if len(history) > 2 else -1 for history in histories])
    test = np.array([history[-1] if len(history) > 1 else -1 for history in histories])
    return Split(train, valid, test)


def draw_negatives(dataset: Dataset, seed: int, n: int = N_NEGATIVES) -> np.ndarray:
    """For each user `n` items that the user never interacted with, (users, n), in random order.

    Source: section 5.1.

    Drawn without replacement, once, from a seed; never a training, validation or test item of the
    user. Where fewer than `n` such items exist (Insurance has 21 products in all) all of them are
    taken and the row is filled up with -1.
    """
    rng = np.random.default_rng([seed, 2])
    negatives = np.full((len(dataset.users), n), -1)
    for user, history in enumerate(dataset.histories):
        unseen = np.ones(len(dataset.titles), dtype=bool)
        unseen[history] = False
        drawn = rng.permutation(np.flatnonzero(unseen))[:n]
        negatives[user, : len(drawn)] = drawn
    return negatives


def hold_out(dataset: Dataset, attr: str, share: float, seed: int) -> np.ndarray:
    """The labels (users,) that an adversary may know; -1 where the label is held out.

    `share` of each class's people are held out, and all copies of people.
    """
    rng, known = np.random.default_rng([seed, 12]), dataset.labels(attr).copy()
    for label in np.unique(known):
        users = rng.permutation(np.flatnonzero((dataset.labels(attr) == label) & dataset.is_person))
        known[users[: round(share * len(users))]] = -1
    known[~dataset.is_person] = -1
    return known


def sequential_indexing(train: list[np.ndarray], n_items: int, first: int = 1001) -> np.ndarray:
    """The number by which the text calls each item, (items,): 1001, 1002, .. in order of appearance.

    Users are gone through in turn, each history from its beginning, and every item gets the next
    free number when it is first met, so that items watched together have neighbouring numbers.
    Only training items are gone through; an item that occurs in validation or test alone gets its
    number after them, so the numbering tells nothing about what was held out. Source: sequential
    indexing, Hua et al. 2023.
    """
    seen = np.concatenate([*train, np.arange(n_items)])
    _, first_position = np.unique(seen, return_index=True)
    numbers = np.empty(n_items, dtype=np.int64)
    numbers[np.argsort(first_position, kind="stable")] = np.arange(first, first + n_items)
    return numbers


# -------------------------------------------------------------------------------------------------
# Text and tokens
# -------------------------------------------------------------------------------------------------


def train_tokenizer(
    n_users: int, n_items: int, nouns: tuple[str, str, str], begins: bool = False
) -> bytes:
    """A sentencepiece model for the small backbones in which every user and item number is one piece.

    Raised on the prompts' own words; any other text falls back to bytes, so nothing is unknown. With
    `begins` it has a token <s> for the beginning of a text, which makes it one of Llama's kind.
    """
    sentence = f"{sequential_prompt(1, [1001, 1002], nouns)} {direct_prompt(1, [1001], nouns)}"
    words = sentence.replace("_1", "").replace("1001", "").replace("1002", "")
    pieces = {f"▁{word.strip(',.?')}" for word in words.split()} - {"▁"}
    pieces = [*sorted(pieces), "_", ",", ".", "?"]
    pieces += [f"▁{1001 + i}" for i in range(n_items)] + [str(u + 1) for u in range(n_users)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([sentence]),
        model_writer=model,
        model_type="bpe",
        vocab_size=len(pieces) + 4 + 256 + 64,  # pad, </s>, <unk>, <s>; bytes; room for letters
        hard_vocab_limit=False,
        user_defined_symbols=pieces,
        byte_fallback=True,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3 if begins else -1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class Tokenizer:
    """A sentencepiece model of T5's kind or of Llama's, word by word.

    No piece of these models crosses a space, so a text's pieces are those of its words one after
    the other: words are encoded once and remembered, and a word's positions are known. T5's kind ends
    a prompt with </s>; Llama's, which has a token <s>, begins it with that.
    Raises InputError, naming `source`, for bytes that are no sentencepiece model.
    """

    def __init__(self, proto: bytes, source: str = "tokenizer", n_sentinels: int = 0):
        self.proto, self.n_sentinels = proto, n_sentinels
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError:
            raise InputError(f"{source}: not a sentencepiece model; copy it again") from None
        self.vocab_size = self.model.get_piece_size() + n_sentinels
        self.eos_id, bos_id = self.model.eos_id(), self.model.bos_id()
        if self.eos_id < 0:
            raise InputError(
                f"{source}: has no end token </s>, which ends every answer; take another"
            )
        self.before = [] if bos_id < 0 else [bos_id]
        self.after = [self.eos_id] if bos_id < 0 else []
        self.pad_id = max(
            self.model.pad_id(), 0
        )  # Llama's has none; padding is looked at by nobody
        self.cache: dict[str, tuple[int, ...]] = {}

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with any byte of the model."""
        return hashlib.sha256(self.proto).hexdigest()[:12]

    def word(self, word: str) -> tuple[int, ...]:
        """Token ids of a word; <extra_id_0> is the last of T5's sentinels, which stand above its pieces."""
        ids = self.cache.get(word)
        if ids is None:
            number = word.removeprefix("<extra_id_").removesuffix(">")
            if f"<extra_id_{number}>" == word and number in map(str, range(self.n_sentinels)):
                ids = (self.vocab_size - 1 - int(number),)
            else:
                ids = tuple(self.model.encode(word))
            self.cache[word] = ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without the marks of its beginning, its end and its padding."""
        marks = {self.pad_id, self.eos_id, *self.before}
        return self.model.decode([i for i in ids if i not in marks and i < len(self.model)])


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a published folder: T5's `spiece.model` with 100 sentinels, or `tokenizer.model`.

    Raises InputError where there is neither, or where it has more tokens than the model, `vocab_size`.
    """
    for name, n_sentinels in ("spiece.model", 100), ("tokenizer.model", 0):
        path = folder / name
        if path.is_file():
            tokenizer = Tokenizer(path.read_bytes(), str(path), n_sentinels)
            if tokenizer.vocab_size > vocab_size:
                raise InputError(
                    f"{path}: {tokenizer.vocab_size} tokens, but vocab_size in "
                    f"{folder / 'config.json'} is {vocab_size}; copy both again"
                )
            return tokenizer
    raise InputError(f"{folder}: spiece.model or tokenizer.model is missing; copy it there")


def sequential_prompt(user: int, history: list[int], nouns: tuple[str, str, str]) -> str:
    """The paper's prompt for sequential recommendation (section 3), for numbers of user and items."""
    plural, singular, verb = nouns
    base = {"watched": "watch", "bought": "buy"}[verb]
    return (
        f"User_{user} has already {verb} the following {plural} {', '.join(map(str, history))}. "
        f"Which {singular} user_{user} would like to {base} next?"
    )


def direct_prompt(user: int, candidates: list[int], nouns: tuple[str, str, str]) -> str:
    """The paper's prompt for direct recommendation (section 3), for numbers of user and candidates."""
    _, singular, verb = nouns
    base = {"watched": "watch", "bought": "buy"}[verb]
    question = f"Which {singular} user_{user} would like to {base}"
    if len(candidates) == 0:
        # Differs from the paper: with no candidates listed (--prompt-candidates 0) the words that
        # announce a list would announce nothing.
        return f"{question}?"
    return f"{question} among the following candidates? {', '.join(map(str, candidates))}."


def encode_prompt(text: str, user: int, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids with what begins and ends a prompt, and for each whether it is one of the user's.

    The user-relevant tokens (Eq. 3: "user", "_", the number) are all pieces of the words `user_N` and
    `User_N`, wherever they stand in the text.
    """
    ids, is_user = [*tokenizer.before], [False] * len(tokenizer.before)
    names = f"user_{user}", f"User_{user}"
    for word in text.split(" "):
        pieces = tokenizer.word(word)
        ids += pieces
        is_user += [word in names] * len(pieces)
    return ids + tokenizer.after, is_user + [False] * len(tokenizer.after)


@dataclass(frozen=True)
class Corpus:
    """A data set with everything that turns it into prompts."""

    dataset: Dataset
    split: Split
    negatives: np.ndarray  # (users, 100), -1 for none
    numbers: np.ndarray  # (items,) what the text calls each item
    tokenizer: Tokenizer | None  # None where nothing is put into words
    window: int  # items of history in a sequential prompt; the oldest are dropped
    max_tokens: int  # of a prompt; more and the oldest items are dropped, never the user
    prompt_candidates: int  # listed in a direct prompt beside the answer; 0 lists none

    def target(self, item: int) -> tuple[int, ...]:
        """The tokens of an item as an answer, with the end token; none for -1, no answer."""
        return () if item < 0 else self.targets[item]

    @cached_property
    def targets(self) -> list[tuple[int, ...]]:
        """Every item's tokens as an answer: a ranking asks for a hundred of each user."""
        end = (self.tokenizer.eos_id,)
        return [self.tokenizer.word(str(number)) + end for number in self.numbers]


class Example(NamedTuple):
    user: int
    input_ids: list[int]
    is_user: list[bool]
    target: int  # item index, -1 where there is no answer


class Batch(NamedTuple):
    """Examples of one task, padded on the right."""

    users: np.ndarray  # (b,)
    input_ids: Tensor  # (b, s)
    mask: Tensor  # (b, s) bool, True on text
    user_mask: Tensor  # (b, s) bool, True on the tokens of the user
    target_ids: Tensor  # (b, y), -1 after the end
    targets: np.ndarray  # (b,) item indices


def sequential_example(corpus: Corpus, user: int, history: np.ndarray, target: int) -> Example:
    """The sequential prompt for a user, the newest items of a history and the item that follows."""
    nouns, recent = corpus.dataset.nouns, corpus.numbers[history[-corpus.window :]]
    while True:
        text = sequential_prompt(user + 1, recent, nouns)
        ids, is_user = encode_prompt(text, user + 1, corpus.tokenizer)
        if len(ids) <= corpus.max_tokens or len(recent) <= 1:
            return Example(user, ids, is_user, target)
        recent = recent[1:]


def direct_example(corpus: Corpus, user: int, candidates: np.ndarray, target: int) -> Example:
    """The direct prompt for a user; `candidates` are listed as they come."""
    text = direct_prompt(user + 1, corpus.numbers[candidates], corpus.dataset.nouns)
    return Example(user, *encode_prompt(text, user + 1, corpus.tokenizer), target)


def training_example(
    corpus: Corpus, task: str, user: int, position: int, rng: np.random.Generator
) -> Example:
    """The prompt whose answer is a user's training item at `position`; held-out items never occur.

    A sequential prompt shows the training items before it; at position 0, before which there are none,
    it shows the user's first item and has no answer. The candidates that a direct prompt lists
    are drawn anew each time from the items that the user never interacted with, so that a held-out
    item is not in a training prompt even as a wrong answer.
    """
    train = corpus.split.train[user]
    if task == "sequential" and position == 0:
        return sequential_example(corpus, user, train[:1], -1)
    if task == "sequential":
        return sequential_example(corpus, user, train[:position], train[position])
    candidates = np.empty(0, dtype=np.int64)
    if corpus.prompt_candidates:
        unseen = np.ones(len(corpus.numbers), dtype=bool)
        unseen[corpus.dataset.histories[user]] = False
        unseen = np.flatnonzero(unseen)
        negatives = rng.choice(unseen, min(corpus.prompt_candidates, len(unseen)), replace=False)
        candidates = rng.permutation(np.append(negatives, train[position]))
    return direct_example(corpus, user, candidates, train[position])


def positions_of(corpus: Corpus, task: str) -> tuple[np.ndarray, np.ndarray]:
    """(users, positions) of every training interaction that can be the answer of this task's prompt.

    A sequential prompt needs at least one item of history, so a user's first item is no answer
    there.
    """
    first = 1 if task == "sequential" else 0
    lengths = np.array([max(len(train) - first, 0) for train in corpus.split.train])
    users = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return users, np.arange(len(users)) - starts + first


def people_with(corpus: Corpus, part: str) -> np.ndarray:
    """The people who have a held-out item, `part` "valid" or "test", in ascending order."""
    held_out = getattr(corpus.split, part) >= 0
    return np.flatnonzero(held_out & corpus.dataset.is_person)


def met_before(corpus: Corpus, user: int, part: str) -> np.ndarray:
    """The items that a user met before the held-out item of `part`, oldest first."""
    train, valid = corpus.split.train[user], corpus.split.valid[user]
    return np.append(train, valid) if part == "test" and valid >= 0 else train


def marks_of(histories: list[np.ndarray], n_items: int) -> np.ndarray:
    """Histories as an array (users, items): 1 for each item that is in the user's."""
    marks = np.zeros((len(histories), n_items), dtype=np.float32)
    for row, items in enumerate(histories):
        marks[row, items] = 1.0
    return marks


def held_out_example(corpus: Corpus, task: str, user: int, part: str) -> Example:
    """The prompt whose answer is the user's held-out item, `part` "valid" or "test".

    At test time the history includes the validation item, as it would have by then.
    """
    target = getattr(corpus.split, part)[user]
    assert target >= 0, f"user {user} has no {part} item"
    if task == "sequential":
        return sequential_example(corpus, user, met_before(corpus, user, part), target)
    candidates = np.empty(0, dtype=np.int64)
    if corpus.prompt_candidates:
        candidates = candidates_of(corpus, task, user, part)
        candidates = np.random.default_rng([user, 3]).permutation(candidates)
    return direct_example(corpus, user, candidates, target)


def candidates_of(corpus: Corpus, task: str, user: int, part: str) -> np.ndarray:
    """What is ranked: the held-out item first, then the user's negatives.

    When a direct prompt lists candidates, these are ranked and no others: an item that is not
    listed could be told from the answer by that alone.
    """
    negatives = corpus.negatives[user]
    if task == "direct" and corpus.prompt_candidates:
        negatives = negatives[: corpus.prompt_candidates]
    return np.append(getattr(corpus.split, part)[user], negatives[negatives >= 0])


def collate(corpus: Corpus, examples: list[Example], device: str | torch.device = "cpu") -> Batch:
    """Examples as padded tensors."""
    targets = [corpus.target(example.target) for example in examples]
    length = max(len(example.input_ids) for example in examples)
    target_length = max(1, *map(len, targets))
    input_ids = np.full((len(examples), length), corpus.tokenizer.pad_id)
    user_mask = np.zeros((len(examples), length), dtype=bool)
    target_ids = np.full((len(examples), target_length), -1)
    for row, (example, target) in enumerate(zip(examples, targets)):
        input_ids[row, : len(example.input_ids)] = example.input_ids
        user_mask[row, : len(example.is_user)] = example.is_user
        target_ids[row, : len(target)] = target
    lengths = np.array([len(example.input_ids) for example in examples])
    mask = np.arange(length) < lengths[:, None]
    return Batch(
        users=np.array([example.user for example in examples]),
        input_ids=torch.from_numpy(input_ids).to(device),
        mask=torch.from_numpy(mask).to(device),
        user_mask=torch.from_numpy(user_mask).to(device),
        target_ids=torch.from_numpy(target_ids).to(device),
        targets=np.array([example.target for example in examples]),
    )
