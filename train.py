"""Train a counterfactually-fair prompt (Algorithm 1) against a P5 recommender, and measure it.

    python train.py --attr gender
    python train.py --attr gender,age,occupation

The first does everything in the toy world and ends with one table; the second trains a prompt for each
attribute and the mixer of section 4.1, for any choice of them. `python train.py --help` is the manual.
"""

import support  # noqa: F401, I001 (before torch; see there)
import dataclasses
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from cfp import CFP, Game, forward, step, u_emb_of
from data import (
    TASKS,
    Corpus,
    Example,
    collate,
    has_several_answers,
    hold_out,
    make_corpus,
    people_with,
    positions_of,
    train_tokenizer,
    training_example,
)
from evaluate import Attacks, Combined, before_and_after, combinations, example, validation_hit
from mixer import Mixer, Study, concatenate, load_mixer, load_prompt, subsets
from model import Backbone, Prefix, from_scratch, load_backbone, target_loss
from probe import game_of
from support import processes
from support.backbones import own_memory, place_of_p5
from support.checks import enough_answers, enough_for_run, enough_people
from support.command import Command, begin_results, begin_run, end_run, read_command
from support.configs import CFPConfig, MixerConfig, P5Config
from support.expected import labels_for_game, marks_of
from support.files import fill, load_tensors, run_command, save_tensors
from support.flags import DTYPES, settings
from support.runs import Run, has_prompt, save_array
from support.screens import combinations_table, describe, table
from support.tokens import Tokenizer, tokenizer_in
from support.training import GameTraining, Training, in_parts, p5_optimizer, set_rates


def train_p5(
    corpus: Corpus, model: Backbone, cfg: P5Config, seed: int, run: Run, parts: int = 1
) -> None:
    """Train all weights of `model` on the prompts of the tasks that it is for, in place; keep the best.

    Every training interaction is as likely to be the answer as any other; but a direct prompt without
    candidates is the same for all items of a user: every user is as likely, and all items are answers.
    The validation items of at most 500 users say which weights are kept and when it ends: mean Hit@10.
    A batch goes through the model in so many `parts`; see `in_parts`.
    """
    rng, device = np.random.default_rng([seed, 5]), next(model.parameters()).device
    optimizer = p5_optimizer(model, cfg)
    positions = {task: positions_of(corpus, task) for task in TASKS}
    if "sequential" in cfg.tasks:
        enough_answers(corpus.dataset, positions["sequential"][0])
    asked = positions["direct"][0]
    up_to = np.cumsum(1 / np.bincount(asked)[asked])  # the items of each user together make one
    up_to /= up_to[-1]
    judges = np.sort(rng.permutation(people_with(corpus, "valid"))[:500])
    training = Training(run, "P5", cfg, dict(model=model, optimizer=optimizer), rng)

    def loss_of(task: str, examples: list[Example]) -> Tensor:
        batch = collate(corpus, examples, device, task)
        encoded = model.encode(batch.input_ids, batch.mask)
        return target_loss(model, encoded, batch.target_ids, batch.first_ids)

    for number in training.steps():
        model.train()
        losses, loss = {}, 0.0
        for task, (size, share) in cfg.tasks.items():
            users, items = positions[task]
            if has_several_answers(corpus, task):
                rows = np.searchsorted(up_to, rng.random(size), side="right")
            else:
                rows = rng.integers(len(users), size=size)
            examples = [training_example(corpus, task, users[r], items[r], rng) for r in rows]
            losses[task] = in_parts(partial(loss_of, task), processes.own(examples), parts)
            loss += share * losses[task]
        set_rates(optimizer, min(number / cfg.warmup, (cfg.steps - number + 1) / cfg.steps))
        step(optimizer, loss, cfg.max_norm)
        run.progress("P5", number, cfg.steps, **{task: nll.item() for task, nll in losses.items()})
        if training.time_to_validate():
            model.eval()
            hits = [validation_hit(model, corpus, task, judges) for task in cfg.tasks]
            training.keep_best(model, np.mean(hits))
    model.load_state_dict(training.best)


