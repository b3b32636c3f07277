"""What results.json says, as tables for a screen; figures in percent."""

import itertools
from typing import Iterable, Sequence

import numpy as np

from support.datasets import Dataset
from support.hits import IN_WORDS, SHARES, triple

# What the rows are called in files and here.
WITHOUT_AND_WITH = ("before", "P5"), ("after", "P5 + CFP")
VERDICTS = {  # on an attack behind a prompt
    "readable": "{} can still be read: the whole interval lies beyond the floor.",
    "at chance": "{} is not read beyond chance: the AUC lies within the floor.",
    "undecided": "it is open whether {} is read: the AUC lies beyond the floor, not all of its interval.",
}
KEPT = "Above popularity: (after - popularity) / (before - popularity) of Hit@10, resampling the same users."


def percent(value: float | None, *interval: float | None, digits: int = 1) -> str:
    """A fraction in percent, 55.9; with its interval, if there is one: 55.9 [54.0, 57.3]."""
    ends = ", ".join(f"{100 * end:.{digits}f}" for end in interval if end is not None)
    return "" if value is None else f"{100 * value:.1f}" + (f" [{ends}]" if ends else "")


def around_half(distance: float) -> str:
    """A floor, which is a distance of AUC from one half: 50 +- 2.1."""
    return f"50 +- {100 * distance:.1f}"


def aligned(rows: list[Sequence[str]]) -> list[str]:
    """The lines of a table, indented by two, each column as wide as its widest cell."""
    widths = [max(map(len, cells)) + 2 for cells in itertools.zip_longest(*rows, fillvalue="")]
    return ["  " + "".join(map(str.ljust, cells, widths)).rstrip() for cells in rows]


def describe(dataset: Dataset, attrs: tuple[str, ...], prompt_candidates: int) -> str:
    """What the data are: sizes, classes, what was left out, what is held out."""
    lengths = np.array([len(history) for history in dataset.histories])
    sizes = f"{len(dataset.users)} users, {len(dataset.titles)} items, {lengths.sum()} interactions"
    lines = [f"{dataset.name}: {sizes}", *(f"  {note}" for note in dataset.notes)]
    for name, values in dataset.attributes.items():
        counts = np.bincount(values[values >= 0], minlength=len(dataset.classes[name]))
        listed = [f"{c} {n}" for c, n in zip(dataset.classes[name], counts)]
        if name in dataset.unfit:
            listed = [f"{dataset.unfit[name]}: {listed[0]}", listed[1], ".."]
        classes = ", ".join(listed + [f"not known {n}" for n in [(values < 0).sum()] if n])
        lines.append(f"  {name}{' (to be hidden)' if name in attrs else ''}: {classes}")
    for n, consequence in (1, "trained on, not tested"), (2, "tested, without a validation item"):
        if (lengths == n).any():
            lines.append(f"  users with {n} interaction(s): {(lengths == n).sum()}, {consequence}")
    short = (len(dataset.titles) - lengths < 100).sum()
    if short:
        few = f"{short} users have fewer than 100 items that they never interacted with"
        lines.append(f"  {few}; all of those are their negatives")
    listed = f"direct prompts list {prompt_candidates or 'no'} candidates"
    return "\n".join([*lines, f"  {listed} (the paper's 100: --prompt-candidates 100)"])


def table(results: dict) -> str:
    """The table that a run with one attribute ends with, from what stands in results.json."""
    (attr,), lines = results["attrs"], []
    for task in results["tasks"]:
        listed = "all" if results["prompt candidates"] else "none"
        listed = f", {listed} of them listed in the prompt" if task == "direct" else ""
        rows = [["", "Hit@1", "Hit@3", "Hit@10", f"{attr} AUC of the strongest attacker"]]
        for key, name in ("popularity", "popularity"), *WITHOUT_AND_WITH:
            row = results[key][task]
            cells = [percent(*triple(row, f"hit@{k}")) for k in (1, 3, 10)]
            if "auc" in row:
                auc = percent(row["auc"][attr], *row["auc interval"][attr])
                cells.append(f"{auc} {row['attackers'][attr]['strongest']}")
            rows.append([name, *cells])
        lines += [f"{about(results, task)}{listed} (%)", *aligned(rows)]
        kept, above = kept_cells(results["after"][task], 1)
        lines += [
            f"  Hit@10 kept: {kept}; above popularity: {above}.",
            f"  AUC, to compare: floor (shuffled labels) {around_half(results['floor'][task][attr])}, "
            f"ceiling (raw history) {percent(*results['ceiling'][attr]['auc'])}.",
            f"  So {VERDICTS[verdict(results, attr, task)].format(attr)}",
        ]
        if task in results["co-trained auc"]:
            lines += [
                "  The co-trained discriminator's own AUC, "
                f"{percent(results['co-trained auc'][task][attr])}, is no measure: the prompt learnt to hide",
                "  from just this one (optimistic), and it learnt from most of these users (pessimistic).",
            ]
        lines.append("")
    lines += [
        *whose_labels(results, attrs=[attr]),
        "50 is chance. Attackers are fresh: logistic regression, two MLPs, kernel ridge regression and a",
        "quadratic discriminant, trained afterwards on some users' token states and tested on others'",
        "(five folds); one that is mostly wrong on validation users is turned around, and the best there",
        "is shown, so chance is a little above 50. Brackets are 95% bootstrap intervals over users; the",
        "floor is how far from 50 this gets on shuffled labels (95% quantile of shuffles: "
        f"{results['shuffles']}).",
    ]
    return "\n".join([*lines, KEPT])


