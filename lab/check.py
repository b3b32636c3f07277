"""`python -m lab.check 3`, or `all`: are the exercises right? Exits with 0 where they are.

Each is compared with the project's own on small inputs. Where an answer is what a typical mistake gives, the
mistake is named.
"""

import itertools
import json
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import Linear

import cfp
from data import Asked, people_with
from lab.run import EXERCISES, FILE, SOLUTIONS, exercises, in_place, is_written
from mixer import open_run
from model import Prefix
from probe import attack, user_states, whom
from support.files import refuse, run_command, show
from support.screens import around_half, percent

RECORDED = Path(__file__).with_name("recorded")
RUN = Path("runs") / "lab"  # what the set-up leaves


class Wrong(Exception):
    """What is wrong with an answer, and what was expected on which input."""


def same(got: Any, expected: Any) -> bool:
    """Whether two numbers, arrays or tensors have one shape and, up to rounding, the same values."""
    if not isinstance(got, (float, np.ndarray, np.generic, Tensor)):
        return False
    got, expected = (torch.as_tensor(x).detach().double() for x in (got, expected))
    return got.shape == expected.shape and torch.allclose(got, expected, atol=1e-5)


def shown(value: Any) -> str:
    """A value as it can stand in a sentence."""
    if isinstance(value, (np.ndarray, Tensor)) and value.size != 1:
        return f"{np.round(value.tolist(), 3).tolist()}"[:200]
    return f"{float(value):.4g}" if same(value, value) else repr(value)[:100]


def compare(on: str, got: Any, expected: Any, mistakes: dict[str, Any]) -> None:
    """Raises Wrong where an answer on some input is not what is expected; `mistakes` give other answers."""
    if not same(got, expected):
        named = [mistake for mistake, answer in mistakes.items() if same(got, answer)]
        mistake = named[0] if named else "another value than expected"
        raise Wrong(f"{mistake} (on {on} expected {shown(expected)}, yours gives {shown(got)})")


def check_1(mine: SimpleNamespace) -> str:
    rng, auc = np.random.default_rng(1), lambda *given: float(np.squeeze(mine.auc(*given)))
    for scores in [0.1, 0.4, 0.35, 0.8], [1.0, 1.0, 0.0, 1.0], rng.integers(9, size=300) / 8:
        scores = np.array(scores)
        on = f"scores {shown(scores)}, the second half positives"
        positive = np.arange(len(scores)) >= len(scores) // 2
        difference = scores[positive][:, None] - scores[~positive]
        wins, ties = (difference > 0).mean(), (difference == 0).mean()
        mistakes = {
            "equal scores count as won: to say the same of everybody would be perfect": wins + ties,
            "equal scores count as lost, and a guess wins half of the time": wins,
            "the other way round: this is P(positive < negative)": 1 - wins - ties / 2,
        }
        compare(on, auc(scores, positive), wins + ties / 2, mistakes)
    far = []
    for n in 60, 480:
        labels, scores = np.arange(n) % 2 == 0, rng.normal(size=n)
        distances = [abs(auc(scores, rng.permutation(labels)) - 0.5) for _ in range(400)]
        far.append(f"within {around_half(np.quantile(distances, 0.95))} of {n} people")
    return f"95% of shuffled labels are read {', '.join(far)}."


def check_2(mine: SimpleNamespace) -> str:
    generator = torch.Generator().manual_seed(2)
    states, mask = torch.randn(3, 8, 2, generator=generator), torch.zeros(3, 8, dtype=torch.bool)
    for row, tokens in enumerate(([1, 2, 5, 6], [0], [2, 3, 4])):
        mask[row, tokens] = True
    masked = states * mask.unsqueeze(-1)
    first = (masked * (torch.arange(8) < 5)[:, None]).sum(1) / torch.tensor([[2.0], [1.0], [3.0]])
    mistakes = {
        "a mean over the padding too; the user's tokens alone count": states.mean(1),
        "a sum, not a mean": masked.sum(1),
        "divided by the length of the text, not by the number of the user's tokens": masked.mean(1),
        "only the first mention; the user stands in the prompt twice": first,
    }
    on = "three texts of 8 tokens, of which 4, 1 and 3 are the user's,"
    compare(on, mine.mean_user_state(states, mask), cfp.mean_user_state(states, mask), mistakes)
    return "one state for each user, whatever the padding holds."


