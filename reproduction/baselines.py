"""The baselines of tables 1 to 6: recommenders, their fair versions, popularity and a lookup.

    python -m reproduction.baselines --model sasrec --attr gender
    python -m reproduction.baselines --model all --attr gender

The models are in `recommenders.py`. This file trains them, makes them fair in the same kind of game as
the paper's prompt, and measures them on the same candidates, with the same attackers on the same folds.

A user's vector is what the recommender uses at test time, after the training items and the validation
item: PMF's p_u (which knows training items alone), SimpleX's h_u, SASRec's state at the last item, and
BERT4Rec's at the [MASK] after it; for a fair version, what its filter or its prompt makes of that.
`results.json` says the same as train.py's about the data, popularity and the ceiling. In "rows" it has a
row for each model (with filters, one for each choice of attributes) with the same keys; "full hit@10"
and "full ndcg@10" rank the whole catalogue except what the user has met.
"""

import argparse
import copy
import dataclasses
import functools
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from audit.surfaces import catalogue_ranks, gains
from cfp import Game, step
from data import TASKS, Asked, Corpus, hold_out, make_corpus, met_before, people_with
from evaluate import Attacks, candidate_ranks, circumstances, popularity, popularity_ranks
from mixer import subsets
from reproduction.recommenders import (
    RECOMMENDERS,
    Filters,
    Interactions,
    Prompt,
    Recommender,
    TrainingConfig,
)
from support import flags, screens
from support.checks import enough_for_run, enough_people
from support.command import common_config, end_run
from support.configs import CFPConfig, P5Config
from support.datasets import ToyConfig, load_dataset
from support.expected import labels_for_game, marks_of
from support.fields import add_flags, at_least, flags_given, rate, weight
from support.files import fill, load_tensors, read_object, refuse, run_command, save_tensors
from support.hits import hits, kept
from support.runs import Run, save_array
from support.training import Checkpoint, check_discriminators, set_rates
from train import batches_per_epoch

Fair = Filters | Prompt
# The settings of each recommender's training, and of each fair version's game.
Settings = tuple[dict[str, TrainingConfig], dict[str, CFPConfig]]
FAIR = {"c-pmf": "pmf", "c-sx": "simplex", "s-sas": "sasrec", "s-b4": "bert4rec"}
FILTERED = "c-pmf", "c-sx"  # made fair by filters on the user vector
PROMPTED = "s-sas", "s-b4"  # by a prompt
NAMES = {"popularity": "popularity", "lookup": "lookup"}
NAMES |= {"pmf": "PMF", "simplex": "SimpleX", "sasrec": "SASRec", "bert4rec": "BERT4Rec"}
NAMES |= {"c-pmf": "C-PMF", "c-sx": "C-SX", "s-sas": "S-SAS", "s-b4": "S-B4"}

