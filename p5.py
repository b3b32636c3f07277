"""The recommender: a P5 backbone (Geng et al. 2022), trained on both tasks or taken from before."""

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cfp import CFP, CFPConfig, set_rates, step
from data import (
    TASKS,
    Corpus,
    Tokenizer,
    collate,
    draw_negatives,
    hold_out,
    leave_one_out,
    load_tokenizer,
    positions_of,
    sequential_indexing,
    train_tokenizer,
    training_example,
)
from mixer import Mixer, MixerConfig
from model import (
    T5,
    Backbone,
    Llama,
    LlamaConfig,
    Prefix,
    T5Config,
    config_from,
    init_from_scratch,
    load_backbone,
    save_backbone,
    target_loss,
)
from ranks import some_users, validation_hit
from support import processes
from support.checkpoints import Checkpoint
from support.datasets import Dataset, ToyConfig, fingerprint, load_dataset
from support.files import InputError, enough_memory, fill, read_safetensors, write_atomically
from support.runs import Run, refuse_another
from support.weights import PUBLISHED, fetch_backbone, read_config, weight_files


@dataclass(frozen=True)
class P5Config:
    """How the P5 backbone is trained from scratch (Geng et al. 2022) and what its prompts look like."""

    d_ff: int = 128  # width of a tiny backbone's feed-forward
    steps: int = 700  # 0 takes the weights of --backbone as they are
    direct_batch: int = 128  # direct prompts per step
    sequential_batch: int = 64  # sequential prompts per step
    lr: float = 1e-3  # AdamW
    # A user's token is met far more rarely than any other weight is used. With one rate for all it
    # stays empty, and what is known about the user never gets into it. An item's row in an untied
    # head is as rare (and with the slow rate Llama's Hit@10 stays at 42% in place of 51%).
    embedding_lr: float = 3e-2  # of embeddings, head and relative position biases
    warmup: int = 50  # steps; after them the rates fall linearly to 0
    max_norm: float = 0.5  # of a step's gradient
    checks: int = 4  # times that the validation items are looked at; the best weights are kept
    window: int = 8  # items of history in a sequential prompt
    max_tokens: int = 512  # of a prompt
    prompt_candidates: int = 0  # listed in a direct prompt; the paper's 100


def make_corpus(dataset: Dataset, tokenizer: Tokenizer | None, cfg: P5Config, seed: int) -> Corpus:
    """The data set as prompts, in the tokens of `tokenizer`; without one, all but the prompts."""
    split = leave_one_out(dataset.histories)
    return Corpus(
        dataset=dataset,
        split=split,
        negatives=draw_negatives(dataset, seed),
        numbers=sequential_indexing(split.train, len(dataset.titles)),
        tokenizer=tokenizer,
        window=cfg.window,
        max_tokens=cfg.max_tokens,
        prompt_candidates=cfg.prompt_candidates,
    )