def p5_backbone(command: Command, p5: P5Config, run: Run) -> tuple[Corpus, Backbone, Path]:
    """(corpus, backbone, its folder): the P5 trained before with the same settings, or a new one.

    A new one starts from scratch or from published weights, is trained in float32 and handed on in the
    type that --dtype says.
    """
    place, seed, device = place_of_p5(command, p5, run), command.args.seed, command.device
    corpus_with = lambda tokenizer: make_corpus(command.dataset, tokenizer, p5, seed)
    if place.is_there:
        corpus = corpus_with(tokenizer_in(place.folder))
        return corpus, load_backbone(place.folder, DTYPES[command.args.dtype], device), place.folder
    if command.folder is None:
        sizes = len(command.dataset.users), len(command.dataset.titles), command.dataset.nouns
        tokenizer = Tokenizer(train_tokenizer(*sizes, begins=command.kind == "tiny-llama"))
        model = from_scratch(command.kind, tokenizer, p5.d_ff, seed)
    else:
        tokenizer, model = tokenizer_in(command.folder), load_backbone(command.folder)
        own_memory(model, device)
    corpus, n = corpus_with(tokenizer), sum(param.numel() for param in model.parameters())
    what = f"a {type(model).__name__} of {n / 1e6:.2f} M parameters {place.origin}"
    run.say(f"P5 backbone: training {what} into {place.folder}")
    run.frozen = {"tokenizer": tokenizer.fingerprint}
    train_p5(corpus, model.to(device), p5, seed, run, command.args.p5_parts)
    place.fill(model, tokenizer)
    return corpus, model.to(DTYPES[command.args.dtype]), place.folder


def user_batches(study: Study, cfg: CFPConfig, rng: np.random.Generator) -> Iterator[tuple]:
    """One epoch of (users, one Batch per task): every user once, in random order.

    Each prompt has a random training item of the user as its answer. A discriminator of people has
    to meet everybody equally often, whatever the length of their history: a user with a single
    training item, too few for a sequential prompt with an answer, gets one without and counts in
    L_dis alone. The few users who do not fill a last batch wait for the next epoch's order.
    """
    corpus = study.corpus
    order = rng.permutation(len(corpus.dataset.users))
    for b in range(batches_per_epoch(corpus, cfg)):
        users, batch = order[b * cfg.batch_size : (b + 1) * cfg.batch_size], []
        for task in study.tasks:
            examples = []
            for user in users:
                n_items = len(corpus.split.train[user])
                first = 1 if task == "sequential" and n_items > 1 else 0
                position = rng.integers(first, n_items)
                examples.append(training_example(corpus, task, user, position, rng))
            batch.append(collate(corpus, processes.own(examples), study.device, task))
        yield users, batch


