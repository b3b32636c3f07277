"""The recommender: a P5 backbone (Geng et al. 2022), trained on both tasks or taken from before."""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cfp import forward, set_rates, step
from data import (
    TASKS,
    Corpus,
    Tokenizer,
    collate,
    draw_negatives,
    leave_one_out,
    positions_of,
    sequential_indexing,
    train_tokenizer,
    training_example,
)
from datasets import Dataset, fingerprint
from evaluate import some_users, validation_hit
from files import InputError, write_atomically
from model import T5, T5Config, init_from_scratch, load_backbone, save_backbone
from runs import Run


@dataclass(frozen=True)
class P5Config:
    """How the P5 backbone is trained from scratch (Geng et al. 2022) and what its prompts look like."""

    d_ff: int = 128  # width of the tiny backbone's feed-forward
    steps: int = 700
    direct_batch: int = 128  # direct prompts per step
    sequential_batch: int = 64  # sequential prompts per step
    lr: float = 1e-3  # AdamW
    # A user's token is met far more rarely than any other weight is used. With one rate for all it
    # stays empty, and what is known about the user never gets into it.
    embedding_lr: float = 3e-2  # of embeddings and relative position biases
    warmup: int = 50  # steps; after them the rates fall linearly to 0
    max_norm: float = 0.5  # of a step's gradient
    checks: int = 4  # times that the validation items are looked at; the best weights are kept
    window: int = 8  # items of history in a sequential prompt
    max_tokens: int = 512  # of a prompt
    prompt_candidates: int = 0  # listed in a direct prompt; the paper's 100


def make_corpus(dataset: Dataset, proto: bytes | None, cfg: P5Config, seed: int) -> Corpus:
    """The data set as prompts; a tokenizer is trained on the spot where none is given."""
    split = leave_one_out(dataset.histories)
    if (split.test < 0).all():
        raise InputError(
            f"{dataset.name}: no user has two interactions, so there is nothing to test on"
        )
    return Corpus(
        dataset=dataset,
        split=split,
        negatives=draw_negatives(dataset, seed),
        numbers=sequential_indexing(split.train, len(dataset.titles)),
        tokenizer=Tokenizer(
            proto or train_tokenizer(len(dataset.users), len(dataset.titles), dataset.nouns)
        ),
        window=cfg.window,
        max_tokens=cfg.max_tokens,
        prompt_candidates=cfg.prompt_candidates,
    )


def train_p5(corpus: Corpus, model: T5, cfg: P5Config, seed: int, run: Run) -> None:
    """Train all weights of `model` on direct and sequential prompts, in place; keep the best.

    Every training interaction is as likely to be the answer as any other. The validation items
    decide which weights are kept: the mean Hit@10 of both tasks, over at most 500 users.
    """
    rng = np.random.default_rng([seed, 5])
    is_embedding = lambda name: "embedding" in name or "relative_bias" in name
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if is_embedding(n)],
            "lr": cfg.embedding_lr,
        },
        {"params": [p for n, p in model.named_parameters() if not is_embedding(n)], "lr": cfg.lr},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    sizes = {"sequential": cfg.sequential_batch, "direct": cfg.direct_batch}
    positions = {task: positions_of(corpus, task) for task in TASKS}
    sample = some_users(corpus, "valid", 500, rng)
    best, best_hit = None, -1.0
    device = next(model.parameters()).device
    for number in range(1, cfg.steps + 1):
        model.train()
        losses = {}
        for task, size in sizes.items():
            users, items = positions[task]
            rows = rng.integers(len(users), size=size)
            examples = [training_example(corpus, task, users[r], items[r], rng) for r in rows]
            losses[task] = forward(model, None, [collate(corpus, examples, device)])[0]
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
    model.load_state_dict(best)


def p5_backbone(
    dataset: Dataset, p5: P5Config, seed: int, device, retrain: bool, run: Run
) -> tuple[Corpus, T5, Path]:
    """(corpus, backbone, its folder): the P5 trained before with the same settings, or a new one.

    It lives in runs/p5-NAME-KEY, KEY a hash of the settings and of the data. A folder gets its
    name when it is complete, so a killed training leaves none.
    """
    settings = {
        "data": fingerprint(dataset),
        "p5": dataclasses.asdict(p5),
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path("runs") / f"p5-{dataset.name}-{key}"
    if folder.exists() and not retrain:
        run.say(
            f"P5 backbone: reusing {folder}, trained before with these settings (--retrain trains anew)"
        )
        corpus = make_corpus(dataset, (folder / "tokenizer.model").read_bytes(), p5, seed)
        return corpus, load_backbone(folder, device=device), folder
    corpus = make_corpus(dataset, None, p5, seed)
    cfg = T5Config(vocab_size=corpus.tokenizer.vocab_size, d_ff=p5.d_ff)
    model = T5(cfg)
    init_from_scratch(model, torch.Generator().manual_seed(seed))
    model.to(device)
    count = sum(param.numel() for param in model.parameters())
    run.say(
        f"P5 backbone: training a T5 of {count / 1e6:.2f} M parameters from scratch into {folder}"
    )
    train_p5(corpus, model, p5, seed, run)
    folder.parent.mkdir(exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".p5."))
    try:
        save_backbone(model, temporary)
        write_atomically(temporary / "tokenizer.model", corpus.tokenizer.proto)
        write_atomically(temporary / "settings.json", json.dumps(settings, indent=2).encode())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return corpus, model, folder
