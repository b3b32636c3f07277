"""What finished runs say: rows, their means over seeds, and the paper's tables with ours beside them.

Everything here is computed from rows, which `rows_of` reads out of what runs have left; nothing is trained.
Hit@k and AUC are fractions in the files and percent from `Summary` on. `reproduce.py` is the command.
"""

import csv
import io
import math
import statistics
from typing import Iterable, NamedTuple

from reproduction import published
from reproduction.baseline_flags import NAMES

LETTERS = {"G": "gender", "A": "age", "M": "marital", "O": "occupation"}  # as the paper orders them
HITS = "Hit@1", "Hit@3", "Hit@10"
# Which prompts a table is about. # Paper silent: for tables 5, 6, 14 and 15; their Hit@k are near those
# of tables 3, 3, 12 and 13.
TASK = {n: "sequential" if n in (2, 4, 11, 13, 15) else "direct" for n in range(1, 16)}
LLAMA = range(10, 16)  # tables of appendix B
PROBES = {7: "manual", 8: "soft", 9: "classifier"}

# What differs from the paper's protocol, beside what the runs' own files say.
PROTOCOL = {
    "toy": "an embedded world in place of real people: the paper's numbers are for orientation",
    "ml-100k": "MovieLens-100K in place of MovieLens-1M: the paper's numbers are for orientation",
    "ml-1m": "ratings as in the file at hand; the paper's release draws negatives from 1 to 6040, of which "
    "more than a third name no movie, and has 15 occupations where the text has 21",
    "insurance": "leave-one-out over an order drawn at random, as the data have no times; 21 products, so "
    "there are never 100 negatives; marital 7 and occupation 6 classes as in the text, where the release has "
    "3 and 3",
}


class Row(NamedTuple):
    """One recommender, with something hidden or nothing, on one task in one run."""

    model: str  # as the paper calls it: "P5", "CFP", "PMF", "C-PMF", ..
    hidden: str  # letters of what is hidden, in the order of LETTERS: "", "G", "GA", ..
    task: str
    seed: int
    values: dict[str, list[float]]  # metric, "Hit@k" or a letter for its AUC: [value, low, high]
    floor: dict[str, float]  # of each letter: how far from one half shuffled labels get
    ceiling: dict[str, float]  # of each letter: AUC of the raw history


class Summary(NamedTuple):
    """A figure over seeds, in percent."""

    mean: float
    sd: float  # over seeds, n - 1 below; NaN of a single one
    low: float  # mean of the seeds' lower ends (95% over users), sd further down where there is one
    high: float  # the same at the upper end
    n: int  # seeds


def summarise(found: Iterable[list[float]]) -> Summary | None:
    """Over seeds of [value, low, high], fractions; None where there is none."""
    found = list(found)
    if not found:
        return None
    value, low, high = (statistics.fmean(100 * x for x in some) for some in zip(*found))
    sd = statistics.stdev(100 * row[0] for row in found) if len(found) > 1 else math.nan
    wider = 0.0 if math.isnan(sd) else sd
    return Summary(value, sd, low - wider, high + wider, len(found))


def distance(auc: Summary) -> Summary:
    """How far an AUC is from 50, with its interval: what a leak is, on either side."""
    mean, low, high = away_from(50, auc.mean, auc.low, auc.high)
    return Summary(mean, auc.sd, low, high, auc.n)


def away_from(chance: float, value: float, low: float, high: float) -> tuple[float, float, float]:
    """How far a value is from chance, with the ends of that: 0 is among them where chance is."""
    ends = abs(low - chance), abs(high - chance)
    return abs(value - chance), 0.0 if low <= chance <= high else min(ends), max(ends)


def compare(ours: Summary, other: Summary, metric: str) -> int:
    """1 where `ours` is better than `other`, -1 where it is worse, 0 where their intervals overlap.

    A Hit@k is better the higher it is, an AUC the nearer it is to 50.
    """
    if metric not in HITS:
        ours, other = distance(other), distance(ours)
    return (ours.low > other.high) - (ours.high < other.low)


# -------------------------------------------------------------------------------------------------
# From files to rows
# -------------------------------------------------------------------------------------------------


def letters(attrs: Iterable[str]) -> str:
    """G, A, M and O of these attributes, in this order."""
    return "".join(letter for letter, attr in LETTERS.items() if attr in attrs)


def values_of(row: dict, attrs: list[str]) -> dict[str, list[float]]:
    """Hit@k and each attribute's AUC of a row of results.json, as [value, low, high]."""
    found = {f"Hit@{k}": [row[f"hit@{k}"], *row[f"hit@{k} interval"]] for k in (1, 3, 10)}
    for attr in attrs if "auc" in row else ():
        found[letters([attr])] = [row["auc"][attr], *row["auc interval"][attr]]
    return found


