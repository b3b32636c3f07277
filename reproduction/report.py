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

from reproduction import plan, published
from reproduction.baselines import NAMES
from reproduction.plan import HALF, Job, World
from support.hits import ABOVE, SHARES, shares, triple
from support.screens import how_many_candidates

LETTERS = {"G": "gender", "A": "age", "M": "marital", "O": "occupation"}  # as the paper orders them
QUALITY = "Hit@1", "Hit@3", "Hit@10", *SHARES  # of recommendations: the higher the better
# Which prompts a table is about. # Paper silent: for tables 5, 6, 14 and 15; their Hit@k are near those
# of tables 3, 3, 12 and 13.
TASK = {n: "sequential" if n in (2, 4, 7, 8, 9, 11, 13, 15) else "direct" for n in range(1, 16)}
LLAMA = range(10, 16)  # tables of appendix B
PROBES = {7: "manual", 8: "soft", 9: "classifier"}
# What tables 7 to 9 read, under its key in the probe's file, and what the paper has not read.
READINGS = {
    "with": "in-context, with interactions",
    "without": "in-context, without interactions",
    "soft": "soft prompt",
    "classifier": "classifier, sequential prompts",
}
BEYOND = "direct, with interactions", "direct, without interactions", "classifier, direct prompts"

# The models of direct recommendation; their scores know no order.
MATCHING = "PMF", "SimpleX", "C-PMF", "C-SX"
UNFAIR = {"C-PMF": "PMF", "C-SX": "SimpleX", "S-SAS": "SASRec", "S-B4": "BERT4Rec", "CFP": "P5"}
DATA_NAMES = dict(zip(plan.DATA, ("toy world", "MovieLens-100K", "MovieLens-1M", "Insurance")))
# Runs with other settings than today's, and figures for which runs of both kinds were needed.
EARLIER, MIXED = "†", "‡"
VERSIONS = {"": "today", EARLIER: "earlier", MIXED: "both"}

# What differs from the paper's protocol, in addition to what the runs' own files say.
PROTOCOL = {
    "toy": "An embedded world in place of real people: the paper's numbers are for orientation.",
    "ml-100k": "MovieLens-100K in place of MovieLens-1M: the paper's numbers are for orientation.",
    "ml-1m": "Ratings as in the file at hand, with 21 occupations; the paper's release has 15.",
    "insurance": "Leave-one-out over a random order, as the data have no times; 21 products, so never 100 "
    "negatives; marital has 7 classes and occupation 6, as in the paper's text, where its release has 3.",
}


class Row(NamedTuple):
    """One recommender, with something hidden or nothing, on one task in one run; or what a probe reads."""

    model: str  # as the paper calls it: "P5", "CFP", "PMF", "C-PMF", ..; of a probe as in READINGS and BEYOND
    hidden: str  # letters of what is hidden, in the order of LETTERS: "", "G", "GA", ..
    task: str
    seed: int
    values: dict[str, list[float]]  # "Hit@k", a share or a letter for its AUC: [value, low, high]
    floor: dict[str, float]  # of each letter: how far from one half shuffled labels get
    ceiling: dict[str, float]  # of each letter: AUC of the raw history
    people: dict[str, int]  # of each letter: whose label is attacked; "": whose items are ranked
    mark: str = ""  # EARLIER where the run is not of today's version


class Summary(NamedTuple):
    """A figure over seeds, in percent."""

    mean: float
    sd: float  # over seeds, divided by n - 1; NaN for a single one
    low: float  # mean of the seeds' lower ends (95% over users), moved down by sd if there is one
    high: float  # the same at the upper end
    n: int  # seeds
    people: int = 0  # over whom the intervals are, of the seed that has the fewest; 0: not known
    mark: str = ""  # "", EARLIER or MIXED


