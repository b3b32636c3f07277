"""What the paper says of its results, each with the rule by which finished runs decide it: `CLAIMS`."""

import math
from typing import Callable, Iterable

from reproduction import published
from reproduction.report import (
    DATA_NAMES,
    HITS,
    LETTERS,
    UNFAIR,
    Evidence,
    Summary,
    compare,
    distance,
    entries,
    half_of,
    line,
    summarise,
)

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
UNTESTED = "could not be tested here"
Verdict = tuple[str, str]  # one of the four, and what was found


def decide(signs: Iterable[int | None], better: str = "better") -> Verdict:
    """The rule for a claim that is a list of comparisons, 1 for it, -1 against it, 0 intervals overlap.

    It holds where all are for it, does not hold where one is against it, and is not decided otherwise.
    """
    signs = [sign for sign in signs if sign is not None]
    if not signs:
        return UNTESTED, ""
    found = f"{better} in {signs.count(1)} of {len(signs)} comparisons, the opposite in {signs.count(-1)}"
    verdict = FAILS if -1 in signs else HOLDS if 0 not in signs else OPEN
    return verdict, found


def about_these(tables: Iterable[int], e: Evidence) -> list[int]:
    """Those of the tables in which the paper has numbers for this data set, or what it stands in for."""
    half = half_of(e.data)
    return [n for n in tables if any(cell.data == half for cell in published.cells(n))]


def against(
    e: Evidence, tables: Iterable[int], ours: str, metrics: Iterable[str]
) -> list[int | None]:
    """`ours` compared with every other model of the paper's tables in these metrics."""
    signs = []
    for table in about_these(tables, e):
        found = {(x.model, x.hidden, x.metric): x for x in entries(table, e) if x.paper is not None}
        for (model, hidden, metric), entry in found.items():
            own = found.get((ours, hidden, metric))
            if model != ours and metric in metrics and own and own.ours and entry.ours:
                signs.append(compare(own.ours, entry.ours, metric))
    return signs


def p5_is_best(e: Evidence) -> Verdict:
    return decide(against(e, (1, 2), "P5", HITS))


def cfp_is_fairer(e: Evidence) -> Verdict:
    return decide(against(e, (3, 4), "CFP", ("AUC",)), "nearer to 50")


def cfp_recommends_better(e: Evidence) -> Verdict:
    return decide(against(e, (3, 4), "CFP", HITS))


def cfp_is_at_chance(e: Evidence) -> Verdict:
    """Holds where every AUC is within the floor of 50; does not where an interval is wholly beyond it."""
    signs, farthest = [], []
    for table in (3, 4):
        for x in entries(table, e):
            bounds = e.bounds(table, x.hidden)
            if (x.model, x.metric) == ("CFP", "AUC") and x.ours and bounds:
                far = distance(x.ours)
                signs.append(1 if far.mean <= bounds[0] else -1 if far.low > bounds[0] else 0)
                farthest.append(f"{x.ours.mean:.1f} (floor 50 ± {bounds[0]:.1f})")
    verdict, found = decide(signs, "within the floor")
    return verdict, found + (": " + ", ".join(farthest) if farthest else "")


def kept(e: Evidence, table: int, model: str, hidden: str) -> Summary | None:
    """Percent of the unfair version's Hit@10 that is left; the interval takes the farther ends of both."""
    base = {3: 1, 4: 2, 5: 1, 6: 1}[table]
    after, before = e.of(table, model, hidden, "Hit@10"), e.of(base, UNFAIR[model], "", "Hit@10")
    if after is None or before is None or before.low <= 0:
        return None
    share = lambda a, b: 100 * a / b
    ends = share(after.low, before.high), share(after.high, before.low)
    return Summary(share(after.mean, before.mean), math.nan, *ends, after.n)


def cfp_costs_least(e: Evidence) -> Verdict:
    signs = []
    for table in (3, 4):
        for hidden in dict.fromkeys(x.hidden for x in entries(table, e)):
            own = kept(e, table, "CFP", hidden)
            for model in dict.fromkeys(x.model for x in entries(table, e) if x.model != "CFP"):
                other = kept(e, table, model, hidden)
                if own and other:
                    signs.append(compare(own, other, "Hit@10"))
    return decide(signs, "a larger share of Hit@10 kept")


def mixture_works(e: Evidence) -> Verdict:
    """Holds where every choice's mean AUC is at most 55, the paper's 54.22 rounded up, with 90% of Hit@10."""
    signs, shown = [], []
    for table in about_these((5, 6), e):
        for x in entries(table, e):
            share = kept(e, table, "CFP", x.hidden)
            if (x.model, x.metric) == ("CFP", "AUC") and x.ours and share:
                good = x.ours.mean <= 55 and share.mean >= 90
                bad = x.ours.low > 55 or share.high < 90
                signs.append(1 if good else -1 if bad else 0)
                shown.append(f"{x.hidden} {x.ours.mean:.1f} with {share.mean:.0f}% of Hit@10")
    verdict, found = decide(signs, "at most 55 with 90% of Hit@10 kept")
    return verdict, found + (": " + ", ".join(dict.fromkeys(shown)) if shown else "")


def mixture_is_better(e: Evidence) -> Verdict:
    return decide(against(e, (5, 6), "CFP", (*HITS, "AUC")))


