"""What finished runs say: the paper's tables and figures with ours beside them, and its claims decided.

Everything here is computed from rows, which `rows_of` reads out of what runs have left; nothing is trained.
Hit@k and AUC are fractions in the files and percent from `Summary` on. `reproduce.py` is the command.
"""

import csv
import importlib.util
import io
import math
import statistics
from pathlib import Path
from typing import Callable, Iterable, NamedTuple

import published
from baselines import NAMES
from files import write_atomically

LETTERS = {"G": "gender", "A": "age", "O": "occupation", "M": "marital"}
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
    """G, A, O and M of these attributes, in this order."""
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
        """(floor, ceiling) in percent of the attacks on P5's own states, means over seeds and `hidden`.

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
        lines.append(f"Blank: {NAMES.get(e.data, e.data)} has no marital status (M).")
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


# -------------------------------------------------------------------------------------------------
# Figures
# -------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """What a figure draws at one place: a recommender with one setting, on one task, in one run."""

    series: str
    x: float  # the setting: a prefix length or a lambda; NaN where there is none
    task: str
    values: dict[str, list[float]]  # "Hit@k" and "AUC": [value, low, high], fractions
    floor: float  # of the AUC; NaN where it was not measured
    ceiling: float


FIGURES = {
    "3": "what the three probes read",
    "6": "prefix length",
    "7": "prefix length, Insurance",
    "8": "weight of the discriminator",
    "9": "weight of the discriminator, Insurance",
    "10": "a soft probing prompt as the discriminator",
    "trade-off": "recommendations against leak",
}
# Which points a figure is drawn from; figures 7 and 9 are 6 and 8 on Insurance.
DRAWN_FROM = {"6": "prefix length", "7": "prefix length", "8": "lambda", "9": "lambda"}
DRAWN_FROM |= {"10": "soft discriminator", "trade-off": "trade-off"}


def figure_points(name: str, e: Evidence) -> list[Point]:
    """The points of a figure; of figure 3, where x is nothing, a point for each probe and attribute."""
    if name != "3":
        return e.points.get(DRAWN_FROM[name], [])
    found = []
    for table, kind in PROBES.items():
        model = {7: "with", 8: "soft", 9: "classifier"}[table]
        for k, attr in LETTERS.items():
            ours, bounds = e.of(table, model, "", k), e.bounds(table, k)
            if ours is not None:
                auc = [v / 100 for v in (ours.mean, ours.low, ours.high)]
                around = (math.nan, math.nan) if bounds is None else [b / 100 for b in bounds]
                found.append(
                    Point(f"{kind}, {attr}", math.nan, "sequential", {"AUC": auc}, *around)
                )
    return found


def figure_csv(name: str, e: Evidence) -> str:
    """A figure's points, percent, two digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("figure series x task metric value low high floor ceiling".split())
    for p in figure_points(name, e):
        for metric, values in p.values.items():
            around = (100 * p.floor, 100 * p.ceiling) if metric == "AUC" else (None, None)
            cells = map(two_digits, [*(100 * v for v in values), *around])
            writer.writerow([name, p.series, setting(p), p.task, metric, *cells])
    return text.getvalue()


def setting(point: Point) -> str:
    return "" if math.isnan(point.x) else f"{point.x:g}"