def summarise(
    intervals: Iterable[list[float]], people: Iterable[int] = (), mark: str = ""
) -> Summary | None:
    """The Summary of [value, low, high] of each seed, fractions; None where there is none."""
    intervals = list(intervals)
    if not intervals:
        return None
    value, low, high = (statistics.fmean(100 * x for x in column) for column in zip(*intervals))
    sd = statistics.stdev(100 * x for x, _, _ in intervals) if len(intervals) > 1 else math.nan
    wider = 0.0 if math.isnan(sd) else sd
    about = len(intervals), min(people, default=0), mark
    return Summary(value, sd, low - wider, high + wider, *about)


def common_mark(marks: Iterable[str]) -> str:
    """The mark of what rests on all of these."""
    marks = {*marks}
    return MIXED if len(marks) > 1 else marks.pop() if marks else ""


def latest(found: Iterable) -> list:
    """Of rows, probes or points those of today's version where there are any, else all."""
    found = list(found)
    return [x for x in found if not x.mark] or found


def distance(auc: Summary) -> Summary:
    """How far an AUC is from 50: a leak counts on either side.

    The interval begins at 0 where 50 is inside that of the AUC.
    """
    ends = abs(auc.low - 50), abs(auc.high - 50)
    low = 0.0 if auc.low <= 50 <= auc.high else min(ends)
    return auc._replace(mean=abs(auc.mean - 50), low=low, high=max(ends))


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


def unpaired(share: float, triples: Iterable[list[float]]) -> list[float]:
    """[low, high] of what is kept above popularity, from Hit@10 of popularity, before and after.

    They do not say who was hit in which, so it is as if they were of different people, which makes it about
    twice as wide.
    """
    (p, b, _), halves = zip(*((x, (high - low) / 2) for x, low, high in triples))
    half = math.hypot((1 - share) * halves[0], share * halves[1], halves[2]) / (b - p)
    return [share - half, share + half]


def rows_of(results: dict, mark: str = "") -> list[Row]:
    """The rows of results.json of train.py or baselines.py: one per recommender, choice and task."""
    attrs, rows, bare = list(results["ceiling"]), [], {}
    ceiling = {letters([k]): results["ceiling"][k]["auc"][0] for k in attrs}
    # older results attack everybody
    tested = results.get("tested", dict.fromkeys(attrs, results["users"]))
    people = {"": results["users"]} | {letters([k]): n for k, n in tested.items()}

    def add(model: str, hidden: Iterable[str], task: str, row: dict, floor: dict) -> None:
        values = {f"Hit@{k}": triple(row, f"hit@{k}") for k in (1, 3, 10)}
        if hidden:
            before = bare[UNFAIR[model.split(",")[0]]]
            hit = [triple(each, "hit@10") for each in (bare["popularity"], before, row)]
            found = shares(*(value for value, _, _ in hit)) | row
            there = {k: found[k] for k in SHARES if found[k][0] is not None}
            if ABOVE in there and ABOVE not in row:  # older results have no interval
                there[ABOVE] = [there[ABOVE][0], *unpaired(there[ABOVE][0], hit)]
            values |= {k: [math.nan if x is None else x for x in there[k]] for k in there}
        else:
            bare[model] = row
        for k in attrs if "auc" in row else ():
            values[letters([k])] = [row["auc"][k], *row["auc interval"][k]]
        floor = {letters([k]): floor[k] for k in floor}
        about = model, letters(hidden), task, results["seed"]
        rows.append(Row(*about, values, floor, ceiling, people, mark))

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


def probe_rows(job: Job, left: dict, results: dict, mark: str) -> Iterator[Row]:
    """The rows of a probe's file, which was left in the folder of the run with these results."""
    letter = letters([job.flags[job.flags.index("--attr") + 1]])
    ceiling = {letters([k]): found["auc"][0] for k, found in results["ceiling"].items()}
    names = {key: model for model, key in READINGS.items()}
    for key, found in left.items():
        about = names.get(key, key), "", "sequential", job.seed
        yield Row(*about, {letter: found["auc"]}, {}, ceiling, {}, mark)


