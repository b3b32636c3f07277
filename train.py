"""Train a counterfactually-fair prompt (Algorithm 1) against a P5 recommender, and measure it.

    python train.py --attr gender
    python train.py --attr gender,age,occupation

The first does everything in the toy world and ends with one table; the second trains a prompt for each
attribute and the mixer of section 4.1, for any choice of them. `python train.py --help` is the manual.
"""

import dataclasses
import io
import math
import sys
from itertools import islice
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import torch
from torch import nn

import evaluate
from attack import FOLDS
from cfp import (
    CFP,
    CFPConfig,
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    forward,
    set_rates,
    step,
    u_emb_of,
)
from data import N_NEGATIVES, TASKS, Corpus, collate, hold_out, marks_of, training_example
from expected import expected_labels
from mixer import Mixer, MixerConfig, concatenate, subsets
from model import Backbone, LlamaConfig, Prefix, T5Config
from p5 import (
    DTYPES,
    P5Config,
    backbone_folder,
    finished,
    frozen_in,
    load_mixer,
    load_prompt,
    p5_backbone,
    read_attrs,
    shape_of,
    trained_before,
    weights_fingerprint,
)
from probe import SoftPrompt, answer_tokens, soft_batch, soft_loss
from support import processes
from support.checkpoints import Checkpoint, forget
from support.datasets import Dataset, ToyConfig, fingerprint, load_dataset
from support.files import (
    InputError,
    enough_memory,
    enough_to_train,
    fill,
    load_tensors,
    run_command,
    save_tensors,
    write_atomically,
)
from support.flags import command_to_resume, parse_args, pick_device, settings
from support.runs import Run, minutes, refuse_another
from support.weights import read_config

# times the loss of a blind guess. One that guesses blindly for good would not be noticed here: that is
# what a prompt aims at, and the fresh attackers at the end tell the two apart.
COLLAPSED = 10.0

# of each choice of attributes that may be drawn: of each attribute, who guesses it
Adversary = dict[tuple[str, ...], dict[str, Discriminator]]


