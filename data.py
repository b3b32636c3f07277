"""From people and items to the token ids that the recommender reads.

In this order: the leave-one-out split, the negatives, item numbers, the paper's two prompts, examples,
batches. Users and items are indices into a `Dataset` here; the text calls user u `user_{u + 1}` and an
item by its number.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Iterator, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from support.configs import P5Config
from support.datasets import Dataset
from support.expected import marks_of
from support.tokens import Tokenizer, train_pieces

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
        drawn = rng.permutation(np.delete(np.arange(len(dataset.titles)), history))[:n]
        negatives[user, : len(drawn)] = drawn
    return negatives


def hold_out(dataset: Dataset, attr: str, share: float, seed: int) -> np.ndarray:
    """The labels (users,) that an adversary may know; -1 where one is held out, NO_LABEL where there is none.

    `share` of each class's people are held out, and all copies of people.
    """
    rng, labels = np.random.default_rng([seed, 12]), dataset.labels(attr)
    labelled = dataset.labelled(attr)
    known = np.where(labelled, labels, np.minimum(labels, -1))
    for label in np.unique(labels[labelled]):
        users = rng.permutation(np.flatnonzero((labels == label) & labelled))
        known[users[: round(share * len(users))]] = -1
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


def sequential_prompt(user: int, history: list[int], nouns: tuple[str, ...]) -> str:
    """The paper's prompt for sequential recommendation (section 3), for numbers of user and items."""
    plural, singular, verb, infinitive = nouns
    return (
        f"User_{user} has already {verb} the following {plural} {', '.join(map(str, history))}. "
        f"Which {singular} user_{user} would like to {infinitive} next?"
    )


def direct_prompt(user: int, candidates: list[int], nouns: tuple[str, ...]) -> str:
    """The paper's prompt for direct recommendation (section 3), for numbers of user and candidates."""
    _, singular, _, infinitive = nouns
    question = f"Which {singular} user_{user} would like to {infinitive}"
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
    for n, word in enumerate(text.split(" ")):
        pieces = tokenizer.word(word, is_first=n == 0)
        ids += pieces
        is_user += [word in names] * len(pieces)
    return ids + tokenizer.after, is_user + [False] * len(tokenizer.after)


def train_tokenizer(
    n_users: int, n_items: int, nouns: tuple[str, ...], begins: bool = False
) -> bytes:
    """The sentencepiece model of a backbone from scratch, made of the prompts' words; see `train_pieces`."""
    sentence = f"{sequential_prompt(1, [1001, 1002], nouns)} {direct_prompt(1, [1001], nouns)}"
    return train_pieces(sentence, n_users, n_items, begins)


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


def make_corpus(dataset: Dataset, tokenizer: Tokenizer | None, cfg: P5Config, seed: int) -> Corpus:
    """The data set as prompts, in the tokens of `tokenizer`; without one, all but the prompts."""
    split = leave_one_out(dataset.histories)
    return Corpus(
        dataset=dataset,
        split=split,
        negatives=draw_negatives(dataset, seed),
        numbers=sequential_indexing(split.train, len(dataset.titles)),
        tokenizer=tokenizer,
        window=cfg.window,
        max_tokens=cfg.max_tokens,
        prompt_candidates=cfg.prompt_candidates,
    )


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
    first_ids: Tensor | None  # (b, i), where prompts have several answers the first token of each


def sequential_example(corpus: Corpus, user: int, history: np.ndarray, target: int) -> Example:
    """The sequential prompt for a user, the newest items of a history and the item that follows."""
    nouns, recent = corpus.dataset.nouns, corpus.numbers[history[-corpus.window :]]
    while True:
        text = sequential_prompt(user + 1, recent, nouns)
        ids, is_user = encode_prompt(text, user + 1, corpus.tokenizer)
        if len(ids) <= corpus.max_tokens or len(recent) <= 1:
            return Example(user, ids, is_user, target)
        # each item but the newest is a word, "1001,", whose tokens go with it: as many as it takes
        sizes = np.cumsum([len(corpus.tokenizer.word(f"{number},")) for number in recent[:-1]])
        recent = recent[1 + np.searchsorted(sizes[:-1], len(ids) - corpus.max_tokens) :]


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
        unseen = np.delete(np.arange(len(corpus.numbers)), corpus.dataset.histories[user])
        negatives = rng.choice(unseen, min(corpus.prompt_candidates, len(unseen)), replace=False)
        candidates = rng.permutation(np.append(negatives, train[position]))
    return direct_example(corpus, user, candidates, train[position])