def verdict(results: dict, attr: str, task: str) -> str:
    """What results.json lets one say of an attribute behind the prompt: one of VERDICTS.

    It is readable where the whole interval of the fresh attackers' AUC is farther from one half than shuffled
    labels get, on either side: who is consistently wrong only has to turn the answers around.
    """
    row, floor = results["after"][task], results["floor"][task][attr]
    low, high = row["auc interval"][attr]
    if low > 0.5 + floor or high < 0.5 - floor:
        return "readable"
    return "undecided" if abs(row["auc"][attr] - 0.5) > floor else "at chance"


def whose_labels(results: dict, attrs: list[str]) -> list[str]:
    """Of whom attackers read each attribute, and whether the adversary had seen it: a line each."""
    knew = {attr: "never saw" if attr in results["held out"] else "knew" for attr in attrs}
    tested = results["tested"]
    return [
        f"AUC: of {tested[k]} people whose {k} the prompt's adversary {knew[k]}." for k in attrs
    ]


def combinations_table(results: dict) -> str:
    """The table that a run with several attributes ends with."""
    attrs, lines = list(results["ceiling"]), []
    heads = ["hidden", "by", "Hit@1", "Hit@3", "Hit@10", "kept", "above popularity"]
    heads += [*(f"{attr} AUC" for attr in attrs), "mean", "seconds"]
    for task in results["tasks"]:
        before, popular = results["before"][task], results["popularity"][task]
        rows = [heads, ["(popularity)", "", *hit_cells(popular)]]
        rows.append(["nothing", "P5", *hit_cells(before), "", "", *auc_cells(before, attrs)])
        for way in results["ways"]:
            row, hidden = way[task], way["attrs"]
            # the mean distance from one half: 45 does not make up for 55
            leak = 0.5 + float(np.mean([abs(row["auc"][k] - 0.5) for k in hidden]))
            cells = ", ".join(hidden), way["how"], *hit_cells(row), *kept_cells(row)
            cells = *cells, *auc_cells(row, attrs, hidden), percent(leak), f"{way['seconds']:.0f}"
            rows.append(cells)
        floors = [around_half(results["floor"][task][attr]) for attr in attrs]
        ceilings = [percent(*results["ceiling"][attr]["auc"], digits=0) for attr in attrs]
        for name, cells in ("shuffled labels", floors), ("raw history", ceilings):
            rows.append([name, *[""] * 6, *cells])
        lines += [f"{about(results, task)} (%)", *aligned(rows), ""]
    lines += [
        *whose_labels(results, attrs),
        "The strongest fresh attacker on the user tokens, as at the end of a run with one attribute;",
        "50 is chance, * is to be hidden. Mean: 50 and the mean distance from 50 of what is to be hidden.",
        "A prompt that is chosen alone passes the mixer unchanged. Seconds of training: of a single prompt,",
        "of one mixer for all combinations, of a prompt of its own for each. Brackets are 95% intervals over",
        f"users; 50 +- is how far from 50 the attack gets on shuffled labels (95% of {results['shuffles']}).",
        KEPT,
    ]
    return "\n".join(lines)


def about(results: dict, task: str) -> str:
    """The first words above a table of a task: how many users it is about, and what is ranked."""
    among = f"the test item among {how_many_candidates(results, task)} candidates"
    return f"{task} recommendation, {results['users']} users, {among}"


def how_many_candidates(results: dict, task: str) -> str:
    """101, or 17 to 20 where users have fewer negatives than others."""
    fewest, most = results["candidates"][task]
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def kept_cells(row: dict, digits: int = 0) -> list[str]:
    """What is kept of Hit@10, and above popularity: in percent with intervals, and what is said of it."""
    kept, above = (percent(*row[share], digits=digits) for share in SHARES)
    return [kept, "; ".join(filter(None, [above, row[IN_WORDS]]))]


def hit_cells(row: dict, digits: int = 0) -> list[str]:
    """Hit@1, Hit@3 and Hit@10, the last with its interval, for tables with many columns."""
    hit_10 = percent(*triple(row, "hit@10"), digits=digits)
    return [percent(row["hit@1"]), percent(row["hit@3"]), hit_10]


def auc_cells(row: dict, attrs: list[str], hidden: Iterable[str] = ()) -> list[str]:
    """AUC of each attribute, with a star where it is hidden, for `combinations_table`."""
    star = {attr: "*" for attr in hidden}
    auc = {k: percent(row["auc"][k], *row["auc interval"][k], digits=0) for k in attrs}
    return [auc[k] + star.get(k, "") for k in attrs]


def probe_table(kind: str, attr: str, hidden: str, found: dict) -> str:
    """What a probe has found, through the prefix that hides something or off the bare backbone."""
    through = f"through the prefix that hides {hidden}" if hidden else "the bare backbone"
    rows = [["", "one-vs-rest", "one-vs-one", "users tested"]]
    for name, row in found.items():
        rows.append([name, percent(*row["auc"]), percent(row["one-vs-one"]), str(row["users"])])
    title = f"{kind} probe of {attr}, {through} (AUC in %, 50 is chance)"
    return "\n".join([title, *aligned(rows)])
