"""Where the held-out item stands among its candidates: Hit@k, ties counted against the model."""

from collections.abc import Callable

import numpy as np
import torch

from attack import BOOTSTRAP
from data import Batch, Corpus, candidates_of, collate, held_out_example, people_with
from model import Backbone, Encoded, Prefix
from support.candidates import score_candidates


def held_out_batches(
    corpus: Corpus, task: str, part: str, users: np.ndarray, batch_size: int, device
):
    """The held-out prompts of some users as batches, shortest first so that little is padded."""
    examples = [held_out_example(corpus, task, user, part) for user in users]
    order = np.argsort([len(example.input_ids) for example in examples], kind="stable")
    for rows in np.split(order, range(batch_size, len(order), batch_size)):
        yield rows, collate(corpus, [examples[row] for row in rows], device)


@torch.no_grad()
def held_out_ranks(
    model: Backbone,
    corpus: Corpus,
    task: str,
    part: str,
    users: np.ndarray,
    prefix: Prefix | None = None,
    batch_size: int = 64,
    change: Callable[[Encoded, Batch], Encoded] | None = None,
) -> np.ndarray:
    """Rank (users,), 1 is best, of every user's held-out item among the candidates.

    Source: section 5.1; Hit@k is the share of ranks up to k.

    `part` is "valid" or "test"; all users must have an item in it. `change`, if there is one, is made to
    the prompts as encoded before the answers are decoded.
    """
    ranks = np.zeros(len(users), dtype=np.int64)
    device = next(model.parameters()).device
    for rows, batch in held_out_batches(corpus, task, part, users, batch_size, device):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        encoded = encoded if change is None else change(encoded, batch)
        items = [candidates_of(corpus, task, user, part) for user in batch.users]
        candidates = [[corpus.target(item) for item in row] for row in items]
        ranks[rows] = ranks_by_end(model, encoded, candidates)
    return ranks


def rank_of_first(scores: np.ndarray, n_candidates: list[int]) -> np.ndarray:
    """Rank, 1 is best, of column 0 of each row (b, i) among its first `n_candidates` columns.

    Ties count against the model: a candidate with the same score stands before the right one, and
    so does a score that is not a number. A model that gives all items the same score gets the last
    rank.
    """
    ranks = np.empty(len(scores), dtype=np.int64)
    for row, n in enumerate(n_candidates):
        beaten = scores[row, 1:n] < scores[row, 0]  # False where either is NaN
        ranks[row] = n - beaten.sum()
    return ranks


# How far two computations of the same log-probability may lie apart, in nats.
SLACK = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.2}


@torch.no_grad()
def ranks_by_end(
    model: Backbone, encoded: Encoded, candidates: list[list[tuple[int, ...]]]
) -> np.ndarray:
    """Rank (b,), 1 is best, of each row's first candidate: `rank_of_first` of `score_candidates`, for less.

    An answer is at most as likely as its tokens without the end. Whose beginning is less likely than
    the whole first candidate is beaten by it, and only of the others is the end looked at: of a catalogue
    of thousands about as many as stand before the right item.
    """
    begun = score_candidates(model, encoded, [[ids[:-1] for ids in row] for row in candidates])
    first = score_candidates(model, encoded, [row[:1] for row in candidates])
    beaten = (begun < first - SLACK[encoded.states.dtype]).cpu().numpy()  # not where either is NaN
    left = [
        [ids for i, ids in enumerate(row) if i == 0 or not beaten[r, i]]
        for r, row in enumerate(candidates)
    ]
    ranks, n_left = np.empty(len(left), dtype=np.int64), np.array([*map(len, left)])
    # rows with about as many left are scored together
    for rows in np.array_split(np.argsort(n_left, kind="stable"), min(4, len(left))):
        some = encoded.of_rows(torch.from_numpy(rows).to(encoded.mask.device))
        scores = score_candidates(model, some, [left[row] for row in rows])
        ranks[rows] = rank_of_first(scores.cpu().numpy(), n_left[rows])
    return ranks


def popularity(corpus: Corpus) -> np.ndarray:
    """How often each item occurs in the training histories, (items,)."""
    return np.bincount(np.concatenate(corpus.split.train), minlength=len(corpus.numbers))


def candidate_ranks(
    corpus: Corpus, task: str, part: str, users: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """The same ranks of a recommender that scores the whole catalogue at once, (users, items)."""
    ranks = [
        rank_of_first(row[candidates][None], [len(candidates)])[0]
        for row, candidates in zip(
            scores, (candidates_of(corpus, task, user, part) for user in users)
        )
    ]
    return np.array(ranks)


def popularity_ranks(corpus: Corpus, task: str, part: str, users: np.ndarray) -> np.ndarray:
    """The same ranks when items are ordered by how often they occur in the training histories."""
    counts = popularity(corpus).astype(float)
    scores = np.broadcast_to(counts, (len(users), len(counts)))
    return candidate_ranks(corpus, task, part, users, scores)


def hit_at(ranks: np.ndarray, k: int, seed: int) -> list[float]:
    """Hit@k as a fraction in [0, 1], with its 95% interval over resampled users: [value, low, high]."""
    hit = ranks <= k
    # resampling n users with replacement: the number of hits among them is binomial
    draws = np.random.default_rng(seed).binomial(len(hit), hit.mean(), BOOTSTRAP) / len(hit)
    return [float(hit.mean()), *map(float, np.quantile(draws, [0.025, 0.975]))]


def ndcg_at(ranks: np.ndarray, k: int) -> float:
    """NDCG@k in [0, 1] with a single right item: 1 / log2(1 + rank), 0 beyond rank k, mean over users."""
    return float(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0).mean())


def some_users(corpus: Corpus, part: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """At most `n` users who have a held-out item in `part`, in ascending order."""
    users = people_with(corpus, part)
    return users if len(users) <= n else np.sort(rng.choice(users, n, replace=False))


def validation_hit(
    model: Backbone, corpus: Corpus, task: str, users: np.ndarray, prefix=None
) -> float:
    """Hit@10 on validation items, a fraction in [0, 1]."""
    return (held_out_ranks(model, corpus, task, "valid", users, prefix) <= 10).mean()


def hits(ranks: np.ndarray, seed: int) -> dict:
    """hit@1, hit@3 and hit@10 as fractions, each with its interval."""
    values = {f"hit@{k}": hit_at(ranks, k, seed) for k in (1, 3, 10)}
    return {name: value for name, (value, *_) in values.items()} | {
        f"{name} interval": interval for name, (_, *interval) in values.items()
    }
