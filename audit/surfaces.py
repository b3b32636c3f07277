"""What an attacker could be given of each user: states, scores and lists of the frozen recommender."""

import numpy as np
import torch

from cfp import first_decoder_state, mean_user_state
from data import Corpus, marks_of, met_before, people_with
from model import Backbone, Prefix
from ranks import held_out_batches
from support.candidates import score_candidates

STATES = "user tokens", "all tokens", "first decoder state"
SURFACES = *STATES, "scores", "top 10"


@torch.no_grad()
def surfaces(
    model: Backbone,
    corpus: Corpus,
    task: str,
    part: str,
    users: np.ndarray,
    prefix: Prefix | None = None,
    names: tuple[str, ...] = SURFACES,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """What could be read of each user's held-out prompt, one row per user; `names` says which.

    "user tokens" is the paper's, the mean state (users, d) at the user's tokens; "all tokens" that of
    the whole prompt; "first decoder state" what the answer begins with; "scores" the log-probability
    of every item of the catalogue (users, items); "top 10", which needs the scores, marks the ten
    likeliest that the user has not met before the held-out item.
    """
    device, n_items = next(model.parameters()).device, len(corpus.numbers)
    width = lambda name: model.cfg.d_model if name in STATES else n_items
    found = {name: np.zeros((len(users), width(name)), dtype=np.float32) for name in names}
    catalogue = [corpus.targets]
    for rows, batch in held_out_batches(corpus, task, part, users, batch_size, device):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        if "user tokens" in names:
            found["user tokens"][rows] = mean_user_state(encoded.states, batch.user_mask).cpu()
        if "all tokens" in names:
            found["all tokens"][rows] = mean_user_state(encoded.states, batch.mask).cpu()
        if "first decoder state" in names:
            found["first decoder state"][rows] = first_decoder_state(model, encoded).cpu()
        if "scores" in names:
            found["scores"][rows] = score_candidates(model, encoded, catalogue).cpu().numpy()
    if "top 10" in names:
        found["top 10"] = top10(unmet(corpus, part, users, found["scores"]))
    return found


def top10(scores: np.ndarray) -> np.ndarray:
    """The ten best of scores (.., items), marked by 1 in an array of that shape; the first of equals."""
    marks = np.zeros(scores.shape, dtype=np.float32)
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :10]
    np.put_along_axis(marks, best, 1.0, axis=-1)
    return marks


def unmet(corpus: Corpus, part: str, users: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The scores (users, items), -inf for what each user met before the held-out item of `part`."""
    scores = scores.copy()
    for row, user in enumerate(users):
        scores[row, met_before(corpus, user, part)] = -np.inf
    return scores


def user_states(
    model: Backbone,
    corpus: Corpus,
    task: str,
    part: str,
    users: np.ndarray,
    prefix: Prefix | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Mean user-token states (users, d) of the held-out prompts: what the paper's attack is given."""
    names = ("user tokens",)
    return surfaces(model, corpus, task, part, users, prefix, names, batch_size)["user tokens"]


def raw_history(corpus: Corpus) -> np.ndarray:
    """(users, items): which items each tested user interacted with before the test item."""
    histories = [met_before(corpus, user, "test") for user in people_with(corpus, "test")]
    return marks_of(histories, len(corpus.numbers))