def rows_of(results: dict) -> list[Row]:
    """The rows of results.json of train.py or baselines.py: one per recommender, choice and task."""
    attrs, rows = list(results["ceiling"]), []
    ceiling = {letters([k]): results["ceiling"][k]["auc"][0] for k in attrs}

    def add(model: str, hidden: Iterable[str], task: str, row: dict, floor: dict) -> None:
        floor = {letters([k]): floor[k] for k in floor}
        values = values_of(row, attrs)
        rows.append(Row(model, letters(hidden), task, results["seed"], values, floor, ceiling))

    for task in results["tasks"]:
        add("popularity", (), task, results["popularity"][task], {})
        if "rows" in results:  # of baselines.py; popularity is among its rows too
            for row in results["rows"]:
                model = MODELS[row["model"]]
                if model != "popularity":
                    add(model, row["hidden"], task, row[task], row["floor"])
            continue
        floor = results["floor"][task]
        add("P5", (), task, results["before"][task], floor)
        if "after" in results:
            add("CFP", results["attrs"], task, results["after"][task], floor)
        for way in results.get("ways", ()):
            model = "CFP" if way["how"] == "mixer" else f"CFP, {way['how']}"
            add(model, way["attrs"], task, way[task], floor)
    return rows


MODELS = NAMES | {"cfp": "CFP"}  # as the paper calls them
UNFAIR = {"C-PMF": "PMF", "C-SX": "SimpleX", "S-SAS": "SASRec", "S-B4": "BERT4Rec", "CFP": "P5"}


class Point(NamedTuple):
    """What a figure draws at one place: a recommender with one setting, on one task, in one run."""

    series: str
    x: float  # the setting: a prefix length or a lambda; NaN where there is none
    task: str
    values: dict[str, list[float]]  # "Hit@k" and "AUC": [value, low, high], fractions
    floor: float  # of the AUC; NaN where it was not measured
    ceiling: float


class Evidence(NamedTuple):
    """All that is known of one data set and one backbone."""

    data: str
    backbone: str  # of tables 1 to 9 and the figures
    llama: str  # of tables 10 to 15
    rows: list[Row]  # of the main runs, with the T5
    llama_rows: list[Row]
    probes: list[tuple[str, str, int, dict]]  # (kind, letter, seed, the probe's file)
    points: dict[str, list["Point"]]  # what figures 6 to 10 and the trade-off are drawn from
    sizes: dict  # "users", "candidates", "prompt candidates" of a run; {} where there is none

    def of(self, table: int, model: str, hidden: str, metric: str) -> Summary | None:
        """Ours for a place in a table of the paper, None where nothing was run.

        `metric` is "Hit@k", a letter, or "AUC": of what is hidden, of several 50 and their mean distance
        from it.
        """
        if table in PROBES:
            return self.probed(PROBES[table], model, metric)
        rows = self.llama_rows if table in LLAMA else self.rows
        about = [r for r in rows if (r.model, r.hidden, r.task) == (model, hidden, TASK[table])]
        about = [row for _, row in sorted(once_per_seed(about, metric).items())]
        if metric == "AUC" and len(hidden) == 1:
            return summarise(row.values[hidden] for row in about)
        if metric == "AUC":
            return summarise(mean_leak([row.values[k] for k in hidden]) for row in about)
        return summarise(row.values[metric] for row in about)

    def probed(self, kind: str, name: str, letter: str) -> Summary | None:
        """Ours for a probe's AUC; `name` is the column of the paper's table, or a key of the probe's file."""
        key = {
            "with": "in-context, with interactions",
            "without": "in-context, without interactions",
        }
        key |= {"soft": "soft prompt", "classifier": "classifier, sequential prompts"}
        read, files = key.get(name, name), [
            f for k, a, _, f in self.probes if (k, a) == (kind, letter)
        ]
        return summarise(f[read]["auc"] for f in files if read in f)

    def bounds(self, table: int, hidden: str) -> tuple[float, float] | None:
        """(floor, ceiling) in percent of the attacks, means over seeds and `hidden`.

        They are of P5's own states, but the floor of a run with one attribute is of those behind its prompt.

        A probe has a floor of its own, which nobody has measured: NaN.
        """
        if table in PROBES:
            known = self.bounds(2, hidden)
            return None if known is None else (math.nan, known[1])
        rows = self.llama_rows if table in LLAMA else self.rows
        rows = [r for r in rows if (r.model, r.hidden, r.task) == ("P5", "", TASK[table])]
        rows = [row for row in rows if all(k in row.floor for k in hidden)]
        if not rows or not hidden:
            return None
        mean = lambda which: statistics.fmean(100 * which(r)[k] for r in rows for k in hidden)
        return mean(lambda row: row.floor), mean(lambda row: row.ceiling)


