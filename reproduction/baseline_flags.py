"""The command line of the baselines: its flags, and what each data set wants changed in the defaults."""

import argparse
import functools
from pathlib import Path

from cfp import CFPConfig
from reproduction.recommenders import (
    PMF,
    BERT4Rec,
    BERT4RecConfig,
    PMFConfig,
    SASRec,
    SASRecConfig,
    SimpleX,
    SimpleXConfig,
)
from support.datasets import ToyConfig
from support.files import InputError
from support.flags import Parser, add_data_and_run, at_least, config_of, rate

RECOMMENDERS = {
    "pmf": (PMF, PMFConfig),
    "simplex": (SimpleX, SimpleXConfig),
    "sasrec": (SASRec, SASRecConfig),
    "bert4rec": (BERT4Rec, BERT4RecConfig),
}
FAIR = {"c-pmf": "pmf", "c-sx": "simplex", "s-sas": "sasrec", "s-b4": "bert4rec"}
FILTERED = "c-pmf", "c-sx"  # made fair by filters on the user vector, the others by a prompt
TRIVIAL = "popularity", "lookup"
NAMES = {"popularity": "popularity", "lookup": "lookup", "p5": "P5", "cfp": "P5 + CFP"}
NAMES |= {"pmf": "PMF", "simplex": "SimpleX", "sasrec": "SASRec", "bert4rec": "BERT4Rec"}
NAMES |= {"c-pmf": "C-PMF", "c-sx": "C-SX", "s-sas": "S-SAS", "s-b4": "S-B4"}

