"""The audit of a run: what can be read where, what the recommendations are worth, what causes what.

`evaluate.py --run RUN --audit` is the command. Every figure is about the test prompts of users; where the
adversary was not told everybody's label, the attack is about those whose label it never saw.
"""

from pathlib import Path

import numpy as np
import torch

from attack import ATTACKERS, BOOTSTRAP, SHUFFLES, attack, floor, leace, make_folds
from audit.surfaces import SURFACES, raw_history, surfaces, top10, unmet
from data import Corpus, marks_of, people_with
from model import Backbone, Prefix
from p5 import Opened
from ranks import held_out_ranks, hits, popularity


def mean_with_interval(values: np.ndarray, rng: np.random.Generator) -> list[float]:
    """[mean, low, high] of values (n,), with a 95% interval over resampled entries."""
    draws = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(BOOTSTRAP)]
    return [float(values.mean()), *map(float, np.quantile(draws, [0.025, 0.975]))]


# -------------------------------------------------------------------------------------------------
# Utility
# -------------------------------------------------------------------------------------------------


def catalogue_ranks(corpus: Corpus, users: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank (users,), 1 is best, of the test item among all items not met before; ties count against it."""
    left = unmet(corpus, "test", users, scores)
    own = left[np.arange(len(users)), corpus.split.test[users]]
    return (~(left < own[:, None])).sum(1)


def usefulness(ranks: np.ndarray, labels: np.ndarray, classes: list[str], seed: int) -> dict:
    """Hit@1, 3, 10 and NDCG@10 of ranks (users,) with intervals, and Hit@10 per class, as fractions.

    "gap" is the largest difference of Hit@10 between two classes. NDCG@10 is 1 / log2(1 + rank) up to
    rank 10, with one right item per user.
    """
    gain = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
    value, *interval = mean_with_interval(gain, np.random.default_rng([seed, 17]))
    by_class = {classes[c]: float((ranks[labels == c] <= 10).mean()) for c in np.unique(labels)}
    return {
        **hits(ranks, seed),
        "ndcg@10": value,
        "ndcg@10 interval": interval,
        "hit@10 by class": by_class,
        "gap": max(by_class.values()) - min(by_class.values()),
    }


# -------------------------------------------------------------------------------------------------
# Counterfactuals: what changes when nothing but the attribute does
# -------------------------------------------------------------------------------------------------


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

    `scores` and `met` are (2, n, items). Left to what each has not met, even a recommender that gives
    everybody the same would seem to have an effect, in reverse: a twin has met more of what the twin's
    class likes, so less of it is left to be listed.
    """
    left = np.where(met.any(0), -np.inf, scores)
    return top10(left)


def counterfactuals(
    model: Backbone, corpus: Corpus, task: str, prefix: Prefix | None, seed: int
) -> dict:
    """Definition 2.1 measured: each copied person beside the twin, the placebo and somebody else.

    "overlap" of the two top-10 lists (Jaccard), "distance" of the two distributions over the catalogue
    (Jensen-Shannon) and "effect": how much further the other one's list leans towards the twin's class,
    between -2 and 2, which is the average causal effect on the list where the other is the twin. Each is
    [mean, low, high] over the pairs. "twin beyond placebo" is the paired difference of the two.
    The twin is registered with an id and a history of its own, as it would have been.
    """
    copies, rng = corpus.dataset.copies, np.random.default_rng([seed, 18])
    people = np.arange(len(copies.twins))
    shift = rng.integers(1, len(people)) if len(people) > 1 else 0  # somebody else
    others = {"twin": copies.twins, "placebo": copies.placebos, "random pair": people + shift}
    others["random pair"] %= len(people)
    everybody = np.concatenate([people, copies.twins, copies.placebos])
    read = surfaces(model, corpus, task, "test", everybody, prefix, ("scores",))["scores"]
    met = np.isinf(unmet(corpus, "test", everybody, read))
    row_of = dict(zip(everybody, range(len(everybody))))
    values = {}
    for name, other in others.items():
        pair = np.stack(
            [people, [row_of[user] for user in other]]
        )  # the first people's rows are theirs
        lists = lists_of_pair(read[pair], met[pair])
        values[name] = {
            "overlap": overlaps(*lists),
            "distance": distances(*read[pair]),
            "effect": leanings(lists[1], copies.coding) - leanings(lists[0], copies.coding),
        }
    values["twin beyond placebo"] = {
        key: values["twin"][key] - values["placebo"][key] for key in values["twin"]
    }
    return {
        name: {key: mean_with_interval(value, rng) for key, value in row.items()}
        for name, row in values.items()
    }


def history_effect(corpus: Corpus, seed: int) -> list[float]:
    """How much further a twin's history leans towards the twin's class: what the world itself does."""
    copies, histories = corpus.dataset.copies, corpus.dataset.histories
    own, twins = (
        marks_of([histories[user] for user in users], copies.coding.shape[1]).astype(float)
        for users in (range(len(copies.twins)), copies.twins)
    )
    change = leanings(twins, copies.coding) - leanings(own, copies.coding)
    return mean_with_interval(change, np.random.default_rng([seed, 19]))


# -------------------------------------------------------------------------------------------------
# The audit
# -------------------------------------------------------------------------------------------------


def audit(
    opened: Opened,
    attr: str,
    hide: tuple[str, ...],
    seed: int,
    shuffles: int = SHUFFLES,
    say=print,
) -> tuple[dict, dict]:
    """(what audit.json holds, user-token states and labels of the attacked users for a picture).

    The users whose label the adversary never saw are attacked with everything, before and after
    the prefix, and have a floor: the 95% quantile of the whole attack on shuffled labels. The others
    are attacked apart, through the prefix. Where the adversary knew everybody, everybody is attacked.
    """
    corpus, model, prefix = opened.corpus, opened.model, opened.hiding(hide)
    users = people_with(corpus, "test")
    labels, classes = corpus.dataset.labels(attr)[users], corpus.dataset.classes[attr]
    held_out = opened.held_out[attr][users] if attr in hide else np.zeros(len(users), dtype=bool)
    some = held_out if held_out.any() else np.ones(len(users), dtype=bool)
    say(f"attacking {some.sum()} users' raw history")
    result = {
        "attr": attr,
        "seed": seed,
        "shuffles": shuffles,
        "hidden": list(hide),
        "hide from": opened.config["cfp"]["hide_from"],
        "users": int(some.sum()),
        "labels": "never seen by the adversary" if held_out.any() else "known to the adversary",
        "known users": int((~some).sum()),
        "ceiling": attack(raw_history(corpus)[some], labels[some], None, seed),
        "surfaces": {},
        "utility": {},
        "counterfactual": None,
    }
    if attr not in hide:
        result["labels"] = f"of another attribute than what is hidden ({', '.join(hide)})"
    counts = np.tile(popularity(corpus).astype(float), (len(users), 1))
    popular = top10(unmet(corpus, "test", users, counts))
    result["popularity"] = attack(popular[some], labels[some], None, seed)
    picture = {"labels": labels[some], "classes": classes, "states": {}}
    for task in opened.config["tasks"]:
        say(f"scoring {len(corpus.numbers)} items for {len(users)} users, {task}, before and after")
        read = {
            "before": surfaces(model, corpus, task, "test", users),
            "after": surfaces(model, corpus, task, "test", users, prefix),
        }
        for name in SURFACES:
            say(f"attacking {task}, {name}")
            before, after = (read[when][name] for when in ("before", "after"))
            row = {
                "before": attack(before[some], labels[some], None, seed),
                "after": attack(after[some], labels[some], None, seed),
                "floor": floor(after[some], labels[some], None, seed, shuffles),
            }
            if held_out.any():
                row["after, known users"] = attack(after[~some], labels[~some], None, seed)
            result["surfaces"][f"{task}, {name}"] = row
        states = read["before"]["user tokens"]
        picture["states"][task] = [read[when]["user tokens"][some] for when in read]
        # Fitted on some users and attacked on others. Fitted on all, it makes the classes' means
        # equal over everybody, and an attacker's training users would then tell of its tested
        # users by being the opposite (AUC 36 in place of 50).
        fitted = ~some
        if some.all():
            fitted = make_folds(labels, np.random.default_rng([seed, 14]), 2) == 0
        erased = leace(states[fitted], labels[fitted])(states[~fitted])
        result["surfaces"][f"{task}, user tokens"]["leace"] = {
            name: attack(erased, labels[~fitted], [name], seed) for name in ATTACKERS
        }
        ranks = {
            when: held_out_ranks(model, corpus, task, "test", users, given)
            for when, given in (("before", None), ("after", prefix))
        }
        result["utility"][task] = {
            when: {
                "among candidates": usefulness(ranks[when], labels, classes, seed),
                "whole catalogue": usefulness(
                    catalogue_ranks(corpus, users, read[when]["scores"]), labels, classes, seed
                ),
            }
            for when in read
        }
        result["utility"][task]["better off"] = float((ranks["after"] < ranks["before"]).mean())
        result["utility"][task]["worse off"] = float((ranks["after"] > ranks["before"]).mean())
    copies = corpus.dataset.copies
    if copies is not None and copies.attr == attr:
        say(f"comparing {len(copies.twins)} people with their twins")
        result["counterfactual"] = {
            "pairs": len(copies.twins),
            "world effect": opened.config["toy"]["effect"],
            "histories": history_effect(corpus, seed),
        }
        for task in opened.config["tasks"]:
            result["counterfactual"][task] = {
                when: counterfactuals(model, corpus, task, given, seed)
                for when, given in (("before", None), ("after", prefix))
            }
    return result, picture


def bracket(triple: list[float], scale: float = 100, digits: int = 1) -> str:
    """[value, low, high] as text."""
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(scale * v for v in triple), d=digits)