def train_p5(corpus: Corpus, model: Backbone, cfg: P5Config, seed: int, run: Run) -> None:
    """Train all weights of `model` on direct and sequential prompts, in place; keep the best.

    Every training interaction is as likely to be the answer as any other. The validation items
    decide which weights are kept: the mean Hit@10 of both tasks, over at most 500 users.
    """
    rng = np.random.default_rng([seed, 5])
    is_embedding = lambda name: name.split(".")[-2] in ("embedding", "head", "relative_bias")
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if is_embedding(n)],
            "lr": cfg.embedding_lr,
        },
        {"params": [p for n, p in model.named_parameters() if not is_embedding(n)], "lr": cfg.lr},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    sizes = {"sequential": cfg.sequential_batch, "direct": cfg.direct_batch}
    positions = {task: positions_of(corpus, task) for task in TASKS}
    if len(positions["sequential"][0]) == 0:
        raise InputError(
            f"{corpus.dataset.name}: no user has four interactions, two of them for training, so no "
            "sequential prompt has an answer to learn from; take other data"
        )
    sample = some_users(corpus, "valid", 500, rng)
    device = next(model.parameters()).device
    kept = Checkpoint(run, "P5", dict(model=model, optimizer=optimizer))
    start = dict(number=0, best=None, best_hit=-1.0, rng=rng.bit_generator.state)
    number, best, best_hit, rng.bit_generator.state = kept.restore(start).values()
    for number in range(number + 1, cfg.steps + 1):
        model.train()
        losses = {}
        for task, size in sizes.items():
            users, items = positions[task]
            rows = rng.integers(len(users), size=size)
            examples = [training_example(corpus, task, users[r], items[r], rng) for r in rows]
            batch = collate(corpus, processes.own(examples), device)
            encoded = model.encode(batch.input_ids, batch.mask)
            losses[task] = target_loss(model, encoded, batch.target_ids)
        loss = sum(sizes[task] * losses[task] for task in TASKS) / sum(sizes.values())
        set_rates(optimizer, min(number / cfg.warmup, (cfg.steps - number + 1) / cfg.steps))
        step(optimizer, loss, cfg.max_norm)
        run.progress("P5", number, cfg.steps, **{task: losses[task].item() for task in TASKS})
        if number * cfg.checks // cfg.steps > (number - 1) * cfg.checks // cfg.steps:
            model.eval()
            hit = np.mean([validation_hit(model, corpus, task, sample) for task in TASKS])
            run.metric(stage="P5 validation", step=number, **{"hit@10": hit})
            if hit > best_hit:
                best_hit, best = hit, {
                    key: value.clone() for key, value in model.state_dict().items()
                }
        now = dict(number=number, best=best, best_hit=best_hit, rng=rng.bit_generator.state)
        kept.keep(number, cfg.steps, **now)
    model.load_state_dict(best)


def backbone_folder(name: str) -> Path | None:
    """The folder of the weights that --backbone names, downloaded if need be; None for from scratch.

    Raises InputError where there is no such thing.
    """
    if name in SCRATCH:
        return None
    if name in PUBLISHED and not Path(name).is_dir():
        return fetch_backbone(name, Path("weights") / name.replace("/", "-"))
    if not Path(name).is_dir():
        raise InputError(
            f"--backbone {name}: neither a folder nor one of {', '.join([*SCRATCH, *PUBLISHED])}"
        )
    return Path(name)


SCRATCH = "tiny", "tiny-llama"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of a frozen backbone


def shape_of(name: str, folder: Path | None) -> T5Config | LlamaConfig:
    """What a prompt has to fit: the backbone's config, of one from scratch but for its vocabulary."""
    if folder is not None:
        return config_from(read_config(folder))
    return T5Config(1) if name == "tiny" else LlamaConfig(1)


def tokenizer_in(folder: Path) -> Tokenizer:
    """The tokenizer beside the weights in a folder."""
    return load_tokenizer(folder, read_config(folder)["vocab_size"])


def fresh_backbone(
    dataset: Dataset, p5: P5Config, name: str, folder: Path | None, seed: int, dtype: torch.dtype
) -> tuple[Tokenizer, Backbone]:
    """The tokenizer and the backbone before P5's training: random, or the published ones in `folder`."""
    if folder is not None:
        return tokenizer_in(folder), load_backbone(folder, dtype)
    sizes = len(dataset.users), len(dataset.titles), dataset.nouns
    tokenizer = Tokenizer(train_tokenizer(*sizes, begins=name == "tiny-llama"))
    n_tokens = tokenizer.vocab_size
    if name == "tiny":
        model = T5(T5Config(n_tokens, d_ff=p5.d_ff))
    else:
        ends = dict(bos_token_id=tokenizer.before[0], eos_token_id=tokenizer.eos_id)
        model = Llama(LlamaConfig(n_tokens, intermediate_size=p5.d_ff, **ends))
    init_from_scratch(model, torch.Generator().manual_seed(seed))
    return tokenizer, model