class Point(NamedTuple):
    """What a figure draws at one place: a recommender with one setting, on one task, in one run."""

    series: str
    x: float  # the setting: a prefix length or a lambda; NaN where there is none
    task: str
    values: dict[str, list[float]]  # "Hit@k" and "AUC": [value, low, high], fractions
    floor: float = math.nan  # of the AUC; NaN where it was not measured
    ceiling: float = math.nan
    mark: str = ""  # as a Row's


class Evidence(NamedTuple):
    """All that is known of one data set and one backbone."""

    data: str
    t5: str  # of tables 1 to 9 and the figures
    llama: str  # of tables 10 to 15
    rows: list[Row]  # of the main runs and probes, with the T5
    llama_rows: list[Row]
    points: dict[str, list[Point]]  # what figures 6 to 10 and the trade-off are drawn from
    runs: list[tuple[list[str], dict, str]]  # of every run: command, results.json, mark

    @property
    def name(self) -> str:
        """toy world; with another backbone than the tiny one toy world-t5-small."""
        return DATA_NAMES[self.data] + plan.tag(self.t5)

    @property
    def mark(self) -> str:
        """EARLIER where all runs are of an earlier version, MIXED where some are."""
        return common_mark(mark for _, _, mark in self.runs)

    def of(self, table: int, model: str, hidden: str, metric: str) -> Summary | None:
        """Ours for a place in a table of the paper, None where nothing was run.

        `metric` is "Hit@k", a letter, or "AUC": that of the hidden attribute, and for several 50 plus
        their mean distance from it.
        """
        attrs = hidden if metric == "AUC" else metric if metric in LETTERS else ""
        rows = self.rows_about(table, model, hidden, attrs or [metric])
        values = ([row.values[k] for k in attrs or [metric]] for row in rows)
        people = [row.people.get(k, 0) for row in rows for k in attrs or [""]]
        one = (row[0] if len(row) == 1 else mean_leak(row) for row in values)
        return summarise(one, people, common_mark(row.mark for row in rows))

    def bounds(self, table: int, model: str, hidden: str, attrs: str) -> tuple[float, float]:
        """(floor, ceiling) in percent of attacks on these letters, means over seeds; NaN if not measured.

        Of prompts for several attributes the floor is measured on P5's states; a probe's was not measured.
        """
        rows, found = self.rows_about(table, model, hidden, attrs) if attrs else [], []
        for which in [row.floor for row in rows], [row.ceiling for row in rows]:
            there = [100 * of[k] for of in which for k in attrs if k in of]
            found.append(statistics.fmean(there) if there else math.nan)
        return found[0], found[1]

    def rows_about(self, table: int, model: str, hidden: str, metrics: Iterable[str]) -> list[Row]:
        """The rows of a place in a table that have all these metrics, one of each seed."""
        rows, place = self.llama_rows if table in LLAMA else self.rows, (model, hidden, TASK[table])
        rows = [row for row in rows if (row.model, row.hidden, row.task) == place]
        first: dict[int, Row] = {}  # the same can be in several runs of a seed
        for row in latest(row for row in rows if all(k in row.values for k in metrics)):
            first.setdefault(row.seed, row)
        return [first[seed] for seed in sorted(first)]


