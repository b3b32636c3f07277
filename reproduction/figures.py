"""The figures of the paper from finished runs: their points, as CSV, and drawn.

A picture notes what it was drawn from, so that a test knows when one is stale. Matplotlib is imported where a
picture is asked for.
"""

import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Iterable

import numpy as np

from reproduction import report
from reproduction.report import LETTERS, VERSIONS, Evidence, Point, common_mark
from support.files import picture_mark, save_picture

FIGURES = {  # the title, what is swept, and which points are drawn
    "3": ("what the three probes read", "attribute", ""),
    "6": ("prefix length", "prefix length", "prefix length"),
    "7": ("prefix length, Insurance", "prefix length", "prefix length"),
    "8": ("weight of the discriminator", "lambda", "lambda"),
    "9": ("weight of the discriminator, Insurance", "lambda", "lambda"),
    "10": ("a soft probing prompt as the discriminator", "prefix length", "soft discriminator"),
    "trade-off": ("recommendations against leak", "lambda", "trade-off"),
}
# of figure 3: which rows, and what they are called
PROBED = {"with": "manual", "soft": "soft", "classifier": "classifier"}


def figure_points(name: str, e: Evidence) -> list[Point]:
    """The points of a figure; figure 3 has one for each probe and attribute, without an x."""
    if name != "3":
        return e.points.get(FIGURES[name][2], [])
    rows = [row for row in e.rows if row.model in PROBED]
    named = ((row, k, f"{PROBED[row.model]}, {LETTERS[k]}") for row in rows for k in row.values)
    return [report.point(*about, math.nan) for about in named]


def figure_csv(names: Iterable[str], e: Evidence) -> str:
    """The points of figures, percent, two digits."""
    rows = []
    for name, p in ((name, p) for name in names for p in figure_points(name, e)):
        for metric, values in p.values.items():
            around = (p.floor, p.ceiling) if metric == "AUC" else (math.nan, math.nan)
            numbers = [100.0 * v for v in (*values, *around)]
            rows.append([name, p.series, setting(p), p.task, metric, *numbers, VERSIONS[p.mark]])
    heads = "figure series x task metric value low high floor ceiling version"
    return report.csv_text(heads, rows)


def setting(point: Point) -> str:
    return "" if math.isnan(point.x) else f"{point.x:g}"


def is_shown(name: str, e: Evidence) -> bool:
    """Whether a figure has something to show: a sweep has two settings at least."""
    points = figure_points(name, e)
    swept = len({p.x for p in points if not math.isnan(p.x)}) > 1
    return bool(points) and (swept or name in ("3", "trade-off"))


def drawn_from(name: str, e: Evidence) -> str:
    """Changes with what is in a picture and with the code that draws it."""
    return picture_mark(e.name + figure_csv([name], e), Path(__file__))


MARKERS = "os^Dv*PXd<"  # of the series of a panel


def draw(name: str, e: Evidence, path: Path) -> None:
    """Draw a figure as PNG, where `files.can_draw` and there are points: a panel for each metric or task.

    A series is a curve over its settings, which stand side by side; P5, which has none, is a dashed line.
    The trade-off has Hit@10 over AUC, with the setting beside each point. All in percent.
    """
    points, trades = figure_points(name, e), name == "trade-off"
    assert points, f"figure {name} has no points"
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics = [metric for metric in ("Hit@1", "AUC") if metric in points[0].values]
    panels = ["sequential", "direct"] if trades else metrics
    shape = dict(figsize=(1 + 6 * len(panels), 5.5), squeeze=False, layout="constrained")
    figure, grid = plt.subplots(1, len(panels), **shape)
    for axes, panel in zip(grid[0], panels):
        here = [p for p in points if not trades or p.task == panel]
        fill_panel(axes, name, "Hit@10" if trades else panel, here)
        if trades:
            axes.set_title(f"{panel} recommendation, lambda at the intervals", fontsize="medium")
        axes.grid(alpha=0.3, lw=0.6)
        axes.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    title = f"Figure {name}: {FIGURES[name][0]}{common_mark(p.mark for p in points)}"
    title += f"\n{e.name}, seed 0, 95% intervals over people"
    figure.suptitle(title, fontsize="medium")
    save_picture(figure, path, 70, drawn_from(name, e))
    plt.close(figure)


def fill_panel(axes, name: str, metric: str, points: list[Point]) -> None:
    """Draw every series of the points, and around an AUC chance, its floor and its ceiling."""
    trades, series, attrs = name == "trade-off", defaultdict(list), list(LETTERS.values())
    for p in sorted(points, key=lambda p: (math.isnan(p.x), p.x)):
        if name == "3":
            probe, attr = p.series.split(", ")
            p = p._replace(series=probe, x=attrs.index(attr))
        elif name not in ("10", "trade-off"):
            p = p._replace(series=f"{p.series}{' hidden' if p.series in attrs else ''}, {p.task}")
        series[p.series].append(p)
    settings = sorted({p.x for line in series.values() for p in line if not math.isnan(p.x)})
    for place, (label, line) in enumerate(series.items()):
        y, y_ends = bars(line, metric)
        style, swept = dict(color=f"C{place}", label=label), not math.isnan(line[0].x)
        if not trades and not swept:
            axes.axhline(y[0], ls="--", lw=1.2, **style)
            continue
        if trades:
            x, x_ends = bars(line, "AUC")
        else:  # moved a little, so that the intervals can be told apart
            x, x_ends = [settings.index(p.x) + 0.08 * (place - 1) for p in line], None
        style |= dict(marker=MARKERS[place], capsize=3, elinewidth=0.8)
        axes.errorbar(x, y, y_ends, x_ends, ls="-" if swept and name != "3" else "", **style)
        for i, p in enumerate(line if trades else ()):
            # above one interval, below the next, so that neighbours can be told apart
            end, offset = (2, 2) if i % 2 == 0 else (1, -9)
            style = dict(xytext=(0, offset), ha="center", color=f"C{place}", fontsize="x-small")
            tip = x[i], 100 * p.values[metric][end]
            axes.annotate(setting(p), tip, textcoords="offset points", **style)
    if trades or metric == "AUC":
        line, span = (axes.axvline, axes.axvspan) if trades else (axes.axhline, axes.axhspan)
        line(50, color="black", lw=0.8)
        floors = [100 * p.floor for p in points if not math.isnan(p.floor)]
        if floors:
            reach, label = statistics.fmean(floors), "shuffled labels (95%)"
            span(50 - reach, 50 + reach, color="gray", alpha=0.25, lw=0, label=label)
    axes.set_ylabel(f"{metric} (%)")
    if trades:
        axes.set_xlabel("AUC of the strongest fresh attacker (%)")
        return
    for i, x in enumerate(settings if metric == "AUC" else ()):
        here = [100 * p.ceiling for line in series.values() for p in line if p.x == x]
        style = dict(color="black", ls=":", label="" if i else "raw history")
        if not math.isnan(here[0]):
            axes.hlines(statistics.fmean(here), i - 0.5, i + 0.5, **style)
    named = [attrs[x] if name == "3" else f"{x:g}" for x in settings]
    axes.set_xticks(range(len(settings)), named)
    axes.set_xlim(-0.5, len(settings) - 0.5)
    axes.set_xlabel(FIGURES[name][1])


def bars(points: list[Point], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(values (points,), their error bars (2, points) downwards and upwards) of a metric, in percent."""
    value, low, high = 100 * np.array([p.values[metric] for p in points]).T
    return value, np.maximum([value - low, high - value], 0)
