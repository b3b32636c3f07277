"""What finished runs say: rows, their means over seeds, and the paper's tables with ours beside them.

Everything here is computed from what runs have left, which `gather` reads; nothing is trained.
Hit@k and AUC are fractions in the files and percent from `Summary` on. `tables.py` is the command.
"""

import csv
import io
import json
import math
import statistics
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from reproduction import published
from reproduction.baselines import NAMES
from reproduction.plan import (
    HALF,
    LAMBDAS,
    PREFIX_LENGTHS,
    SEVERAL_SEEDS,
    Job,
    World,
    finished_jobs,
    is_of,
)
from support.hits import SHARES, shares, triple
from support.screens import KEPT, how_many_candidates

LETTERS = {"G": "gender", "A": "age", "M": "marital", "O": "occupation"}  # as the paper orders them
QUALITY = "Hit@1", "Hit@3", "Hit@10", *SHARES  # of recommendations: the higher the better
# Which prompts a table is about. # Paper silent: for tables 5, 6, 14 and 15; their Hit@k are near those
# of tables 3, 3, 12 and 13.
TASK = {n: "sequential" if n in (2, 4, 11, 13, 15) else "direct" for n in range(1, 16)}
LLAMA = range(10, 16)  # tables of appendix B
# The model with which a table's other rows are compared.
REFERENCE = {1: "P5", 2: "P5"} | dict.fromkeys((3, 4, 5, 6), "CFP")
PROBES = {7: "manual", 8: "soft", 9: "classifier"}
# What a probe reads, as tables 7 to 9 name it: its key in the probe's file, and the name of our row.
READINGS = {
    "with": ("in-context, with interactions", "with interactions; ours asks in context"),
    "without": ("in-context, without interactions", "without interactions; ours asks in context"),
    "soft": ("soft prompt", "soft probing prompt"),
    "classifier": ("classifier, sequential prompts", "classifier; ours on sequential prompts"),
}
BEYOND = {  # what the paper has not read, under the key in the probe's file
    "direct, with interactions": "with interactions, asked directly",
    "direct, without interactions": "without interactions, asked directly",
    "classifier, direct prompts": "classifier on direct prompts",
}
READINGS |= {key: (key, name) for key, name in BEYOND.items()}

# The models of direct recommendation; their scores know no order.
MATCHING = "PMF", "SimpleX", "C-PMF", "C-SX"
UNFAIR = {"C-PMF": "PMF", "C-SX": "SimpleX", "S-SAS": "SASRec", "S-B4": "BERT4Rec", "CFP": "P5"}
DATA_NAMES = {"toy": "toy world", "ml-100k": "MovieLens-100K", "ml-1m": "MovieLens-1M"}
DATA_NAMES |= {"insurance": "Insurance"}

# What differs from the paper's protocol, in addition to what the runs' own files say.
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
    values: dict[str, list[float]]  # "Hit@k", a share or a letter for its AUC: [value, low, high]
    floor: dict[str, float]  # of each letter: how far from one half shuffled labels get
    ceiling: dict[str, float]  # of each letter: AUC of the raw history


class Summary(NamedTuple):
    """A figure over seeds, in percent."""

    mean: float
    sd: float  # over seeds, divided by n - 1; NaN for a single one
    low: float  # mean of the seeds' lower ends (95% over users), moved down by sd if there is one
    high: float  # the same at the upper end
    n: int  # seeds


def summarise(intervals: Iterable[list[float]]) -> Summary | None:
    """The Summary of [value, low, high] of each seed, fractions; None where there is none."""
    intervals = list(intervals)
    if not intervals:
        return None
    value, low, high = (statistics.fmean(100 * x for x in column) for column in zip(*intervals))
    sd = statistics.stdev(100 * x for x, _, _ in intervals) if len(intervals) > 1 else math.nan
    wider = 0.0 if math.isnan(sd) else sd
    return Summary(value, sd, low - wider, high + wider, len(intervals))


def distance(auc: Summary) -> Summary:
    """How far an AUC is from 50: a leak counts on either side.

    The interval begins at 0 where 50 is inside that of the AUC.
    """
    ends = abs(auc.low - 50), abs(auc.high - 50)
    low = 0.0 if auc.low <= 50 <= auc.high else min(ends)
    return auc._replace(mean=abs(auc.mean - 50), low=low, high=max(ends))


