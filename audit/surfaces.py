"""What an attacker could be given of each user: states, scores and lists of the frozen recommender."""

import numpy as np
import torch

from cfp import mean_user_state
from data import Asked, met_before
from model import Backbone, Prefix
from probe import first_decoder_state
from support.candidates import score_candidates

STATES = "user tokens", "all tokens", "first decoder state"
SURFACES = *STATES, "scores", "top 10"


@torch.no_grad()
def surfaces(
    model: Backbone, asked: Asked, prefix: Prefix | None = None, names: tuple[str, ...] = SURFACES
) -> dict[str, np.ndarray]:
    """What could be read of each user's held-out prompt, one row per user; `names` says which.

    "user tokens" is the paper's: the mean state (users, d) at the user's tokens; "all tokens" is the mean
    over the whole prompt; "first decoder state" is what the answer begins with; "scores" are the
    log-probabilities of all items of the catalogue (users, items); "top 10", which needs the scores,
    marks the ten likeliest items that the user has not met before the held-out one.
    """
    device, catalogue = next(model.parameters()).device, [asked.corpus.targets]
    read = {
        "user tokens": lambda encoded, batch: mean_user_state(encoded.states, batch.user_mask),
        "all tokens": lambda encoded, batch: mean_user_state(encoded.states, batch.mask),
        "first decoder state": lambda encoded, batch: first_decoder_state(model, encoded),
        "scores": lambda encoded, batch: score_candidates(model, encoded, catalogue),
    }
    width = lambda name: model.cfg.d_model if name in STATES else len(asked.corpus.numbers)
    found = {name: np.zeros((len(asked.users), width(name)), dtype=np.float32) for name in names}
    for rows, batch in asked.batches(64, device):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        for name in read.keys() & found.keys():
            found[name][rows] = read[name](encoded, batch).cpu().numpy()
    if "top 10" in names:
        found["top 10"] = top10(unmet(asked, found["scores"]))
    return found


def top10(scores: np.ndarray) -> np.ndarray:
    """The ten best of scores (.., items), marked by 1 in an array of that shape; the first of equals."""
    marks = np.zeros(scores.shape, dtype=np.float32)
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :10]
    np.put_along_axis(marks, best, 1.0, axis=-1)
    return marks


def unmet(asked: Asked, scores: np.ndarray) -> np.ndarray:
    """The scores (users, items), -inf for what each user met before the held-out item."""
    scores = scores.copy()
    for row, user in enumerate(asked.users):
        scores[row, met_before(asked.corpus, user, asked.part)] = -np.inf
    return scores


def catalogue_ranks(asked: Asked, scores: np.ndarray) -> np.ndarray:
    """Rank (users,), 1 is best, of the held-out item among all not met before; ties count against it."""
    left = unmet(asked, scores)
    held_out = getattr(asked.corpus.split, asked.part)[asked.users]
    own = left[np.arange(len(asked.users)), held_out]
    return (~(left < own[:, None])).sum(1)


def gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """Each user's NDCG@k in [0, 1], with a single right item: 1 / log2(1 + rank), 0 beyond rank k."""
    return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)
