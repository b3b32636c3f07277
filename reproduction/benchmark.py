"""How fast it is, as ratios within one run: against `transformers`, and against the machine's own limit.

    python -m reproduction.benchmark                  # a T5 of t5-small's shape, random weights
    python -m reproduction.benchmark --rows step,scores --repeats 9
    python -m reproduction.benchmark --rows default   # the default command, from start to table

Each row times two or more ways of doing the same thing one after the other, again and again, so that
whatever else the machine does meets all of them, and prints the minimum and the median of each, in
milliseconds, and the ratio of the minima. "the products alone" is the machine's limit: the matrix
products of our step, their shapes taken down while it runs, one after the other and nothing else.
Memory is what the process grew by at its highest, on a GPU what its tensors took beyond those that were
there. Where `transformers` is not installed its rows are
left out; nothing here is needed to train or to measure anything.
"""

import copy
import ctypes
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cfp import (
    CFP,
    CFPConfig,
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    forward,
    mean_user_state,
    step,
    u_emb_of,
)
from data import Batch
from model import (
    NO_TOKEN,
    T5,
    T5Config,
    init_from_scratch,
    load_backbone,
    save_backbone,
    target_loss,
)
from p5 import DTYPES
from ranks import rank_of_first, ranks_by_end
from support.candidates import score_candidates
from support.files import InputError, run_command
from support.flags import Parser, pick_device
from support.runs import ROOT, hardware

SMALL = dict(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_decoder_layers=6, num_heads=8)
SHAPES = {"t5-small": SMALL, "t5-base": SMALL | dict(d_model=768, d_ff=3072, num_heads=12)}
SHAPES["t5-base"] |= dict(num_layers=12, num_decoder_layers=12)
SHAPES["tiny"] = {}
VOCABULARY = 32128
USER_TOKENS = slice(0, 4), slice(60, 64)  # of a prompt; user_N is met twice
N_MOVIES = 3416  # MovieLens-1M, the test item's rank among all of them
LABELS, LAM, CAP = 2, 2.0, float(np.log(2))


# -------------------------------------------------------------------------------------------------
# Measuring
# -------------------------------------------------------------------------------------------------