# What a data set changes in the defaults of a recommender's training and of a fair version's game; a
# flag on the command line overrides both. The game uses these fields of a CFPConfig: lam, hsic, epochs,
# batch_size, lr, cap, everything that begins with dis_, and prefix_len for the prompts. On Insurance
# the discriminators are P5's.
ON_INSURANCE = dict(epochs=20, batch_size=1024, dis_depths=(1, 3), dis_lr=1e-2)
PRESETS = {
    "toy pmf": dict(lr=3e-3, l2=0.03, epochs=60, patience=6),
    "toy simplex": dict(lr=3e-3, margin=0.7, gate=0.8, epochs=60, patience=6),
    "toy sasrec": dict(lr=2e-3, batch_size=64, epochs=60, patience=5),
    "toy bert4rec": dict(lr=3e-3, batch_size=64, epochs=40, patience=8),
    "toy c-pmf": dict(epochs=300, lr=3e-3, lam=2.0, hsic=30.0),
    "toy c-sx": dict(epochs=100, lr=3e-3, lam=0.5, hsic=10.0),
    "toy s-sas": dict(epochs=65, lr=5e-3, lam=1.0, prefix_len=10),
    "toy s-b4": dict(epochs=65, lr=5e-3, lam=5.0, prefix_len=10),
    "ml-1m pmf": dict(batch_size=8192),
    "ml-1m simplex": dict(margin=0.7, gate=0.8, epochs=40),
    "ml-1m sasrec": dict(epochs=200, check=5, patience=8),
    "ml-1m bert4rec": dict(batch_size=64, epochs=130, check=5, patience=100),
    "ml-1m c-pmf": dict(epochs=80, batch_size=256, lr=3e-3, lam=2.0),
    "ml-1m c-sx": dict(epochs=80, batch_size=256, lr=3e-3, lam=0.5),
    "ml-1m s-sas": dict(epochs=20, batch_size=256, lr=5e-3, lam=5.0, prefix_len=10),
    "ml-1m s-b4": dict(epochs=20, batch_size=256, lr=5e-3, lam=10.0, prefix_len=10),
    "insurance c-pmf": ON_INSURANCE | dict(lr=1e-3, lam=10.0, dis_steps=10),
    "insurance c-sx": ON_INSURANCE | dict(lr=3e-3),
    "insurance s-sas": ON_INSURANCE | dict(lr=5e-3, lam=10.0, prefix_len=10),
    "insurance s-b4": ON_INSURANCE | dict(lr=5e-3, lam=10.0, prefix_len=10),
}
# The flags of the game: the type of each and what it says. Those of the training are TrainingConfig's.
GAME_FLAGS = {
    "lam": (weight, "weight of the discriminators' mean loss against the mean own loss"),
    "hsic": (weight, "weight of the dependence beside it"),
    "fair_epochs": (at_least(1), "passes over the users, for each choice of attributes"),
    "fair_batch_size": (at_least(2), "users per batch"),
    "fair_lr": (rate, "learning rate of filters or prompt"),
    "dis_lr": (rate, "learning rate of the discriminators"),
    "dis_steps": (at_least(1), "their steps after each one of the other player"),
    "prefix_len": (at_least(0), "vectors of a prompt in each layer"),
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    text = "Train the baselines of the paper, measure them as train.py measures its own."
    parser = flags.Parser(text)
    add, models = parser.add_argument, ["popularity", "lookup", *RECOMMENDERS, *FAIR, "all"]
    text = "a fair one comes with the one it is made of"
    add("--model", required=True, choices=models, help=text)
    text = "what is attacked, and hidden: gender (default), or several"
    add("--attr", default="gender", help=text)
    flags.add_run_flags(parser)
    text = "run of this command whose recommenders are taken, not trained anew"
    add("--base", type=Path, help=text)
    text = "default: what suits the model and the data, see the run's config.json"
    add_flags(parser.add_argument_group("training", text), TrainingConfig)
    game = parser.add_argument_group("the fair versions' game")
    for name, (kind, text) in GAME_FLAGS.items():
        flag = f"--{name.replace('_', '-')}"
        game.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=text)
    return parser.parse_args(argv)