def figure_markdown(name: str, e: Evidence) -> str:
    """A figure's points as a table: percent, 95% intervals over users."""
    points = figure_points(name, e)
    metrics = [m for m in (*HITS, "AUC") if any(m in p.values for p in points)]
    cell = lambda v: "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in v)) if v else ""
    x = {"6": "prefix length", "7": "prefix length", "10": "prefix length"}.get(name, "lambda")
    heads = ["", *([] if name == "3" else [x, "task"]), *metrics, "floor", "ceiling"]
    lines = [f"**Figure {name}: {FIGURES[name]}** (%)", "", line(heads), line(["---"] * len(heads))]
    for p in points:
        cells = [p.series, *([] if name == "3" else [setting(p), p.task])]
        cells += [cell(p.values.get(m)) for m in metrics]
        cells.append("" if math.isnan(p.floor) else f"50 ± {100 * p.floor:.1f}")
        cells.append("" if math.isnan(p.ceiling) else f"{100 * p.ceiling:.1f}")
        lines.append(line(cells))
    return "\n".join([*lines, ""])


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(name: str, e: Evidence, path: Path) -> None:
    """Draw a figure as PNG, where `can_draw` and there are points."""
    assert figure_points(name, e), f"figure {name} has no points"
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawing = {"3": draw_probes, "10": draw_soft, "trade-off": draw_trade_off}
    figure = drawing.get(name, draw_sweep)(plt, name, e)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    write_atomically(path, content.getvalue())


def percent(values: list[float]) -> tuple[float, list[list[float]]]:
    """(value, [[down], [up]]) of [value, low, high], for an error bar."""
    value, low, high = (100 * v for v in values)
    return value, [[max(value - low, 0)], [max(high - value, 0)]]


COLOURS = ["#1f5fa8", "#d1732a", "#3a8f4d", "#8a4fa3", "#b0344d"]  # also told apart by markers
MARKERS = ["o", "s", "^", "D", "v"]


def about(e: Evidence) -> str:
    return f"{NAMES.get(e.data, e.data)}, {e.backbone}"


NAMES = {"toy": "toy world", "ml-100k": "MovieLens-100K", "ml-1m": "MovieLens-1M"}
NAMES |= {"insurance": "Insurance"}


def bounds_of(axes, points: list[Point]) -> None:
    """Shade how far from 50 shuffled labels get, and mark what the raw history tells."""
    floors = [100 * p.floor for p in points if not math.isnan(p.floor)]
    ceilings = [100 * p.ceiling for p in points if not math.isnan(p.ceiling)]
    axes.axhline(50, color="black", lw=0.8)
    if floors:
        reach = statistics.fmean(floors)
        label = "shuffled labels (95%)"
        axes.axhspan(50 - reach, 50 + reach, color="#8c8c8c", alpha=0.25, lw=0, label=label)
    if ceilings:
        axes.axhline(statistics.fmean(ceilings), color="black", ls=":", lw=1.2, label="raw history")


def draw_probes(plt, name: str, e: Evidence):
    """Figure 3: bars of AUC for each attribute and probe, the paper's numbers of tables 7 to 9 as crosses."""
    attrs = [k for k in LETTERS if e.of(9, "classifier", "", k) or e.of(8, "soft", "", k)]
    attrs = attrs or [k for k in LETTERS if e.of(7, "with", "", k)]
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    paper = {}
    for table, model in (7, "with"), (8, "soft"), (9, "classifier"):
        for cell in published.cells(table):
            if cell.data == half_of(e.data) and cell.model == model:
                paper[table, cell.metric] = cell.percent
    for place, (table, model) in enumerate(((7, "with"), (8, "soft"), (9, "classifier"))):
        label = {7: "asking, in context", 8: "soft probing prompt", 9: "classifier"}[table]
        for at, k in enumerate(attrs):
            x, ours = at + 0.26 * (place - 1), e.of(table, model, "", k)
            if ours is not None:
                first = label if k == attrs[0] else None
                axes.bar(x, ours.mean - 50, 0.24, bottom=50, color=COLOURS[place], label=first)
                ends = [[max(ours.mean - ours.low, 0)], [max(ours.high - ours.mean, 0)]]
                axes.errorbar(x, ours.mean, ends, fmt="none", ecolor="black", capsize=3, lw=1)
            if (table, k) in paper:
                first = "the paper (tables 7 to 9)" if (place, at) == (0, 0) else None
                axes.plot(x, paper[table, k], "x", color="black", ms=8, mew=2, label=first)
    for at, k in enumerate(attrs):
        b = e.bounds(2, k)
        if b is not None:
            label = "raw history" if at == 0 else None
            axes.hlines(b[1], at - 0.4, at + 0.4, color="black", ls=":", lw=1.4, label=label)
    axes.axhline(50, color="black", lw=0.8)
    axes.set_xticks(range(len(attrs)), [LETTERS[k] for k in attrs])
    axes.set_ylabel("AUC (%), 50 is chance")
    title = f"What each probe reads off P5: {about(e)}, seed 0, 95% intervals over users"
    axes.set_title(title, fontsize="medium")
    figure.legend(fontsize="small", ncols=5, loc="outside lower center")
    return figure


