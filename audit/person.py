"""One person's view: what a user is recommended without and with attributes hidden, and what still shows.

    python evaluate.py --run RUN --user 42 --hide gender,age [--top 10]

Section 4.1: everybody chooses which attributes a recommendation has to ignore.
"""

import numpy as np

from attack import certainty
from audit.surfaces import surfaces, unmet, user_states
from data import Corpus, met_before, people_with
from p5 import Opened
from support.files import InputError

ASKED = ["logistic regression", "two-layer MLP"]  # attackers that learn within a second
LEARNT_FROM = 1200  # users at most whom they learn from and are chosen on, for the same reason


def find_user(corpus: Corpus, name: str) -> int:
    """The index of a person by the data's own id.

    Raises InputError where there is nobody of that id or nothing to be recommended.
    """
    dataset = corpus.dataset
    people = np.flatnonzero(dataset.is_person)
    if name not in dataset.users or not dataset.is_person[dataset.users.index(name)]:
        some = ", ".join(dataset.users[user] for user in people[:3])
        raise InputError(
            f"--user {name}: {dataset.name} has no such user; its {len(people)} are {some}, .. "
            f"{dataset.users[people[-1]]}"
        )
    user = dataset.users.index(name)
    if corpus.split.test[user] < 0:
        raise InputError(
            f"--user {name}: has a single interaction, on which the recommender was trained, so there is "
            "nothing to be recommended after; choose another"
        )
    return user


def compare(
    opened: Opened, name: str, hide: tuple[str, ...], task: str, top: int, seed: int
) -> dict:
    """What `comparison` shows: a user, the two lists, and how sure attackers are of each attribute.

    Source: section 4.1, the user who chooses what a recommendation has to ignore.

    The lists are those before the held-out test item, out of what the user has not met until then, best
    first, with each item's place in the other list. Attackers learn from other users only.
    """
    corpus, dataset, prefix = opened.corpus, opened.corpus.dataset, opened.hiding(hide)
    user = find_user(corpus, name)
    others = np.setdiff1d(people_with(corpus, "test"), [user])
    others = np.random.default_rng([seed, 21]).permutation(others)[: LEARNT_FROM - 1]
    asked = np.sort(np.append(others, user))
    row = int(np.flatnonzero(asked == user)[0])
    places, states = [], []
    for given in None, prefix:
        read = surfaces(
            opened.model, corpus, task, "test", asked[row : row + 1], given, ("scores",)
        )
        left = unmet(corpus, "test", asked[row : row + 1], read["scores"])[0]
        order = np.argsort(-left, kind="stable")
        place = np.full(len(order), -1)  # of what was met before
        place[order[np.isfinite(left[order])]] = np.arange(1, np.isfinite(left).sum() + 1)
        places.append(place)
        states.append(user_states(opened.model, corpus, task, "test", asked, given))
    item = lambda i: {
        "number": int(corpus.numbers[i]),
        "title": dataset.titles[i],
        "without": int(places[0][i]),
        "hiding": int(places[1][i]),
    }
    lists = {
        key: [item(i) for rank in range(1, top + 1) for i in np.flatnonzero(place == rank)]
        for key, place in zip(("without", "hiding"), places)
    }
    sure = {}
    for attr, classes in dataset.attributes.items():
        label, labels = classes[user], classes[asked]
        (before, by), (after, by_after) = (
            certainty(some, labels, row, ASKED, seed) for some in states
        )
        sure[attr] = {
            "class": dataset.classes[attr][label],
            "share": float((classes[dataset.is_person] == label).mean()),
            "without": float(before[label]),
            "hiding": float(after[label]),
            "attackers": [by, by_after],
        }
    met = met_before(corpus, user, "test")
    return {
        "user": name,
        "called": f"user_{user + 1}",
        "task": task,
        "hide": list(hide),
        "met": len(met),
        "last": [
            {
                "number": int(corpus.numbers[i]),
                "title": dataset.titles[i],
                "genres": dataset.genres[i],
            }
            for i in met[-5:]
        ],
        "lists": lists,
        "sure": sure,
        "others": len(others),
    }


def comparison(found: dict) -> str:
    """The screen: who, what was met last, both lists side by side, what moved, and the attackers."""
    hidden = ", ".join(found["hide"]) or "nothing"
    who = ", ".join(f"{attr} {row['class']}" for attr, row in found["sure"].items())
    lines = [
        f"User {found['user']} ({found['called']} in the prompts): {who}",
        f"{found['met']} interactions before the held-out one, the last:",
    ]
    lines += [
        f"  {i['number']:<7}{i['title']} ({i['genres'] or 'genre unknown'})" for i in found["last"]
    ]
    cells = {
        key: [f"{i['number']:<7}{i['title']}" for i in row] for key, row in found["lists"].items()
    }
    width = max(30, *(len(cell) + 3 for cell in cells["without"]))
    other = max(30, *(len(cell) + 3 for cell in cells["hiding"]))
    lines += [
        "",
        f"{found['task']} recommendation",
        f"{'':<5}{'hiding nothing':<{width}}{'hiding ' + hidden:<{other}}moved",
    ]
    for n, (left, right) in enumerate(zip(cells["without"], cells["hiding"]), 1):
        was = found["lists"]["hiding"][n - 1]["without"]
        moved = "" if was == n else f"up from {was}" if was > n else f"down from {was}"
        if was > len(cells["without"]):
            moved = f"new, was {was}"
        lines.append(f"{n:>3}  {left:<{width}}{right:<{other}}{moved}".rstrip())
    gone = [i for i in found["lists"]["without"] if i["hiding"] > len(cells["hiding"])]
    if gone:
        gone = "; ".join(f"{i['number']} {i['title']}, now {i['hiding']}" for i in gone)
        lines.append(f"     no longer listed: {gone}")
    lines += [
        "",
        f"how sure fresh attackers, who learnt from {found['others']} others, are of the own class (%)",
        f"  {'attribute':<14}{'class':<24}{'its share':<12}{'hiding nothing':<17}hiding {hidden}",
    ]
    for attr, row in found["sure"].items():
        numbers = [f"{100 * row[key]:.0f}" for key in ("share", "without", "hiding")]
        lines.append(
            f"  {attr + ('*' if attr in found['hide'] else ''):<14}{row['class']:<24}{numbers[0]:<12}"
            f"{numbers[1]:<17}{numbers[2]}"
        )
    lines += [
        "* is hidden. A guess that knows nobody says the share. One user says little about a prompt: how",
        "often attackers are right is what --audit measures.",
    ]
    return "\n".join(lines)