def configs(args: argparse.Namespace, attrs: tuple[str, ...]) -> Settings:
    """What is trained and how: defaults, what the data want changed, flags.

    Raises InputError for flags that are each allowed but do not go together.
    """
    if args.model == "all" and len(attrs) > 1:
        refuse(f"--model all --attr {args.attr}", "its rows are about one attribute; name one")
    flags.check_toy_flags(args)
    training, trained = flags_given(args, TrainingConfig), (*RECOMMENDERS, *FAIR)
    game = {name: value for name, value in vars(args).items() if name in GAME_FLAGS}
    used_by = {} if args.base is None else {"base": trained}  # flag -> the models that go by it
    used_by |= dict.fromkeys(training, trained) | dict.fromkeys(game, tuple(FAIR))
    used_by |= {"prefix_len": PROMPTED} if "prefix_len" in game else {}
    for flag, models in used_by.items():
        if args.model not in (*models, "all"):
            why = f"--model {args.model} does not go by it; leave it out, or choose --model "
            refuse(f"--{flag.replace('_', '-')}", why + ", ".join((*models, "all")))
    preset = lambda name: PRESETS.get(f"{args.data} {name}", {})
    fair_names = [name for name in FAIR if args.model in (name, "all")]
    names = [name for name in RECOMMENDERS if name in (args.model, *map(FAIR.get, fair_names))]
    cfgs = {name: RECOMMENDERS[name][1](**preset(name) | training) for name in names}
    chosen = {name.removeprefix("fair_"): value for name, value in game.items()}
    games = {name: CFPConfig(**preset(name) | chosen) for name in fair_names}
    for name, cfg in cfgs.items():
        if name in ("sasrec", "bert4rec") and cfg.d % cfg.n_heads:
            why = f"no multiple of {cfg.n_heads}, {NAMES[name]}'s heads; choose one"
            refuse(f"--d {cfg.d}", why)
        if cfg.batch_size < 2 and games.keys() & set(FILTERED):
            refuse("--batch-size 1", "the filters' BatchNorm compares users; 2 at least")
    return cfgs, games


class Trial(NamedTuple):
    """What every training and every measurement of a run is about."""

    corpus: Corpus
    data: Interactions  # of the corpus, on the device that trains and attacks
    known: dict[str, np.ndarray]  # of each attribute what `hold_out` leaves of its labels, (users,)
    labels: dict[str, np.ndarray]  # and what a game is told instead, (users, c)
    seed: int
    run: Run

    @property
    def attacks(self) -> Attacks:
        return Attacks({attr: y < 0 for attr, y in self.known.items()}, self.seed, self.device)

    @property
    def device(self) -> torch.device:
        return self.data.seen.device

    def asked(self, part: str) -> Asked:
        """Everybody with an item in this part. Both tasks have the same candidates: no prompt lists any."""
        return Asked(self.corpus, TASKS[0], part, people_with(self.corpus, part))


def padded(histories: list[np.ndarray], pad: int) -> Tensor:
    """Histories of items, oldest first, as (users, s) with `pad` on the left."""
    return pad_sequence([*map(torch.from_numpy, histories)], True, pad, padding_side="left")


def interactions_of(corpus: Corpus, device: torch.device) -> Interactions:
    """The training interactions of everybody, copies of people included."""
    histories, n_items = padded(corpus.split.train, len(corpus.numbers)), len(corpus.numbers)
    users, places = (histories < n_items).nonzero().T
    pairs = torch.column_stack([users, histories[users, places]])
    seen = torch.from_numpy(marks_of(corpus.split.train, n_items)).bool()
    return Interactions(pairs.to(device), histories.to(device), seen.to(device))


