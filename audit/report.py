"""The audit of a run: what can be read where, what the recommendations are worth, what causes what.

`evaluate.py --run RUN --audit` is the command. Every figure is about the test prompts of users; where the
adversary was not told everybody's label, the attack is about those whose label it never saw.
"""

from pathlib import Path

import numpy as np
import torch

from audit.erase import first_half, leace
from audit.surfaces import SURFACES, catalogue_ranks, gains, surfaces, top10, unmet
from data import Asked, Corpus, met_before, people_with, raw_history
from evaluate import candidate_ranks, held_out_ranks, popularity, popularity_ranks
from mixer import Opened
from model import Backbone, Prefix
from probe import ATTACKERS, SHUFFLES, attack, floor, whom
from support import toy
from support.datasets import ToyConfig
from support.expected import marks_of
from support.files import show
from support.hits import hits, interval_over_users, kept, triple
from support.screens import KEPT, WITHOUT_AND_WITH, aligned, around_half, kept_cells, percent

IDEALS = (
    "knows each preference",
    "  told each class, leaving out what it does",
    "  erasing the classes' directions (LEACE)",
)


def mean_with_interval(values: np.ndarray, rng: np.random.Generator) -> list[float]:
    """[mean, low, high] of values (n,), with a 95% interval over resampled entries."""
    n = len(values)
    return [float(values.mean()), *interval_over_users(n, lambda counts: values @ counts / n, rng)]


def usefulness(ranks: np.ndarray, labels: np.ndarray, classes: list[str], seed: int) -> dict:
    """Hit@1, 3, 10 and NDCG@10 of ranks (users,) with intervals, and Hit@10 per class, as fractions.

    "gap" is the largest difference of Hit@10 between two classes.
    """
    hit, known = ranks <= 10, np.unique(labels[labels >= 0])
    by_class = {classes[c]: float(hit[labels == c].mean()) for c in known}
    found = hits(ranks, seed)
    value, *interval = mean_with_interval(gains(ranks, 10), np.random.default_rng([seed, 17]))
    found |= {"ndcg@10": value, "ndcg@10 interval": interval, "hit@10 by class": by_class}
    return found | {"gap": max(by_class.values()) - min(by_class.values())}


def ideal_ranks(config: dict, asked: Asked, attr: str) -> dict[str, np.ndarray]:
    """Ranks (users,) by the equations of a run's toy world, for each of IDEALS.

    Yardsticks of what hiding `attr` has to cost, no bounds on P5, which knows less: the first has all of
    everybody's preference. The second is told each user's class and leaves out what that does: in another
    class a user would get the same list (definition 2.1), and nothing else is lost. The third is told
    nothing, and erases the directions in which the classes' preferences differ on average.
    """
    cfg, found = ToyConfig(**config["toy"]), {}
    world = toy.make_world(config["seed"], cfg.users, cfg.effect)
    last = np.array([met_before(asked.corpus, user, "test")[-1] for user in asked.users])
    own = toy.preferences(world)
    erased = leace(own, world.attributes[attr])(own)
    for name, preference in zip(IDEALS, (own, toy.preferences(world, attr), erased)):
        scores = toy.lasting_scores(world, preference)[asked.users]
        if asked.task == "sequential":
            toy.add_what_follows(world, scores, last)
        found[name] = candidate_ranks(asked, scores)
    return found


def utility(
    opened: Opened, asked: Asked, prefixes: dict, scores: dict, attr: str, seed: int
) -> dict:
    """`usefulness` without and with the prompt, what it keeps, whose rank among candidates it changes.

    In the toy world beside it what hiding costs an ideal recommender; see `ideal_ranks`.
    """
    labels, classes = asked.labels(attr), asked.corpus.dataset.classes[attr]
    ranks = {when: held_out_ranks(opened.model, asked, prefix) for when, prefix in prefixes.items()}
    useful, found = lambda ranks: usefulness(ranks, labels, classes, seed), {}
    for when in prefixes:
        full = catalogue_ranks(asked, scores[when])
        found[when] = {"among candidates": useful(ranks[when]), "whole catalogue": useful(full)}
    popular = popularity_ranks(asked)
    found["after"]["among candidates"] |= kept(popular, *ranks.values(), seed, "P5")
    found["better off"] = float((ranks["after"] < ranks["before"]).mean())
    found["worse off"] = float((ranks["after"] > ranks["before"]).mean())
    if opened.config["data"] == "toy":
        ideal = ideal_ranks(opened.config, asked, attr)
        all_known, *others = IDEALS
        found["ideal"] = {name: useful(ideal[name]) for name in IDEALS}
        for name in others:
            found["ideal"][name] |= kept(popular, ideal[all_known], ideal[name], seed, all_known)
    return found


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance (n,) in [0, 1] between distributions given as log-scores (n, items)."""
    p, q = (torch.from_numpy(scores).double().log_softmax(1) for scores in (one, other))
    middle = torch.logaddexp(p, q) - np.log(2)
    divergence = ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)) / 2
    return (divergence.clamp(min=0) / np.log(2)).sqrt().numpy()


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jaccard overlap (n,) in [0, 1] of lists given as marks (n, items)."""
    return np.minimum(one, other).sum(1) / np.maximum(one, other).sum(1)