# What a data set wants changed in the defaults; a flag on the command line goes before it.
TRAINING_FOR = {
    "toy": {
        "pmf": dict(lr=3e-3, l2=0.03, epochs=60, patience=6),
        "simplex": dict(lr=3e-3, margin=0.7, gate=0.8, epochs=60, patience=6),
        "sasrec": dict(lr=2e-3, batch_size=64, epochs=60, patience=5),
        "bert4rec": dict(lr=3e-3, batch_size=64, epochs=40, patience=8),
    },
    "ml-100k": {"pmf": {}, "simplex": {}, "sasrec": {}, "bert4rec": {}},
    "ml-1m": {
        "pmf": dict(batch_size=8192),
        "simplex": dict(margin=0.7, gate=0.8, epochs=40),
        "sasrec": dict(epochs=200, check=5, patience=8),
        "bert4rec": dict(batch_size=64, epochs=130, check=5, patience=100),
    },
    "insurance": {"pmf": {}, "simplex": {}, "sasrec": {}, "bert4rec": {}},
}
# The game's settings: of a CFPConfig lam, dis_steps, epochs, batch_size, lr, cap, what begins with dis_,
# and prefix_len for the prompts. On Insurance the discriminators have the depths and the rate of P5's.
GAME_ON_INSURANCE = dict(epochs=20, batch_size=1024, dis_depths=(1, 3), dis_lr=1e-2)
GAME_FOR = {
    "toy": {
        "c-pmf": dict(epochs=100, lr=3e-3, lam=2.0),
        "c-sx": dict(epochs=100, lr=3e-3, lam=0.5),
        "s-sas": dict(epochs=65, lr=5e-3, lam=1.0, prefix_len=10),
        "s-b4": dict(epochs=65, lr=5e-3, lam=5.0, prefix_len=10),
    },
    "ml-100k": {"c-pmf": {}, "c-sx": {}, "s-sas": {}, "s-b4": {}},
    "ml-1m": {
        "c-pmf": dict(epochs=80, batch_size=256, lr=3e-3, lam=2.0),
        "c-sx": dict(epochs=80, batch_size=256, lr=3e-3, lam=0.5),
        "s-sas": dict(epochs=20, batch_size=256, lr=5e-3, lam=5.0, prefix_len=10),
        "s-b4": dict(epochs=20, batch_size=256, lr=5e-3, lam=10.0, prefix_len=10),
    },
    "insurance": {
        "c-pmf": dict(lr=1e-3, lam=10.0, dis_steps=10, **GAME_ON_INSURANCE),
        "c-sx": dict(lr=3e-3, **GAME_ON_INSURANCE),
        "s-sas": dict(lr=5e-3, lam=10.0, prefix_len=10, **GAME_ON_INSURANCE),
        "s-b4": dict(lr=5e-3, lam=10.0, prefix_len=10, **GAME_ON_INSURANCE),
    },
}
GAME_FLAGS = "lam", "fair_epochs", "fair_batch_size", "fair_lr", "dis_lr", "dis_steps", "prefix_len"
# Of the flags that not every model goes by, those that do; "all" goes by each.
USED_BY = {
    "objective": ("pmf", "c-pmf"),
    **dict.fromkeys(("base", "epochs", "batch_size", "lr", "d"), (*RECOMMENDERS, *FAIR)),
    **dict.fromkeys(("check", "patience"), (*RECOMMENDERS, *FAIR)),
    **dict.fromkeys(GAME_FLAGS, tuple(FAIR)),
    "prefix_len": ("s-sas", "s-b4"),
    "run": (),
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("Train the baselines of the paper, measure them as train.py measures its own.")
    add = parser.add_argument
    models = [*TRIVIAL, *RECOMMENDERS, *FAIR, "all"]
    add(
        "--model", required=True, choices=models, help="a fair one comes with the one it is made of"
    )
    add(
        "--attr",
        default="gender",
        help="what is attacked, and hidden: gender (default), or several",
    )
    add_data_and_run(parser)
    add("--seed", type=at_least(0), default=0, help="of data, weights, negatives, attackers (0)")
    add(
        "--base",
        type=Path,
        help="run of this command whose recommenders are taken, not trained anew",
    )
    add("--run", type=Path, help="with --model all: run of train.py for the rows of P5 and CFP")
    group = parser.add_argument_group(
        "training", "default: what suits the model and the data, see the run's config.json"
    )
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    add("--objective", choices=["logistic", "bpr"], help="of PMF (logistic)")
    add("--epochs", type=at_least(1), help="passes of a recommender's training, at most")
    add("--batch-size", type=at_least(1), help="interactions, or users for SASRec and BERT4Rec")
    add("--lr", type=rate, help="learning rate of a recommender")
    add("--d", type=at_least(1), help="width of its vectors")
    add("--check", type=at_least(1), help="epochs between two looks at the validation items")
    add("--patience", type=at_least(1), help="looks without a gain after which it ends")
    group = parser.add_argument_group("the fair versions' game")
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    add(
        "--lam", type=rate, help="weight of the discriminators' mean loss against the mean own loss"
    )
    add(
        "--fair-epochs",
        type=at_least(1),
        help="passes over the users, for each choice of attributes",
    )
    add("--fair-batch-size", type=at_least(2), help="users per batch")
    add("--fair-lr", type=rate, help="learning rate of filters or prompt")
    add("--dis-lr", type=rate, help="learning rate of the discriminators")
    add("--dis-steps", type=at_least(1), help="their steps after each one of the other player")
    add("--prefix-len", type=at_least(0), help="vectors of a prompt in each layer")
    return parser.parse_args(argv)


def configs(
    args: argparse.Namespace, attrs: tuple[str, ...]
) -> tuple[dict[str, object], dict[str, CFPConfig]]:
    """The settings of every recommender and of every fair version's game that a command is about.

    Defaults, what the data want changed, flags. Raises InputError for flags that are each allowed and do not
    go together.
    """
    if args.model == "all" and len(attrs) > 1:
        raise InputError(
            f"--model all --attr {args.attr}: its rows are about one attribute; name one"
        )
    if args.data != "toy" and args.toy_users != ToyConfig().users:
        raise InputError(f"--data {args.data}: --toy-users is for toy; leave it out")
    for flag, models in USED_BY.items():
        if getattr(args, flag, None) is not None and args.model not in (*models, "all"):
            raise InputError(
                f"--{flag.replace('_', '-')}: --model {args.model} does not go by it; leave it out, or "
                f"choose --model {', '.join((*models, 'all'))}"
            )
    fair_names = [name for name in FAIR if args.model in (name, "all")]
    needed = {FAIR[name] for name in fair_names} | {args.model}
    names = [name for name in RECOMMENDERS if name in needed]
    preset = args.data if args.data in TRAINING_FOR else "ml-100k"
    kind = lambda name: RECOMMENDERS[name][1]
    cfgs = {name: config_of(kind(name), TRAINING_FOR[preset][name], args) for name in names}
    game = argparse.Namespace(
        **{k.removeprefix("fair_"): v for k, v in vars(args).items() if k in GAME_FLAGS}
    )
    games = {name: config_of(CFPConfig, GAME_FOR[preset][name], game) for name in fair_names}
    for name, cfg in cfgs.items():
        if name in ("sasrec", "bert4rec") and cfg.d % cfg.n_heads:
            raise InputError(
                f"--d {cfg.d} is no multiple of {cfg.n_heads}, {NAMES[name]}'s heads; choose one"
            )
        if cfg.batch_size < 2 and games.keys() & set(FILTERED):
            raise InputError("--batch-size 1: the filters' BatchNorm compares users; 2 at least")
    return cfgs, games
