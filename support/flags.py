"""The command line of `train.py`: its flags, and what each data set wants changed in the defaults."""

import argparse
import dataclasses
import functools
import math
from pathlib import Path

import torch

from cfp import PAPER_SCHEDULE, CFPConfig
from data import N_NEGATIVES, TASKS
from mixer import MixerConfig
from p5 import DTYPES, P5Config
from support.files import InputError
from support.runs import called, read_config_of
from support.weights import PUBLISHED

# What a data set wants changed in the defaults; a flag on the command line goes before it.
P5_FOR = {
    "toy": {},
    "ml-100k": dict(window=20, steps=2000),
    "ml-1m": dict(window=20, steps=7000, sequential_batch=128, d_ff=256),
    "insurance": dict(window=20, steps=500, embedding_lr=3e-3),
}
CFP_FOR = {
    "toy": {},
    "ml-100k": dict(epochs=60, dis_depths=(1, 3), dis_lr=1e-2),
    "ml-1m": dict(
        prefix_len=30,
        lam=30.0,
        dis_depths=(1, 3, 7),
        dis_noise=0.3,
        dis_lr=3e-3,
        batch_size=256,
        epochs=60,
    ),
    "insurance": dict(batch_size=256, epochs=5, dis_depths=(1, 3), dis_lr=1e-2),
}
MIXER_FOR = {  # on ml-1m and insurance what the toy world's would be, beside the CFP's; not tried
    "toy": {},
    "ml-100k": {},
    "ml-1m": dict(lam=75.0),
    "insurance": dict(epochs=5),
}
# Hiding from the scores wants more: the history in the prompt tells the attribute as well.
CFP_AGAINST = {"user-tokens": {}, "scores": dict(lam=10.0)}
# What a backbone wants changed beyond that. Published weights would not survive a rate that
# fills empty embeddings. # Paper silent: these rates; P5 trained its T5 with 1e-3.
P5_ON = {
    "tiny": {},
    "tiny-llama": {},
    "t5": dict(lr=1e-3, embedding_lr=1e-3),
    "llama": dict(lr=2e-5, embedding_lr=2e-5),
}


def command_to_resume(argv: list[str], script: str) -> tuple[list[str], Path | None]:
    """(the flags a run was begun with, its folder) for --resume RUN; for anything else (`argv`, None).

    Raises InputError where it was not `script` that began it.
    """
    if "--resume" not in argv or "--help" in argv:
        return argv, None
    if len(argv) != 2 or argv[0] != "--resume":
        raise InputError(
            "--resume RUN stands alone: the run goes on with the flags it was begun with"
        )
    began, *flags = read_config_of(Path(argv[1]))["command"]
    if began != script:
        raise InputError(
            f"--resume {argv[1]}: this run is one of {began}; python {called(began)} --resume .."
        )
    return flags, Path(argv[1])


