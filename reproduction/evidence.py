"""All that the finished runs of a folder say about a data set, for the tables, figures and claims."""

import json
import math
from pathlib import Path
from typing import Iterator

from reproduction import plan
from reproduction.plan import LAMBDAS, PREFIX_LENGTHS, Job, World
from reproduction.report import PROBES, QUALITY, Evidence, Point, Row, letters, rows_of

# The models of direct recommendation; their scores know no order.
MATCHING = "PMF", "SimpleX", "C-PMF", "C-SX"


def gather(w: World, seeds: int, check: bool = True, place: Path = Path("runs")) -> Evidence:
    """All that finished runs in a folder say about this data set, whatever they were started for.

    Without `check` the data need not be there; the runs' own files are believed.
    """
    runs, rows, llama_rows, probes, main = [], [], [], [], {}
    points: dict[str, dict[tuple, Point]] = {}
    for job, found in plan.finished_jobs(w, seeds, check, place):
        file = found.folder / (job.leaves or "results.json")
        left = json.loads(file.read_text(encoding="utf-8"))
        drawn = []
        if job.group in PROBES.values():
            probes.append((job.group, letters([job.flags[job.flags.index("--attr") + 1]]), left))
        elif job.leaves:
            drawn = measured_points(job, left)
        else:
            runs.append((found.config["command"], left))
            mine, main = rows_of(left), main or (left if job.group == "prompts" else {})
            if job.group == "llama prompts":
                llama_rows += mine
            elif job.group in plan.SEVERAL_SEEDS:
                rows += mine
            if job.seed == 0:
                drawn = points_of(job, found.config, mine, w.swept)
        for figure, p in drawn:
            at = p.series, p.task, -1.0 if math.isnan(p.x) else p.x
            points.setdefault(figure, {}).setdefault(at, p)  # the same can be in several runs
    sorted_points = {figure: [at[x] for x in sorted(at)] for figure, at in points.items()}
    about = w.data, w.backbone, w.llama
    return Evidence(*about, rows, llama_rows, probes, sorted_points, main, runs)


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