def p5_backbone(
    dataset: Dataset,
    p5: P5Config,
    name: str,
    folder: Path | None,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    retrain: bool,
    run: Run,
) -> tuple[Corpus, Backbone, Path]:
    """(corpus, backbone, its folder): the P5 trained before with the same settings, or a new one.

    It starts from scratch or from the weights in `folder` (see `backbone_folder`), is trained in
    float32 and handed on as `dtype`. It lives in runs/p5-NAME-KEY, KEY a hash of the settings, of the
    data and of those weights. A folder gets its name when it is complete, so a killed training
    leaves none. With no steps of training the weights are used where they are.
    """
    if folder is not None and p5.steps == 0:
        run.say(f"P5 backbone: {folder} as it is")
        tokenizer, model = fresh_backbone(dataset, p5, name, folder, seed, dtype)
        return make_corpus(dataset, tokenizer, p5, seed), model.to(device), folder
    settings = {
        "data": fingerprint(dataset),
        "backbone": name if folder is None else weights_fingerprint(folder),
        "p5": dataclasses.asdict(p5),
        "seed": seed,
    }
    if folder is not None:
        settings["tokenizer"] = tokenizer_in(folder).fingerprint
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    target = Path("runs") / f"p5-{dataset.name}-{key}"
    if target.exists() and not retrain:
        run.say(
            f"P5 backbone: reusing {target}, trained before with these settings (--retrain trains anew)"
        )
        model = load_backbone(target, dtype, device)
        return make_corpus(dataset, tokenizer_in(target), p5, seed), model, target
    tokenizer, model = fresh_backbone(dataset, p5, name, folder, seed, torch.float32)
    corpus = make_corpus(dataset, tokenizer, p5, seed)
    count = f"{sum(param.numel() for param in model.parameters()) / 1e6:.2f} M parameters"
    origin = "from scratch" if folder is None else f"from {folder}"
    run.say(f"P5 backbone: training a {type(model).__name__} of {count} {origin} into {target}")
    if folder is not None:  # they are views of the files: give them memory of their own
        n_weights = sum(param.numel() for param in model.parameters())
        # of each in float32 itself, its gradient, AdamW's two means and the best so far
        enough_memory(
            f"training {n_weights / 1e6:.1f} M weights",
            20 * n_weights,
            device,
            "--p5-steps 0 takes them as they are, or choose a smaller --backbone",
        )
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    model.to(device)
    run.frozen = {"tokenizer": tokenizer.fingerprint}
    train_p5(corpus, model, p5, seed, run)
    if processes.number() == 0:
        save_p5(corpus, model, settings, target, run)
    processes.wait()
    return corpus, model.to(dtype), target


def save_p5(corpus: Corpus, model: Backbone, settings: dict, target: Path, run: Run) -> None:
    """A trained backbone with its tokenizer and settings into the folder `target`, whole or not at all."""
    target.parent.mkdir(exist_ok=True)
    # this run's own, so that it finds what is left of it when it is resumed after a kill
    mine = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:8]
    temporary = target.parent / f".{target.name}.{mine}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_backbone(model, temporary)
        file = "spiece.model" if corpus.tokenizer.n_sentinels else "tokenizer.model"
        write_atomically(temporary / file, corpus.tokenizer.proto)
        write_atomically(temporary / "settings.json", json.dumps(settings, indent=2).encode())
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def weights_fingerprint(folder: Path) -> str:
    """Twelve hex digits that change with any byte of a folder's config or weights."""
    digest = hashlib.sha256()
    files = [path for path, _ in weight_files(folder)[0]]
    for path in [folder / "config.json", *files]:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()[:12]


