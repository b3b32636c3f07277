"""What the paper's own set-up needs in memory and hours: `python reproduce.py paper`.

T5-Base and OpenLlama-3B, batch 16, the grids of section 5.1, counted on the real shapes; with --measure the
hours are those of this machine's own step.
"""

import itertools
import math
import time
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from cfp import CFP, PAPER_SCHEDULE, CFPConfig
from model import T5, Llama, LlamaConfig, T5Config, target_loss
from runs import hardware

# Section 5.1. # Paper silent: epochs, learning rates and what was chosen from the grid.
GRID = {"lam": (1, 5, 10, 100), "prefix length": (5, 15, 30), "T": (10, 20), "R": (20,)}
BATCH = 16
PEOPLE = {"ml-1m": 6040, "insurance": 29132}
SHAPES = {  # the published config.json's
    "t5-base": T5Config(32128, 768, 64, 3072, 12, 12, 12),
    "open_llama_3b": LlamaConfig(32000, 3200, 8640, 26, 32, 32, 100, 1e-6),
}
PROMPT_TOKENS = {"sequential": 160, "direct": 450}  # 20 items of history, 100 listed candidates
ANSWER_TOKENS = 4  # a number of up to three pieces, and the end


class Cost(NamedTuple):
    """What one step of the prefix costs: forward and backward of a batch through a frozen backbone."""

    weights: int
    flop: float  # additions and multiplications
    saved: int  # bytes in float32 that the forward pass keeps for the backward pass


def cost_of_step(name: str, tokens: int) -> Cost:
    """Counted on the real shapes and not computed: tensors on torch's "meta" device have no numbers."""
    with torch.device("meta"):
        model, cfp, inputs = step_of(name, tokens)
    own = {id(param) for param in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own:
            kept[id(base)] = base
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        target_loss(model, model.encode(*inputs[:2], cfp()), inputs[2]).backward()
    saved = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    weights = sum(param.numel() for param in model.parameters())
    return Cost(weights, counter.get_total_flops(), saved)


def step_of(name: str, tokens: int):
    """(frozen backbone of random weights, prefix, (ids (b, s), mask (b, s), answer (b, y)))."""
    cfg = SHAPES[name]
    model = (T5(cfg) if isinstance(cfg, T5Config) else Llama(cfg)).requires_grad_(False).eval()
    cfp = CFP(CFPConfig(prefix_len=30), cfg)
    mask = torch.ones(BATCH, tokens, dtype=torch.bool)
    answer = torch.ones(BATCH, ANSWER_TOKENS, dtype=torch.long)
    return model, cfp, (mask.long(), mask, answer)


def measured_step(name: str, tokens: int, device: torch.device, tries: int = 2) -> float:
    """Seconds of such a step with random weights on this machine, the best of some."""
    with device:
        model, cfp, inputs = step_of(name, tokens)
    best = math.inf
    for _ in range(tries):
        began = time.monotonic()
        target_loss(model, model.encode(*inputs[:2], cfp()), inputs[2]).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - began)
    return best


def paper_setup(tflops: float | None, measure: bool, device: torch.device) -> str:
    """What the paper's grids need in memory and hours, as text; `tflops` is what a GPU sustains."""
    points = math.prod(map(len, GRID.values()))
    grid = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in GRID.items())
    epochs = PAPER_SCHEDULE["epochs"]
    lines = [f"The paper's grid (section 5.1): {grid}; batch {BATCH}: {points} runs per attribute."]
    if measure:
        tokens = PROMPT_TOKENS["sequential"]
        seconds = measured_step("t5-base", tokens, device)
        tflops = cost_of_step("t5-base", tokens).flop / seconds / 1e12
        lines.append(
            f"Measured here ({hardware(device)}): a sequential step of t5-base with random weights takes "
            f"{seconds:.2f} s, which is {tflops:.3f} TFLOP/s; the hours are at this speed."
        )
    elif tflops is not None:
        lines.append(f"The hours are at {tflops:g} TFLOP/s, as given with --tflops; not measured.")
    else:
        lines.append(
            "Hours: give --tflops N that your GPU sustains, or --measure a step on this machine."
        )
    lines.append(
        f"Counted on the real shapes: a sequential prompt of {PROMPT_TOKENS['sequential']} tokens and a "
        f"direct one of {PROMPT_TOKENS['direct']} that lists 100 candidates; {epochs} epochs, ours, as the "
        "paper names none."
    )
    gib = lambda size: f"{size / 2**30:.1f} GiB"
    for name in SHAPES:
        costs = [cost_of_step(name, tokens) for tokens in PROMPT_TOKENS.values()]
        weights, flop = costs[0].weights, sum(cost.flop for cost in costs)
        saved = sum(cost.saved for cost in costs)
        lines += [
            "",
            f"{name}, {weights / 1e6:,.0f} M weights",
            f"  a prompt's training: {gib(4 * weights)} of frozen weights in float32 ({gib(2 * weights)} "
            f"with --dtype bf16) and {gib(saved)} kept for the backward pass of a batch in float32",
            f"  P5's training before it: {gib(20 * weights)} (20 bytes per weight: itself, its gradient, "
            "AdamW's two means and the best so far) and what is kept for its backward pass",
            f"  a step of the prefix: {flop / 1e12:.2f} TFLOP",
        ]
        for data, people in PEOPLE.items():
            steps = 3 * sum(
                people // BATCH * epochs * t * (1 + 1 / r)
                for _, _, t, r in itertools.product(*GRID.values())
            )
            text = (
                f"  {data}, three attributes: {3 * points} runs, {steps:,.0f} steps of the prefix"
            )
            if tflops is not None:
                text += f", {steps * flop / (tflops * 1e12) / 3600:,.0f} hours"
            lines.append(text)
    lines += ["", "Worked out, not run. The runs of one attribute begin with"]
    lines += [f"  python train.py {flags}" for flags in paper_commands("gender")[:2]]
    lines.append(f"and are {points}; --list prints all. P5 is trained once for all of them.")
    return "\n".join(lines)


def paper_commands(attr: str, backbone: str = "t5-base", data: str = "ml-1m") -> list[str]:
    """The flags of train.py for every point of the grid."""
    found = []
    for lam, length, t, r in itertools.product(*GRID.values()):
        found.append(
            f"--attr {attr} --data {data} --backbone {backbone} --paper-schedule --prompt-candidates 100 "
            f"--batch-size {BATCH} --lam {lam} --prefix-len {length} --inner-steps {t} --rec-steps {t} "
            f"--dis-steps {t} --every {r}"
        )
    return found