def check_3(mine: SimpleNamespace) -> str:
    check_folds(mine.make_folds)
    check_parts(mine.parts_of)
    if not (RUN / "results.json").exists():
        return "and nobody to attack: run the handout's set-up, then check this again."
    opened = open_run(RUN, torch.device("cpu"))
    asked = Asked(opened.corpus, "sequential", "test", people_with(opened.corpus, "test"))
    states, labels = user_states(opened.model, asked), asked.labels("gender")
    tested, aucs = whom(opened.unseen("gender")[asked.users], labels), []
    with in_place(vars(mine)):
        for truth in labels, np.random.default_rng(3).permutation(labels):
            aucs.append(attack(states, truth, ["logistic regression"], tested=tested)["auc"])
    read = "your attack reads gender off P5's user tokens with an AUC of"
    return f"{read} {percent(*aucs[0])}, off shuffled labels with {percent(*aucs[1])}."


def check_folds(make_folds: Callable) -> None:
    labels, on = np.repeat([0, 1], [80, 23]), " (on 80 users of class 0, then 23 of class 1)"
    folds = np.asarray(make_folds(labels, np.random.default_rng(0)))
    if folds.shape != labels.shape or [*np.unique(folds)] != [*range(5)]:
        raise Wrong(f"every user has one fold, 0 to 4; yours gives {shown(folds)}{on}")
    if np.array_equal(folds, make_folds(labels, np.random.default_rng(1))):
        raise Wrong(f"the same folds whatever `rng` is: data are often sorted, draw at random{on}")
    sizes = np.stack([np.bincount(folds[labels == c], minlength=5) for c in (0, 1)])
    if np.ptp(sizes, axis=1).max() > 1 or np.ptp(sizes.sum(0)) > 1:
        yours = f"yours have {sizes[1].tolist()} of class 1, {sizes.sum(0).tolist()} in all"
        raise Wrong(f"classes are not spread evenly over the folds: {yours}{on}")


def check_parts(parts_of: Callable) -> None:
    fold_of, whose = np.array([2, 0, 1, -1, 2, 1, 0]), np.array([0, 0, 1, 2, 2, 3, 4, 5, 6, 6])
    sets = lambda parts: [{*np.asarray(part).tolist()} for part in parts]
    for rows, fold in itertools.product((None, whose), range(3)):
        got, right = sets(parts_of(fold_of, fold, rows)), SOLUTIONS["parts_of"]
        if got == (expected := sets(right(fold_of, fold, rows))):
            continue
        train, valid, test = got if len(got) == 3 else [set()] * 3
        mistake = "other rows than expected"
        if rows is not None and got == sets(right(fold_of, fold)):
            mistake = "folds by row instead of by user: it has met whom it is tested on"
        elif train & test:
            mistake = f"tested on who was trained on: rows {[*train & test]} are in both"
        elif valid & (test | train):
            mistake = "who decides between attackers is trained on or tested too"
        elif (test, valid) == (expected[2], expected[1]):
            mistake = "users with a negative fold are trained on in every fold"
        about = f"fold_of {fold_of.tolist()}, fold {fold}, whose {shown(rows)}"
        raise Wrong(f"{mistake} (on {about} expected {expected}, yours gives {got})")


def check_4(mine: SimpleNamespace) -> str:
    check_discriminator_loss(mine.discriminator_loss)
    check_adversarial_loss(mine.adversarial_loss)
    check_step(mine.step)
    return "a blind guess at two even classes costs log 2 = 0.693 nats."


def check_discriminator_loss(discriminator_loss: Callable) -> None:
    generator = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    u_emb, members = [draw(6, 3), draw(6, 3)], [draw(3, 2), draw(3, 2)]
    discriminator = lambda x_rbd: [x_rbd @ member for member in members]
    labels = torch.tensor([[1.0, 0], [0, 1], [0.3, 0.7], [0, 0], [1, 0], [0, 0]])
    logits = torch.stack(discriminator(torch.stack(u_emb)))  # (members, r, b, c)
    nll = -(logits.log_softmax(-1) * labels).sum(-1).mean(0)  # (r, b)
    twice = -(logits.softmax(-1).log_softmax(-1) * labels).sum(-1).mean(0)
    mistakes = {
        "a softmax too many: the discriminator gives logits": twice.sum(1) / 4,
        "a mean over all rows; those of zeros do not count": nll.mean(1),
        "a sum over the users, not their mean": nll.sum(1),
        "the sign: a loss is minus the log-probability": -nll.sum(1) / 4,
    }
    on = "six users in two readings, two without a label,"
    compare(on, discriminator_loss(discriminator, u_emb, labels), nll.sum(1) / 4, mistakes)