def compare(ours: Summary, other: Summary, metric: str) -> int:
    """1 where `ours` is better than `other`, -1 where it is worse, 0 where their intervals overlap.

    A Hit@k or a share of it is better the higher it is, an AUC the nearer it is to 50. Without an interval
    there is nothing to compare, and that is 0 too.
    """
    if metric not in QUALITY:
        ours, other = distance(other), distance(ours)
    return (ours.low > other.high) - (ours.high < other.low)


def mean_leak(aucs: list[list[float]]) -> list[float]:
    """One half plus the mean distance from it of several [AUC, low, high], with the means of the ends.

    45 does not make up for 55.
    """
    leaks = [distance(summarise([auc])) for auc in aucs]
    columns = zip(*((leak.mean, leak.low, leak.high) for leak in leaks))
    return [0.5 + statistics.fmean(column) / 100 for column in columns]


def letters(attrs: Iterable[str]) -> str:
    """The letters of these attributes, in the order of LETTERS."""
    return "".join(letter for letter, attr in LETTERS.items() if attr in attrs)


def rows_of(results: dict) -> list[Row]:
    """The rows of results.json of train.py or baselines.py: one per recommender, choice and task."""
    attrs, rows, bare = list(results["ceiling"]), [], {}
    ceiling = {letters([k]): results["ceiling"][k]["auc"][0] for k in attrs}

    def add(model: str, hidden: Iterable[str], task: str, row: dict, floor: dict) -> None:
        values = {f"Hit@{k}": triple(row, f"hit@{k}") for k in (1, 3, 10)}
        if hidden:
            known = bare["popularity"], bare[UNFAIR[model.split(",")[0]]], row
            # the shares of older results have no interval: nobody knows who was hit in both
            found = shares(*(each["hit@10"] for each in known)) | row
            there = {k: found[k] for k in SHARES if found[k][0] is not None}
            values |= {k: [math.nan if x is None else x for x in there[k]] for k in there}
        else:
            bare[model] = row
        for k in attrs if "auc" in row else ():
            values[letters([k])] = [row["auc"][k], *row["auc interval"][k]]
        floor = {letters([k]): floor[k] for k in floor}
        rows.append(Row(model, letters(hidden), task, results["seed"], values, floor, ceiling))

    for task in results["tasks"]:
        floor = results.get("floor", {}).get(task, {})
        add("popularity", (), task, results["popularity"][task], {})
        for row in results.get("rows", [])[1:]:  # of baselines.py; the first is popularity's
            add(NAMES[row["model"]], row["hidden"], task, row[task], row["floor"])
        if "before" in results:
            add("P5", (), task, results["before"][task], floor)
        if "after" in results:
            add("CFP", results["attrs"], task, results["after"][task], floor)
        for way in results.get("ways", ()):
            model = "CFP" if way["how"] == "mixer" else f"CFP, {way['how']}"
            add(model, way["attrs"], task, way[task], floor)
    return rows


class Point(NamedTuple):
    """What a figure draws at one place: a recommender with one setting, on one task, in one run."""

    series: str
    x: float  # the setting: a prefix length or a lambda; NaN where there is none
    task: str
    values: dict[str, list[float]]  # "Hit@k" and "AUC": [value, low, high], fractions
    floor: float = math.nan  # of the AUC; NaN where it was not measured
    ceiling: float = math.nan