def draw_sweep(plt, name: str, e: Evidence):
    """Figures 6 to 9: Hit@1 and AUC, sequential and direct, over the prefix length or lambda."""
    points = figure_points(name, e)
    figure, both = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for axes, metric in zip(both, ("Hit@1", "AUC")):
        some = [p for p in points if not math.isnan(p.x)]
        for place, task in enumerate(("sequential", "direct")):
            curve = sorted((p for p in some if p.task == task), key=lambda p: p.x)
            if not curve:
                continue
            style = dict(color=COLOURS[place], marker=MARKERS[place])
            values = [percent(p.values[metric]) for p in curve]
            ends = [[end[side][0] for _, end in values] for side in (0, 1)]
            x, y = [p.x for p in curve], [value for value, _ in values]
            axes.errorbar(x, y, ends, capsize=3, lw=1.6, ms=6, label=f"CFP, {task}", **style)
            before = [p for p in points if math.isnan(p.x) and p.task == task]
            if before:
                at = percent(before[0].values[metric])[0]
                axes.axhline(at, color=COLOURS[place], ls="--", lw=1, label=f"P5, {task}")
        if metric == "AUC":
            bounds_of(axes, some)
        ticks = sorted({p.x for p in some})
        if name in ("8", "9"):
            axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlabel(
            "λ, weight of the discriminator" if name in "89" else "prefix length (tokens)"
        )
        what = (
            f"{some[0].series} AUC (%), strongest fresh attacker"
            if metric == "AUC"
            else "Hit@1 (%)"
        )
        axes.set_ylabel(what)
        axes.grid(alpha=0.3, lw=0.6)
        axes.margins(y=0.12)
    figure.legend(*both[1].get_legend_handles_labels(), ncols=6, loc="outside lower center")
    figure.suptitle(f"{about(e)}, seed 0, 95% intervals over users", fontsize="medium")
    return figure


