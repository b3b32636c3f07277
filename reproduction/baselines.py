"""The baselines of tables 1 to 6: recommenders, their fair versions, popularity and a lookup.

    python -m reproduction.baselines --model sasrec --attr gender
    python -m reproduction.baselines --model all --attr gender

The models are in `recommenders.py`. Here they are trained, made fair in the same kind of game as the
paper's prompt, and measured as everything else is: the same split, the same saved candidates, the same
attackers on the same folds. The second command also takes P5 and its prompt from a run of `train.py`,
which it starts where there is none, and ends with a table of twelve rows.

A user's vector is what the recommender goes by at test time, after the training items and the validation
item: PMF's p_u (which knows training items alone), SimpleX's h_u, SASRec's state at the last item, and
BERT4Rec's at the [MASK] behind it; of a fair version, what its filter or its prompt makes of it.
`results.json` has what train.py's has of the data, popularity and the ceiling, and in "rows" a row for
each model (of filters one for each choice of attributes) with the same keys; "full hit@10" and "full
ndcg@10" rank the whole catalogue but what was met.
"""

import argparse
import copy
import dataclasses
import functools
import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import torch
from torch import nn

import train
from attack import attack, floor
from audit.surfaces import surfaces, unmet
from cfp import (
    CFPConfig,
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    set_rates,
    step,
)
from data import TASKS, Corpus, hold_out, marks_of, met_before, people_with
from evaluate import attacked_row, circumstances, how_many_candidates
from mixer import subsets
from p5 import P5Config, finished, make_corpus, open_run, read_attrs
from ranks import candidate_ranks, held_out_ranks, hits, ndcg_at, popularity, rank_of_first
from reproduction.baseline_flags import FAIR, FILTERED, NAMES, RECOMMENDERS, configs, parse_args
from reproduction.recommenders import PMF, BERT4Rec, Filters, Interactions, Prompt, SASRec, SimpleX
from support.checkpoints import Checkpoint, forget
from support.datasets import ToyConfig, fingerprint, load_dataset
from support.files import InputError, enough_to_train, fill, load_tensors, run_command, save_tensors
from support.flags import command_to_resume, pick_device, settings
from support.flags import parse_args as train_args
from support.runs import Run, minutes

Recommender = PMF | SimpleX | SASRec | BERT4Rec
Fair = Filters | Prompt


# -------------------------------------------------------------------------------------------------
# Data in, vectors and scores out
# -------------------------------------------------------------------------------------------------


def padded(histories: list[np.ndarray], pad: int) -> np.ndarray:
    """Histories of items, oldest first, as (users, s) with `pad` on the left; s is 1 at least."""
    longest = max(1, *map(len, histories))
    rows = np.full((len(histories), longest), pad)
    for row, history in zip(rows, histories):
        row[longest - len(history) :] = history
    return rows


def interactions_of(corpus: Corpus, device: torch.device) -> Interactions:
    """The training interactions of everybody, copies of people included."""
    train_items, n_items = corpus.split.train, len(corpus.numbers)
    users = np.repeat(np.arange(len(train_items)), [len(items) for items in train_items])
    pairs = np.column_stack([users, np.concatenate(train_items)])
    seen = marks_of(train_items, n_items).astype(bool)
    parts = pairs, padded(train_items, n_items), seen
    return Interactions(*(torch.from_numpy(part).to(device) for part in parts))


