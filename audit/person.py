"""One person's view: what a user is recommended without and with attributes hidden, and what still shows.

    python evaluate.py --run RUN --user 42 --hide gender,age [--top 10]

Section 4.1: everybody chooses which attributes a recommendation has to ignore.
"""

from typing import NamedTuple

import numpy as np
import torch

from audit.surfaces import surfaces, unmet
from data import Asked, Corpus, met_before, people_with
from mixer import Opened
from probe import ATTACKERS, five_folds, standardised, user_states
from support.files import refuse
from support.screens import aligned
from support.side_by_side import FOLDS, Problems

FAST = ["logistic regression", "two-layer MLP"]  # the attackers that learn within a second
LEARNT_FROM = 1200  # users at most whom they learn from and are chosen on, for the same reason


def certainty(features: np.ndarray, labels: np.ndarray, row: int, seed: int = 0) -> np.ndarray:
    """The probability of each class (c,): what an attacker of `FAST` thinks of one user it never saw.

    `row` is the user among features (users, d). The attackers learn from three of the five folds without
    that user. The one that finds the classes of a fourth fold's users likeliest is asked: the best by AUC
    may be one that puts them in order and is never sure. `labels` (users,) are negative for who has none and
    is not learnt from; the user has one.
    """
    labelled = labels >= 0
    features, labels, row = features[labelled], labels[labelled], labelled[:row].sum()
    problems, n_classes = five_folds(labels[None], [seed]), int(labels.max()) + 1
    fold, place = (int(i) for i in torch.nonzero(problems.test[0] == row)[0])
    alone = Problems(problems.labels, *(rows[:, fold : fold + 1] for rows in problems[1:]))
    x, found = standardised(features), []
    for name in FAST:
        for scores in [one for a in ATTACKERS[name] for one in a(x, alone, n_classes, seed)]:
            own = scores.valid.gather(3, alone.labels_of(alone.valid).unsqueeze(-1))
            found.append((own.mean().item(), scores.test[0, 0, place].exp().numpy()))
    return max(found, key=lambda tried: tried[0])[1]


def find_user(corpus: Corpus, name: str) -> int:
    """The index of a person by the data's own id.

    Raises InputError where there is nobody of that id or nothing to be recommended.
    """
    dataset, people = corpus.dataset, np.flatnonzero(corpus.dataset.is_person)
    user = dataset.users.index(name) if name in dataset.users else None
    if user is None or not dataset.is_person[user]:
        first = ", ".join(dataset.users[person] for person in people[:3])
        known = f"its {len(people)} are {first}, .. {dataset.users[people[-1]]}"
        refuse(f"--user {name}", f"{dataset.name} has no such user; {known}")
    if corpus.split.test[user] < 0:
        single = "has a single interaction, on which the recommender was trained"
        nothing = "so there is nothing to be recommended after; choose another"
        refuse(f"--user {name}", f"{single}, {nothing}")
    return user


class Compared(NamedTuple):
    """What `comparison` shows of a user. A pair is without a prompt, and with one that hides `hide`."""

    corpus: Corpus
    user: int
    task: str
    hide: tuple[str, ...]
    top: int  # how many items of each order are listed
    orders: list[np.ndarray]  # a pair: the items that the user has not met, best first
    sure: dict[str, list[float]]  # of each attribute a pair: the attacker's P(own class)
    n_others: int  # from whom the attackers learnt

    @property
    def met(self) -> np.ndarray:
        return met_before(self.corpus, self.user, "test")


def compare(
    opened: Opened, name: str, hide: tuple[str, ...], task: str, top: int, seed: int
) -> Compared:
    """A user's two lists, and how sure attackers are of each attribute in which the user has a label.

    Source: section 4.1, the user who chooses what a recommendation has to ignore.

    The lists are those before the held-out test item, out of what the user has not met until then.
    Attackers learn from other users only.
    """
    corpus, user = opened.corpus, find_user(opened.corpus, name)
    others = np.setdiff1d(people_with(corpus, "test"), [user])
    others = np.random.default_rng([seed, 21]).permutation(others)[: LEARNT_FROM - 1]
    users = np.sort(np.append(others, user))
    known = {k: y for k, y in corpus.dataset.attributes.items() if k not in corpus.dataset.unfit}
    enough = lambda labels: labels[user] >= 0 and (labels[users] >= 0).sum() >= FOLDS
    attributes = {attr: labels for attr, labels in known.items() if enough(labels)}
    row, orders, sure = int(np.searchsorted(users, user)), [], {attr: [] for attr in attributes}
    for prefix in None, opened.hiding(hide):
        alone = Asked(corpus, task, "test", np.array([user]))
        scores = unmet(alone, surfaces(opened.model, alone, prefix, ("scores",))["scores"])[0]
        orders.append(np.argsort(-scores, kind="stable")[: np.isfinite(scores).sum()])
        states = user_states(opened.model, Asked(corpus, task, "test", users), prefix)
        for attr, labels in attributes.items():
            sure[attr].append(float(certainty(states, labels[users], row, seed)[labels[user]]))
    return Compared(corpus, user, task, hide, top, orders, sure, len(others))


def comparison(found: Compared) -> str:
    """The screen: who, what was met last, both lists side by side, what moved, and the attackers."""
    dataset, numbers, user = found.corpus.dataset, found.corpus.numbers, found.user
    classes = {k: dataset.classes[k][dataset.attributes[k][user]] for k in found.sure}
    unknown = {k: "not known" for k in found.hide if k not in classes}
    titled = lambda item: f"{numbers[item]:<7}{dataset.titles[item]}"
    was, now = ({item: n for n, item in enumerate(order, 1)} for order in found.orders)
    hidden = ", ".join(found.hide) or "nothing"
    both = [[titled(item) for item in order[: found.top]] for order in found.orders]
    rows = [["", "hiding nothing", f"hiding {hidden}", "moved"]]
    lines = [
        f"User {dataset.users[user]} (user_{user + 1} in the prompts): "
        + ", ".join(f"{attr} {name}" for attr, name in (classes | unknown).items()),
        f"{len(found.met)} interactions before the held-out one, the last:",
        *(f"  {titled(i)} ({dataset.genres[i] or 'genre unknown'})" for i in found.met[-5:]),
        "",
        f"{found.task} recommendation",
    ]
    for n, (item, *cells) in enumerate(zip(now, *both), 1):
        old = was[item]
        moved = "" if old == n else f"up from {old}" if old > n else f"down from {old}"
        rows.append([str(n), *cells, f"new, was {old}" if old > found.top else moved])
    lines += aligned(rows)
    gone = [item for item in found.orders[0][: found.top] if now[item] > found.top]
    if gone:
        gone = "; ".join(f"{numbers[i]} {dataset.titles[i]}, now {now[i]}" for i in gone)
        lines.append(f"     no longer listed: {gone}")
    rows = [["attribute", "class", "its share", "hiding nothing", f"hiding {hidden}"]]
    for attr, sure in found.sure.items():
        labels = dataset.attributes[attr]
        share = (labels[dataset.is_person & (labels >= 0)] == labels[user]).mean()
        cells = [f"{100 * fraction:.0f}" for fraction in (share, *sure)]
        star = "*" if attr in found.hide else ""
        rows.append([attr + star, classes[attr], *cells])
    lines += [
        "",
        f"how sure fresh attackers, who learnt from {found.n_others} others, are of the own class (%)",
        *aligned(rows),
        "* is hidden. A guess that knows nobody says the share. One user says little about a prompt: how",
        "often attackers are right is what --audit measures.",
    ]
    return "\n".join(lines)
