"""The command line: flags that config dataclasses declare, those of a run, and what data want changed."""

import argparse
import math
import os
from contextlib import suppress
from pathlib import Path

import torch

from support.configs import PAPER_SCHEDULE, CFPConfig, MixerConfig, P5Config
from support.fields import add_flags, at_least, between, flags_given
from support.files import InputError, refuse, show, use_threads
from support.runs import called, place_of, read_config_of
from support.weights import PUBLISHED

SCRATCH = "tiny", "tiny-llama"  # backbones that need no weights
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of a frozen backbone


class Once(argparse.Action):
    """Keeps a flag's value, and refuses a second one, which would win without a word.

    The namespace's `given` are the flags with a value that the command line has.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        if option_string in namespace.given:
            refuse(option_string, "given twice, and only one value would count; leave one out")
        if option_string is not None:
            namespace.given = {*namespace.given, option_string}
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """Takes no flag that is cut short or given twice, and says what is wrong in one line."""

    def __init__(self, description: str = "", **more):
        super().__init__(description=description, allow_abbrev=False, **more)
        self.register("action", None, Once)
        self.register("action", "store", Once)
        self.set_defaults(given=frozenset())

    def error(self, message: str):
        raise InputError(f"{message}; --help lists the flags")


def command_to_resume(argv: list[str], script: str) -> tuple[list[str], Path | None]:
    """(the flags a run was begun with, its folder) for --resume RUN; for anything else (`argv`, None).

    The run goes on in the folder where it was begun, which becomes the working folder: relative paths among
    its flags, and runs/, mean what they meant. Raises InputError where it was not `script` that began it.
    """
    parser = Parser(add_help=False)
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    asked, others = parser.parse_known_args(argv)
    if asked.resume is None or {"-h", "--help"} & {*others}:
        return argv, None
    if others:
        refuse("--resume RUN stands alone", "the run goes on with the flags it was begun with")
    config, folder = read_config_of(asked.resume), asked.resume
    began, *flags = config["command"]
    if began != script:
        how = f"python {called(began)} --resume .."
        refuse(f"--resume {folder}", f"this run is one of {began}; {how}")
    where = place_of(config.get("working folder", os.getcwd()), folder)
    if not where.is_dir():
        gone = f"it was begun in {where}, which is gone"
        refuse(f"--resume {folder}", f"{gone}; bring it back, or begin anew")
    # with another number sums come out a little different, and so do results
    use_threads(config.get("threads", torch.get_num_threads()))
    if where.resolve() != Path.cwd().resolve():
        folder = folder.resolve()
        show(f"going on in {where}, where it was begun")
        os.chdir(where)
    return flags, folder


def cuts(text: str) -> dict[str, list[float]]:
    """The type of --classes: column -> where each of its classes begins."""
    parts = [part.partition("=") for part in text.split(";")]
    with suppress(ValueError):
        found = {column: [*map(float, begins.split(","))] for column, _, begins in parts}
        ascends = lambda x: len(x) > 1 and x == sorted({*x}) and x[-1] < math.inf
        if len(found) == len(parts) and all(c and ascends(begins) for c, begins in found.items()):
            return found
    raise argparse.ArgumentTypeError(f"{text[:80]!r} is not like age=0,18,25,35,50, ascending")


def four_words(text: str) -> tuple[str, ...]:
    """The type of --nouns."""
    words = tuple(text.split(","))
    if len(words) == 4 and all(word and word == " ".join(word.split()) for word in words):
        return words
    like = "restaurants,restaurant,visited,visit"
    raise argparse.ArgumentTypeError(f"{text[:80]!r} is not like {like}")


def add_run_flags(parser: Parser) -> None:
    """The flags that a run of `train.py` and one of the baselines have alike."""
    add = parser.add_argument_group("data").add_argument
    text = "toy (default), ml-1m, ml-100k, insurance, or NAME of NAME.inter"
    add("--data", default="toy", help=text)
    add("--data-dir", type=Path, help="folder with the data set's files; else ml-1m is downloaded")
    text = "where classes of a column of numbers begin, as age=0,18,25,35; several with ; between"
    add("--classes", type=cuts, help=f"{text} (ages in years: MovieLens-1M's)")
    add("--toy-users", type=at_least(1), default=1200, help="people in the toy world (1200)")
    text = "share of the people whose labels the adversary never sees, who are attacked; it learns what "
    text += (
        "histories tell of the others' (0.4; with 0 it knows all and all are attacked: too mild)"
    )
    add("--label-holdout", type=between(0, 0.9, "share"), default=0.4, help=text)
    add = parser.add_argument_group("run").add_argument
    text = "of data, weights, batches, negatives, attackers (0)"
    add("--seed", type=at_least(0), default=0, help=text)
    add("--device", default="auto", help="cpu, cuda, or auto (default): cuda where there is one")
    text = "folder of this run, new or empty; else the next free one in runs/"
    add("--out", type=Path, help=text)
    text = "go on with the interrupted run in this folder, alone and from where it was begun"
    add("--resume", metavar="RUN", help=text)


def check_toy_flags(args: argparse.Namespace) -> None:
    """Raises InputError where flags of the toy world stand beside other data, or a folder beside it."""
    if args.data == "toy" and args.data_dir is not None:
        why = "the toy world has no files; name their data set with --data"
        refuse(f"--data-dir {args.data_dir}", why)
    if args.data != "toy" and (idle := sorted(f for f in args.given if f.startswith("--toy-"))):
        refuse(f"--data {args.data}", f"{idle[0]} is for toy; leave it out")


def pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        refuse(f"--device {name}", "not to be had here; choose cpu or auto")
    return torch.device(name)


def read_attrs(text: str, name: str) -> tuple[str, ...]:
    """Names of attributes, separated by commas, of the flag `name`.

    Raises InputError where one is empty or named twice.
    """
    attrs = tuple(text.split(","))
    if "" in attrs:
        refuse(f"{name} {text!r}", "an attribute is missing before or after a comma")
    if len(set(attrs)) < len(attrs):
        twice = next(attr for attr in attrs if attrs.count(attr) > 1)
        refuse(f"{name} {text}", f"{twice} is named twice")
    return attrs


def train_args(argv: list[str]) -> argparse.Namespace:
    """The flags of `train.py`, those of its three config dataclasses among them."""
    parser = Parser(
        "Train a P5 recommender and a counterfactually-fair prompt for an attribute, or one for each of "
        "several and their mixer; end with a table of how good the recommendations are and of what fresh "
        "attackers still read."
    )
    add, suits = parser.add_argument, "default: what suits the data, see the run's config.json"
    text = "what to hide: gender, age, occupation, marital; see the data. Several, as gender,age, give "
    add("--attr", required=True, help=f"{text}a prompt each and a mixer")
    text = "the paper's T = 10, R = 20, seven layers, .."
    add("--paper-schedule", action="store_true", help=text)
    text = "what P5 is trained for, what is hidden and measured (both)"
    add("--task", default="both", choices=["both", "sequential", "direct"], help=text)
    add_run_flags(parser)
    text = "words of the prompts, such as restaurants,restaurant,visited,visit (movies; insurance)"
    parser.add_argument_group("prompts").add_argument("--nouns", type=four_words, help=text)
    add = parser.add_argument_group("toy world").add_argument
    text = "how much the attributes change what is watched (1; 0 for nothing)"
    add("--toy-effect", type=between(0, 10, "number"), default=1.0, help=text)
    text = "people who get a twin with another --attr (the first) and a placebo, for the audit (0)"
    add("--toy-twins", type=at_least(0), default=0, help=text)
    add_flags(parser.add_argument_group("counterfactually-fair prompt", suits), CFPConfig)
    group = parser.add_argument_group("mixer, for several attributes", suits)
    text = "for comparison also train a prompt for each combination: what the mixer saves"
    group.add_argument("--from-scratch", action="store_true", help=text)
    add_flags(group, MixerConfig, "mixer-")
    group = parser.add_argument_group("P5 backbone", suits)
    text = "tiny (default): a T5 from scratch; tiny-llama; a folder with config.json, weights and tokenizer; "
    text += f"or a published one, downloaded into weights/: {', '.join(PUBLISHED)}"
    group.add_argument("--backbone", default="tiny", help=text)
    group.add_argument("--dtype", default="fp32", choices=DTYPES, help="of the frozen one (fp32)")
    text = "train the P5 backbone even if there is one already"
    group.add_argument("--retrain", action="store_true", help=text)
    text = "parts that a batch of P5's training is computed in, one after the other: less memory, a third to "
    text += "a half more time, the same step (1)"
    group.add_argument("--p5-parts", type=at_least(1), default=1, help=text)
    add_flags(group, P5Config)
    return parser.parse_args(argv)


# What a data set wants changed in the defaults; a flag on the command line goes before it.
P5_FOR = {
    "toy": {},
    "ml-100k": dict(window=20, steps=2000),
    "ml-1m": dict(window=20, steps=7000, direct_batch=64, sequential_batch=128, d_ff=256)
    | dict(embedding_lr=3e-2, embedding_decay=0.01),
    "insurance": dict(window=20, steps=500, direct_batch=128, embedding_lr=3e-3),
}
CFP_FOR = {
    "toy": {},
    "ml-100k": dict(epochs=60, dis_depths=(1, 3), dis_lr=1e-2, dis_steps=3),
    "ml-1m": dict(prefix_len=30, lam=30.0, hsic=30.0, epochs=60, batch_size=256)
    | dict(dis_noise=0.3, dis_lr=3e-3, dis_steps=3),
    "insurance": dict(batch_size=256, epochs=5, dis_depths=(1, 3), dis_lr=1e-2, dis_steps=3),
}
MIXER_FOR = {  # on ml-1m and insurance what the toy world's would be, beside the CFP's; not tried
    "toy": {},
    "ml-100k": {},
    "ml-1m": dict(lam=75.0, dis_steps=16, epochs=55),
    "insurance": dict(dis_steps=16, epochs=5),
}
# The game alone, without the dependence beside it: smaller batches, and discriminators that move more often.
CFP_ALONE = dict(batch_size=128, epochs=65, dis_steps=3)
MIXER_ALONE = dict(lr=1e-3, dis_steps=16, epochs=55)
# Hiding from the scores wants more: the history in the prompt tells the attribute as well.
CFP_AGAINST = {"user-tokens": {}, "scores": dict(lam=10.0)}
# What a backbone wants changed beyond that. Published weights would not survive a rate that
# fills empty embeddings. # Paper silent: these rates; P5 trained its T5 with 1e-3.
P5_ON = {
    "t5": dict(lr=1e-3, embedding_lr=1e-3, embedding_decay=0.01, direct_batch=128),
    "llama": dict(lr=2e-5, embedding_lr=2e-5, embedding_decay=0.01, direct_batch=128),
}


def settings(
    args: argparse.Namespace, attrs: tuple[str, ...], kind: str
) -> tuple[P5Config, CFPConfig, MixerConfig]:
    """What is trained and how: defaults, what the data and the `kind` of backbone want changed, flags.

    Raises InputError for flags that are each allowed and do not go together.
    """
    data = args.data if args.data in P5_FOR else "ml-100k"
    given = flags_given(args, CFPConfig)
    prompt = CFP_FOR[data] | CFP_AGAINST[given.get("hide_from", "user-tokens")]
    mixer = MIXER_FOR[data]
    if given.get("discriminator") == "soft":  # it reads its own prompts, and no states that depend
        prompt |= dict(adversary="game")
    if (prompt | given).get("adversary") == "game":
        prompt, mixer = CFP_ALONE | prompt, MIXER_ALONE | mixer
    if args.paper_schedule:
        prompt = PAPER_SCHEDULE
        mixer = {name: prompt[name] for name in ("lam", "dis_lr", "dis_steps", "epochs")}
    of_p5 = flags_given(args, P5Config)
    p5 = P5_FOR[data] | P5_ON.get(kind, {}) | of_p5
    one_answer = dict(direct_batch=128) if p5.get("prompt_candidates") else {}  # to each list
    if other := {"sequential": "direct", "direct": "sequential"}.get(args.task):
        p5 |= dict(direct_share=float(args.task == "direct"))
        if f"{other}_batch" in of_p5:
            why = f"P5 is trained for --task {args.task} alone; leave one out"
            refuse(f"--p5-{other}-batch", why)
    p5 = P5Config(**one_answer | p5)
    cfp = CFPConfig(**prompt | given)
    mixer = MixerConfig(**mixer | flags_given(args, MixerConfig))
    if p5.steps == 0 and args.backbone in SCRATCH:
        why = f"--backbone {args.backbone} knows nothing before training; 1 at least"
        refuse("--p5-steps 0", why)
    for name, value in ("--retrain", args.retrain), ("--p5-parts", args.p5_parts > 1):
        if p5.steps == 0 and value:
            refuse(name, "nothing is trained with --p5-steps 0; leave one of the two out")
    if p5.prompt_candidates > 100:
        refuse(f"--prompt-candidates {p5.prompt_candidates}", "there are 100 at most")
    hard = args.paper_schedule or cfp.discriminator == "soft"  # labels, not what histories tell
    if hard and args.label_holdout and cfp.batch_size < 16:
        why = "some batches would have no label at all; 16 users at least, or --label-holdout 0"
        refuse(f"--batch-size {cfp.batch_size}", why)
    if mixer.hidden % mixer.n_heads:
        why = f"is no multiple of {mixer.n_heads}, its heads; choose one"
        raise InputError(f"--mixer-hidden {mixer.hidden} {why}")
    if cfp.discriminator == "soft" and len(attrs) > 1:
        refuse("--discriminator soft", "hides one attribute; leave out the other attributes")
    if cfp.adversary == "game" and "hsic" in given:
        refuse("--hsic", "counts with --adversary dependence or both; add one, or leave it out")
    unread = "lam", "rec_steps", "dis_steps", "every", "dis_lr", "discriminator"
    if cfp.adversary == "dependence" and (unread := [k for k in unread if k in given]):
        name = unread[0].replace("_", "-")
        refuse(f"--{name}", "is of the game, and --adversary dependence plays none; leave one out")
    if cfp.adversary != "game" and (args.paper_schedule or cfp.discriminator == "soft"):
        other = "--paper-schedule" if args.paper_schedule else "--discriminator soft"
        refuse(f"--adversary {cfp.adversary}", f"{other} is the game alone; leave one out")
    if cfp.discriminator == "soft" and cfp.hide_from == "scores":
        raise InputError("--discriminator soft reads its own prompts; leave out --hide-from scores")
    idle = ["from-scratch"] if args.from_scratch else []
    idle += [f"mixer-{name.replace('_', '-')}" for name in flags_given(args, MixerConfig)]
    if idle and len(attrs) == 1:
        refuse(f"--{idle[0]}", "there is a mixer for several attributes only, --attr gender,age")
    return p5, cfp, mixer


def to_hide(text: str, opened, name: str = "--hide") -> tuple[str, ...]:
    """The attributes that a flag names, such as gender,age, or none; `opened` is what `open_run` gives.

    Raises InputError for an attribute that the data do not have or that the run cannot hide.
    """
    attrs, dataset = () if text == "none" else read_attrs(text, name), opened.corpus.dataset
    for attr in attrs:
        if attr not in dataset.attributes:
            known = ", ".join(dataset.attributes)
            refuse(f"{name} {text}", f"{dataset.name} has no attribute {attr!r}; its are {known}")
        if attr not in opened.prefixes:
            why = f"this run has no prompt for {attr}, only for {', '.join(opened.prefixes)}; train one"
            refuse(f"{name} {text}", f"{why}: train.py --attr {','.join([*opened.prefixes, attr])}")
    return attrs


def probe_args(argv: list[str] | None, kinds) -> argparse.Namespace:
    """The flags of `probe.py`."""
    text = "Read an attribute off a run's frozen backbone with one of the paper's three probes."
    parser = Parser(text)
    add = parser.add_argument
    add("--kind", required=True, choices=kinds, help="appendix A.1, A.2 or A.3")
    add("--attr", required=True, help="what to read")
    add("--run", required=True, type=Path, help="folder of a finished run")
    text = "read through the run's prefix for this, such as gender,age (none)"
    add("--hide", default="none", help=text)
    add("--seed", type=at_least(0), default=0, help="of folds, prompts and attackers (0)")
    return parser.parse_args(argv)