def in_words(where: str, row: dict) -> str:
    """One sentence: how far the strongest attacker got on a surface, and whether that is chance."""
    value, low, high = row["after"]["auc"]
    is_chance = abs(value - 0.5) <= row["floor"] and low <= 0.5 <= high
    farthest = max(row["after"]["by attacker"].values(), key=lambda auc: abs(auc[0] - 0.5))
    return (
        f"{where}: the strongest fresh attacker ({row['after']['strongest']}) reaches {100 * value:.1f} "
        f"(95% at most {100 * high:.1f}, at least {100 * low:.1f}), the one farthest from 50 on tested "
        f"users {100 * farthest[0]:.1f}; shuffled labels reach 50 +- {100 * row['floor']:.1f}"
        + (": not distinguishable from chance" if is_chance else "")
    )


def audit_table(result: dict) -> str:
    """The audit as tables and in words; AUC, Hit@k and NDCG in percent."""
    lines = [
        f"{result['attr']}: AUC (%) of the strongest fresh attacker on {result['users']} users, whose "
        f"labels are {result['labels']}",
        f"  {'':<36}{'P5':<20}{'P5 + CFP':<20}{'floor':<13}"
        + (f"P5 + CFP, {result['known users']} others" if result["known users"] else ""),
    ]
    for where, row in result["surfaces"].items():
        cells = [bracket(row[when]["auc"]) for when in ("before", "after")]
        chance = f"50 +- {100 * row['floor']:.1f}"
        known = bracket(row["after, known users"]["auc"]) if result["known users"] else ""
        lines.append(f"  {where:<36}{cells[0]:<20}{cells[1]:<20}{chance:<13}{known}".rstrip())
        for name, attacked in row.get("leace", {}).items():
            erased = "  LEACE on P5 in place of the prompt"
            lines.append(f"  {erased:<56}{bracket(attacked['auc']):<20}{name}")
    lines += [
        f"  {'raw history (ceiling)':<36}{bracket(result['ceiling']['auc'])}",
        f"  {'top 10 of popularity':<36}{bracket(result['popularity']['auc'])}",
        "The last row's list knows nobody. All that it tells of a person is which popular items are missing",
        "because they were met before, and a top 10 tells that as long as met items are left out of it.",
        "",
    ]
    lines += [in_words(*row) for row in result["surfaces"].items()]
    lines.append("")
    columns = "hit@1", "hit@3", "hit@10", "ndcg@10"
    heads = "".join(f"{name:<20}" for name in columns)
    lines.append(f"{'usefulness (%)':<42}{heads}largest gap of a group in Hit@10")
    for task, row in result["utility"].items():
        for among in "among candidates", "whole catalogue":
            for when, name in ("before", "P5"), ("after", "P5 + CFP"):
                part = row[when][among]
                cells = [bracket([part[k], *part[f"{k} interval"]]) for k in columns]
                cells = "".join(f"{cell:<20}" for cell in cells)
                label = f"{task}, {among}" if when == "before" else ""
                lines.append(f"  {label:<30}{name:<10}{cells}{100 * part['gap']:.1f}")
        lines.append(
            f"  {'':<30}better off {100 * row['better off']:.1f}, worse off {100 * row['worse off']:.1f}"
        )
    if result["counterfactual"]:
        lines += ["", *counterfactual_table(result["counterfactual"])]
    else:
        lines += [
            "",
            "No twins to compare with: train a run in the toy world with --toy-twins 200.",
        ]
    return "\n".join(lines)