@torch.no_grad()
def vectors_and_scores(
    model: Recommender,
    corpus: Corpus,
    part: str,
    users: np.ndarray,
    fair: Callable | Prompt | None = None,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """(users, d) and (users, items): what users are to the model before their item of `part`."""
    device, n_items = next(model.parameters()).device, len(corpus.numbers)
    model.eval()
    states, scores = [], []
    for some in np.split(users, range(batch_size, len(users), batch_size)):
        met = padded([met_before(corpus, user, part) for user in some], n_items)
        ids = torch.from_numpy(some).to(device), torch.from_numpy(met).to(device)
        state_bd = model.state(*ids, fair)
        states.append(state_bd.cpu().numpy())
        scores.append(model.scores(state_bd).cpu().numpy())
    return np.concatenate(states), np.concatenate(scores)


def lookup(corpus: Corpus, part: str, users: np.ndarray) -> np.ndarray:
    """P(item | the set of all items met before), counted, (users, items): a table and no model.

    Everybody counts with what was met before the item of `part`, validation items included where the
    test items are asked for: of each set and each of its items, that the rest of the set goes with this
    item. The users' share of each item in training counts as one more observation for every set: it decides
    between items that were counted equally often, and a set that occurs nowhere, as nearly all of
    a MovieLens user's do, is left with popularity.
    """
    prior = popularity(corpus) / max(popularity(corpus).sum(), 1)
    counts: dict[frozenset, Counter] = defaultdict(Counter)
    owned = [frozenset(met_before(corpus, user, part)) for user in range(len(corpus.split.train))]
    for items in owned:
        for item in items:
            counts[items - {item}][item] += 1
    scores = np.tile(prior, (len(users), 1))
    for row, user in enumerate(users):
        found = counts.get(owned[user], {})
        for item, count in found.items():
            scores[row, item] += count
        scores[row] /= 1 + sum(found.values())
    return scores


def catalogue_ranks(corpus: Corpus, part: str, users: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank (users,) of the held-out item among all items not met before, by scores (users, items)."""
    scores, rows = unmet(corpus, part, users, scores), np.arange(len(users))
    target = getattr(corpus.split, part)[users]
    first = scores[rows, target]
    scores[rows, target] = -np.inf  # it stands in front; what was met is beaten in any case
    return rank_of_first(np.column_stack([first, scores]), [scores.shape[1] + 1] * len(users))


def quality(ranks: np.ndarray, full_ranks: np.ndarray, seed: int) -> dict:
    """The part of a row of results.json that says how good the recommendations are."""
    full = {
        "full hit@10": float((full_ranks <= 10).mean()),
        "full ndcg@10": ndcg_at(full_ranks, 10),
    }
    return hits(ranks, seed) | {"ndcg@10": ndcg_at(ranks, 10)} | full


# -------------------------------------------------------------------------------------------------
# Training
# -------------------------------------------------------------------------------------------------


def validation_ranks(
    model: Recommender, corpus: Corpus, fair: Callable | Prompt | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(vectors (users, d), ranks (users,)): validation items among the sequential task's candidates."""
    users = people_with(corpus, "valid")
    states, scores = vectors_and_scores(model, corpus, "valid", users, fair)
    return states, candidate_ranks(corpus, TASKS[0], "valid", users, scores)


def train_recommender(
    corpus: Corpus, data: Interactions, model: Recommender, name: str, seed: int, run: Run
) -> None:
    """Train `model` in place, until NDCG@10 of validation items has not grown for a while; keep the best.

    The held-out items are negatives like any others: not to draw them would tell which they are.
    """
    torch.manual_seed(seed)
    cfg, rows = model.cfg, model.examples(data)
    if len(rows) == 0:
        raise InputError(
            f"{corpus.dataset.name}: nobody has two training items, so {NAMES[name]} cannot learn "
            "what follows; choose another --model"
        )
    optimizer = torch.optim.AdamW(
        model.parameters(),
        cfg.lr,
        betas=(0.9, 0.98),
        weight_decay=cfg.weight_decay,
        fused=True,
    )
    n_steps = cfg.epochs * math.ceil(len(rows) / cfg.batch_size)
    can_choose = len(people_with(corpus, "valid")) > 0
    kept = Checkpoint(run, name, dict(model=model, optimizer=optimizer))
    start = dict(epoch=0, number=0, best=None, best_ndcg=-1.0, ndcg=math.nan, waited=0)
    epoch, number, best, best_ndcg, ndcg, waited = kept.restore(start).values()
    for epoch in range(epoch + 1, cfg.epochs + 1):
        model.train()
        losses = []
        for some in rows[torch.randperm(len(rows))].split(cfg.batch_size):
            number += 1
            if cfg.decay:
                set_rates(optimizer, min(number / n_steps * 100, 1 - (number - 1) / n_steps))
            loss = model.loss(data, some)
            step(optimizer, loss, max_norm=5.0)
            losses.append(loss.item())
        if can_choose and (epoch % cfg.check == 0 or epoch == cfg.epochs):
            ranks = validation_ranks(model, corpus)[1]
            ndcg = ndcg_at(ranks, 10)
            hit = float((ranks <= 10).mean())
            run.metric(stage=f"{name} validation", epoch=epoch, **{"ndcg@10": ndcg, "hit@10": hit})
            waited += 1
            if ndcg > best_ndcg:
                best, best_ndcg, waited = copy.deepcopy(model.state_dict()), ndcg, 0
        run.progress(NAMES[name], epoch, cfg.epochs, loss=float(np.mean(losses)), ndcg=ndcg)
        if waited == cfg.patience:
            run.say(f"{NAMES[name]}: no gain in {waited} looks, stopped after {epoch} epochs")
            break
        now = dict(epoch=epoch, number=number, best=best, best_ndcg=best_ndcg, ndcg=ndcg)
        kept.keep(epoch, cfg.epochs, **now, waited=waited)
    if best is not None:
        model.load_state_dict(best)


def serving(fair: Fair, attrs: tuple[str, ...]) -> Callable | Prompt:
    """What a recommender is given in order to hide these attributes."""
    return fair if isinstance(fair, Prompt) else functools.partial(fair, attrs=attrs)


def make_fair(
    corpus: Corpus,
    data: Interactions,
    model: Recommender,
    labels: dict[str, np.ndarray],
    cfg: CFPConfig,
    name: str,
    seed: int,
    run: Run,
) -> Fair:
    """Filters or a prompt that hide attributes of which the adversary knows `labels`, negative for none.

    The player descends rec_loss - lambda * dis_loss: rec_loss is the mean that the recommender's own `loss`
    gives for a batch of its own size, dis_loss the mean cross-entropy over a batch of users, everybody as
    often as anybody else. Then the discriminators descend theirs, `dis_steps` times.
    """
    torch.manual_seed(seed)
    attrs, device = tuple(labels), data.seen.device
    if name in FILTERED:
        fair = Filters(list(attrs), model.cfg.d).to(device)
        choices = subsets(list(attrs))
        player = nn.ModuleList([fair, model])
    else:
        fair, choices = Prompt(model.encoder, cfg.prefix_len).to(device), [attrs]
        model.requires_grad_(False)
        player = fair
    discriminator = lambda n_classes: Discriminator(cfg, model.cfg.d, n_classes, 1)
    game = train.game_of(labels, choices, cfg, discriminator, device)
    label_of, members, dis_optimizer = game.label_of, game.members, game.dis_optimizer
    rows, n_users = model.examples(data), len(data.seen)
    # as many for each choice as a filter alone has, or it would do worse than one that hides less
    per_epoch = train.batches_per_epoch(corpus, cfg)
    n_batches = cfg.epochs * per_epoch * len(choices)
    # Where the recommender is trained on it may come to know its training items by heart: in the toy
    # world C-SX's Hit@10 went from 20 to 8 in a game that was seven times as long. So it moves more
    # slowly in a longer game, and it is judged ten times and the best kept; elsewhere, as in Algorithm 1,
    # the last is.
    groups = [dict(params=list(fair.parameters()))]
    if player is not fair:
        groups.append(dict(params=list(model.parameters()), lr=cfg.lr / len(choices)))
    player_optimizer = torch.optim.AdamW(groups, cfg.lr, weight_decay=0.0, fused=True)
    can_choose = player is not fair and len(people_with(corpus, "valid")) > 0
    judged_at = {math.ceil(n_batches * k / 10) for k in range(1, 11) if can_choose}
    before = (validation_ranks(model, corpus)[1] <= 10).mean() if can_choose else math.nan
    optimizers = dict(player_optimizer=player_optimizer, dis_optimizer=dis_optimizer)
    kept = Checkpoint(run, name, dict(player=player, members=members) | optimizers)
    start = dict(number=0, order=None, best=None, least=math.inf)
    number, order, best, least = kept.restore(start).values()
    for number in range(number + 1, n_batches + 1):
        if (number - 1) % per_epoch == 0:
            order = torch.randperm(n_users, device=device)
        users, order = order[: cfg.batch_size], order[cfg.batch_size :]
        hidden = choices[torch.randint(len(choices), ()).item()]
        C = game.adversary[hidden]
        lam, cap = game.lams_and_caps(hidden)
        given, history_bs = serving(fair, hidden), data.histories[users]
        set_rates(player_optimizer, min(number / 20, 1 - 0.95 * number / n_batches))
        model.train(player is not fair), fair.train()
        # (1) the fair part hides the attributes: it descends L_rec - sum of lambda * L_dis
        rec_loss = model.loss(data, rows[torch.randint(len(rows), (model.cfg.batch_size,))], given)
        state_bd = model.state(users, history_bs, given)
        dis_loss = [discriminator_loss(C[k], [state_bd], label_of[k][users]) for k in hidden]
        step(player_optimizer, adversarial_loss(rec_loss, dis_loss, lam, cap))
        # (2) the discriminators catch up: they descend L_dis
        with torch.no_grad():
            state_bd = model.state(users, history_bs, given)
        for _ in range(cfg.dis_steps):
            dis_loss = [discriminator_loss(C[k], [state_bd], label_of[k][users]) for k in hidden]
            step(dis_optimizer, torch.cat(dis_loss).sum())
        if number in judged_at:
            short = shortfall(corpus, model, fair, labels, before, name, seed, run)
            if short < least:
                best, least = copy.deepcopy(player.state_dict()), short
        dis = torch.cat(dis_loss).mean().item()
        blind = game.blind(hidden)
        train.check_discriminators(dis, blind, cfg, f"{NAMES[name]}, batch {number}")
        run.progress(NAMES[name], number, n_batches, rec=rec_loss.item(), dis=dis, blind=blind)
        kept.keep(number, n_batches, number=number, order=order, best=best, least=least)
    if best is not None:
        player.load_state_dict(best)
    return fair


def shortfall(
    corpus: Corpus,
    model: Recommender,
    fair: Fair,
    labels: dict[str, np.ndarray],
    before: float,
    name: str,
    seed: int,
    run: Run,
) -> float:
    """How bad it is before the validation items; the best of ten moments of a game is kept.

    The farthest of a fresh logistic regression's AUC from one half, plus what is lost of the Hit@10
    `before` beyond a tenth.
    """
    users = people_with(corpus, "valid")
    fair.eval()
    states, ranks = validation_ranks(model, corpus, serving(fair, tuple(labels)))
    leaks = []
    for known in labels.values():
        some = known[users] >= 0
        given = states[some], known[users][some], ["logistic regression"], seed + 1
        found = attack(*given, next(model.parameters()).device)
        leaks.append(abs(found["auc"][0] - 0.5))
    lost = max(0.0, 0.9 - (ranks <= 10).mean() / max(before, 1e-9))
    run.metric(stage=f"{name} validation", leak=max(leaks), lost_beyond_a_tenth=lost)
    return max(leaks) + lost


# -------------------------------------------------------------------------------------------------
# Rows and the table
# -------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """What all rows are measured with."""

    corpus: Corpus
    users: np.ndarray  # who have a test item
    attrs: list[str]
    held_out: dict[str, np.ndarray]  # (users,) of each, True where the adversary knows no label
    seed: int
    shuffles: int
    device: torch.device  # of the attackers


def row_of(
    name: str,
    scores: np.ndarray,
    states: np.ndarray | None,
    hidden: tuple[str, ...],
    seconds: float,
    m: Measured,
) -> dict:
    """A row of results.json: scores (users, items) and vectors (users, d), None where there are none."""
    row = {"model": name, "hidden": list(hidden), "seconds": seconds, "floor": {}}
    full, read = catalogue_ranks(m.corpus, "test", m.users, scores), {}
    if states is not None:
        read = attacked_row(m.corpus, m.users, states, m.attrs, m.seed, m.held_out, m.device)
        for attr in m.attrs:
            labels = m.corpus.dataset.labels(attr)[m.users]
            row["floor"][attr] = floor(states, labels, None, m.seed, m.shuffles, m.device)
    for task in TASKS:
        ranks = candidate_ranks(m.corpus, task, "test", m.users, scores)
        row[task] = quality(ranks, full, m.seed) | read
    return row


def p5_row(folder: Path, name: str, m: Measured) -> dict:
    """The row of P5 or of its prompt, "cfp", of a finished run of train.py, with that run's attacks."""
    opened, (_, results) = open_run(folder, torch.device("cpu")), finished(folder)
    (attr,) = m.attrs
    prefix, when = (None, "before") if name == "p5" else (opened.prefixes[attr], "after")
    seconds = results["p5 seconds"] if name == "p5" else results["cfp seconds"][attr]
    row = {"model": name, "hidden": [] if name == "p5" else [attr], "seconds": seconds}
    row["floor"] = {attr: max(results["floor"][task][attr] for task in TASKS)}
    for task in TASKS:
        given = opened.model, opened.corpus, task, "test", m.users, prefix
        scores = surfaces(*given, ("scores",))["scores"]
        full = catalogue_ranks(opened.corpus, "test", m.users, scores)
        read = {key: results[when][task][key] for key in ("auc", "auc interval", "attackers")}
        row[task] = quality(held_out_ranks(*given), full, m.seed) | read
    return row


def fits(folder: Path, wanted: dict) -> bool:
    """Whether a finished run of train.py has this in its config.json, and lists no candidates."""
    config, _ = finished(folder)
    wanted = json.loads(json.dumps(wanted))  # its tuples are lists in the file
    same = all(config.get(key) == value for key, value in wanted.items())
    return same and config["p5"]["prompt_candidates"] == 0


def p5_run(corpus: Corpus, attr: str, args: argparse.Namespace, run: Run) -> Path:
    """The folder of a finished run of train.py on the same data, or of one that is started here."""
    # what its config.json must say for its rows to stand beside those of this command
    wanted = {"data fingerprint": fingerprint(corpus.dataset), "attrs": [attr], "tasks": TASKS}
    wanted |= {"seed": args.seed, "label holdout": 0.0}
    if args.run is not None:
        if not fits(args.run, wanted):
            raise InputError(
                f"--run {args.run}: was about other data, another --attr, --seed or task, or with listed "
                "candidates; leave it out to have the right one trained"
            )
        return args.run
    name = f"{args.data}-{attr}-seed{args.seed}"
    # one with other settings than train.py's defaults is not taken unasked
    ours = ["--attr", attr, "--data", args.data]
    p5, cfg, _ = settings(train_args(ours), (attr,), "tiny", None)
    wanted |= {"p5": dataclasses.asdict(p5), "cfp": dataclasses.asdict(cfg)}
    wanted |= {"backbone": "tiny", "dtype": "fp32"}

    def found() -> Path | None:
        runs = [Path("runs") / name, *sorted(Path("runs").glob(f"{name}-[0-9]*"))]
        done = (folder for folder in runs if (folder / "results.json").exists())
        return next((folder for folder in done if usable(folder)), None)

    def usable(folder: Path) -> bool:
        try:
            return fits(folder, wanted)
        except InputError:  # of an older version, and nobody asked for it
            return False

    folder = found()
    if folder is None:
        run.say("P5 and CFP: training them with train.py")
        argv = ["--attr", attr, "--data", args.data, "--seed", str(args.seed)]
        argv += ["--device", args.device]
        argv += [] if args.data_dir is None else ["--data-dir", str(args.data_dir)]
        argv += ["--toy-users", str(args.toy_users)] if args.data == "toy" else []
        train.main(argv)
        folder = found()
    run.say(f"P5 and CFP: taking those of {folder}")
    return folder


def table(results: dict) -> str:
    """The table that a run ends with, from what stands in results.json; figures in percent."""
    attrs, rows = results["attrs"], results["rows"]
    label = lambda row: NAMES[row["model"]] + (
        f", hiding {', '.join(row['hidden'])}" if row["hidden"] and len(attrs) > 1 else ""
    )
    width = max(12, *(len(label(row)) for row in rows)) + 2
    cell = lambda value, low, high: f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    before = {row["model"]: row for row in rows if not row["hidden"]}
    lines = [
        f"{results['users']} users, the test item among {how_many_candidates(results, TASKS[0])} candidates; "
        "then among all items but those met before (%)",
        f"  {'':<{width}}{'Hit@1':<7}{'Hit@3':<7}{'Hit@10':<19}{'NDCG@10':<9}"
        f"{'all: Hit@10':<13}{'NDCG@10':<9}{'kept':<6}"
        + "".join(f"{attr + ' AUC':<19}{'floor':<8}" for attr in attrs)
        + "attacker",
    ]
    for task in TASKS:
        some = [row for row in rows if task == TASKS[0] or row[task] != row[TASKS[0]]]
        if task != TASKS[0] and some:
            lines.append(f"  {task} recommendation, where it differs:")
        for row in some:
            r, base = row[task], before.get(FAIR.get(row["model"], "p5"))
            kept = (
                f"{100 * r['hit@10'] / max(base[task]['hit@10'], 1e-9):.0f}"
                if row["hidden"]
                else ""
            )
            line = f"  {label(row):<{width}}{100 * r['hit@1']:<7.1f}{100 * r['hit@3']:<7.1f}"
            line += f"{cell(r['hit@10'], *r['hit@10 interval']):<19}{100 * r['ndcg@10']:<9.1f}"
            line += f"{100 * r['full hit@10']:<13.1f}{100 * r['full ndcg@10']:<9.1f}{kept:<6}"
            for attr in attrs if "auc" in r else []:
                chance = f"+- {100 * row['floor'][attr]:.1f}"
                line += f"{cell(r['auc'][attr], *r['auc interval'][attr]):<19}{chance:<8}"
            if "auc" in r:
                line += ", ".join(r["attackers"][attr]["strongest"] for attr in attrs)
            lines.append(line.rstrip())
    lines.append("")
    for attr in attrs:
        lines.append(
            f"Ceiling, {attr} AUC of raw histories: {cell(*results['ceiling'][attr]['auc'])}"
        )
    lines += [
        "AUC of the strongest of the same fresh attackers as at the end of train.py, on what each user is to",
        "the recommender at test time; 50 is chance, the floor how far from 50 it gets on shuffled labels.",
        "Kept: Hit@10 in percent of what it was before. Brackets are 95% bootstrap intervals over users.",
    ]
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------
# The command
# -------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> dict:
    """Everything from the data to the table; returns what results.json holds."""
    given = list(sys.argv[1:] if argv is None else argv)
    given, resume = command_to_resume(given, "baselines.py")
    args = parse_args(given)
    device, attrs = pick_device(args.device), read_attrs(args.attr, "--attr")
    cfgs, games = configs(args, attrs)
    dataset = load_dataset(args.data, args.data_dir, args.seed, ToyConfig(args.toy_users))
    known = {attr: hold_out(dataset, attr, 0.0, args.seed) for attr in attrs}
    train.enough_to_attack(dataset, known, args.model in (*FILTERED, "all"))
    train.enough_for_tables(dataset)
    for name, cfg in cfgs.items():
        with torch.device("meta"):  # shapes without memory
            shape = RECOMMENDERS[name][0](cfg, len(dataset.users), len(dataset.titles))
        # of each weight in float32 itself, its gradient, AdamW's two means and the best so far
        enough_to_train(NAMES[name], shape, 20, device, "choose a smaller --d")
    config = {
        "command": ["baselines.py", *map(str, given)],
        "data": args.data,
        "data dir": None if args.data_dir is None else str(args.data_dir.resolve()),
        "data fingerprint": fingerprint(dataset),
        "attrs": attrs,
        "seed": args.seed,
        "device": str(device),
        "recommenders": {name: dataclasses.asdict(cfg) for name, cfg in cfgs.items()},
        "games": {name: dataclasses.asdict(cfg) for name, cfg in games.items()},
        "base": None if args.base is None else str(args.base),
        "torch": torch.__version__,
    }
    # what is named is looked at before anything is written or trained
    if args.run is not None:
        p5_run(make_corpus(dataset, None, P5Config(), args.seed), attrs[0], args, None)
    for name in cfgs if args.base is not None else ():
        base_weights(args.base, name, config)
    name = f"{args.data}-{args.model}-{'+'.join(attrs)}-seed{args.seed}"
    run = Run(args.out, name, config) if resume is None else Run.resume(resume, config)
    train.describe(dataset, attrs, P5Config(), run)
    corpus = make_corpus(dataset, None, P5Config(), args.seed)
    train.save_negatives(run.folder / "negatives.npy", corpus.negatives)
    p5_folder = p5_run(corpus, attrs[0], args, run) if args.model == "all" else None

    results = {"data": args.data, "attrs": attrs, "seed": args.seed, "seconds": None}
    about = list(TASKS), list(attrs), args.seed, device
    results |= run.so_far() or circumstances(corpus, *about) | {"rows": []}
    train_and_measure(corpus, known, cfgs, games, p5_folder, args, results, run)
    results["seconds"] = run.seconds()
    run.finish(results)
    forget(run)
    run.say("\n" + table(results))
    run.say(f"\n{minutes(run.seconds())} in all; everything is in {run.folder}")
    return results


def train_and_measure(
    corpus: Corpus,
    known: dict[str, np.ndarray],
    cfgs: dict[str, object],
    games: dict[str, CFPConfig],
    p5_folder: Path | None,
    args: argparse.Namespace,
    results: dict,
    run: Run,
) -> None:
    """Fill `results["rows"]`, a model after the other; those that an interrupted run left there stay.

    The recommenders of `cfgs` are trained, or taken from the run --base, then the fair versions of `games`
    are made against adversaries that are told `known`. `p5_folder` is the run of P5's rows, None for none.
    """
    rows, attrs, seed = results["rows"], list(known), args.seed
    device = torch.device(run.config["device"])
    data, users = interactions_of(corpus, device), people_with(corpus, "test")
    unknown = {attr: labels < 0 for attr, labels in known.items()}
    m = Measured(corpus, users, attrs, unknown, seed, results["shuffles"], device)

    def add(row: dict) -> None:
        rows.append(row)
        run.keep(results)

    def done(name: str) -> list[dict]:  # before it was interrupted
        return [row for row in rows if row["model"] == name]

    if not done("popularity"):
        counts = np.tile(popularity(corpus).astype(float), (len(users), 1))
        add(row_of("popularity", counts, None, (), 0.0, m))
    if args.model in ("lookup", "all") and not done("lookup"):
        add(row_of("lookup", lookup(corpus, "test", users), None, (), 0.0, m))
    models = {}
    for name, cfg in cfgs.items():
        began, path = run.seconds(), run.folder / f"{name}.safetensors"
        torch.manual_seed(seed)
        models[name] = RECOMMENDERS[name][0](cfg, len(data.seen), data.seen.shape[1]).to(device)
        if done(name):
            fill(models[name], path, load_tensors(path))
            continue
        if args.base is None:
            train_recommender(corpus, data, models[name], name, seed, run)
        else:
            weights = base_weights(args.base, name, run.config)
            fill(models[name], args.base / f"{name}.safetensors", weights)
        save_tensors(path, models[name].state_dict())
        seconds = run.seconds() - began
        run.say(f"{NAMES[name]}: measuring")
        states, scores = vectors_and_scores(models[name], corpus, "test", users)
        add(row_of(name, scores, states, (), seconds, m))
    if p5_folder is not None and not done("p5"):
        add(p5_row(p5_folder, "p5", m))
    for name, cfg in games.items():
        # a prompt is trained for one combination, filters for any
        hiding = subsets(attrs) if name in FILTERED else [tuple(attrs)]
        before = done(name)
        if len(before) == len(hiding):
            continue
        began, model = run.seconds(), copy.deepcopy(models[FAIR[name]])
        fair = make_fair(corpus, data, model, known, cfg, name, seed, run)
        both = nn.ModuleDict({"fair": fair, "recommender": model})
        save_tensors(run.folder / f"{name}.safetensors", both.state_dict())
        seconds = before[0]["seconds"] if before else run.seconds() - began
        fair.eval()
        for number, hidden in enumerate(hiding[len(before) :], len(before) + 1):
            run.say(
                f"{NAMES[name]}: measuring {number} of {len(hiding)}, hiding {', '.join(hidden)}"
            )
            given = serving(fair, hidden)
            states, scores = vectors_and_scores(model, corpus, "test", users, given)
            add(row_of(name, scores, states, hidden, seconds, m))
    if p5_folder is not None and not done("cfp"):
        add(p5_row(p5_folder, "cfp", m))


def base_weights(folder: Path, name: str, config: dict) -> dict:
    """The weights that another run of this command left of a recommender trained with the same settings."""
    try:
        other = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise InputError(
            f"--base {folder}: no folder of a run; its config.json is missing or no JSON"
        ) from None
    same = isinstance(other, dict) and all(
        other.get(key) == config[key] for key in ("data fingerprint", "seed")
    )
    if not same or other.get("recommenders", {}).get(name) != config["recommenders"][name]:
        raise InputError(
            f"--base {folder}: has no {NAMES[name]} of these data, seed and settings; name another or "
            "leave it out"
        )
    return load_tensors(folder / f"{name}.safetensors")


if __name__ == "__main__":
    run_command(main)
