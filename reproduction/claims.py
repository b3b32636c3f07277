"""What the paper says of its results, each with the rule by which finished runs decide it: `CLAIMS`."""

import math
from functools import partial
from typing import Callable, Iterable, Iterator

from reproduction import published, report
from reproduction.report import QUALITY, Entry, Evidence, Summary, compare, number, summarise
from support.hits import ABOVE

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
UNTESTED = "could not be tested here"
Verdict = tuple[str, str]  # one of the four, and what was found
Rule = Callable[[Evidence], Verdict]


def decide(signs: list[int], better: str = "better") -> Verdict:
    """The rule for a claim that is a list of comparisons: 1 for it, -1 against it, 0 if intervals overlap.

    It holds where all are for it, does not hold where one is against it, and is not decided otherwise.
    """
    if not signs:
        return UNTESTED, ""
    found = f"{better} in {signs.count(1)} of {len(signs)} comparisons, the opposite in {signs.count(-1)}"
    verdict = FAILS if -1 in signs else HOLDS if 0 not in signs else OPEN
    return verdict, found


def places(tables: Iterable[int], e: Evidence) -> Iterator[tuple[int, Entry]]:
    """(table, entry) of every number that the paper has in these tables for this half of its data."""
    for table in tables:
        if any(cell.data == report.HALF[e.data] for cell in published.cells(table)):
            yield from ((table, x) for x in report.entries(table, e) if x.paper is not None)


def beats(ours: str, tables: Iterable, metrics: Iterable, better: str, e: Evidence) -> Verdict:
    """That `ours` beats every other model of the tables in these metrics."""
    signs = []
    for table, x in places(tables, e):
        own = e.of(table, ours, x.hidden, x.metric)
        if x.model != ours and x.metric in metrics and own and x.ours:
            signs.append(compare(own, x.ours, x.metric))
    return decide(signs, better)


def hides(tables: Iterable[int], judge: Callable, better: str, e: Evidence) -> Verdict:
    """About what is hidden in the tables: `judge(e, table, entry)` is (sign, words) of an AUC's row.

    It is None where that cannot be judged or is of a model that the claim is not about.
    """
    aucs = [place for place in places(tables, e) if place[1].ours and place[1].metric == "AUC"]
    judged = [said for place in aucs if (said := judge(e, *place))]
    verdict, found = decide([sign for sign, _ in judged], better)
    return verdict, f"{found}: {', '.join(words for _, words in judged)}" if judged else found


def at_chance(e: Evidence, table: int, x: Entry) -> tuple[int, str] | None:
    """For it where the AUC is within the floor of 50, against it where its interval is wholly beyond."""
    floor, _ = e.bounds(table, x.hidden)
    if x.model != "CFP" or math.isnan(floor):
        return None
    far = report.distance(x.ours)
    sign = 1 if far.mean <= floor else -1 if far.low > floor else 0
    return sign, f"{x.ours.mean:.1f} (floor 50 ± {floor:.1f})"


def mixture_works(e: Evidence, table: int, x: Entry) -> tuple[int, str] | None:
    """For it where the mean AUC is at most 55, the paper's 54.22 rounded up, with 90% above popularity."""
    share = e.of(table, "CFP", x.hidden, ABOVE)
    if x.model != "CFP" or share is None:
        return None
    good, bad = x.ours.mean <= 55 and share.mean >= 90, x.ours.low > 55 or share.high < 90
    words = f"{x.hidden} {x.ours.mean:.1f} with {share.mean:.0f}%"
    return 1 if good else -1 if bad else 0, words


def costs_less(e: Evidence, table: int, x: Entry) -> tuple[int, str] | None:
    """Compares what the CFP and a fair baseline keep of Hit@10 above popularity."""
    own, other = (e.of(table, model, x.hidden, ABOVE) for model in ("CFP", x.model))
    if x.model == "CFP" or own is None or other is None:
        return None
    words = f"{x.hidden} {own.mean:.0f}% beside {x.model}'s {other.mean:.0f}%"
    return compare(own, other, ABOVE), words