class Evidence(NamedTuple):
    """All that is known of one data set and one backbone."""

    data: str
    t5: str  # of tables 1 to 9 and the figures
    llama: str  # of tables 10 to 15
    rows: list[Row]  # of the main runs, with the T5
    llama_rows: list[Row]
    probes: list[tuple[str, str, dict]]  # (kind, letter, the probe's file)
    points: dict[str, list[Point]]  # what figures 6 to 10 and the trade-off are drawn from
    main: dict  # results.json of a run with the T5's prompts; {} where there is none
    runs: list[
        tuple[list[str], dict, bool]
    ]  # of every run command, results.json, is it of today's P5

    @property
    def title(self) -> str:
        return f"{DATA_NAMES[self.data]}, {self.t5}"

    def of(self, table: int, model: str, hidden: str, metric: str) -> Summary | None:
        """Ours for a place in a table of the paper, None where nothing was run.

        `metric` is "Hit@k", a letter, or "AUC": that of the hidden attribute, and for several 50 plus
        their mean distance from it.
        """
        if table in PROBES:
            (key, _), mine = READINGS[model], (PROBES[table], metric)
            files = [left for kind, letter, left in self.probes if (kind, letter) == mine]
            return summarise(left[key]["auc"] for left in files if key in left)
        needed, first = hidden if metric == "AUC" else [metric], {}
        for row in self.rows_about(table, model, hidden):
            if all(k in row.values for k in needed):  # the same can be in several runs of a seed
                first.setdefault(row.seed, [row.values[k] for k in needed])
        rows = (first[seed] for seed in sorted(first))
        return summarise(row[0] if len(row) == 1 else mean_leak(row) for row in rows)

    def bounds(self, table: int, hidden: str) -> tuple[float, float]:
        """(floor, ceiling) in percent of the attacks, means over seeds and `hidden`; NaN if not measured.

        Both are measured on P5's own states, only the floor of a run with one attribute behind its prompt.
        A probe has a floor of its own, which nobody has measured.
        """
        if table in PROBES:
            return math.nan, self.bounds(2, hidden)[1]
        rows = [r for r in self.rows_about(table, "P5", "") if all(k in r.floor for k in hidden)]
        if not rows or not hidden:
            return math.nan, math.nan
        mean = lambda which: statistics.fmean(100 * which(r)[k] for r in rows for k in hidden)
        return mean(lambda row: row.floor), mean(lambda row: row.ceiling)

    def rows_about(self, table: int, model: str, hidden: str) -> list[Row]:
        rows, place = self.llama_rows if table in LLAMA else self.rows, (model, hidden, TASK[table])
        return [row for row in rows if (row.model, row.hidden, row.task) == place]


def gather(w: World, seeds: int, check: bool = True, place: Path = Path("runs")) -> Evidence:
    """All that finished runs in a folder say about this data set, whatever they were started for.

    Without `check` the data need not be there; the runs' own files are believed.
    """
    runs, rows, llama_rows, probes, main = [], [], [], [], {}
    points: dict[str, dict[tuple, Point]] = {}
    for job, found in finished_jobs(w, seeds, check, place):
        file = found.folder / (job.leaves or "results.json")
        left = json.loads(file.read_text(encoding="utf-8"))
        drawn = []
        if job.group in PROBES.values():
            probes.append((job.group, letters([job.flags[job.flags.index("--attr") + 1]]), left))
        elif job.leaves:
            drawn = measured_points(job, left)
        else:
            runs.append((found.config["command"], left, is_of(found, job)))
            mine, main = rows_of(left), main or (left if job.group == "prompts" else {})
            if job.group == "llama prompts":
                llama_rows += mine
            elif job.group in SEVERAL_SEEDS:
                rows += mine
            if job.seed == 0:
                drawn = points_of(job, found.config, mine, w.swept)
        for figure, p in drawn:
            at = p.series, p.task, -1.0 if math.isnan(p.x) else p.x
            points.setdefault(figure, {}).setdefault(at, p)  # the same can be in several runs
    sorted_points = {figure: [at[x] for x in sorted(at)] for figure, at in points.items()}
    return Evidence(w.data, w.t5, w.llama, rows, llama_rows, probes, sorted_points, main, runs)


def points_of(job: Job, config: dict, rows: list[Row], attr: str) -> Iterator[tuple[str, Point]]:
    """(figure, point) of all that a run says about this attribute."""
    letter, game = letters([attr]), config.get("cfp", {})
    defaults = {"prefix length": game.get("prefix_len"), "lambda": game.get("lam")}
    swept = {"prefix length": PREFIX_LENGTHS, "lambda": LAMBDAS}
    for row in rows:
        if letter not in row.values or row.hidden not in ("", letter):
            continue
        settings = {}
        if job.group in swept and row.hidden:
            settings = {job.group: job.setting}
        elif job.group == "prompts" and row.model == "P5":
            settings = defaults  # its points are those without a prompt
        elif job.group == "prompts" and row.model == "CFP":  # one more where no run is about it
            settings = {figure: x for figure, x in defaults.items() if x not in swept[figure]}
        for figure, x in settings.items():
            yield figure, point(row, letter, attr if row.hidden else row.model, x)
        task = "direct" if row.model in MATCHING else "sequential"
        if "lambda" in settings:
            yield "trade-off", point(row, letter, row.model, settings["lambda"])
        elif job.group in ("adapters", "fair lambda") and row.task == task:
            x = next((game["lam"] for game in config["games"].values()), math.nan)
            yield "trade-off", point(row, letter, row.model, x)