def leanings(lists: np.ndarray, coding: np.ndarray) -> np.ndarray:
    """Mean coding (n,) in [-1, 1] of the items that are marked in lists (n, items)."""
    return (lists * coding).sum(1) / lists.sum(1)


def lists_of_pair(scores: np.ndarray, met: np.ndarray) -> np.ndarray:
    """Top-10 lists (2, n, items) of pairs, as marks, of the items that neither of a pair has met.

    `scores` and `met` are (2, n, items). If each list left out only what its own person has met, even a
    recommender that treats everybody alike would seem to have a reverse effect: a twin has met more of what
    the twin's class likes, so less of it could be listed.
    """
    return top10(np.where(met.any(0), -np.inf, scores))


def counterfactuals(
    model: Backbone, corpus: Corpus, task: str, prefix: Prefix | None, seed: int
) -> dict:
    """Definition 2.1 measured: each copied person beside the twin, the placebo and somebody else.

    Gives [mean, low, high] over the pairs of the "overlap" of the top-10 lists (Jaccard), the "distance" of
    the distributions over the catalogue (Jensen-Shannon) and the "effect", between -2 and 2: how much further
    the other list leans towards the twin's class. For the twin, a registered user with an id and a history
    of its own, that is the average causal effect. "twin beyond placebo" is the paired difference of the two.
    """
    copies, rng = corpus.dataset.copies, np.random.default_rng([seed, 18])
    n = len(copies.twins)
    rows, shift = np.arange(n), rng.integers(1, n) if n > 1 else 0  # to somebody else
    everybody = np.concatenate([rows, copies.twins, copies.placebos])
    asked = Asked(corpus, task, "test", everybody)
    scores = surfaces(model, asked, prefix, ("scores",))["scores"]
    met = np.isinf(unmet(asked, scores))
    others = {"twin": rows + n, "placebo": rows + 2 * n, "random pair": (rows + shift) % n}
    values = {}
    for name, other in others.items():
        pair = np.stack([rows, other])
        lists = lists_of_pair(scores[pair], met[pair])
        values[name] = {
            "overlap": overlaps(*lists),
            "distance": distances(*scores[pair]),
            "effect": leanings(lists[1], copies.coding) - leanings(lists[0], copies.coding),
        }
    difference = {key: value - values["placebo"][key] for key, value in values["twin"].items()}
    return {
        name: {key: mean_with_interval(value, rng) for key, value in row.items()}
        for name, row in (values | {"twin beyond placebo": difference}).items()
    }


def history_effect(corpus: Corpus, seed: int) -> list[float]:
    """How much further a twin's history leans towards the twin's class: what the world itself does."""
    copies, n_items = corpus.dataset.copies, len(corpus.numbers)
    lived = marks_of(corpus.dataset.histories, n_items).astype(float)
    own = leanings(lived[: len(copies.twins)], copies.coding)
    change = leanings(lived[copies.twins], copies.coding) - own
    return mean_with_interval(change, np.random.default_rng([seed, 19]))


def attack_task(
    read: dict[str, dict], task: str, labels: np.ndarray, rows: np.ndarray, seed: int, shuffles: int
) -> dict:
    """Attacks on all that can be `read` of a task "before" and "after": what each surface gives away.

    `labels` (users,) are attacked in the `rows`, a mask. LEACE on the user tokens is fitted on some users and
    others are attacked. Who has no label is in nothing here.
    """
    others = (labels >= 0) & ~rows
    attacked = lambda features, rows: attack(features, labels, None, seed, tested=rows)
    found = {}
    for name in SURFACES:
        show(f"attacking {task}, {name}")
        row, after = {when: attacked(read[when][name], rows) for when in read}, read["after"][name]
        row["floor"] = floor(after, labels, seed, shuffles, tested=rows)
        if others.any():
            row["after, known users"] = attack(after[others], labels[others], None, seed)
        found[f"{task}, {name}"] = row
    states = read["before"]["user tokens"]
    fitted = others if others.any() else rows & first_half(labels, seed)
    erased, own = leace(states[fitted], labels[fitted])(states[~fitted]), labels[~fitted]
    by_attacker = {name: attack(erased, own, [name], seed) for name in ATTACKERS}
    found[f"{task}, user tokens"]["leace"] = by_attacker
    return found