DATA_NAMES = {"toy": "toy world", "ml-100k": "MovieLens-100K", "ml-1m": "MovieLens-1M"}
DATA_NAMES |= {"insurance": "Insurance"}


def about(e: Evidence) -> str:
    return f"{DATA_NAMES.get(e.data, e.data)}, {e.backbone}"


def once_per_seed(rows: list[Row], metric: str) -> dict[int, Row]:
    """The first row of each seed that has the metric: the same recommender can be in several runs."""
    found: dict[int, Row] = {}
    for row in rows:
        has = all(k in row.values for k in row.hidden) if metric == "AUC" else metric in row.values
        if has:
            found.setdefault(row.seed, row)
    return found


def mean_leak(aucs: list[list[float]]) -> list[float]:
    """One half and the mean distance from it of [AUC, low, high], with the mean of the distances' ends.

    45 does not make up for 55.
    """
    return [0.5 + statistics.fmean(some) for some in zip(*(away_from(0.5, *auc) for auc in aucs))]


# -------------------------------------------------------------------------------------------------
# Tables
# -------------------------------------------------------------------------------------------------


SHOWN = {  # what a row of tables 7 to 9 is called
    "with": "with interactions; ours asks in context",
    "without": "without interactions; ours asks in context",
    "direct, with interactions": "with interactions, asked directly",
    "direct, without interactions": "without interactions, asked directly",
    "soft": "soft probing prompt",
    "classifier": "classifier; ours on sequential prompts",
    "classifier, direct prompts": "classifier on direct prompts",
}


class Entry(NamedTuple):
    """A place in a table: the paper's number and ours, either of which may be missing."""

    model: str
    hidden: str
    metric: str
    paper: float | None
    ours: Summary | None


def half_of(data: str) -> str:
    """Whose half of the paper's tables stands beside ours."""
    return "Insurance" if data == "insurance" else "MovieLens"


def entries(table: int, e: Evidence) -> list[Entry]:
    """Every place of the paper's table for this data set, then what we have beyond it."""
    cells = published.cells(table)
    if any(cell.data == half_of(e.data) for cell in cells):
        cells = [cell for cell in cells if cell.data == half_of(e.data)]
    ours = lambda model, hidden, metric: e.of(table, model, hidden, metric)
    places = [c[2:5] for c in cells]
    found = [Entry(*place, c.percent, ours(*place)) for place, c in zip(places, cells)]
    metrics = list(dict.fromkeys(cell.metric for cell in cells))
    more = []
    if table in (1, 2, 10, 11):
        more = [("popularity", "", hit) for hit in HITS] + [("lookup", "", hit) for hit in HITS]
    if table == 7:
        more = [
            (f"direct, {how} interactions", "", k) for how in ("with", "without") for k in metrics
        ]
    if table == 9:
        more = [("classifier, direct prompts", "", k) for k in metrics]
    beyond = [Entry(*place, None, ours(*place)) for place in more]
    return found + [entry for entry in beyond if entry.ours is not None]


def number(summary: Summary | None, mark: str = "") -> str:
    """A cell of ours: 55.9 ± 1.2 over seeds, 55.9 of a single one, with its mark behind."""
    if summary is None:
        return ""
    spread = "" if math.isnan(summary.sd) else f" ± {summary.sd:.1f}"
    return f"{summary.mean:.1f}{spread}{mark}"


def reference(table: int) -> str:
    """Whom a table's other rows are compared with."""
    return "CFP" if table in (3, 4, 5, 6) else "P5" if table in (1, 2) else ""