def counterfactual_table(found: dict) -> list[str]:
    """What `counterfactuals` found, as lines of a table."""
    lines = [
        f"{found['pairs']} people beside their twins (another attribute, all else equal); the twins' "
        f"histories lean {bracket(found['histories'], 1, 2)} further (world's effect "
        f"{found['world effect']:g})",
        f"  {'':<43}{'top-10 overlap':<22}{'distance of scores':<22}effect on the list",
    ]
    for task in [key for key in found if isinstance(found[key], dict)]:
        for when, name in ("before", "P5"), ("after", "P5 + CFP"):
            for pair, row in found[task][when].items():
                cells = [bracket(row[key], 1, 2) for key in ("overlap", "distance", "effect")]
                label = f"{task}, {name}" if pair == "twin" else ""
                lines.append(
                    f"  {label:<22}{pair:<21}{''.join(f'{c:<22}' for c in cells)}".rstrip()
                )
    return lines


def plot(result: dict, picture: dict, path: Path) -> None:
    """Draw an audit: AUC per surface with floor, ceiling and intervals; user states in two components.

    Needs matplotlib.
    """
    import matplotlib.pyplot as plt

    tasks = list(picture["states"])
    figure = plt.figure(figsize=(13, 4.2 * len(tasks)), layout="constrained")
    grid = figure.add_gridspec(len(tasks), 3, width_ratios=[1.5, 1, 1])
    for row, task in enumerate(tasks):
        axes = figure.add_subplot(grid[row, 0])
        found = {
            name.removeprefix(f"{task}, "): part
            for name, part in result["surfaces"].items()
            if name.startswith(f"{task}, ")
        }
        at = np.arange(len(found))[::-1]
        for shift, when, name in (0.2, "before", "P5"), (-0.2, "after", "P5 + CFP"):
            value, low, high = 100 * np.array([part[when]["auc"] for part in found.values()]).T
            axes.barh(at + shift, value - 50, 0.38, left=50, label=name)
            axes.errorbar(
                value, at + shift, xerr=[value - low, high - value], fmt="none", c="black"
            )
        for y, part in zip(at, found.values()):
            label = "floor (shuffled labels, 95%)" if y == 0 else None
            width = 200 * part["floor"]
            axes.barh(y, width, 0.9, left=50 - width / 2, color="grey", alpha=0.35, label=label)
        axes.axvline(100 * result["ceiling"]["auc"][0], color="black", ls=":", label="raw history")
        axes.axvline(50, color="black", lw=0.8)
        axes.set_yticks(at, found)
        lowest = min(
            part[when]["auc"][1] for part in found.values() for when in ("before", "after")
        )
        axes.set_xlim(min(40, 100 * lowest - 2), 100)
        axes.set_xlabel(f"AUC of {result['attr']} (%), strongest fresh attacker, 95% interval")
        axes.set_title(f"{task} recommendation, {result['users']} users")
        axes.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.12))
        for column, (states, name) in enumerate(zip(picture["states"][task], ("P5", "P5 + CFP"))):
            axes = figure.add_subplot(grid[row, 1 + column])
            centred = states - states.mean(0)
            _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
            explained = 100 * sizes**2 / (sizes**2).sum()
            where = centred @ directions[:2].T
            colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(picture["classes"])))
            for c in np.unique(picture["labels"]):
                some = picture["labels"] == c
                dots = dict(s=9, alpha=0.6, color=colours[c], label=picture["classes"][c])
                axes.scatter(*where[some].T, **dots)
            axes.set_xlabel(f"first principal component ({explained[0]:.0f}%)")
            axes.set_ylabel(f"second ({explained[1]:.0f}%)")
            axes.set_title(f"user-token states, {name} (% of variance)")
            if column == 0:
                axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
