"""Five claims of the paper, each decided by the one comparison that is hardest for it: `CLAIMS`."""

import itertools
import math
from functools import partial
from typing import Callable, Iterable, Iterator, NamedTuple

from reproduction import published, report
from reproduction.plan import HALF, World
from reproduction.report import TASK, Evidence, Summary, common_mark, distance, spelt
from support.hits import ABOVE

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
NOTHING = "nothing to keep: P5 is not above popularity"
NEAR = 5  # points from 50 that still are near it: the paper's own AUC go up to 54.22
ENOUGH = 90  # percent kept above popularity: our line, for the paper has no popularity
OTHERS = (1, "PMF"), (1, "SimpleX"), (2, "SASRec"), (2, "BERT4Rec")  # than P5, with their tables


class Comparison(NamedTuple):
    """One of the numbers that a claim is about."""

    where: str
    shown: Summary
    margin: Summary  # how far on the claim's side of its line: above 0 for it, below 0 against it


def beyond(found: Summary, line: float, sign: int = 1) -> Summary:
    """How far a figure is above a line (sign 1) or below it (-1)."""
    value, *ends = (sign * (x - line) for x in (found.mean, found.low, found.high))
    return found._replace(mean=value, low=min(ends), high=max(ends))


def difference(one: Summary, other: Summary) -> Summary:
    """One figure less another, with an interval as if they were of different people.

    They are of the same, so it is rather too wide.
    """
    mean, half = one.mean - other.mean, math.hypot(one.high - one.low, other.high - other.low) / 2
    about = dict(people=min(one.people, other.people), mark=common_mark((one.mark, other.mark)))
    return one._replace(mean=mean, low=mean - half, high=mean + half, **about)


def hidden_in(table: int, e: Evidence) -> list[str]:
    """What the paper's table hides in this half of its data."""
    cells = [cell for cell in published.cells(table) if cell.data == HALF[e.data]]
    return list(dict.fromkeys(cell.hidden for cell in cells))


def compared(e: Evidence, table: int, models: tuple, hidden: str, metric: str) -> Comparison | None:
    """One model beside another: by how much its Hit@10 is higher, or its AUC nearer to 50."""
    own, its = (e.of(table, model, hidden, metric) for model in models)
    if own is None or its is None:
        return None
    pair = (own, its) if metric == "Hit@10" else (distance(its), distance(own))
    less = difference(*pair)
    return Comparison(f"{metric} beside {models[1]}, {at(hidden, table)}", less, less)


def recommends_better(e: Evidence) -> Iterator[Comparison | None]:
    for table, model in OTHERS:
        yield compared(e, table, ("P5", model), "", "Hit@10")


def attacked(tables: Iterable[int], line: Callable, e: Evidence) -> Iterator[Comparison | None]:
    """The AUC of P5's states, or of what a CFP hides: `line(distance from 50, floor)` is its margin."""
    for table in tables:
        for attrs in report.letters(World(e.data).attrs) if table < 3 else hidden_in(table, e):
            place, metric = (("P5", ""), attrs) if table < 3 else (("CFP", attrs), "AUC")
            auc, (floor, _) = e.of(table, *place, metric), e.bounds(table, *place, attrs)
            there = auc and not math.isnan(floor)
            yield Comparison(at(attrs, table), auc, line(distance(auc), floor)) if there else None


def at(attrs: str, table: int) -> str:
    """gender, sequential for G in table 4."""
    return ", ".join([*filter(None, [spelt(attrs)]), TASK[table]])


def near_chance(leak: Summary, floor: float) -> Summary:
    return beyond(leak, max(NEAR, floor), -1)


def keeps(e: Evidence) -> Iterator[Comparison | None]:
    for table, hidden in ((table, hidden) for table in (3, 4) for hidden in hidden_in(table, e)):
        if share := e.of(table, "CFP", hidden, ABOVE):
            yield Comparison(at(hidden, table), share, beyond(share, ENOUGH))


def mixes(e: Evidence) -> Iterator[Comparison | None]:
    table = 6 if HALF[e.data] == "Insurance" else 5
    for x in attacked([table], near_chance, e):
        yield x and x._replace(where=f"AUC, {x.where}")
    places = itertools.product(hidden_in(table, e), ("C-PMF", "C-SX"), ("Hit@10", "AUC"))
    for hidden, model, metric in places:
        yield compared(e, table, ("CFP", model), hidden, metric)


# What the paper says, in our words, and what is compared (None: not run); results_head.md has the sentences.
CLAIMS: dict[str, Callable[[Evidence], Iterator[Comparison | None]]] = {
    "P5 recommends better than the other models": recommends_better,
    "P5's states give the attributes away": partial(attacked, (1, 2), beyond),
    "behind one CFP the AUC is near 50": partial(attacked, (3, 4), near_chance),
    "behind one CFP the recommendations stay good": keeps,
    "the mixer hides several attributes, and better than C-PMF and C-SX": mixes,
}


def verdict(found: list[Comparison]) -> tuple[str, Comparison]:
    """The verdict on a claim from its comparisons, at least one, and the one that decides it.

    It holds where every interval is on its side of the line, does not hold where one is wholly on the other
    side, and is not decided otherwise.
    """
    if against := [x for x in found if x.margin.high < 0]:
        return FAILS, min(against, key=lambda x: x.margin.high)
    low = lambda x: -math.inf if math.isnan(x.margin.low) else x.margin.low
    hardest = min(found, key=low)
    return HOLDS if low(hardest) > 0 else OPEN, hardest


def would_decide(margin: Summary) -> str:
    """How many people would decide what is open if the figure stayed where it is.

    The half width of an interval shrinks with the square root of the people, so it is people times the square
    of half width / distance from the line. What seeds differ by is taken to shrink with it.
    """
    if math.isnan(margin.low):
        return "P5 may not be above popularity"
    half = margin.mean - margin.low if margin.mean > 0 else margin.high - margin.mean
    needed = margin.people * (half / max(abs(margin.mean), 1e-9)) ** 2
    many = f"{float(f'{needed:.2g}'):,.0f}" if needed < 1e6 else "more than a million"
    return f"{many} people in place of {margin.people:,} would decide"


def cell(rule: Callable, e: Evidence) -> str:
    """A claim on a data set: verdict, its mark, the number that decides and where it stands."""
    every = [*rule(e)]
    if not (found := [x for x in every if x]):
        hides = any(row.model == "CFP" for row in e.rows)
        return NOTHING if rule is keeps and hides else "not run"
    (said, decides), mark = verdict(found), common_mark(x.shown.mark for x in found)
    more = f"; {would_decide(decides.margin)}" if said == OPEN else ""
    # one comparison against it is enough, but all have to be for it
    part = "" if said == FAILS or len(found) == len(every) else ", in part not run,"
    return f"**{said}**{mark}{part} {report.number(decides.shown)} {decides.where}{more}"


def claims_markdown(every: list[Evidence]) -> str:
    """Each claim and what was found of it on each data set."""
    numbered = enumerate(CLAIMS.items(), 1)
    rows = [[f"{n}. {words}", *(cell(rule, e) for e in every)] for n, (words, rule) in numbered]
    return "\n".join(report.grid(["the paper says", *(e.name for e in every)], rows))
