"""The figures of the paper from finished runs: their points, as text, and drawn.

Matplotlib is imported where a picture is asked for.
"""

import csv
import importlib.util
import io
import math
import statistics
from pathlib import Path

from reproduction import published
from reproduction.report import (
    HITS,
    LETTERS,
    PROBES,
    UNFAIR,
    Evidence,
    Point,
    about,
    half_of,
    line,
    two_digits,
)
from support.files import write_atomically

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
    letter = "M" if e.data == "insurance" else "G"
    alone = {
        "soft probing prompt": (8, "soft"),
        "classifier, sequential prompts": (9, "classifier"),
    }
    for place, series in enumerate(dict.fromkeys(p.series for p in points)):
        curve = sorted((p for p in points if p.series == series), key=lambda p: p.x)
        values = [percent(p.values["AUC"]) for p in curve]
        ends = [[end[side][0] for _, end in values] for side in (0, 1)]
        # beside one another, so that the intervals can be told apart
        x = [p.x + 0.35 * (place - 1) for p in curve]
        style = dict(color=COLOURS[place], marker=MARKERS[place], capsize=3, lw=1.6, ms=6)
        axes.errorbar(x, [value for value, _ in values], ends, label=series, **style)
        bare = e.of(*alone[series], "", letter) if series in alone else None
        if bare is not None:
            label = f"{series}, P5 alone"
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
