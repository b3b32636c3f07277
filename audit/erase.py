"""LEACE in place of the prompt: what a closed form leaves of an attribute, and of the recommendations.

    python -m audit.erase --attr gender --run runs/toy-gender-seed0

The encoder's states at the user's tokens are erased (Belrose et al. 2023) before the decoder reads them, so
that Hit@k and the attack are about the same states, as they are behind a prompt. Leaves leace-gender.json.
"""

import json
from pathlib import Path

import numpy as np
import torch

from attack import attack, leace, make_folds
from audit.surfaces import user_states
from data import TASKS, Batch, people_with
from model import T5, Encoded
from p5 import Opened, open_run
from ranks import held_out_ranks, hits
from support.files import InputError, run_command, write_atomically
from support.flags import Parser, at_least


def erased_ranks(opened: Opened, task: str, users: np.ndarray, erase) -> np.ndarray:
    """Rank (users,) of every test item where `erase` (rows, d) is applied to each user token's state.

    The map is affine, so the mean over a user's tokens is erased as well as each of them.
    """

    def change(encoded: Encoded, batch: Batch) -> Encoded:
        states = encoded.states.clone()
        states[batch.user_mask] = torch.from_numpy(erase(states[batch.user_mask].numpy()))
        return encoded._replace(states=states)

    return held_out_ranks(opened.model, opened.corpus, task, "test", users, change=change)


def erased(opened: Opened, attr: str, seed: int) -> dict:
    """Of each task Hit@k and the strongest fresh attacker's AUC: [value, low, high], fractions.

    Fitted on half of the users and measured on the other half, then the other way round, and the mean of the
    two: fitted on all of them it would make the classes' means equal over everybody (see `audit.py`).
    """
    users = people_with(opened.corpus, "test")
    labels = opened.corpus.dataset.labels(attr)[users]
    half, found = make_folds(labels, np.random.default_rng([seed, 14]), 2), {}
    for task in TASKS:
        states, both = user_states(opened.model, opened.corpus, task, "test", users), []
        for fitted in half == 0, half == 1:
            erase, rest = leace(states[fitted], labels[fitted]), ~fitted
            row = hits(erased_ranks(opened, task, users[rest], erase), seed)
            values = {f"hit@{k}": [row[f"hit@{k}"], *row[f"hit@{k} interval"]] for k in (1, 3, 10)}
            values["auc"] = attack(erase(states[rest]), labels[rest], None, seed)["auc"]
            both.append(values)
        found[task] = {k: np.mean([values[k] for values in both], 0).tolist() for k in both[0]}
    return found


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(
        description="Erase an attribute from the user tokens of a run's frozen T5 with LEACE and measure "
        "what is left.",
    )
    parser.add_argument("--attr", required=True, help="what to erase")
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished run")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of halves and attackers (0)")
    args = parser.parse_args(argv)
    opened = open_run(args.run, torch.device("cpu"))
    opened.corpus.dataset.labels(args.attr)  # says so where there is no such attribute
    if not isinstance(opened.model, T5):
        raise InputError(
            f"--run {args.run}: a decoder-only model reads its prompt again in every layer; the states at "
            "the user's tokens cannot be erased from outside"
        )
    found = erased(opened, args.attr, args.seed)
    print(f"{args.attr} erased from the user tokens with LEACE (%, 95% intervals)")
    for task, row in found.items():
        cells = [
            f"{k} {{:.1f}} [{{:.1f}}, {{:.1f}}]".format(*(100 * v for v in row[k])) for k in row
        ]
        print(f"  {task:<12}{'  '.join(cells)}")
    path = args.run / f"leace-{args.attr}.json"
    write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
    return found


if __name__ == "__main__":
    run_command(main)