def has_several_answers(corpus: Corpus, task: str) -> bool:
    """Whether a prompt is the same for all of a user's items: a direct one without candidates is."""
    return task == "direct" and corpus.prompt_candidates == 0


def first_ids(corpus: Corpus, users: np.ndarray) -> Tensor:
    """The first token of every training item of these users as an answer, (b, i), filled up with -1."""
    rows = [[corpus.target(item)[0] for item in corpus.split.train[user]] for user in users]
    return pad_sequence([*map(torch.tensor, rows)], batch_first=True, padding_value=-1)


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


def raw_history(corpus: Corpus) -> np.ndarray:
    """(users, items): which items each tested user interacted with before the test item."""
    histories = [met_before(corpus, user, "test") for user in people_with(corpus, "test")]
    return marks_of(histories, len(corpus.numbers))


class Asked(NamedTuple):
    """What a recommender is asked: the prompts of some users whose answers are their held-out items."""

    corpus: Corpus
    task: str  # one of TASKS
    part: str  # "valid" or "test"
    users: np.ndarray  # (users,), who all have an item in that part

    def example(self, user: int) -> Example:
        """A user's prompt. At test time the history includes the validation item, as it would by then."""
        corpus, target = self.corpus, getattr(self.corpus.split, self.part)[user]
        assert target >= 0, f"user {user} has no {self.part} item"
        if self.task == "sequential":
            return sequential_example(corpus, user, met_before(corpus, user, self.part), target)
        candidates = np.empty(0, dtype=np.int64)
        if corpus.prompt_candidates:
            candidates = np.random.default_rng([user, 3]).permutation(self.candidates(user))
        return direct_example(corpus, user, candidates, target)

    def candidates(self, user: int) -> np.ndarray:
        """What is ranked: the held-out item first, then the user's negatives.

        When a direct prompt lists candidates, these are ranked and no others: an item that is not
        listed could be told from the answer by that alone.
        """
        negatives = self.corpus.negatives[user]
        if self.task == "direct" and self.corpus.prompt_candidates:
            negatives = negatives[: self.corpus.prompt_candidates]
        return np.append(getattr(self.corpus.split, self.part)[user], negatives[negatives >= 0])

    def batches(self, batch_size: int, device: torch.device) -> Iterator[tuple[np.ndarray, Batch]]:
        """(rows in `users`, their prompts as a Batch), shortest first so that little is padded."""
        examples = [self.example(user) for user in self.users]
        order = np.argsort([len(example.input_ids) for example in examples], kind="stable")
        for rows in np.split(order, range(batch_size, len(order), batch_size)):
            yield rows, collate(self.corpus, [examples[row] for row in rows], device)

    def labels(self, attr: str) -> np.ndarray:
        """These users' classes (users,) of an attribute."""
        return self.corpus.dataset.labels(attr)[self.users]


def collate(
    corpus: Corpus, examples: list[Example], device: str | torch.device = "cpu", task: str = ""
) -> Batch:
    """Examples as padded tensors; with a `task`, for training, all first tokens of several answers."""
    targets = [corpus.target(example.target) for example in examples]
    lengths = np.array([len(example.input_ids) for example in examples])
    target_length = max(1, *map(len, targets))
    input_ids = np.full((len(examples), lengths.max()), corpus.tokenizer.pad_id)
    user_mask = np.zeros(input_ids.shape, dtype=bool)
    target_ids = np.full((len(examples), target_length), -1)
    for row, (example, target) in enumerate(zip(examples, targets)):
        input_ids[row, : len(example.input_ids)] = example.input_ids
        user_mask[row, : len(example.is_user)] = example.is_user
        target_ids[row, : len(target)] = target
    mask = np.arange(lengths.max()) < lengths[:, None]
    users = np.array([example.user for example in examples])
    several = first_ids(corpus, users) if has_several_answers(corpus, task) else None
    return Batch(
        users=users,
        input_ids=torch.from_numpy(input_ids).to(device),
        mask=torch.from_numpy(mask).to(device),
        user_mask=torch.from_numpy(user_mask).to(device),
        target_ids=torch.from_numpy(target_ids).to(device),
        first_ids=None if several is None else several.to(device),
    )