class Ways:
    """The timings of several ways to do one thing: seconds of each repetition, and peak memory."""

    def __init__(self, ways: dict[str, Callable[[], object]], repeats: int):
        self.seconds = {name: [] for name in ways}
        self.memory = {name: peak_memory(way) for name, way in ways.items()}  # a first call, cold
        for _ in range(repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                synchronize()
                self.seconds[name].append(time.perf_counter() - began)

    def best(self, name: str) -> float:
        return min(self.seconds[name])


def synchronize() -> None:
    if torch.cuda.is_initialized():  # not with --device cpu
        torch.cuda.synchronize()


def peak_memory(way: Callable[[], object]) -> int | None:
    """Bytes that the process grew by while it did this; None where the system does not say (not Linux).

    On a GPU the bytes of tensors beyond those that were there before.
    """
    if torch.cuda.is_initialized():
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    status = Path("/proc/self/status")

    def read(key: str) -> int:
        return 1024 * int(status.read_text().split(f"{key}:")[1].split()[0])

    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        before = read("VmRSS")
    except (OSError, AttributeError, IndexError):
        way()
        return None
    way()
    return max(read("VmHWM") - before, 0)


class Products(TorchDispatchMode):
    """Takes down the shape of every matrix product that runs within: counts of (b, m, k, n).

    Attention is one operation to PyTorch: its two products forward, and backward those of the
    gradients of queries, keys, values and weights, the weights being computed anew.
    """

    def __init__(self):
        super().__init__()
        self.shapes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:]
            batch = a.shape[0] if a.dim() == 3 else 1
            self.shapes[batch, a.shape[-2], a.shape[-1], b.shape[-1]] += 1
        elif name.startswith("_scaled_dot_product") and "backward" in name:
            self.attention(*args[1:3], scores=3, values=2)
        elif name.startswith("_scaled_dot_product"):
            self.attention(*args[:2], scores=1, values=1)
        return func(*args, **(kwargs or {}))

    def attention(self, q: Tensor, k: Tensor, scores: int, values: int) -> None:
        rows, s, e, keys = q.shape[0] * q.shape[1], q.shape[2], q.shape[3], k.shape[2]
        self.shapes[rows, s, e, keys] += scores  # (s, e) x (e, k)
        self.shapes[rows, s, keys, e] += values  # (s, k) x (k, e)

    def flop(self) -> float:
        return float(sum(2 * b * m * k * n * times for (b, m, k, n), times in self.shapes.items()))

    def alone(self, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
        """A function that does nothing but these products."""
        make = lambda *shape: torch.randn(*shape, device=device).to(dtype)
        pairs = {
            (b, m, k, n): (make(b, m, k), make(b, k, n)) if b > 1 else (make(m, k), make(k, n))
            for b, m, k, n in self.shapes
        }

        def run() -> None:
            for shape, times in self.shapes.items():
                for _ in range(times):
                    torch.matmul(*pairs[shape])

        return run


def rate_of_large_product(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one product that is as large as can be useful: what the machine can at all."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    timed = Ways({"product": lambda: torch.matmul(a, b)}, 10)
    return 2.0 * n**3 / timed.best("product")


def products_of(way: Callable[[], object]) -> Products:
    with Products() as products:
        way()
    return products


class Table:
    """The rows as they are measured: printed at once, kept for --out."""

    def __init__(self):
        self.rows = []
        print(f"{'':<48}{'ms, min':>11}{'median':>11}{'ratio':>8}{'MiB':>8}")

    def show(self, title: str, ways: Ways, note: str = "", base: str | None = None) -> None:
        """Every way, and its least time in units of that of `base`, the first one."""
        base = base or next(iter(ways.seconds))
        print(f"{title}")
        for name, seconds in ways.seconds.items():
            ratio, memory = ways.best(name) / ways.best(base), ways.memory[name]
            cells = f"{1e3 * min(seconds):>11.1f}{1e3 * np.median(seconds):>11.1f}{ratio:>8.2f}"
            cells += f"{'-' if memory is None else f'{memory / 2**20:.0f}':>8}"
            print(f"  {name:<46}{cells}", flush=True)
            row = {"row": title, "way": name, "seconds": seconds, "ratio": ratio, "bytes": memory}
            self.rows.append(row)
        for line in filter(None, note.split("\n")):
            print(f"    {line}", flush=True)


# -------------------------------------------------------------------------------------------------
# What is timed
# -------------------------------------------------------------------------------------------------


class World:
    """A model of a shape, a batch of prompts for each task, a prompt, discriminators, candidates.

    Weights are random: how long a step takes does not depend on them. Prompts are random tokens, an item
    is a number of four digits written as two tokens and the end, as a T5 tokenizer would.
    """

    def __init__(self, shape: str, batch: int, source: int, device: torch.device, dtype):
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(0)
        self.model = T5(T5Config(VOCABULARY if shape != "tiny" else 1500, **SHAPES[shape]))
        init_from_scratch(self.model, self.generator)
        self.model = self.model.to(device, dtype).requires_grad_(False).eval()
        self.cfg = CFPConfig(prefix_len=15)
        torch.manual_seed(0)
        self.cfp = CFP(self.cfg, self.model.cfg).to(device)
        self.discriminator = Discriminator(self.cfg, self.model.cfg.d_model, LABELS, 1).to(device)
        self.prefix_optimizer = torch.optim.AdamW(self.cfp.parameters(), 1e-3, fused=True)
        self.dis_optimizer = torch.optim.AdamW(self.discriminator.parameters(), 1e-3, fused=True)
        self.batch = self.prompts(batch, source)
        self.labels = torch.arange(batch, device=device) % LABELS
        self.items = [item_tokens(number) for number in range(1001, 1001 + N_MOVIES)]

    def prompts(self, batch: int, source: int) -> Batch:
        ids = torch.randint(800, 1500, (batch, source), generator=self.generator)
        user = torch.zeros(batch, source, dtype=torch.bool)
        for span in USER_TOKENS:
            user[:, span] = True
        items = torch.randint(0, N_MOVIES, (batch,), generator=self.generator)
        target = torch.tensor([item_tokens(1001 + int(item)) for item in items])
        parts = (part.to(self.device) for part in (ids, torch.ones_like(user), user, target))
        return Batch(np.arange(batch), *parts, items.numpy())

    def prefix_step(self) -> None:
        """Lines 4 to 7 of Algorithm 1."""
        rec_loss, u_emb = forward(self.model, self.cfp(), [self.batch])
        dis_loss = discriminator_loss(self.discriminator, u_emb, self.labels)
        step(self.prefix_optimizer, adversarial_loss(rec_loss, [dis_loss], [LAM], [CAP]))

    def dis_step(self, u_emb: list[Tensor]) -> None:
        """Lines 16 and 17."""
        loss = discriminator_loss(self.discriminator, u_emb, self.labels)
        step(self.dis_optimizer, loss.sum())


def item_tokens(number: int) -> tuple[int, int, int]:
    """Four digits as two tokens of two digits and the end token."""
    return 100 + number // 100, 300 + number % 100, 1


def reference(world: World):
    """The same weights in `transformers`; None where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers import T5ForConditionalGeneration, logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(world.model, Path(folder))
        model = T5ForConditionalGeneration.from_pretrained(folder, dtype=world.dtype)
    return model.to(world.device).requires_grad_(False).eval()


def row_step(world: World, table: Table, repeats: int) -> None:
    """The training step of a CFP: lines 4 to 7 of Algorithm 1, and the same with a soft prompt."""
    ways = {"ours": world.prefix_step}
    theirs = reference(world)
    if theirs is not None:
        d_model = world.model.cfg.d_model
        soft = torch.randn(1, world.cfg.prefix_len, d_model, device=world.device).requires_grad_()
        optimizer = torch.optim.AdamW([soft], 1e-3, fused=True)
        n_soft, (_, ids, mask, user_mask, target, _) = soft.shape[1], world.batch

        def soft_prompt_step() -> None:
            embedded = theirs.shared(ids)
            embedded = torch.cat([soft.to(embedded.dtype).expand(len(ids), -1, -1), embedded], 1)
            whole = F.pad(mask, (n_soft, 0), value=True)
            labels = target.masked_fill(target == NO_TOKEN, -100)
            out = theirs(inputs_embeds=embedded, attention_mask=whole, labels=labels)
            u_emb = mean_user_state(out.encoder_last_hidden_state[:, n_soft:], user_mask)
            dis_loss = discriminator_loss(world.discriminator, [u_emb], world.labels)
            step(optimizer, out.loss - LAM * dis_loss.mean())

        ways["transformers, a soft prompt as long"] = soft_prompt_step
    products = products_of(world.prefix_step)
    ways["the products alone"] = products.alone(world.device, world.dtype)
    timed = Ways(ways, repeats)
    rate = products.flop() / timed.best("the products alone")
    largest = rate_of_large_product(world.device, world.dtype)
    b, s = world.batch.input_ids.shape
    ours = products.flop() / timed.best("ours")
    note = (
        f"{products.flop() / 1e9:.1f} GFLOP, {rate / 1e9:.0f} GFLOP/s in the products alone\n"
        f"ours: {b * s / timed.best('ours'):,.0f} tokens a second, {ours / 1e9:.0f} GFLOP/s, "
        f"{ours / largest:.0%} of what one large product gets ({largest / 1e9:.0f} GFLOP/s)"
    )
    table.show(f"CFP training step, {b} prompts of {s} tokens, prefix 15", timed, note)


def row_batch(world: World, table: Table, repeats: int, inner_steps: int = 10) -> None:
    """One batch of Algorithm 1 that is an R-th one, T = 10, as train.py does it and word for word."""

    def ours() -> None:
        for _ in range(inner_steps):
            world.prefix_step()
        for _ in range(inner_steps):
            step(world.prefix_optimizer, forward(world.model, world.cfp(), [world.batch])[0])
        u_emb = u_emb_of(world.model, world.cfp(), [world.batch])
        for _ in range(inner_steps):
            world.dis_step(u_emb)

    def word_for_word() -> None:
        """Each of lines 4, 11 and 15 computes the loss and the states; each backward goes through all."""
        together = torch.nn.ModuleList([world.cfp, world.discriminator])
        optimizers = world.prefix_optimizer, world.dis_optimizer
        for optimizer, line in zip((*optimizers[:1] * 2, optimizers[1]), (6, 12, 17)):
            for _ in range(inner_steps):
                rec_loss, u_emb = forward(world.model, world.cfp(), [world.batch])
                dis_loss = discriminator_loss(world.discriminator, u_emb, world.labels).mean()
                loss = {6: rec_loss - LAM * dis_loss, 12: rec_loss, 17: dis_loss}[line]
                together.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    timed = Ways({"ours": ours, "word for word": word_for_word}, max(repeats // 3, 2))
    note = f"ours: {1 / timed.best('ours'):.2f} such batches a second"
    table.show(f"one R-th batch of Algorithm 1, T = {inner_steps}", timed, note)


def row_p5(world: World, table: Table, repeats: int) -> None:
    """P5's training step, all weights, with AdamW; dropout 0 in both."""
    model = T5(world.model.cfg).to(world.device, world.dtype)
    model.load_state_dict(world.model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    _, ids, mask, _, target, _ = world.batch

    def ours() -> None:
        step(optimizer, target_loss(model, model.encode(ids, mask), target))

    ways, theirs = {"ours": ours}, reference(world)
    if theirs is not None:
        theirs.requires_grad_(True)
        their_optimizer = torch.optim.AdamW(theirs.parameters(), 1e-4, fused=True)
        labels = target.masked_fill(target == NO_TOKEN, -100)
        run = lambda: theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
        ways["transformers"] = lambda: step(their_optimizer, run())
    products = products_of(ours)
    ways["the products alone"] = products.alone(world.device, world.dtype)
    note = f"{products.flop() / 1e9:.1f} GFLOP"
    table.show(
        f"P5 training step, {len(ids)} prompts of {ids.shape[1]} tokens", Ways(ways, repeats), note
    )


@torch.no_grad()
def row_scores(world: World, table: Table, repeats: int, users: int = 2) -> None:
    """The exact probability of 101 candidates for each of some users."""
    rng, batch = np.random.default_rng(0), world.prompts(users, world.batch.input_ids.shape[1])
    candidates = [
        [world.items[i] for i in rng.choice(N_MOVIES, 101, replace=False)] for _ in range(users)
    ]
    found = {}

    def ours() -> None:
        encoded = world.model.encode(batch.input_ids, batch.mask)
        found["ours"] = score_candidates(world.model, encoded, candidates)

    ways, theirs = {"ours": ours}, reference(world)
    if theirs is not None:
        from transformers.modeling_outputs import BaseModelOutput

        start = theirs.config.decoder_start_token_id
        targets = torch.tensor(candidates, device=world.device)  # (users, 101, y)
        begun = F.pad(targets[..., :-1], (1, 0), value=start)

        def log_probability(logits: Tensor, target: Tensor) -> Tensor:
            return logits.float().log_softmax(-1).gather(-1, target[..., None])[..., 0].sum(-1)

        def each_alone() -> None:
            rows = []
            for user in range(users):
                ids, mask = batch.input_ids[user, None], batch.mask[user, None]
                one = lambda i: theirs(
                    input_ids=ids, attention_mask=mask, decoder_input_ids=begun[user, i, None]
                )
                rows += [log_probability(one(i).logits, targets[user, i, None]) for i in range(101)]
            found["alone"] = torch.cat(rows).view(users, 101)

        def encoder_once() -> None:
            states = theirs.encoder(batch.input_ids, attention_mask=batch.mask).last_hidden_state
            rows = []
            for user in range(users):
                out = theirs(
                    encoder_outputs=BaseModelOutput(states[user, None].expand(101, -1, -1)),
                    attention_mask=batch.mask[user, None].expand(101, -1),
                    decoder_input_ids=begun[user],
                )
                rows.append(log_probability(out.logits, targets[user]))
            found["once"] = torch.stack(rows)

        def next_tokens(user: int, so_far: Tensor) -> list[int]:
            so_far = tuple(so_far.tolist()[1:])
            after = {
                c[len(so_far)]
                for c in candidates[user]
                if c[: len(so_far)] == so_far and so_far != c
            }
            return sorted(after) or [theirs.config.pad_token_id]

        def beams() -> None:
            theirs.generate(
                batch.input_ids,
                attention_mask=batch.mask,
                num_beams=20,
                max_new_tokens=3,
                prefix_allowed_tokens_fn=next_tokens,
            )

        ways |= {
            "transformers, 20 constrained beams (not exact)": beams,
            "transformers, the encoder once": encoder_once,
            "transformers, each candidate alone": each_alone,
        }
    timed, note = Ways(ways, max(repeats // 3, 2)), ""
    if theirs is not None:
        apart = max((found["ours"] - found[way]).abs().max().item() for way in ("alone", "once"))
        note = f"largest difference of a log-probability: {apart:.1e} nats"
    table.show(f"scores of 101 candidates, {users} users", timed, note)


def row_ranks(world: World, table: Table, repeats: int, users: int = 4) -> None:
    """The right item's rank among 101 and among 3,416.

    The model is first taught that every number ends, as any trained recommender knows, in some steps;
    the right item is one that it would put behind a tenth of all, where a trained P5 puts it on MovieLens-1M.
    """
    model = T5(world.model.cfg).to(world.device, world.dtype)
    model.load_state_dict(world.model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for _ in range(30):
        batch = world.prompts(16, 8)
        step(
            optimizer,
            target_loss(model, model.encode(batch.input_ids, batch.mask), batch.target_ids),
        )
    model.requires_grad_(False).eval()
    batch = world.prompts(users, world.batch.input_ids.shape[1])
    encoded = model.encode(batch.input_ids, batch.mask)
    scores = score_candidates(model, encoded, [world.items])
    tenth = scores.argsort(1, descending=True)[:, N_MOVIES // 10].tolist()
    rng, found = np.random.default_rng(0), {}

    def rows(n: int) -> list[list[tuple[int, ...]]]:
        others = [np.setdiff1d(np.arange(N_MOVIES), right) for right in tenth]
        chosen = [rng.choice(some, n - 1, replace=False) for some in others]
        return [[world.items[i] for i in (right, *some)] for right, some in zip(tenth, chosen)]

    few, many = rows(101), rows(N_MOVIES)

    def by_end(candidates, name) -> None:
        found[name] = ranks_by_end(model, model.encode(batch.input_ids, batch.mask), candidates)

    def all_scores() -> None:
        scores = score_candidates(model, model.encode(batch.input_ids, batch.mask), many)
        found["all scores"] = rank_of_first(scores.cpu().numpy(), [N_MOVIES] * users)

    ways = {
        "among 101": lambda: by_end(few, "101"),
        f"among {N_MOVIES:,}": lambda: by_end(many, "all"),
        f"among {N_MOVIES:,}, every score": all_scores,
    }
    timed = Ways(ways, max(repeats // 3, 2))
    assert (found["all"] == found["all scores"]).all(), "the two ways give different ranks"
    table.show(f"rank of the right item, {users} users", timed, f"ranks {found['all'].tolist()}")


def row_loading(world: World, table: Table, repeats: int) -> None:
    """From the folder of a checkpoint to the model; the file is in the system's cache."""
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(world.model, Path(folder))
        ways = {"ours": lambda: load_backbone(Path(folder))}
        if importlib.util.find_spec("transformers") is not None:
            from transformers import T5ForConditionalGeneration, logging

            logging.disable_progress_bar()
            ways["transformers"] = lambda: T5ForConditionalGeneration.from_pretrained(folder)
        weights = sum(param.numel() for param in world.model.parameters())
        note = "ours reads all numbers, to find one that is none; the other maps the file unread"
        title = f"loading {weights / 1e6:.0f} M weights"
        table.show(title, Ways(ways, repeats), note if len(ways) > 1 else "")


def row_growth(world: World, table: Table, repeats: int) -> None:
    """What a step, and ranking, costs with more prompts and with longer ones: twice as much each time."""
    whole = world.batch, world.labels
    for what, sizes in ("prompts", (4, 8, 16, 32)), ("tokens", (64, 128, 256, 512)):
        ways = {}
        for size in sizes:
            batch, source = (size, 128) if what == "prompts" else (4, size)
            prompts, labels = world.prompts(batch, source), torch.arange(batch) % LABELS

            def run(prompts=prompts, labels=labels.to(world.device)) -> None:
                world.batch, world.labels = prompts, labels
                world.prefix_step()

            ways[f"{size} {what}"] = run
        table.show(f"CFP training step, growing with {what}", Ways(ways, max(repeats // 2, 2)))
    world.batch, world.labels = whole
    ways = {}
    for users in (8, 16, 32):
        batches = [world.prompts(4, 128) for _ in range(users // 4)]

        def run(batches=batches) -> None:
            for batch in batches:
                encoded = world.model.encode(batch.input_ids, batch.mask)
                ranks_by_end(world.model, encoded, [world.items[:101]] * len(batch.users))

        ways[f"{users} users"] = run
    table.show(
        "ranks among 101, 4 users at a time, growing with users", Ways(ways, max(repeats // 3, 2))
    )


def row_bf16(world: World, table: Table, repeats: int) -> None:
    """The CFP's step over a frozen backbone in bfloat16."""
    half = copy.copy(world)
    half.model = T5(world.model.cfg).to(world.device)
    half.model.load_state_dict(world.model.state_dict())
    half.model = half.model.to(torch.bfloat16).requires_grad_(False).eval()
    ways = {"float32": world.prefix_step, "bfloat16": half.prefix_step}
    table.show("CFP training step, frozen backbone in bfloat16", Ways(ways, repeats))


def row_default(world: World, table: Table, repeats: int) -> None:
    """`python train.py --attr gender` in an empty folder, from the start of Python to the table; once."""
    script = ROOT / "train.py"

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, str(script), "--attr", "gender"],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )

    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    print(f"the default command, from start to table: {seconds:.0f} s")
    table.rows.append({"row": "default command", "way": "ours", "seconds": [seconds]})


ROWS = {
    "step": row_step,
    "batch": row_batch,
    "p5": row_p5,
    "scores": row_scores,
    "ranks": row_ranks,
    "loading": row_loading,
    "bf16": row_bf16,
    "growth": row_growth,
    "default": row_default,
}


def main(argv: list[str] | None = None) -> list[dict]:
    """Prints the table; returns its rows."""
    parser = Parser(
        description="Time it against transformers and against the machine, as ratios within one run.",
    )
    add = parser.add_argument
    add("--rows", default=",".join(ROWS), help=f"which of {','.join(ROWS)} (all)")
    add("--shape", choices=SHAPES, default="t5-small", help="of the T5 (t5-small)")
    add("--batch", type=int, default=16, help="prompts of a step (16, the paper's)")
    add("--source", type=int, default=128, help="tokens of a prompt, at least 64 (128)")
    add("--repeats", type=int, default=7, help="of each way (7; a third of it for the long ones)")
    add("--threads", type=int, help="of PyTorch (as many as there are cores)")
    add("--device", default="auto", help="cpu or cuda (cuda where there is one)")
    add("--dtype", choices=DTYPES, default="fp32", help="of the frozen backbone (fp32)")
    add("--out", type=Path, help="write the rows into this JSON file too")
    args = parser.parse_args(argv)
    rows = args.rows.split(",")
    for name in rows:
        if name not in ROWS:
            raise InputError(
                f"--rows {args.rows}: there is no {name!r}; choose from {', '.join(ROWS)}"
            )
    for flag, least in ("batch", 2), ("source", 64), ("repeats", 1), ("threads", 1):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag} {value}: too small; {least} at least")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    dtype = DTYPES[args.dtype]
    print(
        f"{args.shape}'s shape, {args.dtype}, {hardware(device)}, torch {torch.__version__}; "
        "ratios of the least times, to the first of each group"
    )
    world, table = World(args.shape, args.batch, args.source, device, dtype), Table()
    for name in rows:
        ROWS[name](world, table, args.repeats)
    if args.out is not None:
        args.out.write_text(json.dumps(table.rows, indent=2) + "\n")
    return table.rows


if __name__ == "__main__":
    run_command(main)