def point(row: Row, letter: str, series: str, x: float) -> Point:
    """A row as a point of a figure about one attribute, at x where something is hidden."""
    values = {k: v for k, v in row.values.items() if k in QUALITY} | {"AUC": row.values[letter]}
    bounds = row.floor.get(letter, math.nan), row.ceiling.get(letter, math.nan)
    return Point(series, float(x) if row.hidden else math.nan, row.task, values, *bounds)


def measured_points(job: Job, left: dict) -> Iterator[tuple[str, Point]]:
    """(figure, point) of what a measurement has left.

    LEACE has a place in the trade-off on each task; figure 10 has what probes read through a prompt that was
    trained against a soft one.
    """
    for name, row in left.items():
        if job.group == "leace":
            values = {f"Hit@{k}": row[f"hit@{k}"] for k in (1, 3, 10)} | {"AUC": row["auc"]}
            yield "trade-off", Point("LEACE", math.nan, name, values)
            continue
        series = "soft probing prompt" if name == "soft prompt" else name
        task = "direct" if "direct" in name else "sequential"
        yield job.group, Point(series, job.setting, task, {"AUC": row["auc"]})


class Entry(NamedTuple):
    """A place in a table: the paper's number and ours, either of which may be missing."""

    model: str
    hidden: str
    metric: str
    paper: float | None
    ours: Summary | None


def entries(table: int, e: Evidence) -> list[Entry]:
    """Every place of the paper's table for this data set, then what we have beyond it."""
    cells = published.cells(table)
    cells = [cell for cell in cells if cell.data == HALF[e.data]] or cells
    places = {(cell.model, cell.hidden, cell.metric): cell.percent for cell in cells}
    ours, metrics = [], list(dict.fromkeys(cell.metric for cell in cells))
    if table in (1, 2, 10, 11):
        ours, metrics = ["popularity", "lookup"], QUALITY
    elif table in PROBES:
        ours = list(BEYOND)
    beyond = [(model, "", metric) for model in ours for metric in metrics]
    hiding = [x for x in cells if x.hidden and x.metric == "AUC"]
    beyond += [(x.model, x.hidden, share) for x in hiding for share in SHARES]
    found = [Entry(*place, places.get(place), e.of(table, *place)) for place in [*places, *beyond]]
    return [entry for entry in found if entry.paper is not None or entry.ours is not None]


def grid(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


def csv_text(heads: str, rows: Iterable[list]) -> str:
    """A CSV file: the names in `heads`, then the rows; two digits of every float, nothing for NaN."""
    text = io.StringIO()
    digits = lambda x: "" if math.isnan(x) else f"{x:.2f}"
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads.split())
    writer.writerows([digits(x) if isinstance(x, float) else x for x in row] for row in rows)
    return text.getvalue()


def shown_bounds(floor: float, ceiling: float) -> list[str]:
    """The two cells of a floor and a ceiling in percent, empty where they are NaN."""
    around = "" if math.isnan(floor) else f"50 ± {floor:.1f}"
    return [around, "" if math.isnan(ceiling) else f"{ceiling:.1f}"]


def number(found: Summary | None, mark: str = "", interval: bool = False) -> str:
    """A cell of ours: 55.9 ± 1.2 over seeds, 55.9 for a single one, its interval if asked for, its mark."""
    if found is None:
        return ""
    spread = "" if math.isnan(found.sd) else f" ± {found.sd:.1f}"
    has_ends = interval and not math.isnan(found.low)
    ends = f" [{found.low:.1f}, {found.high:.1f}]" if has_ends else ""
    below = ", below popularity" if found.mean < 0 else ""  # of what is kept above it
    return f"{found.mean:.1f}{spread}{ends}{below}{mark}"