def check_adversarial_loss(adversarial_loss: Callable) -> None:
    rec, losses = torch.tensor(4.0), [torch.tensor([0.5, 1.2]), torch.tensor([1.0, 1.5])]
    lams, caps = [2.0, 0.5], [0.8, 2.0]
    on = "rec_loss 4, losses [0.5, 1.2] and [1, 1.5], lambdas 2 and 0.5, caps 0.8 and 2"
    mistakes = {  # what is taken off 4
        "the sign: this prefix helps the discriminators": -1.925,
        "no cap: to write the attribute in reverse is paid without end": 2 * 0.85 + 0.5 * 1.25,
        "the cap is on the mean; each reading counts up to it": 2 * 0.8 + 0.5 * 1.25,
    }
    answers = {mistake: torch.tensor(4.0 - taken) for mistake, taken in mistakes.items()}
    got = adversarial_loss(rec, losses, lams, caps)
    compare(on, got, torch.tensor(4.0 - (2 * 0.65 + 0.5 * 1.25)), answers)


def check_step(step: Callable) -> None:
    player, opponent = (torch.nn.Parameter(torch.tensor(w)) for w in ([1.0, 2.0], [0.1, 0.1]))
    player.grad = torch.tensor([9.0, -9.0])  # of an earlier step
    step(torch.optim.SGD([player], lr=1.0), 3 * (player * opponent).sum())
    on = "the loss 3 * sum(player * opponent), player [1, 2], opponent [0.1, 0.1], SGD with rate 1"
    if opponent.grad is not None or not same(opponent, torch.tensor([0.1, 0.1])):
        cure = "loss.backward(inputs=..) names who gets one"
        raise Wrong(f"a detach too few: the opponent got a gradient; {cure} (on {on})")
    mistakes = {"the player ascends its loss": torch.tensor([1.3, 2.3])}
    mistakes["an old gradient counts too (zero_grad)"] = torch.tensor([0.26974, 2.68317])
    compare(on, player.detach(), torch.tensor([0.7, 1.7]), mistakes)
    player = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
    step(torch.optim.SGD([player], lr=1.0), (player * torch.tensor([30.0, 40.0])).sum())
    mistakes = {"the gradient is not scaled down to max_norm": torch.tensor([-30.0, -40.0])}
    compare("a gradient [30, 40]", player.detach(), torch.tensor([-0.6, -0.8]), mistakes)


SCHEDULE = SimpleNamespace(inner_steps=2, rec_steps=3, dis_steps=4, every=2, lr=1.0)


class Loss(str):
    """A loss by its name; what is computed from it has a longer one."""

    sum = mean = lambda self, *axes: self
    __neg__ = lambda self: Loss(f"-{self}")
    __add__ = lambda self, other: self if other == 0.0 else Loss(f"{self} + {other}")


def moves_of(algorithm_1: Callable) -> list[str]:
    """Who moves on what in two batches of a game whose losses are names; an old one has an @ behind it."""
    moves, now = [], lambda: f"@{sum('prefix' in move for move in moves)}"

    def forward(*_) -> tuple[Loss, str]:
        u_emb = "u_emb with gradient" if torch.is_grad_enabled() else "u_emb"
        return Loss(f"rec_loss{now()}"), u_emb + now()

    def step(optimizer: Any, loss: Loss, *_) -> None:
        who = "discriminators descend" if optimizer == "C" else "prefix descends"
        moves.append(f"batch {training.batch}: {who} {loss.replace(now(), '')}")

    def batches(*_) -> Iterator[tuple]:
        for training.batch in 1, 2:
            yield training.batch, None, None

    training = SimpleNamespace(epochs=lambda: [0], batches=batches, report=lambda *_: None)
    game = SimpleNamespace(cfg=SCHEDULE, optimizer="C", members=["C"], read=None)
    game.draw, game.dependence = lambda: ("gender",), lambda *_: 0.0
    game.dis_loss = lambda attrs, u_emb, users: Loss(f"dis_loss({u_emb})")
    game.adversarial_loss = lambda rec_loss, dis_loss, attrs: Loss(f"L({rec_loss}, {dis_loss})")
    pieces = dict(forward=forward, u_emb_of=torch.no_grad()(lambda *_: forward()[1]), step=step)
    pieces |= dict(GameTraining=lambda *_: training, user_batches=lambda *_: None)
    pieces["batches_per_epoch"] = lambda *_: 2
    study, player = SimpleNamespace(model=Linear(1, 1), seed=0, corpus=None), Linear(1, 1)
    with patch.dict(algorithm_1.__globals__, pieces):
        algorithm_1(study, player, lambda attrs: None, game, "lab")
    return moves