@torch.no_grad()
def vectors_and_scores(
    model: Recommender, asked: Asked, fair: Callable | Prompt | None = None, batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """(users, d) and (users, items): what users are to the model before their held-out item."""
    device, n_items = next(model.parameters()).device, len(asked.corpus.numbers)
    model.eval()
    states, scores = [], []
    for batch in torch.from_numpy(asked.users).split(batch_size):
        met = padded([met_before(asked.corpus, user, asked.part) for user in batch], n_items)
        state_bd = model.state(batch.to(device), met.to(device), fair)
        states.append(state_bd.cpu().numpy())
        scores.append(model.scores(state_bd).cpu().numpy())
    return np.concatenate(states), np.concatenate(scores)


def lookup(asked: Asked) -> np.ndarray:
    """P(item | the set of all items met before), counted, (users, items): a table and no model.

    Everybody is counted with what they met before the held-out item: for each of their items, that it
    goes with the set of all the others. Each item's share of the training interactions counts as one
    more observation for every set, so a set that occurs nowhere is left with popularity.
    """
    corpus, counts = asked.corpus, popularity(asked)
    everybody, followed = range(len(corpus.split.train)), defaultdict(Counter)
    owned = [frozenset(met_before(corpus, user, asked.part)) for user in everybody]
    for items in owned:
        for item in items:
            followed[items - {item}][item] += 1
    scores = counts / max(counts[0].sum(), 1)
    for row, user in zip(scores, asked.users):
        found = followed.get(owned[user], Counter())
        row[[*found]] += [*found.values()]
        row /= 1 + found.total()
    return scores


def train_recommender(trial: Trial, model: Recommender, name: str) -> None:
    """Train `model` in place until NDCG@10 of the validation items stops growing; keep the best weights.

    The held-out items are negatives like any others: not to draw them would tell which they are.
    """
    torch.manual_seed(trial.seed)
    run, cfg, rows = trial.run, model.cfg, model.examples(trial.data)
    if len(rows) == 0:
        why = f"nobody has two training items, so {NAMES[name]} cannot learn what follows"
        refuse(trial.corpus.dataset.name, f"{why}; choose another --model")
    rates = dict(lr=cfg.lr, betas=(0.9, 0.98), weight_decay=cfg.weight_decay)
    optimizer = torch.optim.AdamW(model.parameters(), **rates, fused=True)
    per_epoch = math.ceil(len(rows) / cfg.batch_size)
    n_batches = cfg.epochs * per_epoch
    chosen_by = trial.asked("valid")
    checkpoint = Checkpoint(run, name, dict(model=model, optimizer=optimizer))
    loop = checkpoint.restore(dict(epoch=0, best=None, best_ndcg=-1.0, ndcg=math.nan, waited=0))
    for epoch in range(loop["epoch"] + 1, cfg.epochs + 1):
        model.train()
        losses, batches = [], rows[torch.randperm(len(rows))].split(cfg.batch_size)
        for number, batch in enumerate(batches, (epoch - 1) * per_epoch):
            if cfg.decay:
                set_rates(optimizer, min((number + 1) / n_batches * 100, 1 - number / n_batches))
            loss = model.loss(trial.data, batch)
            step(optimizer, loss, max_norm=5.0)
            losses.append(loss.item())
        if len(chosen_by.users) and (epoch % cfg.check == 0 or epoch == cfg.epochs):
            ranks = candidate_ranks(chosen_by, vectors_and_scores(model, chosen_by)[1])
            look = {"ndcg@10": gains(ranks, 10).mean(), "hit@10": (ranks <= 10).mean()}
            run.metric(stage=f"{name} validation", epoch=epoch, **look)
            loop |= dict(ndcg=look["ndcg@10"], waited=loop["waited"] + 1)
            if loop["ndcg"] > loop["best_ndcg"]:
                best = copy.deepcopy(model.state_dict())
                loop |= dict(best=best, best_ndcg=loop["ndcg"], waited=0)
        loss = float(np.mean(losses))
        run.progress(NAMES[name], epoch, cfg.epochs, loss=loss, ndcg=loop["ndcg"])
        if loop["waited"] == cfg.patience:
            run.say(f"{NAMES[name]}: no gain in {cfg.patience} looks, stopped after {epoch} epochs")
            break
        checkpoint.keep(epoch, cfg.epochs, **loop | dict(epoch=epoch))
    if loop["best"] is not None:
        model.load_state_dict(loop["best"])


def choices_of(name: str, attrs: list[str]) -> list[tuple[str, ...]]:
    """What a fair version learns to hide together: filters any attributes, a prompt all of them."""
    return subsets(attrs) if name in FILTERED else [tuple(attrs)]


def serving(fair: Fair, attrs: tuple[str, ...]) -> Callable | Prompt:
    """What a recommender is given in order to hide these attributes."""
    return fair if isinstance(fair, Prompt) else functools.partial(fair, attrs=attrs)


def make_fair(trial: Trial, model: Recommender, cfg: CFPConfig, name: str) -> Fair:
    """Filters or a prompt that hide the trial's attributes, trained as in Algorithm 1.

    The player descends rec_loss - lambda * dis_loss plus the dependence: rec_loss is the mean that the
    recommender's own `loss` gives for a batch of its own size, the others are about a batch of users, in
    which everybody appears equally often. Then the discriminators descend theirs, `dis_steps` times.
    """
    torch.manual_seed(trial.seed)
    data, device, trains_model = trial.data, trial.device, name in FILTERED
    choices = choices_of(name, list(trial.labels))
    # each choice has as many batches as a filter alone would have, or it would be learnt less well
    per_epoch = batches_per_epoch(trial.corpus, cfg)
    n_batches = cfg.epochs * per_epoch * len(choices)
    if trains_model:
        fair = Filters(list(trial.labels), model.cfg.d).to(device)
        player = nn.ModuleList([fair, model])
        # which learns its items by heart in a game of many choices, so it moves more slowly there
        rates = {fair: cfg.lr, model: cfg.lr / len(choices)}
    else:
        model.requires_grad_(False)
        fair = player = Prompt(model.encoder, cfg.prefix_len).to(device)
        rates = {fair: cfg.lr}
    groups = [dict(params=list(part.parameters()), lr=lr) for part, lr in rates.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    rng = np.random.default_rng([trial.seed, 20])
    game = Game(trial.labels, choices, cfg, (model.cfg.d, 1), rng, device)
    parts = dict(player=player, player_optimizer=optimizer)
    parts |= dict(members=game.members, dis_optimizer=game.optimizer)
    checkpoint, rows = Checkpoint(trial.run, name, parts), model.examples(data)
    done, order = checkpoint.restore(dict(number=0, order=None)).values()
    for number in range(done + 1, n_batches + 1):
        if (number - 1) % per_epoch == 0:
            order = torch.randperm(len(data.seen), device=device)
        users, order = order[: cfg.batch_size], order[cfg.batch_size :]
        attrs = choices[torch.randint(len(choices), ()).item()]
        hiding, history_bs = serving(fair, attrs), data.histories[users]
        batch = rows[torch.randint(len(rows), (model.cfg.batch_size,))]
        set_rates(optimizer, min(number / 20, 1 - 0.95 * number / n_batches))
        model.train(trains_model), fair.train()
        # (1) the player hides the attributes: it descends L_rec - sum of lambda * L_dis
        rec_loss, u_emb = model.loss(data, batch, hiding), [model.state(users, history_bs, hiding)]
        dis_loss = game.dis_loss(attrs, u_emb, users)
        dependence = game.dependence(attrs, u_emb, users)
        step(optimizer, game.adversarial_loss(rec_loss, dis_loss, attrs) + dependence)
        # (2) the discriminators catch up: they descend L_dis
        with torch.no_grad():
            state_bd = model.state(users, history_bs, hiding)
        for _ in range(cfg.dis_steps):
            dis_loss = game.dis_loss(attrs, [state_bd], users)
            step(game.optimizer, dis_loss.sum())
        dis, blind = dis_loss.mean().item(), game.blind(attrs)
        check_discriminators(dis, blind, cfg, f"{NAMES[name]}, batch {number}")
        losses = dict(rec=rec_loss.item(), dis=dis, blind=blind)
        trial.run.progress(NAMES[name], number, n_batches, **losses)
        checkpoint.keep(number, n_batches, number=number, order=order)
    return fair


def row_of(trial: Trial, name: str, hidden: tuple, seconds: float, read: tuple, before=()) -> dict:
    """A row of results.json, from vectors (users, d), None where there are none, and scores (users, items).

    Both are in `read`; those of what a fair version was made of are in `before`. Both tasks have the same
    figures.
    """
    states, scores = read
    asked, seed = trial.asked("test"), trial.seed
    ranks, full = candidate_ranks(asked, scores), catalogue_ranks(asked, scores)
    found = hits(ranks, seed) | {"ndcg@10": gains(ranks, 10).mean()}
    found |= {"full hit@10": (full <= 10).mean(), "full ndcg@10": gains(full, 10).mean()}
    if before:
        about = popularity_ranks(asked), candidate_ranks(asked, before[1]), ranks, seed
        found |= kept(*about, NAMES[FAIR[name]])
    chance = {}
    if states is not None:
        found |= trial.attacks.row(asked, states)
        chance = trial.attacks.floors(asked, states)
    row = {"model": name, "hidden": list(hidden), "seconds": seconds, "floor": chance}
    return row | dict.fromkeys(TASKS, found)


def table(results: dict) -> str:
    """The table that a run ends with, from what stands in results.json; figures in percent."""
    attrs, rows = results["attrs"], results["rows"]
    titles = ["", "Hit@1", "Hit@3", "Hit@10", "NDCG@10", "all: Hit@10", "NDCG@10", "kept"]
    titles += ["above popularity"] + [title for attr in attrs for title in (f"{attr} AUC", "floor")]
    grid = [titles + ["attacker"]]
    for row in rows:
        r, label = row[TASKS[0]], NAMES[row["model"]]
        if row["hidden"] and len(attrs) > 1:
            label += f", hiding {', '.join(row['hidden'])}"
        cells = [label, *screens.hit_cells(r, 1)]
        cells += [screens.percent(r[key]) for key in ("ndcg@10", "full hit@10", "full ndcg@10")]
        cells += screens.kept_cells(r) if row["hidden"] else ["", ""]
        if "auc" in r:
            for attr in attrs:
                cells.append(screens.percent(r["auc"][attr], *r["auc interval"][attr]))
                cells.append(f"+- {screens.percent(row['floor'][attr])}")
            cells.append(", ".join(r["attackers"][attr]["strongest"] for attr in attrs))
        grid.append(cells)
    among = f"the test item among {screens.how_many_candidates(results, TASKS[0])} candidates"
    lines = [f"{results['users']} users, {among}; then among all items but those met before (%)"]
    lines += [*screens.aligned(grid), ""]
    for attr in attrs:
        ceiling = screens.percent(*results["ceiling"][attr]["auc"])
        lines.append(f"Ceiling, {attr} AUC of raw histories: {ceiling}")
    lines += screens.whose_labels(results, attrs)
    lines += [
        "The strongest of the same fresh attackers as at the end of train.py, on what each user is to",
        "the recommender at test time; 50 is chance, the floor how far from 50 it gets on shuffled labels.",
        "Brackets are 95% bootstrap intervals over users.",
        screens.KEPT,
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict:
    """Everything from the data to the table; returns what results.json holds."""
    argv, resume = flags.command_to_resume(sys.argv[1:] if argv is None else argv, "baselines.py")
    args = parse_args(argv)
    device, attrs = flags.pick_device(args.device), flags.read_attrs(args.attr, "--attr")
    cfgs, games = wanted = configs(args, attrs)
    toy = ToyConfig(args.toy_users)
    dataset = load_dataset(args.data, args.data_dir, args.seed, toy, args.classes).about(attrs)
    known = {attr: hold_out(dataset, attr, args.label_holdout, args.seed) for attr in attrs}
    enough_people(dataset, known, args.model in (*FILTERED, "all"))
    size, make = (len(dataset.users), len(dataset.titles)), functools.partial
    players = {NAMES[k]: (make(RECOMMENDERS[k][0], cfg, *size), "--d") for k, cfg in cfgs.items()}
    enough_for_run(dataset, players, device, 20)  # beside AdamW's means the best weights so far
    config = common_config(["baselines.py", *argv], args, dataset, device) | {
        "attrs": attrs,
        "recommenders": {name: dataclasses.asdict(cfg) for name, cfg in cfgs.items()},
        "games": {name: dataclasses.asdict(cfg) for name, cfg in games.items()},
        "base": args.base,
    }
    corpus = make_corpus(dataset, None, P5Config(), args.seed)
    if args.base is not None:  # before anything is written or trained
        check_base(args.base, config)
    name = f"{args.data}-{args.model}-{'+'.join(attrs)}-seed{args.seed}"
    run = Run(args.out, name, config) if resume is None else Run.resume(resume, config)
    run.say(screens.describe(dataset, attrs, P5Config().prompt_candidates))
    save_array(run.folder / "negatives.npy", corpus.negatives)
    results = {"data": args.data, "attrs": attrs, "seed": args.seed, "seconds": None}
    data = interactions_of(corpus, device)
    labels = labels_for_game(known, data.seen.cpu().numpy(), hard=not args.label_holdout)
    trial = Trial(corpus, data, known, labels, args.seed, run)
    results |= run.so_far() or circumstances(corpus, list(TASKS), trial.attacks) | {"rows": []}
    fill_rows(trial, wanted, args, results)
    end_run(run, results, table(results))
    return results


def check_base(folder: Path, config: dict) -> None:
    """Raises InputError where another run of this command has not left what this one would train.

    These are the weights of recommenders, trained on the same data with the same seed and settings.
    """
    other = read_object(folder / "config.json", f"--base {folder}", "name a run's folder")
    same = all(other.get(key) == config[key] for key in ("data fingerprint", "seed"))
    for name, cfg in config["recommenders"].items():
        if not same or other.get("recommenders", {}).get(name) != cfg:
            has_no = f"has no {NAMES[name]} of these data, seed and settings"
            refuse(f"--base {folder}", f"{has_no}; name another or leave it out")
        load_tensors(folder / f"{name}.safetensors")


def fill_rows(trial: Trial, wanted: Settings, args: argparse.Namespace, results: dict) -> None:
    """Fill `results["rows"]`: recommenders, then fair versions; the rows of an interrupted run stay."""
    (cfgs, games), asked, run, rows = wanted, trial.asked("test"), trial.run, results["rows"]
    attrs, models = list(trial.labels), {}
    done = Counter(row["model"] for row in rows)  # before the run was interrupted

    def add(*about) -> None:
        rows.append(row_of(trial, *about))
        run.keep(results)

    if not done["popularity"]:
        add("popularity", (), 0.0, (None, popularity(asked)))
    if args.model in ("lookup", "all") and not done["lookup"]:
        add("lookup", (), 0.0, (None, lookup(asked)))
    for name, cfg in cfgs.items():
        began, source = run.seconds(), run.folder if done[name] else args.base
        torch.manual_seed(trial.seed)
        model = RECOMMENDERS[name][0](cfg, *trial.data.seen.shape).to(trial.device)
        if source is None:
            train_recommender(trial, model, name)
        else:
            path = source / f"{name}.safetensors"
            fill(model, path, load_tensors(path))
        save_tensors(run.folder / f"{name}.safetensors", model.state_dict())
        models[name] = model
        if not done[name]:
            seconds = run.seconds() - began
            run.say(f"{NAMES[name]}: measuring")
            add(name, (), seconds, vectors_and_scores(model, asked))
    for name, cfg in games.items():
        choices = choices_of(name, attrs)
        if done[name] == len(choices):
            continue
        began, model = run.seconds(), copy.deepcopy(models[FAIR[name]])
        fair = make_fair(trial, model, cfg, name)
        both = nn.ModuleDict({"fair": fair, "recommender": model})
        save_tensors(run.folder / f"{name}.safetensors", both.state_dict())
        spent = [row["seconds"] for row in rows if row["model"] == name]
        seconds = spent[0] if spent else run.seconds() - began
        fair.eval()
        before = vectors_and_scores(models[FAIR[name]], asked)
        for number, hidden in enumerate(choices[done[name] :], done[name] + 1):
            which = f"{number} of {len(choices)}, hiding {', '.join(hidden)}"
            run.say(f"{NAMES[name]}: measuring {which}")
            read = vectors_and_scores(model, asked, serving(fair, hidden))
            add(name, hidden, seconds, read, before)


if __name__ == "__main__":
    run_command(main)
