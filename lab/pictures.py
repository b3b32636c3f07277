"""`python -m lab.pictures --run runs/lab`: the handout's picture of a run, as run.png (matplotlib).

What is read before and behind the prompt, with floor and ceiling, and the user states in two components. A
picture notes what it was drawn from, so that a test knows when the handout's are stale.
"""

import json
from pathlib import Path

import numpy as np
import torch

from audit.report import draw_states
from data import Asked, people_with
from mixer import open_run
from probe import user_states, whom
from support.files import can_draw, picture_mark, refuse, run_command, save_picture, show
from support.flags import Parser
from support.hits import ABOVE
from support.runs import finished


def panels(n: int) -> tuple:
    """(figure, n axes side by side). Raises InputError where there is no matplotlib."""
    if not can_draw():
        refuse("a picture", "needs matplotlib, which is not installed: pip install matplotlib")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, n, figsize=(4.2 * n, 4), layout="constrained", squeeze=False)
    return figure, axes[0]


def drawn_from(figures: dict | list) -> str:
    """Changes with the figures in a picture and with the code that draws it."""
    return picture_mark(json.dumps(figures, sort_keys=True), Path(__file__))


def save(figure, path: Path, figures: dict | list) -> None:
    save_picture(figure, path, 80, drawn_from(figures))
    show(f"{path} is drawn")


def draw_auc(axes, x: list, aucs: list[list[float]], floor: float, task: str) -> None:
    """AUC with intervals as points, and a band where shuffled labels are."""
    auc, low, high = 100 * np.array(aucs).T
    axes.errorbar(x, auc, [auc - low, high - auc], fmt="o", capsize=4)
    axes.axhspan(50 - 100 * floor, 50 + 100 * floor, color="grey", alpha=0.3, label="floor")
    axes.set(title=f"{task}: AUC (%)", ylim=(40, 100))
    axes.legend()


def draw_contest(lines: list[dict], path: Path) -> None:
    """What is kept above popularity against what is read: a point for each hand-in, axes for each task."""
    figure, axes = panels(len(lines[0]["tasks"]))
    for ax, task in zip(axes, lines[0]["tasks"]):
        rows = [line["tasks"][task] for line in lines]
        kept = [100 * (row[ABOVE][0] or 0.0) for row in rows]
        draw_auc(ax, kept, [row["auc"] for row in rows], rows[0]["floor"], task)
        for x, row, line in zip(kept, rows, lines):
            ax.annotate(line["name"], (x, 100 * row["auc"][0]))
        ax.set_xlabel("Hit@10 kept above popularity (%)")
    save(figure, path, lines)


def draw_run(folder: Path, path: Path) -> None:
    """A finished run that hides one attribute: AUC by task, and its user states before and after."""
    (_, results), opened = finished(folder), open_run(folder, torch.device("cpu"))
    (attr,), tasks, corpus = results["attrs"], results["tasks"], opened.corpus
    figure, axes = panels(len(tasks) + 2)
    for ax, task in zip(axes, tasks):
        rows = [results[when][task] for when in ("before", "after")]
        aucs = [[row["auc"][attr], *row["auc interval"][attr]] for row in rows]
        ax.axhline(100 * results["ceiling"][attr]["auc"][0], ls=":", label="ceiling (raw history)")
        draw_auc(ax, ["P5", "P5 + CFP"], aucs, results["floor"][task][attr], task)
    asked = Asked(corpus, tasks[0], "test", people_with(corpus, "test"))
    labels = asked.labels(attr)
    tested = whom(opened.unseen(attr)[asked.users], labels)
    picture = {"labels": labels[tested], "classes": corpus.dataset.classes[attr]}
    prefixes = {"P5": None, "P5 + CFP": opened.hiding((attr,))}
    for ax, (name, prefix) in zip(axes[-2:], prefixes.items()):
        draw_states(ax, user_states(opened.model, asked, prefix)[tested], picture)
        ax.set_title(f"user states, {tasks[0]}, {name}")
    save(figure, path, results)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/lab"), help="of one attribute")
    folder = parser.parse_args(argv).run
    draw_run(folder, folder / "run.png")


if __name__ == "__main__":
    run_command(main)