def check_5(mine: SimpleNamespace) -> str:
    expected, got = moves_of(SOLUTIONS["algorithm_1"]), moves_of(mine.algorithm_1)
    for n, (move, wanted) in enumerate(
        itertools.zip_longest(got, expected, fillvalue="nobody moves"), 1
    ):
        if move != wanted:
            how = f"step {n}, with T = 2, 3 and 4 in the three phases and R = 2"
            raise Wrong(f"{why(move, wanted)} ({how}: expected {wanted}, yours: {move})")
    return f"{len(expected)} steps in two batches, each as Algorithm 1 has it."


def why(move: str, wanted: str) -> str:
    """What kind of mistake it is to make this move in place of the wanted one."""
    if "batch 1" in move and "batch 1" not in wanted:
        return "phases (2) and (3) come in every R-th batch alone"
    if "descends rec_loss" in wanted and "L(" in move:
        return "phase (2) is due, where rec_loss alone recovers the recommendations"
    if "@" in move:
        return "the prefix has moved since: `forward` is called in every step"
    if "discriminators" in move and "with gradient" in move:
        return "a detach too few: P stays fixed in phase (3), and u_emb has its gradient (line 15)"
    if "discriminators" in move and "-dis_loss" in move:
        return "the sign: discriminators descend L_dis, for they want to guess well"
    if ("discriminators" in move) != ("descend dis_loss" in move.replace("descends", "descend")):
        return "the wrong player: each optimizer moves its own"
    return "another step is due: the phases' order, or how many steps each has"


LOGS = [  # AUC, its interval, floor, the co-trained discriminator's
    (0.62, [0.52, 0.72], 0.05, 0.5),
    (0.38, [0.34, 0.42], 0.05, 0.9),
    (0.58, [0.53, 0.63], 0.2, 0.7),
    (0.53, [0.51, 0.55], 0.05, 0.8),
]