class Opened(NamedTuple):
    """A finished run of `train.py`, ready to be measured."""

    config: dict  # its config.json
    corpus: Corpus
    model: Backbone  # frozen
    prefixes: dict[str, Prefix]  # of each attribute that the run hides
    mixer: Mixer | None  # of those of several
    held_out: dict[str, np.ndarray]  # of each, (users,) True where the adversary did not know it

    def hiding(self, attrs: tuple[str, ...]) -> Prefix | None:
        """The prefix that hides these attributes of the run; None, no prefix, for none."""
        chosen = [self.prefixes[attr] for attr in attrs]
        if self.mixer is None or not chosen:
            return chosen[0] if chosen else None
        with torch.no_grad():
            return self.mixer(chosen)


def to_hide(text: str, opened: Opened, flag: str = "--hide") -> tuple[str, ...]:
    """The attributes that a flag names, such as gender,age, or none.

    Raises InputError for an attribute that the data do not have or that the run cannot hide.
    """
    attrs = () if text == "none" else read_attrs(text, flag)
    for attr in attrs:
        if attr not in opened.corpus.dataset.attributes:
            known = ", ".join(opened.corpus.dataset.attributes)
            raise InputError(
                f"{flag} {text}: {opened.corpus.dataset.name} has no attribute {attr!r}; its are {known}"
            )
        if attr not in opened.prefixes:
            wanted = ",".join([*opened.prefixes, attr])
            raise InputError(
                f"{flag} {text}: this run has no prompt for {attr}, only for "
                f"{', '.join(opened.prefixes)}; train one: train.py --attr {wanted}"
            )
    return attrs


def read_attrs(text: str, flag: str) -> tuple[str, ...]:
    """Names of attributes, separated by commas. Raises InputError where one is empty or named twice."""
    attrs = tuple(text.split(","))
    if "" in attrs:
        raise InputError(f"{flag} {text!r}: an attribute is missing before or after a comma")
    if len(set(attrs)) < len(attrs):
        twice = next(attr for attr in attrs if attrs.count(attr) > 1)
        raise InputError(f"{flag} {text}: {twice} is named twice")
    return attrs


def finished(folder: Path) -> tuple[dict, dict]:
    """config.json and results.json of a run. Raises InputError where the folder is no finished run."""
    try:
        config = json.loads((folder / "config.json").read_text())
        results = json.loads((folder / "results.json").read_text())
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        why = "is missing" if missing else f"cannot be read: {error.strerror}"
        raise InputError(
            f"--run {folder}: {error.filename} {why}; name the folder of a finished run"
        ) from None
    except ValueError as error:
        raise InputError(
            f"--run {folder}: config.json or results.json is no JSON ({error}); run train.py again"
        ) from None
    if not isinstance(config, dict) or not isinstance(results, dict):
        raise InputError(
            f"--run {folder}: config.json or results.json is no object; name the folder of a finished run"
        )
    if "recommenders" in config:
        raise InputError(
            f"--run {folder}: is a run of baselines.py, whose attacks are in its results.json; name one "
            "of train.py"
        )
    if "attrs" not in config or not {"p5 weights", "p5 tokenizer"} <= results.keys():
        raise InputError(
            f"--run {folder}: was made by an older version, or not by train.py; run train.py again"
        )
    return config, results


def frozen_in(results: dict) -> dict[str, str]:
    """The fingerprints of the frozen backbone and of its tokenizer that results.json has."""
    return {"backbone": results["p5 weights"], "tokenizer": results.get("p5 tokenizer")}


def trained_before(config: dict, p5_folder: Path, frozen: dict[str, str], attr: str) -> Path | None:
    """A finished run in runs/ that has the prompt of an attribute which this run would train too.

    The same data, frozen weights, labels and settings of the game; whatever else that run was about.
    """
    decides = "data fingerprint", "label holdout", "tasks", "seed", "dtype", "cfp"
    config = json.loads(json.dumps(config))  # its tuples are lists in the files
    for folder in sorted(Path("runs").glob("*/")):
        if not (folder / f"cfp-{attr}.safetensors").exists():
            continue
        try:
            other, results = finished(folder)
        except InputError:
            continue  # was interrupted
        same_backbone = results["p5 folder"] == str(p5_folder) and frozen_in(results) == frozen
        if same_backbone and all(other[key] == config[key] for key in decides):
            return folder
    return None


