"""How fast it is beside `transformers`, as ratios within one run.

    python -m reproduction.benchmark  # a T5 of t5-small's shape, random weights

Each row times several ways to do the same thing in turn, again and again, so that whatever else the
machine does affects all of them. It prints the minimum and the median of each in milliseconds, and the
ratio of the minima to the first one's. Without `transformers` only ours is timed.
"""

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfp import CFP, Game, forward, mean_user_state, step
from data import Batch
from model import T5, target_loss
from support.backbones import init_from_scratch, save_backbone
from support.candidates import score_candidates
from support.configs import CFPConfig, T5Config
from support.expected import one_hot
from support.fields import at_least
from support.files import run_command, show
from support.flags import Parser, pick_device
from support.runs import hardware

SMALL = dict(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_heads=8)
SMALL |= dict(num_layers=6, num_decoder_layers=6)
BASE = SMALL | dict(d_model=768, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12)
SHAPES = {"t5-small": SMALL, "t5-base": BASE, "tiny": dict(vocab_size=1500)}
N_ITEMS = 3416  # of MovieLens-1M
# an item's number, four digits, as a T5 tokenizer might write it: two digits, two digits, the end
ITEMS = [(100 + n // 100, 300 + n % 100, 1) for n in range(1001, 1001 + N_ITEMS)]


def compare(title: str, ways: dict[str, Callable[[], object]], repeats: int) -> list[object]:
    """Time each way in turn and print it; returns what their first calls, which are not timed, return."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    seconds, returned = {name: [] for name in ways}, [way() for way in ways.values()]
    synchronize()
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            synchronize()
            seconds[name].append(time.perf_counter() - began)
    show(title)
    for name, spent in seconds.items():
        ratio = min(spent) / min(seconds["ours"])
        cells = f"{1e3 * min(spent):>11.1f}{1e3 * np.median(spent):>11.1f}{ratio:>8.2f}"
        show(f"  {name:<46}{cells}")
    return returned


def prompts(device: torch.device) -> Batch:
    """16 prompts of 128 random tokens, the user's among them twice, with random items as answers."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(800, 1500, (16, 128), generator=generator)
    user = torch.zeros(16, 128, dtype=torch.bool)
    user[:, :4] = user[:, 60:64] = True
    target = torch.tensor(ITEMS)[torch.randint(0, N_ITEMS, (16,), generator=generator)]
    parts = (part.to(device) for part in (ids, torch.ones_like(user), user, target))
    return Batch(np.arange(16), *parts, None)


def reference(model: T5):
    """The same weights in `transformers`; None where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers import T5ForConditionalGeneration, logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(model, Path(folder))
        theirs = T5ForConditionalGeneration.from_pretrained(folder)
    return theirs.to(model.head_weight().device).requires_grad_(False).eval()


def row_step(model: T5, theirs, batch: Batch, repeats: int) -> None:
    """The training step of a CFP: lines 4 to 7 of Algorithm 1, and the same with a soft prompt."""
    torch.manual_seed(0)
    users, ids, mask, user_mask, target, _ = batch
    cfg, attrs, size = CFPConfig(prefix_len=15), ("label",), (model.cfg.d_model, 1)
    cfp = CFP(cfg, model.cfg).to(ids.device)
    game = Game(
        {"label": one_hot(users % 2)}, [attrs], cfg, size, np.random.default_rng(0), ids.device
    )
    soft = torch.randn(15, model.cfg.d_model, device=ids.device).requires_grad_()
    adamw = lambda weights: torch.optim.AdamW(weights, 1e-3, fused=True)
    of_cfp, of_soft = adamw(cfp.parameters()), adamw([soft])

    def descend(optimizer: torch.optim.Optimizer, rec_loss: Tensor, u_emb: list[Tensor]) -> None:
        dis_loss = game.dis_loss(attrs, u_emb, users)
        step(optimizer, game.adversarial_loss(rec_loss, dis_loss, attrs))

    def soft_prompt() -> None:
        embedded = torch.cat([soft.expand(len(ids), -1, -1), theirs.shared(ids)], 1)
        whole = F.pad(mask, (15, 0), value=True)
        out = theirs(inputs_embeds=embedded, attention_mask=whole, labels=target)
        states = out.encoder_last_hidden_state[:, 15:]
        descend(of_soft, out.loss, [mean_user_state(states, user_mask)])

    ways = {"ours": lambda: descend(of_cfp, *forward(model, cfp(), [batch]))}
    if theirs is not None:
        ways["transformers, a soft prompt as long"] = soft_prompt
    compare("CFP training step, 16 prompts of 128 tokens, prefix 15", ways, repeats)


def row_p5(model: T5, theirs, batch: Batch, repeats: int) -> None:
    """P5's training step, all weights, with AdamW; dropout 0 in both."""
    _, ids, mask, _, target, _ = batch
    adamw = lambda model: torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    ours, theirs = copy.deepcopy((model, theirs))  # the other rows have them frozen
    ours.requires_grad_(True)
    optimizer, loss = adamw(ours), lambda: target_loss(ours, ours.encode(ids, mask), target)
    ways = {"ours": lambda: step(optimizer, loss())}
    if theirs is not None:
        their_optimizer = adamw(theirs.requires_grad_(True))
        their_loss = lambda: theirs(ids, attention_mask=mask, labels=target).loss
        ways["transformers"] = lambda: step(their_optimizer, their_loss())
    compare("P5 training step, 16 prompts of 128 tokens", ways, repeats)


@torch.no_grad()
def row_scores(model: T5, theirs, batch: Batch, repeats: int) -> None:
    """The exact probability of 101 candidates for each of two users."""
    ids, mask, rng = batch.input_ids[:2], batch.mask[:2], np.random.default_rng(0)
    candidates = [[ITEMS[i] for i in rng.choice(N_ITEMS, 101, replace=False)] for _ in ids]
    targets = torch.tensor(candidates, device=ids.device)  # (b, i, y)

    def encoder_once() -> Tensor:
        states = theirs.encoder(ids, attention_mask=mask).last_hidden_state
        scores = []
        for state, real, target in zip(states, mask, targets):
            copies = lambda x: x.expand(len(target), *x.shape)
            known = dict(encoder_outputs=(copies(state),), attention_mask=copies(real))
            out = theirs(**known, labels=target)
            log_p = out.logits.float().log_softmax(-1)
            scores.append(log_p.gather(-1, target[..., None])[..., 0].sum(-1))
        return torch.stack(scores)

    ways = {"ours": lambda: score_candidates(model, model.encode(ids, mask), candidates)}
    if theirs is not None:
        ways["transformers, the encoder once"] = encoder_once
    ours, *others = compare("scores of 101 candidates, 2 users", ways, max(repeats // 3, 2))
    for scores in others:
        apart = (ours - scores).abs().max().item()
        show(f"    largest difference of a log-probability: {apart:.1e} nats")


def main(argv: list[str] | None = None) -> None:
    parser = Parser("Time it against transformers, as ratios within one run.")
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="t5-small", help="of the T5 (t5-small)")
    add("--repeats", type=at_least(1), default=7, help="of each way (7; a third for scores)")
    add("--device", default="auto", help="cpu or cuda (cuda where there is one)")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    about = f"{args.shape}'s shape, {hardware(device)}, torch {torch.__version__}"
    show(f"{about}; ratios of the least times, to the first of each group")
    show(f"{'':<48}{'ms, min':>11}{'median':>11}{'ratio':>8}")
    model = T5(T5Config(**SHAPES[args.shape]))
    init_from_scratch(model, torch.Generator().manual_seed(0))
    model = model.to(device).requires_grad_(False).eval()
    theirs, batch = reference(model), prompts(device)
    for row in row_step, row_p5, row_scores:
        row(model, theirs, batch, args.repeats)


if __name__ == "__main__":
    run_command(main)