def draw_soft(plt, name: str, e: Evidence):
    """Figure 10: what a soft probing prompt and a classifier read where the prefix hid from the former."""
    points = figure_points(name, e)
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for place, series in enumerate(dict.fromkeys(p.series for p in points)):
        curve = sorted((p for p in points if p.series == series), key=lambda p: p.x)
        values = [percent(p.values["AUC"]) for p in curve]
        ends = [[end[side][0] for _, end in values] for side in (0, 1)]
        # beside one another, so that the intervals can be told apart
        x = [p.x + 0.35 * (place - 1) for p in curve]
        style = dict(color=COLOURS[place], marker=MARKERS[place], capsize=3, lw=1.6, ms=6)
        axes.errorbar(x, [value for value, _ in values], ends, label=series, **style)
    letter = "M" if e.data == "insurance" else "G"
    for place, (table, name) in enumerate(((8, "soft"), (9, "classifier"))):
        bare = e.of(table, name, "", letter)
        if bare is not None:
            label = (
                f"{'classifier, sequential prompts' if place else 'soft probing prompt'}, P5 alone"
            )
            axes.axhline(bare.mean, color=COLOURS[place], ls="--", lw=1, label=label)
    axes.axhline(50, color="black", lw=0.8)
    ticks = sorted({p.x for p in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_xlabel("prefix length (tokens)")
    axes.set_ylabel(f"AUC of {LETTERS[letter]} (%), 50 is chance")
    title = (
        f"Read through a CFP that was trained against a soft probing prompt:\n{about(e)}, seed 0, "
    )
    axes.set_title(title + "95% intervals over tested users", fontsize="medium")
    axes.grid(alpha=0.3, lw=0.6)
    figure.legend(fontsize="small", ncols=2, loc="outside lower center")
    return figure


def draw_trade_off(plt, name: str, e: Evidence):
    """Ours: Hit@10 against the strongest attacker's AUC over lambda, each fair model a curve."""
    points = figure_points(name, e)
    figure, both = plt.subplots(1, 2, figsize=(12.5, 5.6), layout="constrained")
    shown = "marital status" if e.data == "insurance" else "gender"
    order = ["CFP", "C-PMF", "C-SX", "S-SAS", "S-B4"]
    rank = ["P5", "CFP", "LEACE", *(name for fair in order[1:] for name in (UNFAIR[fair], fair))]
    for axes, task in zip(both, ("sequential", "direct")):
        some = [p for p in points if p.task == task]
        for series in sorted({p.series for p in some}, key=rank.index):
            base = {v: k for k, v in UNFAIR.items()}.get(series, series)
            place = order.index(base) if base in order else 0
            curve = sorted(
                (p for p in some if p.series == series), key=lambda p: (p.x, p.values["AUC"])
            )
            x = [percent(p.values["AUC"]) for p in curve]
            y = [percent(p.values["Hit@10"]) for p in curve]
            ends = lambda found: [[end[side][0] for _, end in found] for side in (0, 1)]
            swept = not any(math.isnan(p.x) for p in curve)
            face = COLOURS[place] if swept or series == "LEACE" else "white"
            marker = "*" if series == "LEACE" else MARKERS[place]
            axes.errorbar(
                [v for v, _ in x],
                [v for v, _ in y],
                ends(y),
                ends(x),
                label=series,
                color=COLOURS[place],
                marker=marker,
                mfc=face,
                ms=14 if series == "LEACE" else 7,
                lw=1.5 if swept else 0,
                elinewidth=0.7,
                alpha=0.9,
            )
            for p, (at_x, _), (at_y, _) in zip(curve, x, y):
                if swept:
                    place_at = dict(xytext=(-4, 5), textcoords="offset points", fontsize="x-small")
                    axes.annotate(
                        f"λ {p.x:g}", (at_x, at_y), color=COLOURS[place], ha="right", **place_at
                    )
        floors = [100 * p.floor for p in some if not math.isnan(p.floor)]
        if floors:
            reach = statistics.fmean(floors)
            label = "shuffled labels (95%)"
            axes.axvspan(50 - reach, 50 + reach, color="#8c8c8c", alpha=0.25, lw=0, label=label)
        axes.axvline(50, color="black", lw=0.8)
        axes.set_xlabel("AUC of the strongest fresh attacker (%), 50 is chance")
        axes.set_ylabel("Hit@10 (%)")
        axes.set_title(f"{task} recommendation", fontsize="medium")
        axes.grid(alpha=0.3, lw=0.6)
        axes.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    title = f"{about(e)}, {shown}, seed 0, 95% intervals over users; hollow: nothing hidden; "
    figure.suptitle(title + "better is higher and nearer to 50", fontsize="medium")
    return figure


# -------------------------------------------------------------------------------------------------
# Claims
# -------------------------------------------------------------------------------------------------

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


# (section, what the paper says in our words, the rule); the sentences of sections 5 and 6, then two of 3.
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
    heads = ["section", "the paper says", *(NAMES.get(e.data, e.data) for e in every)]
    lines = [line(heads), line(["---"] * len(heads))]
    for section, words, rule in CLAIMS:
        cells = []
        for e in every:
            verdict, found = rule(e)
            cells.append(f"**{verdict}**" + (f"; {found}" if found else ""))
        lines.append(line([section, words, *cells]))
    return "\n".join(lines)