def batches_per_epoch(corpus: Corpus, cfg: CFPConfig) -> int:
    """Full batches of `user_batches`; one smaller where there are too few users for a full one."""
    return max(len(corpus.dataset.users) // cfg.batch_size, 1)


def user_batches(
    corpus: Corpus, tasks: list[str], cfg: CFPConfig, rng: np.random.Generator, device
):
    """One epoch of (users, one Batch per task): every user once, in random order.

    Each prompt has a random training item of the user as its answer. A discriminator of people has
    to meet everybody equally often, whatever the length of their history: a user with a single
    training item, too few for a sequential prompt with an answer, gets one without and counts in
    L_dis alone. The few users who do not fill a last batch wait for the next epoch's order.
    """
    users = rng.permutation(len(corpus.dataset.users))
    for b in range(batches_per_epoch(corpus, cfg)):
        chosen, batch = users[b * cfg.batch_size : (b + 1) * cfg.batch_size], []
        for task in tasks:
            examples = []
            for user in chosen:
                n_items = len(corpus.split.train[user])
                first = 1 if task == "sequential" and n_items > 1 else 0
                position = rng.integers(first, n_items)
                examples.append(training_example(corpus, task, user, position, rng))
            batch.append(collate(corpus, processes.own(examples), device))
        yield chosen, batch


def train_cfp(
    corpus: Corpus,
    model: Backbone,
    labels: dict[str, np.ndarray],
    tasks: list[str],
    cfg: CFPConfig,
    seed: int,
    run: Run,
) -> tuple[CFP, Adversary]:
    """A prompt that hides one attribute, or several together, and the discriminators it hides from.

    `labels` gives each attribute's class indices (users,), negative where the adversary may not know
    them.
    """
    torch.manual_seed(seed)
    cfp = CFP(cfg, model.cfg).to(next(model.parameters()).device)
    everything, name = tuple(labels), f"CFP {'+'.join(labels)}"
    prefix = lambda attrs: cfp()
    adversary = algorithm_1(
        corpus, model, cfp, prefix, [everything], labels, tasks, cfg, seed, run, name
    )
    return cfp, adversary


def train_mixer(
    corpus: Corpus,
    model: Backbone,
    prefixes: dict[str, Prefix],
    labels: dict[str, np.ndarray],
    tasks: list[str],
    cfg: CFPConfig,
    mixer_cfg: MixerConfig,
    seed: int,
    run: Run,
) -> tuple[Mixer, Adversary]:
    """The mixer of the frozen `prefixes`, trained on every choice of two or more (section 4.1)."""
    torch.manual_seed(seed)
    mixer = Mixer(mixer_cfg, model.cfg).to(next(model.parameters()).device)
    prefix = lambda attrs: mixer([prefixes[attr] for attr in attrs])
    # A prompt that is chosen alone passes unchanged: drawing it would teach nothing.
    choices = [attrs for attrs in subsets(list(labels)) if len(attrs) > 1]
    names = "lam", "lr", "dis_lr", "dis_steps", "epochs"
    cfg = dataclasses.replace(cfg, **{name: getattr(mixer_cfg, name) for name in names})
    adversary = algorithm_1(
        corpus, model, mixer, prefix, choices, labels, tasks, cfg, seed, run, "mixer"
    )
    return mixer, adversary


def algorithm_1(
    corpus: Corpus,
    model: Backbone,
    player: CFP | Mixer,
    prefix: Callable[[tuple[str, ...]], Prefix],
    choices: list[tuple[str, ...]],
    labels: dict[str, np.ndarray],
    tasks: list[str],
    cfg: CFPConfig,
    seed: int,
    run: Run,
    name: str,
) -> Adversary:
    """Algorithm 1: the prefix against a discriminator per attribute, on a frozen model.

    Trains `player`, P, in place. `prefix` computes from it what the model reads in order to hide one of
    the `choices` of attributes, drawn at random for every batch (K of Eq. 5; a CFP has one choice).
    What is kept are the weights after the last batch: attacking some earlier ones as well and keeping the
    best took longer and did no better. Returns the discriminators.
    """
    rng, draw = np.random.default_rng([seed, 6]), np.random.default_rng([seed, 20])
    device = next(model.parameters()).device
    model.requires_grad_(False).eval()
    is_soft = cfg.discriminator == "soft"
    n_readings = len(tasks) * (2 if cfg.hide_from == "scores" else 1)
    classifier = lambda n_classes: Discriminator(cfg, model.cfg.d_model, n_classes, n_readings)
    soft = lambda n_classes: SoftPrompt(model.cfg)
    game = game_of(labels, choices, cfg, soft if is_soft else classifier, device)
    label_of, members, dis_optimizer = game.label_of, game.members, game.dis_optimizer
    answers = {k: answer_tokens(corpus, k, device) for k in labels if is_soft}
    prefix_optimizer = torch.optim.AdamW(player.parameters(), cfg.lr, weight_decay=0.0, fused=True)
    per_epoch = batches_per_epoch(corpus, cfg)
    n_batches = cfg.epochs * per_epoch
    optimizers = dict(prefix_optimizer=prefix_optimizer, dis_optimizer=dis_optimizer)
    kept = Checkpoint(run, name, dict(player=player, members=members) | optimizers)
    start = dict(batch_num=0, epoch=rng.bit_generator.state, draw=draw.bit_generator.state)
    now = kept.restore(start)
    batch_num = now["batch_num"]
    rng.bit_generator.state, draw.bit_generator.state = now["epoch"], now["draw"]

    def dis_losses(C: dict, given: Prefix, u_emb: list, users: np.ndarray) -> list[torch.Tensor]:
        """L_dis of each attribute: Eq. 3, or Eq. 6 against a soft probing prompt (section 6)."""
        if not is_soft:
            return [discriminator_loss(C[k], u_emb, label_of[k][users]) for k in C]
        asked = soft_batch(corpus, users, device)
        loss = lambda k: soft_loss(model, C[k](given), *asked, answers[k][label_of[k][users]])
        return [loss(k).reshape(1) for k in C]

    # fmt: off
    # The numbers on the right are the lines of Algorithm 1; lines 8 and 18-21 end its blocks.
    for epoch in range(batch_num // per_epoch, cfg.epochs):                               # 1
        done, now["epoch"] = batch_num - epoch * per_epoch, rng.bit_generator.state
        batches = user_batches(corpus, tasks, cfg, rng, device)
        for users, batch in islice(batches, done, None):                                  # 2
            batch_num, attrs = batch_num + 1, choices[draw.integers(len(choices))]
            C = game.adversary[attrs]
            lam, cap = game.lams_and_caps(attrs)
            set_rates(prefix_optimizer, min(batch_num / 20, 1 - 0.95 * batch_num / n_batches))
            # (1) the prefix hides the attributes: P descends L_rec - sum of lambda * L_dis
            for _ in range(cfg.inner_steps):                                              # 3  T
                given = prefix(attrs)
                rec_loss, u_emb = forward(model, given, batch, cfg.hide_from)             # 4
                dis_loss = dis_losses(C, given, u_emb, users)                             # 5
                loss = adversarial_loss(rec_loss, dis_loss, lam, cap)                     # 6
                step(prefix_optimizer, loss)                                              # 7
            if batch_num % cfg.every == 0:                                                # 9  R
                # (2) the prefix recovers the recommendations: P descends L_rec
                for _ in range(cfg.rec_steps):                                            # 10 T
                    rec_loss, _ = forward(model, prefix(attrs), batch, cfg.hide_from)     # 11
                    step(prefix_optimizer, rec_loss)                                      # 12
                # (3) the discriminators catch up: C descends L_dis. M and P stay fixed and nothing
                # in them is random, so line 15 gives the same T times over: once is enough.
                with torch.no_grad():
                    given = prefix(attrs)
                u_emb = u_emb_of(model, given, batch, cfg.hide_from)                      # 15
                for _ in range(cfg.dis_steps):                                            # 14 T
                    dis_loss = dis_losses(C, given, u_emb, users)                         # 16
                    step(dis_optimizer, torch.cat(dis_loss).sum())                        # 17
            losses = dict(rec=rec_loss.item(), dis=torch.cat(dis_loss).mean().item())
            losses["blind"] = game.blind(attrs)
            if batch_num % cfg.every == 0 and not is_soft:  # it begins without the words
                check_discriminators(losses["dis"], losses["blind"], cfg, f"{name}, batch {batch_num}")
            run.progress(f"{name} ({' + '.join(tasks)})", batch_num, n_batches, **losses)
            # of the users' order its beginning, for the rest of this epoch, or where the next begins
            now["epoch"] = now["epoch"] if batch_num % per_epoch else rng.bit_generator.state
            now |= dict(batch_num=batch_num, draw=draw.bit_generator.state)
            kept.keep(batch_num, n_batches, **now)
    # fmt: on
    return game.adversary


class Game(NamedTuple):
    """The discriminators of one game, what they are told and what their losses count."""

    adversary: Adversary
    members: nn.ModuleList  # all of them
    dis_optimizer: torch.optim.Optimizer
    label_of: dict[str, torch.Tensor]  # of everybody, as `discriminator_loss` takes them
    entropy: dict[str, float]  # of those they know, in nats
    lams: dict[str, float]
    caps: dict[str, float]

    def lams_and_caps(self, attrs: tuple[str, ...]) -> tuple[list[float], list[float]]:
        """What `adversarial_loss` is given for this choice."""
        return [self.lams[k] for k in attrs], [self.caps[k] for k in attrs]

    def blind(self, attrs: tuple[str, ...]) -> float:
        """The mean loss in nats of blind guesses at the attributes of this choice."""
        return sum(self.entropy[k] for k in attrs) / len(attrs)


def game_of(
    labels: dict[str, np.ndarray],
    choices: list[tuple[str, ...]],
    cfg: CFPConfig,
    make: Callable[[int], nn.Module],
    device: torch.device,
) -> Game:
    """New discriminators for every attribute of every choice; `make` gives one for so many classes.

    # Paper silent: whether a mixer's discriminators know which choice they face. Ours do, there is a
    set for each; one for all left up to nine points more of the AUC.
    """
    n_classes = {
        k: told.shape[1] if told.ndim == 2 else int(told.max()) + 1 for k, told in labels.items()
    }
    adversary = {c: {k: make(n_classes[k]).to(device) for k in c} for c in choices}
    members = members_of(adversary)
    decay = 0.0 if cfg.discriminator == "soft" else cfg.dis_weight_decay
    optimizer = torch.optim.AdamW(members.parameters(), cfg.dis_lr, weight_decay=decay, fused=True)
    label_of = {k: torch.from_numpy(told).to(device) for k, told in labels.items()}
    entropy = {k: entropy_of(told) for k, told in labels.items()}
    lams, caps = lambdas(cfg.lam, entropy), caps_of(cfg, entropy)
    return Game(adversary, members, optimizer, label_of, entropy, lams, caps)


def check_discriminators(dis_loss: float, blind: float, cfg: CFPConfig, when: str) -> None:
    """Raises InputError where the loss that they have just descended is far worse than a blind guess's."""
    if dis_loss > COLLAPSED * blind:
        raise InputError(
            f"{when}: the discriminators' loss is {dis_loss:.3g} after their {cfg.dis_steps} steps at "
            f"learning rate {cfg.dis_lr:g}, a blind guess has {blind:.3g}: they have collapsed; try a "
            "smaller one"
        )


def enough_for_game(
    cfg: CFPConfig,
    mixer_cfg: MixerConfig | None,
    shape: T5Config | LlamaConfig,
    device: torch.device,
) -> None:
    """Raises InputError where what the game trains on a backbone of this shape cannot fit into memory."""
    with torch.device("meta"):  # shapes without memory
        players = {"a prompt": (CFP(cfg, shape), "--prefix-len")}
        if mixer_cfg is not None:
            players["the mixer"] = (Mixer(mixer_cfg, shape), "--mixer-hidden")
    for what, (player, flag) in players.items():
        # of each weight in float32 itself, its gradient, AdamW's two means
        enough_to_train(what, player, 16, device, f"choose a smaller {flag}")


def enough_for_tables(dataset: Dataset) -> None:
    """Raises InputError where tables of users and items cannot fit: what is measured is in some, dense."""
    n_users, n_items = len(dataset.users), len(dataset.titles)
    # two copies of the baselines' scores beside them, float64: 24 bytes; train.py takes 18
    enough_memory(
        f"measuring {n_users} users and {n_items} items",
        24 * n_users * n_items,
        torch.device("cpu"),
        "choose a smaller data set",
    )


def members_of(adversary: Adversary) -> nn.ModuleList:
    """All discriminators of an adversary as one module."""
    return nn.ModuleList(member for some in adversary.values() for member in some.values())


def lambdas(lam: float, entropy: dict[str, float]) -> dict[str, float]:
    """lambda_k of Eq. 5 for each attribute k, of whose labels the entropy in nats is given.

    # Paper silent: how they differ. A loss counts in units of its labels' entropy: with one lambda for
    all, the prefix mostly follows the 21 occupations and gender stays readable (AUC 72 in place of 60
    for a prefix from scratch that hides all three).
    """
    if len(entropy) == 1:
        return {attr: lam for attr in entropy}
    return {attr: lam * math.log(2) / nats for attr, nats in entropy.items()}


def caps_of(cfg: CFPConfig, entropy: dict[str, float]) -> dict[str, float]:
    """Up to which loss in nats each attribute counts in L, of whose labels the entropy is given.

    Without end against a soft probing prompt: Eq. 6 counts what it takes to write the class's name as
    well, so it stays far above the entropy (5.7 nats after 480 steps in the toy world), and with
    the cap the prefix would never be moved by it.
    """
    if cfg.cap is None or cfg.discriminator == "soft":
        return dict.fromkeys(entropy, math.inf)
    return {attr: cfg.cap * nats for attr, nats in entropy.items()}


def entropy_of(labels: np.ndarray) -> float:
    """Entropy of the classes' shares, in nats: the cross-entropy of a blind guess.

    `labels` are class indices (users,), negative where not known, or how likely each class is (users, c).
    """
    if labels.ndim == 1:
        labels = labels[labels >= 0]
        shares = np.unique(labels, return_counts=True)[1] / len(labels)
    else:
        shares = labels.mean(0)
    return float(-(shares * np.log(shares)).sum())


def enough_to_attack(
    dataset: Dataset, labels: dict[str, np.ndarray], chooses: bool = False
) -> None:
    """Raises InputError where too few have a held-out item for the attacks; labels below 0 are unknown.

    A game may choose its weights by an attack on validation items as well, `chooses`. Nobody with such
    an item is no mistake: then the last weights are taken.
    """
    lengths = np.array([len(history) for history in dataset.histories])
    for attr, known in labels.items():
        # the game chooses by the labels that the adversary knows; at the end everybody is attacked
        for part, least, of in ("test", 2, dataset.labels(attr)), ("validation", 3, known):
            some = dataset.is_person & (lengths >= least) & (of >= 0)
            needed = part == "test" or (chooses and some.any())
            if needed and (np.bincount(of[some]) >= FOLDS).sum() < 2:
                raise InputError(
                    f"--attr {attr}: of the {some.sum()} users of {dataset.name} with a {part} item, for "
                    f"which {least} interactions are needed, fewer than two classes have the {FOLDS} that an "
                    "attack in five folds needs; take more users or longer histories"
                )


def enough_to_expect(known: dict[str, np.ndarray]) -> None:
    """Raises InputError where the labels that are not held out are too few for `expected_labels`."""
    for attr, labels in known.items():
        counts = np.bincount(labels[labels >= 0])
        if (counts >= FOLDS).sum() < 2:
            raise InputError(
                f"--label-holdout: of --attr {attr} {counts.sum()} labels are left, {FOLDS} at least of each "
                "of two classes are needed; hold fewer out, or take more users"
            )


# -------------------------------------------------------------------------------------------------
# The command
# -------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> dict:
    """Everything from the data to the table; returns what results.json holds."""
    given = list(sys.argv[1:] if argv is None else argv)
    given, resume = command_to_resume(given, "train.py")
    args = parse_args(given)
    device = processes.start(pick_device(args.device))
    if processes.count() > 1 and resume is not None:
        raise InputError("--resume goes on in one process and torchrun begins several; begin anew")
    attrs = read_attrs(args.attr, "--attr")
    toy_cfg = ToyConfig(args.toy_users, args.toy_effect, args.toy_twins, attrs[0])
    if args.data != "toy" and toy_cfg != ToyConfig(twins_in=attrs[0]):
        raise InputError(
            f"--data {args.data}: --toy-users, --toy-effect and --toy-twins are for toy; leave them out"
        )
    dataset = load_dataset(args.data, args.data_dir, args.seed, toy_cfg)
    for attr in attrs:
        dataset.labels(attr)  # says so where there is no such attribute
    folder = backbone_folder(args.backbone)
    on = args.backbone if folder is None else read_config(folder)["model_type"]
    p5, cfg, mixer_cfg = settings(args, attrs, on, folder)
    enough_for_tables(dataset)
    mixing = mixer_cfg if len(attrs) > 1 else None
    enough_for_game(cfg, mixing, shape_of(args.backbone, folder), device)
    known = {attr: hold_out(dataset, attr, args.label_holdout, args.seed) for attr in attrs}
    enough_to_attack(dataset, known)
    enough_to_expect(known)
    tasks = list(TASKS) if args.task == "both" else [args.task]
    name = f"{args.data}-{'+'.join(attrs)}-seed{args.seed}"
    name += "-paper" if args.paper_schedule else ""
    name += "-scores" if cfg.hide_from == "scores" else ""
    name += "-soft" if cfg.discriminator == "soft" else ""
    name += "" if args.backbone == "tiny" else f"-{Path(args.backbone).name}"
    config = {
        "command": ["train.py", *map(str, given)],
        "data": args.data,
        "data dir": None if args.data_dir is None else str(args.data_dir.resolve()),
        "toy": dataclasses.asdict(toy_cfg),
        "label holdout": args.label_holdout,
        "data fingerprint": fingerprint(dataset),
        "attrs": attrs,
        "tasks": tasks,
        "seed": args.seed,
        "device": device.type,
        "processes": processes.count(),
        "backbone": args.backbone,
        "dtype": args.dtype,
        "p5": dataclasses.asdict(p5),
        "cfp": dataclasses.asdict(cfg),
        "mixer": dataclasses.asdict(mixer_cfg) if len(attrs) > 1 else None,
        "torch": torch.__version__,
    }
    out = processes.folder_of(args.out)
    run = Run(out, name, config) if resume is None else Run.resume(resume, config)
    so_far = run.so_far()
    describe(dataset, attrs, p5, run)
    corpus, model, p5_folder = p5_backbone(
        dataset,
        p5,
        args.backbone,
        folder,
        args.seed,
        device,
        DTYPES[args.dtype],
        args.retrain and not so_far,
        run,
    )
    save_negatives(run.folder / "negatives.npy", corpus.negatives)
    frozen = {"backbone": weights_fingerprint(p5_folder)}
    frozen["tokenizer"] = corpus.tokenizer.fingerprint
    run.frozen = frozen
    results = {
        "data": args.data,
        "backbone": args.backbone,
        "attrs": attrs,
        "seed": args.seed,
        "seconds": None,
        "p5 folder": str(p5_folder),
        "p5 weights": frozen["backbone"],
        "p5 tokenizer": frozen["tokenizer"],
        "p5 seconds": run.seconds(),
        "cfp seconds": {},
        "cfp from": {},
    }
    if so_far:
        refuse_another(f"--resume {run.folder}", frozen_in(so_far), frozen, "begin anew")
    results |= so_far
    run.keep(results)
    told = known
    if args.label_holdout and not args.paper_schedule:
        history = marks_of(corpus.split.train, len(corpus.numbers))
        told = {attr: expected_labels(history, labels) for attr, labels in known.items()}
    before = lambda attr: (
        trained_before(config, p5_folder, frozen, attr) if len(attrs) > 1 else None
    )
    prefixes = train_prompts(corpus, model, told, tasks, cfg, args.seed, before, results, run)

    if len(attrs) == 1:
        (attr,) = attrs
        if not processes.first_goes_on():
            return {}
        discriminator = None
        if cfg.discriminator == "classifier":
            discriminator = load_discriminator(run.folder, attr, known[attr], tasks, cfg, model)
        run.say("measuring on the test items, with fresh attackers")
        results |= evaluate.before_and_after(
            *(model, corpus, tasks, attr, prefixes[attr], discriminator),
            *(known[attr] < 0, args.seed),
        )
        table, prefix = evaluate.table(results), prefixes[attr]
    else:
        ways = combine(
            *(corpus, model, prefixes, told, tasks, cfg, mixer_cfg, args.seed),
            *(args.from_scratch, results, run),
        )
        if not processes.first_goes_on():
            return {}
        (prefix,) = [way.prefix for way in ways if (way.attrs, way.how) == (attrs, "mixer")]
        evaluate.combinations(
            *(model, corpus, tasks, list(attrs), ways),
            *({attr: labels < 0 for attr, labels in known.items()}, args.seed, results, run),
        )
        table = evaluate.combinations_table(results)
    results["seconds"] = run.seconds()
    run.finish(results)
    forget(run)
    run.say("\n" + evaluate.example(model, corpus, tasks[0], prefix))
    run.say("\n" + table)
    run.say(f"\n{minutes(run.seconds())} in all; everything is in {run.folder}")
    return results


def train_prompts(
    corpus: Corpus,
    model: Backbone,
    labels: dict[str, np.ndarray],
    tasks: list[str],
    cfg: CFPConfig,
    seed: int,
    before: Callable[[str], Path | None],
    results: dict,
    run: Run,
) -> dict[str, Prefix]:
    """A prompt for each attribute: trained here and saved, or taken from where it has been trained.

    That is this run's folder, where the run was interrupted, or the folder of another run that `before`
    finds; it is asked when the attribute's turn comes, for another run may have ended meanwhile.
    """
    prefixes, spent = {}, results["cfp seconds"]
    for attr in labels:
        if attr in spent:  # before it was interrupted
            prefixes[attr] = load_prompt(run.folder, attr, cfg, model, run.frozen)
            continue
        folder = before(attr)
        if folder is not None:
            prefixes[attr] = load_prompt(folder, attr, cfg, model, run.frozen)
            spent[attr] = finished(folder)[1]["cfp seconds"][attr]
            results["cfp from"][attr] = str(folder)
            run.say(f"CFP for {attr}: reusing the one of {folder}")
            for kind in "cfp", "discriminator":
                content = (folder / f"{kind}-{attr}.safetensors").read_bytes()
                write_atomically(run.folder / f"{kind}-{attr}.safetensors", content)
        else:
            began = run.seconds()
            cfp, adversary = train_cfp(corpus, model, {attr: labels[attr]}, tasks, cfg, seed, run)
            prefixes[attr], spent[attr] = cfp.frozen(), run.seconds() - began
            save_tensors(run.folder / f"cfp-{attr}.safetensors", cfp.state_dict(), run.frozen)
            discriminator = adversary[attr,][attr]
            path = run.folder / f"discriminator-{attr}.safetensors"
            save_tensors(path, discriminator.state_dict())
        run.keep(results)
    return prefixes


def combine(
    corpus: Corpus,
    model: Backbone,
    prefixes: dict[str, Prefix],
    labels: dict[str, np.ndarray],
    tasks: list[str],
    cfg: CFPConfig,
    mixer_cfg: MixerConfig,
    seed: int,
    from_scratch: bool,
    results: dict,
    run: Run,
) -> list[evaluate.Combined]:
    """Every way to hide every choice of attributes: by the mixer, which is trained and saved here, by
    putting the prompts one beside the other and, if asked for, by a prompt of its own.
    """
    if "mixer seconds" in results:  # before it was interrupted
        mixer = load_mixer(run.folder, mixer_cfg, model, run.frozen)
    else:
        began = run.seconds()
        mixer, _ = train_mixer(corpus, model, prefixes, labels, tasks, cfg, mixer_cfg, seed, run)
        save_tensors(run.folder / "mixer.safetensors", mixer.state_dict(), run.frozen)
        results |= {"mixer seconds": run.seconds() - began, "scratch seconds": {}}
        run.keep(results)
    mixing, spent = results["mixer seconds"], results["cfp seconds"]
    ways = []
    for attrs in subsets(list(prefixes)):
        parts, apart = [prefixes[attr] for attr in attrs], sum(spent[attr] for attr in attrs)
        if len(attrs) == 1:  # the mixer leaves it as it is
            ways.append(evaluate.Combined(attrs, "mixer", apart, parts[0]))
            continue
        with torch.no_grad():
            ways.append(evaluate.Combined(attrs, "mixer", mixing, mixer(parts)))
        ways.append(evaluate.Combined(attrs, "concatenation", 0.0, concatenate(parts)))
        if from_scratch:
            own, together = {attr: labels[attr] for attr in attrs}, "+".join(attrs)
            own_cfg = dataclasses.replace(cfg, lam=mixer_cfg.lam)
            if together not in results["scratch seconds"]:
                began = run.seconds()
                cfp, _ = train_cfp(corpus, model, own, tasks, own_cfg, seed, run)
                path = run.folder / f"cfp-{together}.safetensors"
                save_tensors(path, cfp.state_dict(), run.frozen)
                results["scratch seconds"][together] = run.seconds() - began
                run.keep(results)
            alone = load_prompt(run.folder, together, own_cfg, model, run.frozen)
            seconds = results["scratch seconds"][together]
            ways.append(evaluate.Combined(attrs, "from scratch", seconds, alone))
    return ways


def load_discriminator(
    folder: Path, attr: str, labels: np.ndarray, tasks: list[str], cfg: CFPConfig, model: Backbone
) -> Discriminator:
    """The one that a run's prompt for this attribute was trained against."""
    n_readings = len(tasks) * (2 if cfg.hide_from == "scores" else 1)
    discriminator = Discriminator(cfg, model.cfg.d_model, int(labels.max()) + 1, n_readings)
    path = folder / f"discriminator-{attr}.safetensors"
    fill(discriminator, path, load_tensors(path))
    return discriminator.to(next(model.parameters()).device)


def save_negatives(path: Path, negatives: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, negatives, allow_pickle=False)
    write_atomically(path, content.getvalue())


def describe(dataset: Dataset, attrs: tuple[str, ...], p5: P5Config, run: Run) -> None:
    """Say what the data are: sizes, classes, what was left out, what is held out."""
    lengths = np.array([len(history) for history in dataset.histories])
    sizes = f"{len(dataset.users)} users, {len(dataset.titles)} items, {lengths.sum()} interactions"
    run.say(f"{dataset.name}: {sizes}")
    for note in dataset.notes:
        run.say(f"  {note}")
    for name, values in dataset.attributes.items():
        counts = np.bincount(values, minlength=len(dataset.classes[name]))
        classes = ", ".join(f"{c} {n}" for c, n in zip(dataset.classes[name], counts))
        run.say(f"  {name}{' (to be hidden)' if name in attrs else ''}: {classes}")
    for n, consequence in (1, "trained on, not tested"), (2, "tested, without a validation item"):
        if (lengths == n).any():
            run.say(f"  users with {n} interaction(s): {(lengths == n).sum()}, {consequence}")
    short = (len(dataset.titles) - lengths < N_NEGATIVES).sum()
    if short:
        run.say(
            f"  {short} users have fewer than {N_NEGATIVES} items that they never interacted with; "
            "all of those are their negatives"
        )
    listed = p5.prompt_candidates or "no"
    run.say(f"  direct prompts list {listed} candidates (the paper's 100: --prompt-candidates 100)")


if __name__ == "__main__":
    run_command(main)
