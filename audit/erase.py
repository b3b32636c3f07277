"""LEACE in place of the prompt: what a closed form leaves of an attribute, and of the recommendations.

    python -m audit.erase --attr gender --run runs/toy-gender-seed0

The encoder's states at the user's tokens are erased (Belrose et al. 2023) before the decoder reads them, so
that Hit@k and the attack are about the same states, as they are behind a prompt. Leaves leace-gender.json.
"""

from pathlib import Path
from typing import Callable

import numpy as np
import torch

from data import Asked, Batch, people_with
from evaluate import held_out_ranks
from mixer import Opened, open_run
from model import T5, Encoded
from probe import attack, make_folds, user_states
from support.files import refuse, run_command, show, try_folder
from support.flags import Parser, at_least
from support.hits import hits, triple
from support.runs import write_json
from support.screens import percent


def leace(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that takes out of features (users, d) what is linear about the labels, and no more.

    Source: Belrose et al. 2023, theorem 4.3: x - W^+ P W (x - mean), where W whitens the features and P
    projects onto their covariances, once whitened, with the one-hot labels; all of the users given here.
    """
    x = features.astype(np.float64)
    mean = x.mean(0)
    centred = x - mean
    one_hot = np.eye(labels.max() + 1)[labels]
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    positive = values > values.max() * 1e-10
    root, vectors = np.sqrt(values[positive]), vectors[:, positive]
    whiten, unwhiten = (vectors / root) @ vectors.T, (vectors * root) @ vectors.T  # W and W^+
    covariance = whiten @ centred.T @ (one_hot - one_hot.mean(0)) / len(x)  # (d, c)
    u, sizes, _ = np.linalg.svd(covariance, full_matrices=False)
    u = u[:, sizes > sizes.max() * 1e-8]
    projection = whiten @ u @ u.T @ unwhiten  # (d, d), for rows
    return lambda other: (other - (other - mean) @ projection).astype(np.float32)


def first_half(labels: np.ndarray, seed: int) -> np.ndarray:
    """True for one half of the users (users,), drawn evenly from each class: LEACE is fitted on it.

    If it were fitted on everybody, the classes' means would be equal over everybody, and an attacker's
    training users would say the opposite of what its tested users are (AUC 36 in place of 50).
    """
    return make_folds(labels, np.random.default_rng([seed, 14]), 2) == 0


def erased_ranks(opened: Opened, asked: Asked, erase: Callable) -> np.ndarray:
    """Rank (users,) of every test item where `erase` (rows, d) is applied to each user token's state.

    The map is affine, so it erases the mean over a user's tokens as well as each of them.
    """

    def change(encoded: Encoded, batch: Batch) -> Encoded:
        states = encoded.states.clone()
        states[batch.user_mask] = torch.from_numpy(erase(states[batch.user_mask].numpy()))
        return encoded._replace(states=states)

    return held_out_ranks(opened.model, asked, change=change)


def erased(opened: Opened, attr: str, seed: int) -> dict:
    """Of each task Hit@k and the strongest fresh attacker's AUC: [value, low, high], fractions.

    Each is the mean of two: fitted on the first half of the users and measured on the other, and vice versa.
    """
    users = people_with(opened.corpus, "test")
    labels, found = opened.corpus.dataset.labels(attr)[users], {}
    half, labelled = first_half(labels, seed), labels >= 0
    for task in opened.config["tasks"]:
        states, both = user_states(opened.model, Asked(opened.corpus, task, "test", users)), []
        for fitted, rest in (half, ~half), (~half, half):
            erase = leace(states[fitted & labelled], labels[fitted & labelled])
            asked = Asked(opened.corpus, task, "test", users[rest])
            row = hits(erased_ranks(opened, asked, erase), seed)
            values = {key: triple(row, key) for key in ("hit@1", "hit@3", "hit@10")}
            values["auc"] = attack(erase(states[rest]), labels[rest], None, seed)["auc"]
            both.append(values)
        found[task] = {k: np.mean([values[k] for values in both], 0).tolist() for k in both[0]}
    return found


def main(argv: list[str] | None = None) -> dict:
    text = "Erase an attribute from the user tokens of a run's frozen T5 with LEACE and measure what is left."
    parser = Parser(text)
    parser.add_argument("--attr", required=True, help="what to erase")
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished run")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of halves and attackers (0)")
    args = parser.parse_args(argv)
    opened = open_run(args.run, torch.device("cpu"))
    try_folder(args.run)
    if not isinstance(opened.model, T5):
        again = "a decoder-only model reads its prompt again in every layer"
        why = f"{again}; the states at the user's tokens cannot be erased from outside"
        refuse(f"--run {args.run}", why)
    found = erased(opened, args.attr, args.seed)
    show(f"{args.attr} erased from the user tokens with LEACE (%, 95% intervals)")
    for task, row in found.items():
        cells = [f"{name} {percent(*values)}" for name, values in row.items()]
        show(f"  {task:<12}{'  '.join(cells)}")
    write_json(args.run / f"leace-{args.attr}.json", found)
    return found


if __name__ == "__main__":
    run_command(main)
