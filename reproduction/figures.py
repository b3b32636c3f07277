"""The figures of the paper from finished runs: their points, as text, and drawn.

Matplotlib is imported where a picture is asked for.
"""

import importlib.util
import io
import math
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np

from reproduction import report
from reproduction.report import LETTERS, PROBES, QUALITY, Evidence, Point, number, summarise
from support.files import write_atomically

FIGURES = {  # the title, what is swept, and which points are drawn
    "3": ("what the three probes read", "attribute", ""),
    "6": ("prefix length", "prefix length", "prefix length"),
    "7": ("prefix length, Insurance", "prefix length", "prefix length"),
    "8": ("weight of the discriminator", "lambda", "lambda"),
    "9": ("weight of the discriminator, Insurance", "lambda", "lambda"),
    "10": ("a soft probing prompt as the discriminator", "prefix length", "soft discriminator"),
    "trade-off": ("recommendations against leak", "lambda", "trade-off"),
}
PROBED = {7: "with", 8: "soft", 9: "classifier"}  # of figure 3: tables, and what is drawn of each


def figure_points(name: str, e: Evidence) -> list[Point]:
    """The points of a figure; figure 3 has one for each probe and attribute, without an x."""
    if name != "3":
        return e.points.get(FIGURES[name][2], [])
    points = []
    for table, model in PROBED.items():
        for k, attr in LETTERS.items():
            ours, around = e.of(table, model, "", k), (b / 100 for b in e.bounds(table, k))
            if ours is not None:
                values = {"AUC": [v / 100 for v in (ours.mean, ours.low, ours.high)]}
                series = f"{PROBES[table]}, {attr}"
                points.append(Point(series, math.nan, "sequential", values, *around))
    return points


def figure_csv(name: str, e: Evidence) -> str:
    """A figure's points, percent, two digits."""
    rows = []
    for p in figure_points(name, e):
        for metric, values in p.values.items():
            around = (p.floor, p.ceiling) if metric == "AUC" else (math.nan, math.nan)
            numbers = [100.0 * v for v in (*values, *around)]
            rows.append([name, p.series, setting(p), p.task, metric, *numbers])
    return report.csv_text("figure series x task metric value low high floor ceiling", rows)


def setting(point: Point) -> str:
    return "" if math.isnan(point.x) else f"{point.x:g}"


def figure_markdown(name: str, e: Evidence) -> str:
    """A figure's points as a table: percent, 95% intervals over users."""
    points, (title, x, _) = figure_points(name, e), FIGURES[name]
    metrics = [m for m in (*QUALITY, "AUC") if any(m in p.values for p in points)]
    cell = lambda v: number(summarise([v] if v else []), interval=True)
    heads = ["", *([] if name == "3" else [x, "task"]), *metrics, "floor", "ceiling"]
    rows = []
    for p in points:
        cells = [p.series, *([] if name == "3" else [setting(p), p.task])]
        cells += [cell(p.values.get(m)) for m in metrics]
        rows.append(cells + report.shown_bounds(100 * p.floor, 100 * p.ceiling))
    return "\n".join([f"**Figure {name}: {title}** (%)", "", *report.grid(heads, rows), ""])


MARKERS = "os^Dv*PXd<"  # of the series of a panel


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(name: str, e: Evidence, path: Path) -> None:
    """Draw a figure as PNG, where `can_draw` and there are points: a panel for each metric or task.

    A series is a curve over its settings, which stand side by side; P5, which has none, is a dashed line.
    The trade-off has Hit@10 over AUC, with the setting beside each point. All in percent.
    """
    points, trades = figure_points(name, e), name == "trade-off"
    assert points, f"figure {name} has no points"
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = ["Hit@1", "AUC"] if "Hit@1" in points[0].values else ["AUC"]
    panels = ["sequential", "direct"] if trades else panels
    shape = dict(figsize=(1 + 6 * len(panels), 5.5), squeeze=False, layout="constrained")
    figure, grid = plt.subplots(1, len(panels), **shape)
    for axes, panel in zip(grid[0], panels):
        here = [p for p in points if not trades or p.task == panel]
        fill_panel(axes, name, "Hit@10" if trades else panel, here)
        if trades:
            axes.set_title(f"{panel} recommendation, lambda at the intervals", fontsize="medium")
        axes.grid(alpha=0.3, lw=0.6)
        axes.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    title = f"Figure {name}: {FIGURES[name][0]}\n{e.title}, seed 0, 95% intervals over users"
    figure.suptitle(title, fontsize="medium")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    write_atomically(path, content.getvalue())


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