def recorded(name: str) -> dict:
    """The results.json of a run at full size, as far as the lab shows it."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def log_of(auc: float, ends: list[float], floor: float, own: float = 0.5) -> dict:
    """A results.json with these figures."""
    row = {"auc": {"gender": auc}, "auc interval": {"gender": ends}}
    log = {"after": row, "floor": {"gender": floor}, "co-trained auc": {"gender": own}}
    return {key: {"sequential": value} for key, value in log.items()}


def misreadings(auc: float, ends: list[float], floor: float, own: float) -> dict[str, dict]:
    """Of each mistake the results.json that would make its verdict the right one."""
    above = log_of(max(auc, 0.5), [max(end, 0.5) for end in ends], floor)
    believed, as_points = log_of(own, [own, own], floor), log_of(auc, [auc, auc], floor)
    return {
        "the co-trained discriminator is believed; the prompt learnt to hide from it": believed,
        "below one half nothing is hidden: who is always wrong can turn answers around": above,
        "the interval is not looked at; other people would give another AUC": as_points,
        "the floor is not looked at; shuffled labels are not at 50 either": log_of(auc, ends, 0.0),
    }


def check_6(mine: SimpleNamespace) -> str:
    right, logs = SOLUTIONS["verdict"], [log_of(*figures) for figures in LOGS]
    read = lambda verdict, these: [verdict(log, "gender", "sequential") for log in these]
    got, expected = read(mine.verdict, logs), read(right, logs)
    misread = [misreadings(*figures) for figures in LOGS]
    for mistake in misread[0]:
        if got != expected and got == read(right, [logs[mistake] for logs in misread]):
            raise Wrong(f"{mistake} (on AUC, interval, floor and own AUC of {LOGS[0]}, ..)")
    for figures, answer, wanted in zip(LOGS, got, expected):
        if answer != wanted:
            about = "AUC {}, interval {}, floor {}, co-trained {}".format(*figures)
            raise Wrong(f"another verdict (on {about} expected {wanted!r}, yours is {answer!r})")
    said, paper = [], recorded("paper")
    for task, row in paper["after"].items():
        own, fresh = percent(paper["co-trained auc"][task]["gender"]), percent(row["auc"]["gender"])
        found = mine.verdict(paper, "gender", task)
        said.append(f"{task}: the training adversary says {own}, fresh attackers {fresh}: {found}")
    return "; ".join(said)


def check_7(mine: SimpleNamespace) -> str:
    generator = torch.Generator().manual_seed(7)
    stack = lambda n: torch.randn(2, 2, 1, 2, n, 2, generator=generator)
    for with_encoder in True, False:
        prefixes = [Prefix(stack(n) if with_encoder else None, stack(n)) for n in (4, 4, 3)]
        on = "prompts of 4, 4 and 3 tokens" + ("" if with_encoder else " without an encoder")
        got, expected = mine.concatenate(prefixes), SOLUTIONS["concatenate"](prefixes)
        if not isinstance(got, Prefix) or (got.encoder is None) == with_encoder:
            raise Wrong(f"a Prefix of the same stacks is expected on {on}, yours is {shown(got)}")
        for name in ("encoder", "decoder")[not with_encoder :]:
            parts = [getattr(prefix, name) for prefix in prefixes]
            mistakes = {
                "side by side along the heads, not along the tokens": torch.cat(parts[:2], 3),
                "the order is another": torch.cat(parts[::-1], -2),
                "one prompt only": parts[0],
            }
            compare(f"{on}: {name}", getattr(got, name), getattr(expected, name), mistakes)
    ways = {("+".join(w["attrs"]), w["how"]): w["sequential"] for w in recorded("mixed")["ways"]}
    of = lambda *way: percent(ways[way]["auc"]["gender"])
    return (
        f"recorded: gender is read with {of('gender', 'mixer')} behind its own prompt, with "
        f"{of('gender+age', 'concatenation')} beside age's, with {of('gender+age', 'mixer')} mixed."
    )


CHECKS = {1: check_1, 2: check_2, 3: check_3, 4: check_4, 5: check_5, 6: check_6, 7: check_7}


def result_of(number: int, mine: dict[str, Callable]) -> tuple[bool, str]:
    """(whether it is right, a line that says what it shows or what is wrong)."""
    missing = [name for name in EXERCISES[number] if not is_written(mine[name])]
    if missing:
        return False, f"not written yet: {', '.join(missing)} in lab/{FILE.name}"
    # what is not written and is about another exercise is the project's
    functions = {k: f if is_written(f) else SOLUTIONS[k] for k, f in mine.items()}
    try:
        return True, CHECKS[number](SimpleNamespace(**functions))
    except Wrong as error:
        return False, str(error)
    except Exception as error:  # whatever a student's function can raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [str(frame.lineno) for frame in frames if frame.filename == str(FILE)]
        where = f"line {lines[-1]}: " if lines else ""
        return False, f"{where}{type(error).__name__}: {error}".split("\n")[0]


def main(argv: list[str] | None = None) -> None:
    asked = sys.argv[1:] if argv is None else argv
    if [*asked] not in ([name] for name in (*map(str, CHECKS), "all")):
        refuse("python -m lab.check", f"takes an exercise's number, 1 to {len(CHECKS)}, or all")
    mine, done = exercises(), 0
    numbers = [*CHECKS] if asked == ["all"] else [int(asked[0])]
    for number in numbers:
        right, said = result_of(number, mine)
        done += right
        show(f"exercise {number}, {'right' if right else 'not yet'}: {said}")
    show(f"[{'#' * done}{'.' * (len(numbers) - done)}] {done} of {len(numbers)}")
    sys.exit(done < len(numbers))


if __name__ == "__main__":
    run_command(main)