def audit(
    opened: Opened, attr: str, hide: tuple[str, ...], seed: int, shuffles: int = SHUFFLES
) -> tuple[dict, dict]:
    """(what audit.json holds, user-token states and labels of the attacked users for a picture).

    The users whose label the adversary never saw are attacked with everything, before and after
    the prefix, and have a floor: the 95% quantile of the whole attack on shuffled labels. The others
    are attacked apart, through the prefix. Where the adversary knew everybody, everybody is attacked.
    """
    corpus, model, tasks = opened.corpus, opened.model, opened.config["tasks"]
    users, dataset, copies = people_with(corpus, "test"), corpus.dataset, corpus.dataset.copies
    labels, classes = dataset.labels(attr)[users], dataset.classes[attr]
    unseen = opened.unseen(attr)[users] & (attr in hide)
    attacked = whom(unseen, labels)
    adversary = f"{'never seen by' if unseen[attacked].any() else 'known to'} the adversary"
    if attr not in hide:
        adversary = f"of another attribute than what is hidden ({', '.join(hide)})"
    read_off = lambda features: attack(features, labels, None, seed, tested=attacked)
    n_items = len(corpus.numbers)
    asked = Asked(corpus, tasks[0], "test", users)
    popular = top10(unmet(asked, popularity(asked)))
    show(f"attacking {attacked.sum()} users' raw history")
    result = {"attr": attr, "seed": seed, "shuffles": shuffles, "hidden": list(hide)}
    result |= {"hide from": opened.config["cfp"]["hide_from"], "users": int(attacked.sum())}
    result |= {"labels": adversary, "known users": int((labels[~attacked] >= 0).sum())}
    result |= {"ceiling": read_off(raw_history(corpus)), "surfaces": {}, "utility": {}}
    result |= {"counterfactual": None, "popularity": read_off(popular)}
    picture = {"labels": labels[attacked], "classes": classes, "states": {}}
    prefixes = {"before": None, "after": opened.hiding(hide)}
    for task in tasks:
        asked = Asked(corpus, task, "test", users)
        show(f"scoring {n_items} items for {len(users)} users, {task}, before and after")
        read = {when: surfaces(model, asked, prefix) for when, prefix in prefixes.items()}
        result["surfaces"] |= attack_task(read, task, labels, attacked, seed, shuffles)
        picture["states"][task] = [part["user tokens"][attacked] for part in read.values()]
        scores = {when: part["scores"] for when, part in read.items()}
        result["utility"][task] = utility(opened, asked, prefixes, scores, attr, seed)
    if copies is not None and copies.attr == attr:
        show(f"comparing {len(copies.twins)} people with their twins")
        found = {"pairs": len(copies.twins), "world effect": opened.config["toy"]["effect"]}
        found["histories"] = history_effect(corpus, seed)
        for task in tasks:
            compare = lambda prefix: counterfactuals(model, corpus, task, prefix, seed)
            found[task] = {when: compare(prefix) for when, prefix in prefixes.items()}
        result["counterfactual"] = found
    return result, picture


def audit_table(result: dict) -> str:
    """The audit as tables and in words; AUC, Hit@k and NDCG in percent."""
    others = result["known users"]
    heads = "P5", "P5 + CFP", "strongest attacker", "floor"
    rows = [["", *heads, f"P5 + CFP, {others} others" if others else ""]]
    for where, row in result["surfaces"].items():
        aucs = [percent(*row[when]["auc"]) for when, _ in WITHOUT_AND_WITH]
        apart = percent(*row["after, known users"]["auc"]) if others else ""
        rows.append([where, *aucs, row["after"]["strongest"], around_half(row["floor"]), apart])
        for name, attacked in row.get("leace", {}).items():
            erased = "  LEACE on P5 in place of the prompt", "", percent(*attacked["auc"]), name
            rows.append(erased)
    for name, key in ("raw history (ceiling)", "ceiling"), ("top 10 of popularity", "popularity"):
        rows.append([name, percent(*result[key]["auc"])])
    lines = [
        f"{result['attr']}: AUC (%) of the strongest fresh attacker on {result['users']} users, whose "
        f"labels are {result['labels']}",
        *aligned(rows),
        "The last row's list knows nobody. All that it tells of a person is which popular items are missing",
        "because they were met before, and a top 10 tells that as long as met items are left out of it.",
        "Within the floor an AUC is not distinguishable from chance.",
        "",
        *utility_table(result["utility"]),
        "",
        *counterfactual_table(result["counterfactual"]),
    ]
    return "\n".join(lines)