def batches_per_epoch(corpus: Corpus, cfg: CFPConfig) -> int:
    """Full batches of `user_batches`; one smaller where there are too few users for a full one."""
    return max(len(corpus.dataset.users) // cfg.batch_size, 1)


# fmt: off
def algorithm_1(
    study: Study, player: CFP | Mixer, prefix_of: Callable[[tuple[str, ...]], Prefix], game: Game, stage: str
) -> None:
    """Algorithm 1 (appendix C): the prefix P against the discriminators C of a game, on a frozen model M.

    Trains `player`, P, in place, and the game's members, C. `prefix_of` computes from P what the model
    reads in order to hide some attributes. The numbers on the right are the algorithm's lines; lines 8
    and 18-21 end its blocks. The last weights are kept: attacking earlier ones too did no better.
    """
    model, cfg = study.model.requires_grad_(False).eval(), game.cfg
    rng = np.random.default_rng([study.seed, 6])
    per_epoch = batches_per_epoch(study.corpus, cfg)
    prefix_optimizer = torch.optim.AdamW(player.parameters(), cfg.lr, weight_decay=0.0, fused=True)
    dis_optimizer = game.optimizer
    training = GameTraining(study, stage, game, player, prefix_optimizer, per_epoch, rng)
    for epoch in training.epochs():                                                       # 1
        batches = training.batches(epoch, user_batches(study, cfg, rng))
        for batch_num, users, batch in batches:                                           # 2
            attrs = game.draw()  # K of Eq. 5; a prompt for one attribute has one choice
            # (1) the prefix hides the attributes: P descends L_rec - sum of lambda * L_dis
            for _ in range(cfg.inner_steps):                                              # 3  T
                rec_loss, u_emb = forward(model, prefix_of(attrs), batch, game.read)      # 4
                dis_loss = game.dis_loss(attrs, u_emb, users)                             # 5
                dependence = game.dependence(attrs, u_emb, users)  # 0 in the paper's game
                loss = game.adversarial_loss(rec_loss, dis_loss, attrs) + dependence      # 6
                step(prefix_optimizer, loss)                                              # 7
            if batch_num % cfg.every == 0 and game.members:                               # 9  R
                # (2) the prefix recovers the recommendations: P descends L_rec
                for _ in range(cfg.rec_steps):                                            # 10 T
                    rec_loss, _ = forward(model, prefix_of(attrs), batch, game.read)      # 11
                    step(prefix_optimizer, rec_loss)                                      # 12
                # (3) the discriminators catch up: C descends L_dis. M and P stay fixed and nothing
                # in them is random, so line 15 gives the same T times over: once is enough.
                with torch.no_grad():
                    u_emb = u_emb_of(model, prefix_of(attrs), batch, game.read)           # 15
                for _ in range(cfg.dis_steps):                                            # 14 T
                    dis_loss = game.dis_loss(attrs, u_emb, users)                         # 16
                    step(dis_optimizer, dis_loss.sum())                                   # 17
            training.report(attrs, rec_loss, dis_loss, dependence)
# fmt: on


def train_cfp(study: Study, labels: dict[str, np.ndarray], cfg: CFPConfig) -> tuple[CFP, Game]:
    """A prompt that hides one attribute, or several together, and the game that it was trained in.

    `labels` are what the adversary is told; see `Game`.
    """
    torch.manual_seed(study.seed)
    cfp = CFP(cfg, study.model.cfg).to(study.device)
    game = game_of(study, labels, [tuple(labels)], cfg)
    algorithm_1(study, cfp, lambda attrs: cfp(), game, f"CFP {'+'.join(labels)}")
    return cfp, game


def train_mixer(
    study: Study,
    prefixes: dict[str, Prefix],
    labels: dict[str, np.ndarray],
    cfg: CFPConfig,
    mixer_cfg: MixerConfig,
) -> tuple[Mixer, Game]:
    """The mixer of the frozen `prefixes`, trained on every choice of two or more (section 4.1)."""
    torch.manual_seed(study.seed)
    mixer = Mixer(mixer_cfg, study.model.cfg).to(study.device)
    # A prompt that is chosen alone passes unchanged: drawing it would teach nothing.
    choices = [attrs for attrs in subsets(list(labels)) if len(attrs) > 1]
    names = "lam", "lr", "dis_lr", "dis_steps", "epochs"
    cfg = dataclasses.replace(cfg, **{name: getattr(mixer_cfg, name) for name in names})
    game = game_of(study, labels, choices, cfg)
    prefix_of = lambda attrs: mixer([prefixes[attr] for attr in attrs])
    algorithm_1(study, mixer, prefix_of, game, "mixer")
    return mixer, game


def train_prompts(
    study: Study, labels: dict[str, np.ndarray], cfg: CFPConfig, results: dict
) -> dict[str, Prefix]:
    """A prompt for each attribute, trained and saved here or taken from where it has been trained before."""
    run, prefixes = study.run, {}
    for attr in labels:
        if not has_prompt(run, attr, results):
            with run.spending(results, results["cfp seconds"], attr):
                cfp, game = train_cfp(study, {attr: labels[attr]}, cfg)
                save_tensors(run.folder / f"cfp-{attr}.safetensors", cfp.state_dict(), run.frozen)
                if game.members:
                    discriminator = game.adversary[attr,][attr].state_dict()
                    save_tensors(run.folder / f"discriminator-{attr}.safetensors", discriminator)
        prefixes[attr] = load_prompt(run.folder, attr, cfg, study.model, run.frozen)
    return prefixes


def combine(
    study: Study,
    prefixes: dict[str, Prefix],
    labels: dict[str, np.ndarray],
    configs: tuple[CFPConfig, MixerConfig],
    with_scratch: bool,
    results: dict,
) -> list[Combined]:
    """Every way to hide every choice of attributes: by the mixer, which is trained and saved here, by
    putting the prompts one beside the other and, if asked for, by a prompt of its own.
    """
    run, (cfg, mixer_cfg), ways = study.run, configs, []
    own_cfg = dataclasses.replace(cfg, lam=mixer_cfg.lam)
    if "mixer seconds" not in results:  # it was not trained before an interruption
        with run.spending(results, results, "mixer seconds"):
            mixer, _ = train_mixer(study, prefixes, labels, cfg, mixer_cfg)
            save_tensors(run.folder / "mixer.safetensors", mixer.state_dict(), run.frozen)
            results["scratch seconds"] = {}
    mixer = load_mixer(run.folder, mixer_cfg, study.model, run.frozen)
    for attrs in subsets(list(prefixes)):
        prompts, together = [prefixes[attr] for attr in attrs], "+".join(attrs)
        if len(attrs) == 1:  # the mixer leaves it as it is
            ways.append(Combined(attrs, "mixer", results["cfp seconds"][together], prompts[0]))
            continue
        with torch.no_grad():
            ways.append(Combined(attrs, "mixer", results["mixer seconds"], mixer(prompts)))
        ways.append(Combined(attrs, "concatenation", 0.0, concatenate(prompts)))
        spent = results["scratch seconds"]
        if with_scratch and together not in spent:
            with run.spending(results, spent, together):
                cfp, _ = train_cfp(study, {attr: labels[attr] for attr in attrs}, own_cfg)
                path = run.folder / f"cfp-{together}.safetensors"
                save_tensors(path, cfp.state_dict(), run.frozen)
        if with_scratch:
            alone = load_prompt(run.folder, together, own_cfg, study.model, run.frozen)
            ways.append(Combined(attrs, "from scratch", spent[together], alone))
    return ways


def main(argv: list[str] | None = None) -> dict:
    """Check, data, P5, a prompt each, the mixer if there are several, measure, say.

    Returns what results.json holds.
    """
    command = read_command(argv)
    args, attrs = command.args, command.attrs
    p5, cfg, mixer_cfg = settings(args, attrs, command.kind)
    players = {"a prompt": (lambda: CFP(cfg, command.shape), "--prefix-len")}
    if len(attrs) > 1:
        players["the mixer"] = (lambda: Mixer(mixer_cfg, command.shape), "--mixer-hidden")
    enough_for_run(command.dataset, players, command.device)
    share = args.label_holdout
    known = {attr: hold_out(command.dataset, attr, share, args.seed) for attr in attrs}
    enough_people(command.dataset, known)
    run = begin_run(command, p5, cfg, mixer_cfg)
    run.say(describe(command.dataset, attrs, p5.prompt_candidates))
    corpus, model, p5_folder = p5_backbone(command, p5, run)
    study = Study(corpus, model, command.tasks, args.seed, run)
    save_array(run.folder / "negatives.npy", corpus.negatives)
    results = begin_results(run, p5_folder, corpus.tokenizer.fingerprint)
    hard = not args.label_holdout or args.paper_schedule or cfg.discriminator == "soft"
    labels = labels_for_game(known, marks_of(corpus.split.train, len(corpus.numbers)), hard)
    prefixes = train_prompts(study, labels, cfg, results)
    attacks = Attacks({attr: y < 0 for attr, y in known.items()}, args.seed, command.device)
    if len(attrs) == 1:
        if not processes.first_goes_on():
            return {}
        (attr,), discriminator = attrs, None
        if cfg.discriminator == "classifier" and cfg.adversary != "dependence":
            discriminator = game_of(study, labels, [attrs], cfg).adversary[attrs][attr]
            path = run.folder / f"discriminator-{attr}.safetensors"
            fill(discriminator, path, load_tensors(path))
        run.say("measuring on the test items, with fresh attackers")
        prefix = prefixes[attr]
        results |= before_and_after(study, prefix, discriminator, attacks)
        shown = table(results)
    else:
        ways = combine(study, prefixes, labels, (cfg, mixer_cfg), args.from_scratch, results)
        if not processes.first_goes_on():
            return {}
        (prefix,) = [way.prefix for way in ways if (way.attrs, way.how) == (attrs, "mixer")]
        combinations(study, ways, attacks, results)
        shown = combinations_table(results)
    end_run(run, results, example(study, prefix), shown)
    return results


if __name__ == "__main__":
    run_command(main)