def gather(w: World, seeds: int, check: bool = True, place: Path = Path("runs")) -> Evidence:
    """All that finished runs in a folder say about this data set, whatever they were started for.

    Without `check` the data need not be there; the runs' own files are believed.
    """
    runs, rows, llama_rows, behind = [], [], [], {}
    points: dict[str, dict[tuple, list[Point]]] = {}
    for job, found in plan.finished_jobs(w, seeds, check, place):
        file = found.folder / (job.leaves or "results.json")
        left = json.loads(file.read_text(encoding="utf-8"))
        drawn = []
        if not job.leaves:
            behind[found.folder] = left, "" if plan.is_of(found, job) else EARLIER
        results, mark = behind[found.folder]  # a measurement's are those of the run before it
        if job.group in PROBES.values():
            rows += probe_rows(job, left, results, mark)
        elif job.leaves:
            drawn = measured_points(job, left)
        else:
            runs.append((found.config["command"], left, mark))
            mine = rows_of(left, mark)
            if job.group == "llama prompts":
                llama_rows += mine
            elif job.group in plan.SEVERAL_SEEDS:
                rows += mine
            if job.seed == 0:
                drawn = points_of(job, found.config, mine, w.swept)
        for figure, p in drawn:
            at = p.series, p.task, -1.0 if math.isnan(p.x) else p.x
            points.setdefault(figure, {}).setdefault(at, []).append(p._replace(mark=mark))
    # the same can be in several runs
    sorted_points = {f: [latest(at[x])[0] for x in sorted(at)] for f, at in points.items()}
    return Evidence(w.data, w.t5, w.llama, rows, llama_rows, sorted_points, runs)


def points_of(job: Job, config: dict, rows: list[Row], attr: str) -> Iterator[tuple[str, Point]]:
    """(figure, point) of all that a run says about this attribute."""
    letter, game = letters([attr]), config.get("cfp", {})
    defaults = {"prefix length": game.get("prefix_len"), "lambda": game.get("lam")}
    swept = {"prefix length": plan.PREFIX_LENGTHS, "lambda": plan.LAMBDAS}
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
    x = float(x) if row.hidden else math.nan
    return Point(series, x, row.task, values, *bounds, row.mark)


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


Place = tuple[str, str, str]  # model, hidden, metric


def entries(table: int, e: Evidence) -> dict[Place, tuple[float | None, Summary | None]]:
    """(the paper's number, ours) of each place in the paper's table for these data, then beyond it."""
    cells = [cell for cell in published.cells(table) if cell.data == HALF[e.data]]
    places = {(cell.model, cell.hidden, cell.metric): cell.percent for cell in cells}
    ours, metrics = [], list(dict.fromkeys(cell.metric for cell in cells))
    if table in (1, 2, 10, 11):
        ours, metrics = ["popularity", "lookup"], QUALITY
    elif table in PROBES:
        ours = BEYOND
    beyond = [(model, "", metric) for model in ours for metric in metrics]
    hiding = [x for x in cells if x.hidden and x.metric == "AUC"]
    beyond += [(x.model, x.hidden, kept) for x in hiding for kept in SHARES]
    found = {place: (places.get(place), e.of(table, *place)) for place in [*places, *beyond]}
    return {place: both for place, both in found.items() if both != (None, None)}


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


def number(found: Summary | None) -> str:
    """A cell of ours: 55.9 [53.0, 58.8]; without an interval where there is none."""
    if found is None:
        return ""
    ends = "" if math.isnan(found.low) else f" [{found.low:.1f}, {found.high:.1f}]"
    return f"{found.mean:.1f}{ends}"


def command_of(what: str, e: Evidence, seeds: int = 0) -> str:
    """The command that writes a table or figure."""
    words = [f"python -m reproduction.tables {what} --data {e.data}"]
    words += ["--data-dir DIR"] if e.data in ("ml-100k", "insurance") else []
    given = {"--t5": (e.t5, "tiny"), "--llama": (e.llama, "tiny-llama"), "--seeds": (seeds, 0)}
    words += [f"{flag} {value}" for flag, (value, usual) in given.items() if value != usual]
    return f"`{' '.join(words)}`"


def bound_cells(floor: float, ceiling: float) -> list[str]:
    """The two cells of a floor and a ceiling in percent, empty where they are NaN."""
    around = "" if math.isnan(floor) else f"50 ± {floor:.1f}"
    return [around, "" if math.isnan(ceiling) else f"{ceiling:.1f}"]