def utility_table(utility: dict) -> list[str]:
    """What recommendations are worth without and with the prompt, as lines of a table."""
    keys = "hit@1", "hit@3", "hit@10", "ndcg@10"
    heads = *keys, "largest gap of a group in Hit@10", "Hit@10 kept", "above popularity"
    rows, lines = [["usefulness (%)", "", *heads]], []
    cells = lambda part: [
        *(percent(*triple(part, key)) for key in keys),
        percent(part["gap"]),
        *(kept_cells(part, 1) if "kept" in part else ()),
    ]
    for task, row in utility.items():
        for among in "among candidates", "whole catalogue":
            for when, name in WITHOUT_AND_WITH:
                label = f"{task}, {among}" if when == "before" else ""
                rows.append([label, name, *cells(row[when][among])])
            ideal = row.get("ideal", {}) if among == "among candidates" else {}
            rows += [["", name, *cells(part)] for name, part in ideal.items()]
        change = f"better off {percent(row['better off'])}, worse off {percent(row['worse off'])}"
        lines.append(f"  {task}, behind the prompt: {change}")
    return [*aligned(rows), *lines, KEPT]


def counterfactual_table(found: dict | None) -> list[str]:
    """What `counterfactuals` found, if there are twins, as lines of a table."""
    if found is None:
        return ["No twins to compare with: train a run in the toy world with --toy-twins 200."]
    shown = lambda values: "{:.2f} [{:.2f}, {:.2f}]".format(*values)
    heads = "top-10 overlap", "distance of scores", "effect on the list"
    title = (
        f"{found['pairs']} people beside their twins (another attribute, all else equal); the twins' "
        f"histories lean {shown(found['histories'])} further (world's effect "
        f"{found['world effect']:g})"
    )
    rows = [["", "", *heads]]
    for task in [key for key in found if isinstance(found[key], dict)]:
        for when, name in WITHOUT_AND_WITH:
            for pair, row in found[task][when].items():
                label = f"{task}, {name}" if pair == "twin" else ""
                cells = [shown(row[key]) for key in ("overlap", "distance", "effect")]
                rows.append([label, pair, *cells])
    return [title, *aligned(rows)]


def plot(result: dict, picture: dict, path: Path) -> None:
    """Draw an audit: AUC per surface with floor, ceiling and intervals; user states in two components.

    Needs matplotlib.
    """
    import matplotlib.pyplot as plt

    tasks, size = picture["states"], (13, 4.2 * len(picture["states"]))
    shape = dict(figsize=size, layout="constrained", width_ratios=[1.5, 1, 1], squeeze=False)
    figure, panels = plt.subplots(len(tasks), 3, **shape)
    for (left, *right), (task, states) in zip(panels, tasks.items()):
        draw_surfaces(left, result, task)
        for axes, rows, (_, name) in zip(right, states, WITHOUT_AND_WITH):
            draw_states(axes, rows, picture)
            axes.set_title(f"user-token states,\n{name}")  # in one line it would be cut off
        right[0].legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_surfaces(axes, result: dict, task: str) -> None:
    """A bar for each surface of a task, without and with the prompt, and the floor in grey."""
    rows = [result["surfaces"][f"{task}, {name}"] for name in SURFACES]
    at, lowest = np.arange(len(rows))[::-1], 42.0
    for shift, (when, name) in zip((0.2, -0.2), WITHOUT_AND_WITH):
        value, low, high = 100 * np.array([row[when]["auc"] for row in rows]).T
        ends = [value - low, high - value]
        axes.barh(at + shift, value - 50, 0.38, left=50, xerr=ends, label=name)
        lowest = min(lowest, *low)
    floors = 100 * np.array([row["floor"] for row in rows])
    grey = dict(color="grey", alpha=0.35, label="floor (shuffled labels, 95%)")
    axes.barh(at, 2 * floors, 0.9, left=50 - floors, **grey)
    axes.axvline(100 * result["ceiling"]["auc"][0], color="black", ls=":", label="raw history")
    axes.axvline(50, color="black", lw=0.8)
    axes.set_yticks(at, SURFACES)
    axes.set_xlim(lowest - 2, 100)
    axes.set_xlabel(f"AUC of {result['attr']} (%), strongest fresh attacker, 95% interval")
    axes.set_title(f"{task} recommendation, {result['users']} users")
    axes.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.12))


def draw_states(axes, states: np.ndarray, picture: dict) -> None:
    """User states (users, d) at their first two principal components, in a colour for each class."""
    from matplotlib import colormaps

    centred, labels, classes = states - states.mean(0), picture["labels"], picture["classes"]
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    explained, at = 100 * sizes**2 / (sizes**2).sum(), centred @ directions[:2].T
    for c in np.unique(labels):
        colour = colormaps["viridis"](0.95 * c / max(len(classes) - 1, 1))
        axes.scatter(*at[labels == c].T, s=9, alpha=0.6, color=colour, label=classes[c])
    axes.set_xlabel(f"first component ({explained[0]:.0f}% of variance)")
    axes.set_ylabel(f"second ({explained[1]:.0f}%)")