def table_markdown(table: int, e: Evidence) -> str:
    """A table of the paper with ours beside it, its floors and ceilings, and how it was measured."""
    found = entries(table, e)
    at = {(x.hidden, x.model, x.metric): x for x in found}
    metrics = list(dict.fromkeys(x.metric for x in found if x.metric not in SHARES))
    hides = any(x.hidden for x in found)
    heads = ["hidden", ""] if hides else [""]
    for metric in metrics:
        name = f"{LETTERS[metric]} AUC" if metric in LETTERS else metric
        heads += [f"{name}, paper", "ours"]
    heads += ["floor", "ceiling", *SHARES] if hides else []
    rows = []
    for hidden, model in dict.fromkeys((x.hidden, x.model) for x in found):
        name = READINGS[model][1] if model in READINGS else model
        cells = [hidden, name] if hides else [name]
        for metric in metrics:
            x = at.get((hidden, model, metric), Entry(model, hidden, metric, None, None))
            other, mark = at.get((hidden, REFERENCE.get(table), metric)), ""
            if x.ours and other and other.ours and other.model != model:
                mark = {1: " +", -1: " -", 0: ""}[compare(x.ours, other.ours, metric)]
            cells += ["" if x.paper is None else f"{x.paper:.2f}", number(x.ours, mark)]
        if hides:
            cells += shown_bounds(*e.bounds(table, hidden))
            kept, above = (number(e.of(table, model, hidden, k), interval=True) for k in SHARES)
            cells += [kept, above or (kept and "not above it before")]
        rows.append(cells)
    bounds = [shown_bounds(*e.bounds(table, k)) if k in LETTERS else ["", ""] for k in metrics]
    for place, name in enumerate(("*shuffled labels (floor)*", "*raw history (ceiling)*")):
        if any(texts[place] for texts in bounds):
            rows.append([name] + [cell for texts in bounds for cell in ("", texts[place])])
    title = f"**Table {table}: {published.TITLES[table]}** (%)"
    return "\n".join([title, "", *grid(heads, rows), "", *notes(table, e, found)])


def notes(table: int, e: Evidence, found: list[Entry]) -> list[str]:
    """The lines under a table: what is blank, how ours was measured, what is odd in the paper's."""
    lines, seeds = [], sorted({x.ours.n for x in found if x.ours})
    blank = [x for x in found if x.paper is not None and x.ours is None]
    unheard = [x for x in blank if "M" in (*x.hidden, x.metric) and e.data != "insurance"]
    rest = dict.fromkeys((x.model, x.hidden) for x in blank if x not in unheard)
    if not seeds:
        lines.append("Ours: not run.")
    elif unheard:
        lines.append(f"Blank: {DATA_NAMES[e.data]} has no marital status (M).")
    if rest and seeds:
        names = [f"{model} hiding {hidden}" if hidden else model for model, hidden in rest]
        lines.append(f"Blank: not run, in part or whole: {', '.join(names)}.")
    if seeds:
        many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        floor = "" if table in PROBES else "; 50 ± is how far from 50 shuffled labels get"
        ours = f"Ours: mean ± standard deviation over seeds ({many}){floor}."
        if table in REFERENCE:
            than = f"worse than {REFERENCE[table]}, where the intervals do not overlap."
            ours += f" + better, - {than}"
        kept = f"{KEPT} Older runs have no interval."
        lines += [ours, kept] if any(x.hidden for x in found) else [ours]
    lines.append(f"Protocol: {protocol(table, e)}.")
    if table in published.DOUBTS:
        lines.append(f"In the paper: {published.DOUBTS[table]}")
    return [part for text in lines for part in (text, "")]


def protocol(table: int, e: Evidence) -> str:
    """What differs between the paper's numbers and ours, in one line."""
    ours, paper = (e.llama, "OpenLlama-3B") if table in LLAMA else (e.t5, "T5-Base")
    parts = [PROTOCOL[e.data], f"{ours} where the paper has {paper}"]
    if table in PROBES:
        parts.append("one against the rest beyond two classes, which the paper does not say")
        return "; ".join(parts)
    if e.main:
        among = f"the test item among {how_many_candidates(e.main, TASK[table])} real candidates"
        parts.append(f"{e.main['users']} users, {among} that the user never met")
        if TASK[table] == "direct":
            listed = e.main["prompt candidates"] or "none"
            parts.append(f"{listed} of them listed in the prompt (the paper lists 100)")
    parts.append(
        "AUC one against the rest of the strongest of several fresh attackers, five folds over users"
    )
    parts.append("the paper's is one classifier, on sentences")
    return "; ".join(parts)


def table_csv(table: int, e: Evidence) -> str:
    """The same as one line per number, with intervals, seeds, floor and ceiling; percent, two digits."""
    rows = []
    for x in entries(table, e):
        bounds = e.bounds(table, x.hidden if x.metric == "AUC" else x.metric)
        rows.append([table, *x[:4], *(x.ours or [""] * 5)])
        rows[-1] += ["", ""] if x.metric in QUALITY else bounds
    return csv_text("table model hidden metric paper mean sd low high seeds floor ceiling", rows)