def table_markdown(table: int, e: Evidence) -> str:
    """A table of the paper with ours beside it, its floors and ceilings, and how it was measured."""
    found = entries(table, e)
    metrics = list(dict.fromkeys(entry.metric for entry in found))
    by_row: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in found:
        by_row.setdefault((entry.hidden, entry.model), {})[entry.metric] = entry
    hides, alone = any(entry.hidden for entry in found), [m for m in metrics if m in LETTERS]
    heads = (["hidden"] if hides else []) + [""]
    for metric in metrics:
        name = {"AUC": "AUC", **LETTERS}.get(metric, metric) + (" AUC" if metric in LETTERS else "")
        heads += [f"{name}, paper", "ours"]
    heads += ["floor", "ceiling"] if hides else []
    lines = [f"**Table {table}: {published.TITLES[table]}** (%)", ""]
    lines += [line(heads), line(["---"] * len(heads))]
    better = reference(table)
    for (hidden, model), row in by_row.items():
        cells = ([hidden] if hides else []) + [SHOWN.get(model, model)]
        for metric in metrics:
            entry = row.get(metric)
            paper = "" if entry is None or entry.paper is None else f"{entry.paper:.2f}"
            cells += [
                paper,
                "" if entry is None else number(entry.ours, mark_of(entry, by_row, better)),
            ]
        if hides:
            bounds = e.bounds(table, hidden)
            cells += ["", ""] if bounds is None else [f"50 ± {bounds[0]:.1f}", f"{bounds[1]:.1f}"]
        lines.append(line(cells))
    bounds = {k: e.bounds(table, k) for k in alone}
    for place, name in enumerate(("*shuffled labels (floor)*", "*raw history (ceiling)*")):
        if any(b is not None and not math.isnan(b[place]) for b in bounds.values()):
            cells = [name]
            for metric in metrics:
                b = bounds.get(metric)
                text = "" if b is None else f"50 ± {b[0]:.1f}" if place == 0 else f"{b[1]:.1f}"
                cells += ["", text]
            lines.append(line(cells))
    return "\n".join([*lines, "", *notes(table, e, found)])


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def mark_of(entry: Entry, by_row: dict, better: str) -> str:
    """+ where a row's figure is better than that of `better` in the same table, - where worse."""
    other = by_row.get((entry.hidden, better), {}).get(entry.metric)
    if entry.ours is None or other is None or other.ours is None or entry.model == better:
        return ""
    return {1: " +", -1: " -", 0: ""}[compare(entry.ours, other.ours, entry.metric)]


def notes(table: int, e: Evidence, found: list[Entry]) -> list[str]:
    """The lines under a table: what is blank, how ours was measured, what is odd in the paper's."""
    lines = []
    blank = [x for x in found if x.paper is not None and x.ours is None]
    unheard = [x for x in blank if "M" in (*x.hidden, x.metric) and e.data != "insurance"]
    rest = dict.fromkeys((x.model, x.hidden) for x in blank if x not in unheard)
    if not any(x.ours for x in found):
        lines.append("Ours: not run.")
    elif unheard:
        lines.append(f"Blank: {DATA_NAMES.get(e.data, e.data)} has no marital status (M).")
    if rest and any(x.ours for x in found):
        names = ", ".join(
            f"{model}{f' hiding {hidden}' if hidden else ''}" for model, hidden in rest
        )
        lines.append(f"Blank: not run, in part or whole: {names}.")
    seeds = sorted({x.ours.n for x in found if x.ours})
    if seeds:
        many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        mark = reference(table)
        lines.append(
            f"Ours: mean ± standard deviation over seeds ({many})"
            + ("." if table in PROBES else "; 50 ± is how far from 50 shuffled labels get.")
            + (
                f" + better, - worse than {mark}, where the intervals do not overlap."
                if mark
                else ""
            )
        )
    lines.append(f"Protocol: {protocol(table, e)}.")
    if table in published.DOUBTS:
        lines.append(f"In the paper: {published.DOUBTS[table]}")
    return [part for text in lines for part in (text, "")]


def protocol(table: int, e: Evidence) -> str:
    """What differs between the paper's numbers and ours, in one line."""
    parts = [PROTOCOL[e.data]]
    backbone = e.llama if table in LLAMA else e.backbone
    parts.append(
        f"{backbone} where the paper has {'OpenLlama-3B' if table in LLAMA else 'T5-Base'}"
    )
    task = TASK[table]
    if e.sizes and table not in PROBES:
        few, most = e.sizes["candidates"].get(task, [0, 0])
        among = f"{most}" if few == most else f"{few} to {most}"
        listed = e.sizes["prompt candidates"] or "none"
        parts.append(
            f"{e.sizes['users']} users, the test item among {among} real candidates that the user never met"
        )
        if task == "direct":
            parts.append(f"{listed} of them listed in the prompt (the paper lists 100)")
    if table in PROBES:
        parts.append("one against the rest beyond two classes, which the paper does not say")
    else:
        parts.append(
            "AUC one against the rest of the strongest of several fresh attackers, five folds over users; "
            "the paper's is one classifier, on sentences"
        )
    return "; ".join(parts)


def table_csv(table: int, e: Evidence) -> str:
    """The same as one line per number, with intervals, seeds, floor and ceiling; percent, two digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("table model hidden metric paper mean sd low high seeds floor ceiling".split())
    for entry in entries(table, e):
        about = entry.hidden if entry.metric == "AUC" else entry.metric
        bounds = None if entry.metric in HITS else e.bounds(table, about)
        writer.writerow(
            [
                table,
                *entry[:3],
                two_digits(entry.paper),
                *map(two_digits, (entry.ours or [None] * 4)[:4]),
            ]
            + [entry.ours.n if entry.ours else "", *map(two_digits, bounds or (None, None))]
        )
    return text.getvalue()


def two_digits(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"