def load_for(path: Path, frozen: dict[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of a prompt or a mixer; its file names the backbone and the tokenizer it belongs to.

    Raises InputError where these are not the `frozen` ones.
    """
    tensors, belongs_to = read_safetensors(path)
    refuse_another(str(path), belongs_to, frozen, "it belongs to another; run train.py again")
    return tensors


def load_prompt(
    folder: Path, attr: str, cfg: CFPConfig, model: Backbone, frozen: dict[str, str]
) -> Prefix:
    """The prompt of an attribute that a run has trained for this model; see `load_for`."""
    cfp = CFP(cfg, model.cfg)
    path = folder / f"cfp-{attr}.safetensors"
    fill(cfp, path, load_for(path, frozen))
    return cfp.to(next(model.parameters()).device).frozen()


def load_mixer(folder: Path, cfg: MixerConfig, model: Backbone, frozen: dict[str, str]) -> Mixer:
    """The mixer that a run has trained for this model; see `load_for`."""
    mixer = Mixer(cfg, model.cfg)
    fill(mixer, folder / "mixer.safetensors", load_for(folder / "mixer.safetensors", frozen))
    return mixer.to(next(model.parameters()).device)


def open_run(folder: Path, device: torch.device) -> Opened:
    """The data, the frozen backbone, the prompts and the mixer of a run's folder.

    Raises InputError where the folder is no finished run, or its data or its backbone have changed.
    """
    folder = Path(folder)
    config, results = finished(folder)
    try:  # a field that is not there, or that there is no more
        data_dir = None if config["data dir"] is None else Path(config["data dir"])
        toy_cfg, p5_cfg = ToyConfig(**config["toy"]), P5Config(**config["p5"])
        cfg = CFPConfig(**config["cfp"] | {"dis_depths": tuple(config["cfp"]["dis_depths"])})
        mixer_cfg = None if config["mixer"] is None else MixerConfig(**config["mixer"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"--run {folder}: config.json is of another version ({error!r}); run train.py again"
        ) from None
    dataset = load_dataset(config["data"], data_dir, config["seed"], toy_cfg)
    if fingerprint(dataset) != config["data fingerprint"]:
        raise InputError(
            f"--run {folder}: its data were {config['data fingerprint']}, {config['data']} is now "
            f"{fingerprint(dataset)}; run train.py again"
        )
    p5_folder = Path(results["p5 folder"])
    if not p5_folder.is_dir():
        raise InputError(f"--run {folder}: its backbone {p5_folder} is missing; run train.py again")
    tokenizer = tokenizer_in(p5_folder)
    frozen = {"backbone": weights_fingerprint(p5_folder), "tokenizer": tokenizer.fingerprint}
    remedy = f"run train.py again, or bring back what was in {p5_folder}"
    refuse_another(f"--run {folder}", frozen_in(results), frozen, remedy)
    model = load_backbone(p5_folder, DTYPES[config["dtype"]], device).requires_grad_(False).eval()
    corpus = make_corpus(dataset, tokenizer, p5_cfg, config["seed"])
    prefixes = {attr: load_prompt(folder, attr, cfg, model, frozen) for attr in config["attrs"]}
    mixer = None
    if mixer_cfg is not None:
        mixer = load_mixer(folder, mixer_cfg, model, frozen)
    known = {
        attr: hold_out(dataset, attr, config["label holdout"], config["seed"]) for attr in prefixes
    }
    held_out = {attr: labels < 0 for attr, labels in known.items()}
    return Opened(config, corpus, model, prefixes, mixer, held_out)
