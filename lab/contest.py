"""`python -m lab.contest my_adversary.py`: a prompt against your adversary, and what is read behind it.

Everybody's prompt has the P5, the length, the discriminators and the steps of one run, runs/lab. It is
trained in a process of its own, see `handin.py`; here fresh attackers then read what it leaves.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor

from cfp import CFP, Game
from data import Asked, hold_out, people_with
from evaluate import Attacks, held_out_ranks, measure
from lab.handin import read_hand_in, value_of
from lab.pictures import draw_contest
from mixer import Opened, Study, open_run
from support.expected import labels_for_game, marks_of
from support.files import Interrupted, fill, load_tensors, refuse, run_command, save_tensors, show
from support.flags import Parser
from support.hits import ABOVE
from support.runs import Run, finished, minutes, write_json
from support.screens import around_half, percent
from train import algorithm_1

LIMIT = 600.0  # seconds for the training; on two cores it takes about one minute
PROMPT, LINE = "prompt.safetensors", "line.json"


class HandedIn(Game):
    """The paper's game but for line 6, where the hand-in says what is added to rec_loss."""

    def __init__(self, path: Path, hand_in: Callable, *given):
        super().__init__(*given)
        self.path, self.hand_in = path, hand_in

    def dis_loss(self, attrs, u_emb: list[Tensor], users: np.ndarray) -> Tensor:
        self.seen = u_emb, self.labels[attrs[0]][users]
        return super().dis_loss(attrs, u_emb, users)

    def adversarial_loss(self, rec_loss: Tensor, dis_loss: Tensor, attrs) -> Tensor:
        return rec_loss + value_of(self.hand_in, self.path, dis_loss[0], *self.seen)


def open_world(run: Path, log: Run | None = None) -> tuple[Opened, Study]:
    """A finished run of one attribute, and what trains a prompt as it did. Raises InputError for another."""
    opened = open_run(run, torch.device("cpu"))
    if opened.mixer is not None or opened.cfg.adversary != "game":
        refuse(f"--run {run}", "takes a run of one attribute with --adversary game; train one")
    about = opened.config["tasks"], opened.config["seed"], log
    return opened, Study(opened.corpus, opened.model, *about)


def train_against(path: Path, run: Path, folder: Path) -> None:
    """Train a prompt against a hand-in and save it; labels are known only as histories tell them."""
    opened, study = open_world(run, Run(folder / "training", "", {"command": ["train.py"]}))
    (attr,), corpus, cfg = opened.prefixes, study.corpus, opened.cfg
    known = hold_out(corpus.dataset, attr, opened.config["label holdout"], study.seed)
    marks = marks_of(corpus.split.train, len(corpus.numbers))
    labels = labels_for_game({attr: known}, marks, hard=False)
    corpus.dataset.attributes.clear()
    torch.manual_seed(study.seed)
    cfp, rng = CFP(cfg, study.model.cfg), np.random.default_rng([study.seed, 20])
    size = study.model.cfg.d_model, len(study.tasks)
    game = HandedIn(path, read_hand_in(path), labels, [(attr,)], cfg, size, rng, study.device)
    try:
        algorithm_1(study, cfp, lambda attrs: cfp(), game, path.stem)
    except Interrupted as error:
        sys.exit(error.exit_code)  # it is begun anew
    save_tensors(folder / PROMPT, cfp.state_dict())


def line_of(path: Path, run: Path) -> dict:
    """Train a prompt against a hand-in, attack it, and say what came of it; also in a file."""
    began, folder = time.monotonic(), run / "contest" / path.stem
    (opened, study), (_, results) = open_world(run), finished(run)
    (attr,), corpus = opened.prefixes, study.corpus
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier version
    folder.mkdir(parents=True)
    training = [sys.executable, "-m", "lab.contest", path, "--run", run, "--into", folder]
    try:
        code = subprocess.run([*map(str, training)], timeout=LIMIT).returncode
    except subprocess.TimeoutExpired:
        refuse(path, f"training took longer than {minutes(LIMIT)} minutes; make it quicker")
    if code:
        sys.exit(code)  # it has said why
    fill(cfp := CFP(opened.cfg, study.model.cfg), folder / PROMPT, load_tensors(folder / PROMPT))
    show("attacking what it leaves")
    attacks = Attacks(opened.held_out, study.seed, study.device)
    line = {"name": path.stem, "seed": study.seed, "tasks": {}}
    for task in study.tasks:
        asked = Asked(corpus, task, "test", people_with(corpus, "test"))
        before = held_out_ranks(study.model, asked)
        row, _, _ = measure(study, task, cfp.frozen(), attacks, before)
        figures = {"auc": [row["auc"][attr], *row["auc interval"][attr]]}
        figures |= {"floor": results["floor"][task][attr], "kept": row["kept"], ABOVE: row[ABOVE]}
        line["tasks"][task] = figures
    line["seconds"] = time.monotonic() - began
    write_json(folder / LINE, line)
    return line


def table(lines: list[dict]) -> str:
    """Lines of hand-ins in Markdown; first who leaves least of the task of which most is read."""
    farthest = lambda line: max(abs(row["auc"][0] - 0.5) for row in line["tasks"].values())
    tasks, rows = lines[0]["tasks"], []
    for line in sorted(lines, key=farthest):
        rows.append([line["name"], minutes(line["seconds"])])
        for row in line["tasks"].values():
            rows[-1] += [percent(*row["auc"]), *(percent(row[k][0]) for k in ("kept", ABOVE))]
    heads = [f"{t}: {head}" for t in tasks for head in ("AUC", "Hit@10 kept", "above popularity")]
    floors = [cell for row in tasks.values() for cell in (around_half(row["floor"]), "", "")]
    rows = [["hand-in", "minutes", *heads], ["---"] * (2 + len(heads)), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*rows, ["shuffled labels", "", *floors]])


def read_lines(paths: list[Path]) -> list[dict]:
    """Lines of hand-ins. Raises InputError where one is none, or they are of several worlds."""
    lines = []
    for path in paths:
        try:
            lines.append(json.loads(path.read_text(encoding="utf-8")))
            table(lines)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            refuse(path, f"no line of the contest ({error!r}); name a {LINE} that it has written")
    if len(seeds := {line["seed"] for line in lines}) > 1:
        refuse("--table", f"lines of the worlds {sorted(seeds)}; compare those of one seed")
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("hand_in", nargs="?", type=Path, help="a file like the one in the handout")
    add("--run", type=Path, default=Path("runs/lab"), help="what the set-up made (runs/lab)")
    add("--table", nargs="+", type=Path, metavar="LINE", help=f"put these {LINE} files together")
    add("--plot", type=Path, metavar="PNG", help="of --table, the same as a picture (matplotlib)")
    add("--into", type=Path, metavar="FOLDER", help="train the prompt only, into this folder")
    args = parser.parse_args(argv)
    if (args.table is None) == (args.hand_in is None) or (args.plot and args.table is None):
        refuse("python -m lab.contest", "takes a hand-in, or --table LINE .. [--plot PNG]")
    if args.into is not None:
        return train_against(args.hand_in, args.run, args.into)
    if args.table is None:
        read_hand_in(args.hand_in)  # before anything is waited for
    lines = read_lines(args.table) if args.table else [line_of(args.hand_in, args.run)]
    if args.plot:
        draw_contest(lines, args.plot)
    show("\n" + table(lines))


if __name__ == "__main__":
    run_command(main)