def ends_of(e: Evidence, kind: str, metric: str, low: float, high: float) -> list[int]:
    """The point at setting `high` against the one at `low`: 1 where it is better, sequential task."""
    by_x = {p.x: p for p in e.points.get(kind, []) if p.task == "sequential" and metric in p.values}
    if low not in by_x or high not in by_x:
        return []
    first, last = (summarise([by_x[x].values[metric]]) for x in (low, high))
    return [compare(last, first, metric)]


def swept(
    kind: str, metric: str, low: float, high: float, sign: int
) -> Callable[[Evidence], Verdict]:
    """The rule of a claim about a sweep: from `low` to `high` the metric gets better (1) or worse (-1)."""

    def rule(e: Evidence) -> Verdict:
        verdict, _ = decide([sign * s for s in ends_of(e, kind, metric, low, high)])
        if verdict == UNTESTED:
            return verdict, ""
        by_x = {p.x: p.values[metric] for p in e.points[kind] if p.task == "sequential"}
        ends = "{:.1f} [{:.1f}, {:.1f}]"
        at = lambda x: ends.format(*(100 * v for v in by_x[x]))
        return verdict, f"{metric} {at(low)} at {low:g}, {at(high)} at {high:g}"

    return rule


def reads(auc: Summary) -> int:
    """1 where an AUC's interval leaves 50 out, -1 where it has 50 in it and ends within 10 of it, else 0."""
    if not auc.low <= 50 <= auc.high:
        return 1
    return -1 if max(50 - auc.low, auc.high - 50) <= 10 else 0


def soft_is_weaker(e: Evidence) -> Verdict:
    """Holds where at every length the soft probe reads nothing and the classifier reads something."""
    signs = []
    for p in e.points.get("soft discriminator", []):
        found = reads(summarise([p.values["AUC"]]))
        signs.append(-found if p.series.startswith("soft") else found)
    return decide(signs, "as said")


def soft_longer_is_fairer(e: Evidence) -> Verdict:
    by_x = {p.x: p for p in e.points.get("soft discriminator", []) if "sequential" in p.series}
    if not {5.0, 30.0} <= set(by_x):
        return UNTESTED, ""
    first, last = (summarise([by_x[x].values["AUC"]]) for x in (5.0, 30.0))
    verdict, _ = decide([compare(last, first, "AUC")])
    return verdict, f"classifier {first.mean:.1f} at 5, {last.mean:.1f} at 30"


def probes_read(table: int, model: str, sign: int) -> Callable[[Evidence], Verdict]:
    """The rule of a claim that a probe reads every attribute (1) or none (-1)."""

    def rule(e: Evidence) -> Verdict:
        found = [x for k in LETTERS if (x := e.of(table, model, "", k)) is not None]
        verdict, words = decide([sign * reads(x) for x in found], "as said")
        shown = ", ".join(f"{x.mean:.1f} [{x.low:.1f}, {x.high:.1f}]" for x in found)
        return verdict, f"{words}: {shown}" if found else ""

    return rule


# (section, what the paper says in our words, the rule); the sentences of sections 5 and 6, then three of 3.
CLAIMS: list[tuple[str, str, Callable[[Evidence], Verdict]]] = [
    ("5.2", "P5 recommends better than every other model, matching and sequential", p5_is_best),
    ("5.2", "CFP hides an attribute better than every fair baseline", cfp_is_fairer),
    ("5.2", "CFP recommends better than every fair baseline", cfp_recommends_better),
    ("5.2", "behind a CFP the AUC is close to 50", cfp_is_at_chance),
    ("5.2", "CFP costs less of the recommendations than the other methods do", cfp_costs_least),
    ("5.2", "the mixture hides several attributes and keeps the recommendations", mixture_works),
    (
        "5.2",
        "the mixture does better than C-PMF and C-SX for several attributes",
        mixture_is_better,
    ),
    ("6", "a longer prefix is less fair", swept("prefix length", "AUC", 5, 30, -1)),
    ("6", "a longer prefix recommends better", swept("prefix length", "Hit@1", 5, 30, 1)),
    ("6", "a larger lambda is fairer", swept("lambda", "AUC", 0.1, 100, 1)),
    ("6", "a larger lambda recommends worse", swept("lambda", "Hit@1", 0.1, 100, -1)),
    (
        "6",
        "behind a CFP trained against a soft probing prompt such a prompt reads nothing, a classifier does",
        soft_is_weaker,
    ),
    ("6", "against a soft probing prompt longer CFPs remove more", soft_longer_is_fairer),
    ("3, A.1", "manually designed prompts read nothing", probes_read(7, "with", -1)),
    ("3, A.2", "soft probing prompts read attributes off P5", probes_read(8, "soft", 1)),
    ("3, A.3", "a classifier reads attributes off P5", probes_read(9, "classifier", 1)),
]


def claims_markdown(every: list[Evidence]) -> str:
    """Each claim and what was found of it on each data set."""
    heads = ["section", "the paper says", *(DATA_NAMES.get(e.data, e.data) for e in every)]
    lines = [line(heads), line(["---"] * len(heads))]
    for section, words, rule in CLAIMS:
        cells = []
        for e in every:
            verdict, found = rule(e)
            cells.append(f"**{verdict}**" + (f"; {found}" if found else ""))
        lines.append(line([section, words, *cells]))
    return "\n".join(lines)
