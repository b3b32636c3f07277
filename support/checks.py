"""Before a run begins: whether its people and the memory suffice for what it will do."""

import numpy as np
import torch

from support.datasets import LEAST, Dataset
from support.files import enough_memory, refuse


def enough_people(dataset: Dataset, known: dict[str, np.ndarray], chooses=False) -> None:
    """Raises InputError where too few people have the labels that a run needs; labels below 0 are held out.

    The attacks need held-out items; those that are not held out have to do for `expected_labels`. A game may
    choose its weights by an attack on validation items as well, `chooses`. Nobody with such an item is no
    mistake: then the last weights are taken.
    """
    lengths = np.array([len(history) for history in dataset.histories])
    for attr, labels in known.items():
        # the game chooses by the labels that the adversary knows; at the end the others are attacked
        labelled = dataset.labelled(attr)
        unseen = (labels < 0) & labelled
        tested = unseen if unseen.any() else labelled
        for part, least, people in ("test", 2, tested), ("validation", 3, labels >= 0):
            some = labelled & (lengths >= least) & people
            needed = part == "test" or (chooses and some.any())
            if needed and (np.bincount(dataset.labels(attr)[some]) >= LEAST).sum() < 2:
                who = " and a label held out" if part == "test" and unseen.any() else ""
                them = f"of the {some.sum()} users of {dataset.name} with a {part} item{who}, for which "
                them += f"{least} interactions are needed, fewer than two classes have the {LEAST} that "
                them += "an attack in five folds needs"
                refuse(f"--attr {attr}", f"{them}; take more users or longer histories")
        counts = np.bincount(labels[labels >= 0])
        if (counts >= LEAST).sum() < 2:
            left = f"of --attr {attr} {counts.sum()} labels are left, {LEAST} at least of each"
            how = "hold fewer out, or take more users"
            refuse("--label-holdout", f"{left} of two classes are needed; {how}")


def enough_answers(dataset: Dataset, users: np.ndarray) -> None:
    """Raises InputError where no sequential prompt has an answer; `users` are those whose prompt has one."""
    if len(users) == 0:
        why = "no user has four interactions, two of them for training, so no sequential prompt has an "
        refuse(dataset.name, f"{why}answer to learn from; take other data")


def enough_for_run(
    dataset: Dataset, players: dict[str, tuple], device: torch.device, bytes_each: int = 16
) -> None:
    """Raises InputError where what is measured, or what is trained, cannot fit into memory.

    `players` says of each module that is trained how it is made, and the flag that makes it smaller. Of each
    weight in float32 there are itself, its gradient and AdamW's two means.
    """
    n_users, n_items = len(dataset.users), len(dataset.titles)
    what, cpu = f"measuring {n_users} users and {n_items} items", torch.device("cpu")
    # What is measured is in dense tables: two copies of the baselines' scores beside them, float64, are 24
    # bytes; train.py takes 18.
    enough_memory(what, 24 * n_users * n_items, cpu, "choose a smaller data set")
    for what, (make, flag) in players.items():
        with torch.device("meta"):  # shapes without memory
            player = make()
        n_weights = sum(param.numel() for param in player.parameters())
        what = f"training the {n_weights / 1e6:.1f} M weights of {what}"
        enough_memory(what, bytes_each * n_weights, device, f"choose a smaller {flag}")