class Parser(argparse.ArgumentParser):
    """Takes no flag that is cut short, and says what is wrong in one line, like every other error."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False)

    def error(self, message: str):
        raise InputError(f"{message}; --help lists the flags")


def add_data_and_run(parser: Parser) -> None:
    """The flags that a run of `train.py` and one of `baselines.py` have alike."""
    add = parser.add_argument
    add(
        "--data",
        default="toy",
        help="toy (default), ml-1m, ml-100k, insurance, or NAME of NAME.inter",
    )
    add("--data-dir", type=Path, help="folder with the data set's files; else ml-1m is downloaded")
    add("--toy-users", type=at_least(1), default=1200, help="people in the toy world (1200)")
    add("--device", default="auto", help="cpu, cuda, or auto (default): cuda where there is one")
    add(
        "--out", type=Path, help="folder of this run, new or empty; else the next free one in runs/"
    )
    add(
        "--resume",
        metavar="RUN",
        help="go on with the interrupted run in this folder, alone and from where it was begun",
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="Train a P5 recommender and a counterfactually-fair prompt for an attribute, or one "
        "for each of several and their mixer; end with a table of how good the recommendations are "
        "and of what fresh attackers still read.",
    )
    add = parser.add_argument
    add(
        "--attr",
        required=True,
        help="what to hide: gender, age, occupation, marital; see the data. Several, as gender,age, give "
        "a prompt each and a mixer",
    )
    add_data_and_run(parser)
    add(
        "--backbone",
        default="tiny",
        help="tiny (default): a T5 from scratch; tiny-llama; a folder with config.json, weights and "
        f"tokenizer; or a published one, downloaded into weights/: {', '.join(PUBLISHED)}",
    )
    add("--dtype", default="fp32", choices=DTYPES, help="of the frozen backbone (fp32)")
    add("--task", default="both", choices=["both", *TASKS], help="what the prompt serves (both)")
    add(
        "--seed",
        type=at_least(0),
        default=0,
        help="of data, weights, batches, negatives, attackers (0)",
    )
    add(
        "--label-holdout",
        type=between(0, 0.9, "share"),
        nargs="?",
        const=0.4,
        default=0.0,
        help="share of the users whose labels the adversary never sees, on whom the AUC is reported "
        "apart; it learns what histories tell of the others' (0; 0.4 where no number is given)",
    )
    add("--retrain", action="store_true", help="train the P5 backbone even if there is one already")
    add(
        "--toy-effect",
        type=between(0, 10, "number"),
        default=1.0,
        help="how much the toy world's attributes change what is watched (1; 0 for nothing)",
    )
    add(
        "--toy-twins",
        type=at_least(0),
        default=0,
        help="people of the toy world who get a twin with another --attr (the first) and a placebo, for "
        "the audit (0)",
    )
    add(
        "--paper-schedule", action="store_true", help="the paper's T = 10, R = 20, seven layers, .."
    )
    text = "default: what suits the data, see the run's config.json"
    group = parser.add_argument_group("counterfactually-fair prompt", text)
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    add("--prefix-len", type=at_least(1), help="tokens of the prefix; the paper's {5, 15, 30}")
    add("--lam", type=rate, help="lambda of Eq. 4; the paper's {1, 5, 10, 100}")
    add(
        "--inner-steps",
        type=at_least(1),
        help="T of the prefix on Eq. 4, line 3; the paper's {10, 20}",
    )
    add(
        "--rec-steps",
        type=at_least(0),
        help="T of the prefix on Eq. 2, line 10; the paper's {10, 20}",
    )
    add(
        "--dis-steps",
        type=at_least(1),
        help="T of the discriminator, line 14; the paper's {10, 20}",
    )
    add(
        "--every", type=at_least(1), help="R, batches between discriminator updates; the paper's 20"
    )
    add("--epochs", type=at_least(1), help="passes over the users")
    add(
        "--hide-from",
        choices=["user-tokens", "scores"],
        help="what the adversary reads: the user tokens, as in the paper, or the first state of the "
        "decoder as well, from which the recommendations are written",
    )
    add(
        "--discriminator",
        choices=["classifier", "soft"],
        help="who guesses the attribute: the classifier, or a soft probing prompt as in section 6",
    )
    # two at least: a discriminator compares people
    add("--batch-size", type=at_least(2), help="users per batch; the paper's 16")
    add("--lr", type=rate, help="learning rate of the prefix")
    add("--dis-lr", type=rate, help="learning rate of the discriminators")
    group = parser.add_argument_group("mixer, for several attributes", text)
    group.add_argument(
        "--from-scratch",
        action="store_true",
        help="for comparison also train a prompt for each combination: what the mixer saves",
    )
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    add(
        "--mixer-lam",
        type=rate,
        help="lambda of Eq. 5, for an attribute of two equal classes",
    )
    add("--mixer-epochs", type=at_least(1), help="passes over the users")
    add("--mixer-dis-steps", type=at_least(1), help="T of the discriminators, line 14")
    add("--mixer-lr", type=rate, help="learning rate of the mixer")
    add("--mixer-dis-lr", type=rate, help="learning rate of the discriminators")
    add("--mixer-hidden", type=at_least(1), help="width of its attention, a multiple of its heads")
    group = parser.add_argument_group("P5 backbone", text)
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    add(
        "--p5-steps", dest="steps", type=at_least(0), help="training steps; 0 for a folder as it is"
    )
    add("--window", type=at_least(1), help="items of history in a sequential prompt")
    add(
        "--prompt-candidates",
        type=at_least(0),
        help="listed in a direct prompt; the paper's 100, or 0",
    )
    return parser.parse_args(argv)


def at_least(low: int):
    """The type of a flag whose value is a whole number from `low` on, below a thousand million."""

    def read(text: str) -> int:
        if text.isdecimal() and len(text) < 10 and int(text) >= low:  # what torch's seeds can hold
            return int(text)
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a whole number from {low} on, of nine digits at most"
        )

    return read


def between(low: float, high: float, what: str):
    """The type of a flag whose value is a number from `low` to `high`."""

    def read(text: str) -> float:
        try:
            if low <= float(text) <= high:
                return float(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not a {what} from {low:g} to {high:g}")

    return read


def rate(text: str) -> float:
    try:
        if 0 < float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def config_of(kind: type, preset: dict, args: argparse.Namespace, flags: str = ""):
    """A config dataclass: its defaults, then the preset, then the flags (`flags` before) that were given."""
    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: getattr(args, flags + name) for name in names if hasattr(args, flags + name)}
    return kind(**preset | given)


def pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {name}: not to be had here; choose cpu or auto")
    return torch.device(name)


def settings(
    args: argparse.Namespace, attrs: tuple[str, ...], on: str, folder: Path | None
) -> tuple[P5Config, CFPConfig, MixerConfig]:
    """What is trained and how: defaults, what the data and the backbone `on` want changed, flags.

    `folder` is that of published weights, None from scratch. Raises InputError for flags that are each
    allowed and do not go together.
    """
    preset = args.data if args.data in P5_FOR else "ml-100k"
    p5 = config_of(P5Config, P5_FOR[preset] | P5_ON[on], args)
    game = CFP_FOR[preset] | CFP_AGAINST[getattr(args, "hide_from", "user-tokens")]
    cfg = config_of(CFPConfig, PAPER_SCHEDULE if args.paper_schedule else game, args)
    papers = {name: PAPER_SCHEDULE[name] for name in ("lam", "dis_lr", "dis_steps", "epochs")}
    mixing = papers if args.paper_schedule else MIXER_FOR[preset]
    mixer_cfg = config_of(MixerConfig, mixing, args, "mixer_")
    if p5.steps == 0 and folder is None:
        raise InputError(
            f"--p5-steps 0: --backbone {args.backbone} knows nothing before training; 1 at least"
        )
    if p5.prompt_candidates > N_NEGATIVES:
        raise InputError(
            f"--prompt-candidates {p5.prompt_candidates}: there are {N_NEGATIVES} at most"
        )
    if args.label_holdout and cfg.batch_size < 16:
        raise InputError(
            f"--label-holdout with --batch-size {cfg.batch_size}: some batches would have no label at "
            "all; 16 users at least"
        )
    if mixer_cfg.hidden % mixer_cfg.n_heads:
        raise InputError(
            f"--mixer-hidden {mixer_cfg.hidden} is no multiple of {mixer_cfg.n_heads}, its heads; choose one"
        )
    if cfg.discriminator == "soft" and (len(attrs) > 1 or args.label_holdout):
        raise InputError(
            "--discriminator soft: hides one attribute from an adversary that knows every label; leave out "
            + ("the other attributes" if len(attrs) > 1 else "--label-holdout")
        )
    if cfg.discriminator == "soft" and cfg.hide_from == "scores":
        raise InputError("--discriminator soft reads its own prompts; leave out --hide-from scores")
    given = ["from_scratch"] if args.from_scratch else []
    given += [name for name in vars(args) if name.startswith("mixer_")]
    if given and len(attrs) == 1:
        flag = "--" + given[0].replace("_", "-")
        raise InputError(f"{flag}: there is a mixer for several attributes only, --attr gender,age")
    return p5, cfg, mixer_cfg