def swept(kind: str, metric: str, low: float, high: float, sign: int, e: Evidence) -> Verdict:
    """About a sweep: from `low` to `high` the metric gets better (1) or worse (-1)."""
    points = [p for p in e.points.get(kind, []) if p.task == "sequential" and metric in p.values]
    by_x = {p.x: summarise([p.values[metric]]) for p in points if not p.series.startswith("soft")}
    if not {low, high} <= by_x.keys():
        return UNTESTED, ""
    first, last = by_x[low], by_x[high]
    verdict, _ = decide([sign * compare(last, first, metric)])
    first, last = (number(x, interval=True) for x in (first, last))
    return verdict, f"{metric} {first} at {low:g}, {last} at {high:g}"


def reads(auc: Summary) -> int:
    """1 where an AUC's interval leaves 50 out, -1 where it has 50 in it and ends within 10 of it, else 0."""
    if not auc.low <= 50 <= auc.high:
        return 1
    return -1 if max(50 - auc.low, auc.high - 50) <= 10 else 0


def soft_is_weaker(e: Evidence) -> Verdict:
    """Holds where at every length the soft probe reads nothing and the classifier reads something."""
    sign = lambda p: -1 if p.series.startswith("soft") else 1
    points = e.points.get("soft discriminator", [])
    return decide([sign(p) * reads(summarise([p.values["AUC"]])) for p in points], "as said")


def probes_read(table: int, model: str, sign: int, e: Evidence) -> Verdict:
    """That a probe reads every attribute (1) or none (-1)."""
    found = [x for k in report.LETTERS if (x := e.of(table, model, "", k)) is not None]
    verdict, words = decide([sign * reads(x) for x in found], "as said")
    shown = ", ".join(number(x, interval=True) for x in found)
    return verdict, f"{words}: {shown}" if found else ""


# What the paper says, in our words, by section: the sentences of sections 5 and 6, then three of 3.
CLAIMS: dict[str, dict[str, Rule]] = {
    "5.2": {
        "P5 recommends better than every other model, matching and sequential": partial(
            beats, "P5", (1, 2), QUALITY, "better"
        ),
        "CFP hides an attribute better than every fair baseline": partial(
            beats, "CFP", (3, 4), ["AUC"], "nearer to 50"
        ),
        "CFP recommends better than every fair baseline": partial(
            beats, "CFP", (3, 4), QUALITY, "better"
        ),
        "behind a CFP the AUC is close to 50": partial(
            hides, (3, 4), at_chance, "within the floor"
        ),
        "CFP costs less of the recommendations than the other methods do": partial(
            hides, (3, 4), costs_less, "clearly more kept above popularity"
        ),
        "the mixture hides several attributes and keeps the recommendations": partial(
            hides, (5, 6), mixture_works, "at most 55 with 90% of Hit@10 above popularity kept"
        ),
        "the mixture does better than C-PMF and C-SX for several attributes": partial(
            beats, "CFP", (5, 6), (*QUALITY, "AUC"), "better"
        ),
    },
    "6": {
        "a longer prefix is less fair": partial(swept, "prefix length", "AUC", 5, 30, -1),
        "a longer prefix recommends better": partial(swept, "prefix length", "Hit@1", 5, 30, 1),
        "a larger lambda is fairer": partial(swept, "lambda", "AUC", 0.1, 100, 1),
        "a larger lambda recommends worse": partial(swept, "lambda", "Hit@1", 0.1, 100, -1),
        "behind a CFP trained against a soft probing prompt such a prompt reads nothing, a classifier "
        "does": soft_is_weaker,
        "against a soft probing prompt longer CFPs remove more": partial(
            swept, "soft discriminator", "AUC", 5, 30, 1
        ),
    },
    "3, A.1": {"manually designed prompts read nothing": partial(probes_read, 7, "with", -1)},
    "3, A.2": {"soft probing prompts read attributes off P5": partial(probes_read, 8, "soft", 1)},
    "3, A.3": {"a classifier reads attributes off P5": partial(probes_read, 9, "classifier", 1)},
}


def claims_markdown(every: list[Evidence]) -> str:
    """Each claim and what was found of it on each data set."""
    rows = []
    for section, claims in CLAIMS.items():
        for words, rule in claims.items():
            found = [(verdict, more and f"; {more}") for verdict, more in map(rule, every)]
            rows.append([section, words, *(f"**{verdict}**{more}" for verdict, more in found)])
    heads = ["section", "the paper says", *(report.DATA_NAMES[e.data] for e in every)]
    return "\n".join(report.grid(heads, rows))