def table_markdown(table: int, e: Evidence) -> str:
    """A table of the paper with ours beside it, of what was run: at most ten columns, the CSV has the rest.

    A row has a mark where the data set has runs of several versions and this one is not of today's.
    """
    found, whole = entries(table, e), table not in PROBES
    hides = any(metric == "AUC" for *_, metric in found)
    # of Insurance, where nobody hides gender, its AUC is in the CSV
    attrs = letters(World(e.data).attrs) if whole else dict.fromkeys(place[2] for place in found)
    metrics = ["Hit@10", "AUC"] if hides else [*["Hit@10"] * whole, *attrs]
    heads = ["hidden", "model"] if hides else ["model"]
    for k in metrics:
        heads += [f"{LETTERS[k]} AUC, paper" if k in LETTERS else f"{k}, paper", "ours"]
    heads += ["floor", "ceiling", ABOVE] * hides
    rows, run = [], dict.fromkeys(place[:2] for place, (_, ours) in found.items() if ours)
    for model, hidden in run:
        here = [found.get((model, hidden, metric), (None, None)) for metric in metrics]
        mark = common_mark(ours.mark for _, ours in here if ours) if e.mark == MIXED else ""
        cells = [spelt(hidden)] * hides + [READINGS.get(model, model) + mark]
        for paper, ours in here:
            cells += ["" if paper is None else f"{paper:.2f}", number(ours)]
        if hides:
            cells += bound_cells(*e.bounds(table, model, hidden, hidden))
            cells.append(number(e.of(table, model, hidden, ABOVE)) or "none above it before")
        rows.append(cells)
    if rows and not hides:
        which = ("P5", "") if whole else next(iter(run))
        around = (e.bounds(table, *which, k if k in LETTERS else "") for k in metrics)
        texts = ("; ".join(filter(None, bound_cells(*bounds))) for bounds in around)
        rows.append(["*floor; ceiling*", *(cell for text in texts for cell in ("", text))])
    seeds = max((ours.n for _, ours in found.values() if ours), default=0)
    command = command_of(f"table {table}", e, seeds)
    title = f"**Table {table}: {published.TITLES[table]}.** {command}"
    if missing := dict.fromkeys(place[0] for place in found if place[:2] not in run):
        title += f" (not run, in part or whole: {', '.join(missing)})"
    return "\n".join([title, "", *grid(heads, rows)]) + "\n"


def spelt(hidden: str) -> str:
    """gender, age for GA."""
    return ", ".join(LETTERS[k] for k in hidden)


def protocol(e: Evidence) -> str:
    """How a data set was measured, and what differs from the paper there."""
    text = f"{PROTOCOL[e.data]} P5 is {e.t5} (the paper's T5-Base)"
    text += f", in tables 10 to 15 {e.llama} (OpenLlama-3B)." if e.llama_rows else "."
    if not e.runs:
        return text
    _, left, _ = min(e.runs, key=lambda run: run[2])  # the prompts' where they are, and today's
    listed, among = left["prompt candidates"] or "none", how_many_candidates(left, "sequential")
    text += f" {left['users']:,} people, the test item among {among} real candidates; direct prompts list "
    text += f"{listed} of them (the paper's 100)."
    if tested := left.get("tested"):
        who = ", ".join(f"{n:,} ({attr})" for attr, n in tested.items())
        text += f" Attacked are {who}, whose label the prompt never saw."
    return text


def table_csv(tables: Iterable[int], e: Evidence) -> str:
    """The same with all that is measured, a line per number: percent, two digits, with seeds and bounds."""
    rows = []
    for table, place, both in ((n, *item) for n in tables for item in entries(n, e).items()):
        (model, hidden, metric), (paper, ours) = place, both
        attrs = hidden if metric == "AUC" else metric if metric in LETTERS else ""
        cells = [*ours[:-1], VERSIONS[ours.mark]] if ours else [""] * 7
        rows.append([table, *place, paper, *cells, *e.bounds(table, model, hidden, attrs)])
    heads = "table model hidden metric paper mean sd low high seeds people version floor ceiling"
    return csv_text(heads, rows)
