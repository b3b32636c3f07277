"""How good the recommendations are, and what a fresh attacker still reads about the people.

    python evaluate.py --run runs/toy-gender-seed0 --audit

Hit@k is in `ranks.py`. AUC: who is attacked, with what, on whom. Attackers are trained after the
fact on the frozen model's states of some users and tested on users they never saw; they never took
part in the prompt's training.
"""

import argparse
import json
from pathlib import Path
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from answers import generate, score_candidates
from cfp import MLP, Discriminator, mean_user_state
from data import Corpus, candidates_of, collate, held_out_example
from files import run_command, write_atomically
from model import Backbone, Prefix
from p5 import Opened, open_run
from ranks import BOOTSTRAP, held_out_batches, held_out_ranks, hits, popularity_ranks

FOLDS = 5


@torch.no_grad()
def user_states(
    model: Backbone,
    corpus: Corpus,
    task: str,
    part: str,
    users: np.ndarray,
    prefix: Prefix | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Mean user-token states (users, d) of the held-out prompts: what the attackers are given."""
    states = np.zeros((len(users), model.cfg.d_model), dtype=np.float32)
    device = next(model.parameters()).device
    for rows, batch in held_out_batches(corpus, task, part, users, batch_size, device):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        states[rows] = mean_user_state(encoded.states, batch.user_mask).cpu()
    return states


# -------------------------------------------------------------------------------------------------
# AUC
# -------------------------------------------------------------------------------------------------


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """P(score of a positive > score of a negative) + half P(equal), in [0, 1].

    `scores` (users,), `positive` (users,) bool. `weights` (draws, users) counts every user that
    often and gives one value per draw; NaN where a draw has no positives or no negatives.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    scores, weights, positive = scores[order], weights[:, order], positive[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])  # equal scores form one group
    n_positive = np.add.reduceat(weights * positive, starts, axis=1)  # (draws, groups)
    n_negative = np.add.reduceat(weights * ~positive, starts, axis=1)
    below = np.cumsum(n_negative, axis=1) - n_negative
    won = (n_positive * (below + 0.5 * n_negative)).sum(1)
    pairs = n_positive.sum(1) * n_negative.sum(1)
    return np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)


def macro_auc(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """AUC of an attribute with any number of classes: (draws,), or one value without weights.

    `scores` (users, c), `labels` (users,). Binary: the AUC of class 1 against class 0.
    Source: section 5.1.
    # Paper silent: AUC for more than two classes; we take the mean over the classes of each class
    # against all others (macro one-vs-rest), over all classes that occur.
    """
    n_classes = scores.shape[1]
    if n_classes == 2:
        return auc(scores[:, 1] - scores[:, 0], labels == 1, weights)
    per_class = [auc(scores[:, c], labels == c, weights) for c in np.unique(labels)]
    return np.nanmean(per_class, axis=0)


def macro_ovo(scores: np.ndarray, labels: np.ndarray) -> float:
    """AUC of an attribute as the mean over all pairs of classes that occur (Hand and Till 2001).

    `scores` (users, c). Of each pair's users, the AUC of one class's score against the other's and of
    the other's against the one's. This is what the paper's release computes.
    """
    classes, values = np.unique(labels), []
    for i, a in enumerate(classes):
        for b in classes[i + 1 :]:
            pair = (labels == a) | (labels == b)
            for c in a, b:
                values.append(auc(scores[pair, c], labels[pair] == c)[0])
    return float(np.mean(values))


def with_interval(scores: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> list[float]:
    """[AUC, low, high] of scores (users, c), with a 95% interval over resampled users."""
    even = np.full(len(labels), 1 / len(labels))
    draws = [  # ten times a tenth, to keep the memory small
        macro_auc(scores, labels, rng.multinomial(len(labels), even, BOOTSTRAP // 10))
        for _ in range(10)
    ]
    interval = np.nanquantile(draws, [0.025, 0.975])
    return [float(macro_auc(scores, labels)[0]), *map(float, interval)]


# -------------------------------------------------------------------------------------------------
# Attackers
# -------------------------------------------------------------------------------------------------


def make_folds(labels: np.ndarray, rng: np.random.Generator, n: int = FOLDS) -> np.ndarray:
    """Fold 0 .. n-1 of each user (users,), every class spread evenly over the folds."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % n
    return folds


def logistic_regression(
    x: Tensor, y: Tensor, n_classes: int, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weights (d, c) and bias (c,) of multinomial logistic regression, fitted to convergence by L-BFGS.

    Minimises mean cross-entropy + penalty / 2 * |weights|^2 on x (users, d), y (users,).
    """
    weight = torch.zeros(x.shape[1], n_classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def attack_logistic(
    x: Tensor, y: Tensor, parts: list[tuple[Tensor, Tensor, Tensor]], n_classes: int, seed: int
) -> np.ndarray:
    """Cross-fitted scores (users, c) of logistic regression, its penalty chosen on validation users."""
    scores = np.zeros((len(x), n_classes))
    for train, valid, test in parts:
        best = -1.0
        for penalty in (1.0, 0.1, 0.01, 0.001):
            weight, bias = logistic_regression(x[train], y[train], n_classes, penalty)
            valid_auc = macro_auc((x[valid] @ weight + bias).numpy(), y[valid].numpy())[0]
            if valid_auc > best:
                best = valid_auc
                scores[test] = x[test] @ weight + bias
    return scores


def attack_mlp(
    x: Tensor, y: Tensor, parts: list[tuple[Tensor, Tensor, Tensor]], n_classes: int, seed: int
) -> np.ndarray:
    """Cross-fitted scores (users, c) of the paper's seven-layer MLP (appendix A.3).

    The five folds' networks are trained side by side (vmap) with AdamW, for 30 passes over their
    training users or until ten in a row were better on nobody's validation users; each is tested as
    it was when its AUC on its validation users was best. No dropout: with 0.3 it reads at most half a
    point more on MovieLens-1M without a prompt, and one and a half points less through one.
    """
    torch.manual_seed(seed)
    nets = [MLP(x.shape[1], n_classes, depth=7, hidden=128, dropout=0.0) for _ in parts]
    params, _ = stack_module_state(nets)
    run = vmap(lambda p, xs: functional_call(nets[0], p, (xs,)))
    optimizer = torch.optim.AdamW(params.values(), lr=2e-3, weight_decay=0.3)
    n_train = min(len(train) for train, _, _ in parts)
    scores, best, passes_since = np.zeros((len(x), n_classes)), [-1.0] * len(parts), 0
    for _ in range(30):
        order = torch.stack([train[torch.randperm(len(train))[:n_train]] for train, _, _ in parts])
        for rows in order.split(max(128, n_train // 32), dim=1):  # (folds, b)
            logits = run(params, x[rows])
            loss = F.cross_entropy(logits.flatten(0, 1), y[rows].flatten()) * len(parts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        passes_since += 1
        for fold, (_, valid, test) in enumerate(parts):
            rows = torch.cat([valid, test])
            with torch.no_grad():
                logits = functional_call(
                    nets[0], {k: p[fold] for k, p in params.items()}, (x[rows],)
                )
            valid_auc = macro_auc(logits[: len(valid)].numpy(), y[valid].numpy())[0]
            if valid_auc > best[fold]:
                best[fold], passes_since = valid_auc, 0
                scores[test] = logits[len(valid) :]
        if passes_since == 10:
            break
    return scores


ATTACKERS = {"logistic regression": attack_logistic, "seven-layer MLP": attack_mlp}


def attack(features: np.ndarray, labels: np.ndarray, names: list[str] | None, seed: int) -> dict:
    """Let fresh attackers predict each user's class from features (users, d) of users they never saw.

    Five folds over the users, stratified by class: an attacker is tested on one, chooses what it
    has to choose on a second and is trained on the other three, so that every user is tested once.
    Features are standardised (no label is looked at for that). Scores become ranks within their
    fold before they are pooled, because five models have no common scale. Returns "auc",
    "strongest", "by attacker" and each one's "one-vs-one". "auc" is the strongest attacker's
    [AUC, low, high], with a 95% interval over resampled users. The strongest is the one whose AUC is
    farthest from one half on the tested users: a choice that errs towards finding a leak.
    """
    assert (np.bincount(labels) >= FOLDS).sum() >= 2, "an attack needs two classes of five users"
    rng = np.random.default_rng([seed, 4])
    folds = make_folds(labels, rng)
    x, y = torch.from_numpy(features).float(), torch.from_numpy(labels)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    parts = []
    for fold in range(FOLDS):
        is_test, is_valid = folds == fold, folds == (fold + 1) % FOLDS
        masks = ~is_test & ~is_valid, is_valid, is_test
        parts.append(tuple(torch.from_numpy(np.flatnonzero(mask)) for mask in masks))
    by_attacker, one_vs_one = {}, {}
    for name in names or ATTACKERS:
        scores = ATTACKERS[name](x, y, parts, int(labels.max()) + 1, seed)
        scores = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)  # log-probabilities
        for _, _, test in parts:
            scores[test] = ranks_within(scores[test])
        by_attacker[name] = with_interval(scores, labels, rng)
        one_vs_one[name] = macro_ovo(scores, labels)
    strongest = max(by_attacker, key=lambda name: abs(by_attacker[name][0] - 0.5))
    return {
        "auc": by_attacker[strongest],
        "strongest": strongest,
        "by attacker": by_attacker,
        "one-vs-one": one_vs_one,
    }


def ranks_within(scores: np.ndarray) -> np.ndarray:
    """Each column (users, c) replaced by its ranks, scaled to (0, 1]; equal scores share the mean rank."""
    out = np.empty_like(scores)
    for c in range(scores.shape[1]):
        _, inverse, counts = np.unique(scores[:, c], return_inverse=True, return_counts=True)
        out[:, c] = (np.cumsum(counts) - (counts - 1) / 2)[inverse] / len(scores)
    return out


# -------------------------------------------------------------------------------------------------
# The table that a run ends with
# -------------------------------------------------------------------------------------------------


def before_and_after(
    model: Backbone,
    corpus: Corpus,
    tasks: list[str],
    attr: str,
    prefix: Prefix,
    discriminator: Discriminator,
    held_out: np.ndarray,
    seed: int,
) -> dict:
    """What results.json says of a run: the test items are looked at here, once.

    `held_out` (users,) is True where the adversary was not told the label. Where it is so for
    anybody, attackers are also trained and tested among these users alone, and among the others.
    """
    users = np.flatnonzero(corpus.split.test >= 0)
    popularity = {task: popularity_ranks(corpus, task, "test", users) for task in tasks}
    counts = {t: [len(candidates_of(corpus, t, user, "test")) for user in users] for t in tasks}
    results = {
        "tasks": tasks,
        "users": len(users),
        "candidates": {task: [min(counts[task]), max(counts[task])] for task in tasks},
        "prompt candidates": corpus.prompt_candidates,
        "popularity": {task: hits(ranks, seed) for task, ranks in popularity.items()},
        "before": {},
        "after": {},
        "floor": {},
        "ceiling": {attr: history_ceiling(corpus, attr, seed)},
        "co-trained auc": {},
    }
    labels = corpus.dataset.labels(attr)[users]
    shuffled = np.random.default_rng([seed, 8]).permutation(labels)
    for t, task in enumerate(tasks):
        for when, given in ("before", None), ("after", prefix):
            states = user_states(model, corpus, task, "test", users, given)
            attacked = attack(states, labels, None, seed)
            results[when][task] = {
                **hits(held_out_ranks(model, corpus, task, "test", users, given), seed),
                "auc": {attr: attacked["auc"][0]},
                "auc interval": {attr: attacked["auc"][1:]},
                "attackers": {attr: attacked},
            }
            if held_out.any():
                results[when][task]["auc by group"] = {
                    attr: {
                        name: attack(states[group], labels[group], None, seed)["auc"]
                        for name, group in (
                            ("held out", held_out[users]),
                            ("known", ~held_out[users]),
                        )
                    }
                }
        # the same attack on the same states with the labels shuffled among the users
        results["floor"][task] = {attr: attack(states, shuffled, None, seed)}
        results["co-trained auc"][task] = {attr: co_trained_auc(discriminator, states, labels, t)}
    return results


def co_trained_auc(
    discriminator: Discriminator, states: np.ndarray, labels: np.ndarray, task: int
) -> float:
    """AUC of the training adversary itself on user states (users, d): the optimistic figure.

    It was trained together with the prefix, which learnt to hide from just this one, and it has
    seen these users' labels. Its score is the mean log-probability over its members.
    """
    user_bd = torch.from_numpy(states).to(next(discriminator.parameters()).device)
    discriminator.eval()
    with torch.no_grad():
        members = [logits.log_softmax(-1) for logits in discriminator(user_bd, task)]
    return float(macro_auc(torch.stack(members).mean(0).cpu().numpy(), labels)[0])


def history_ceiling(corpus: Corpus, attr: str, seed: int) -> dict:
    """The same attack on the raw history: which items a user interacted with before the test item."""
    users = np.flatnonzero(corpus.split.test >= 0)
    features = np.zeros((len(users), len(corpus.numbers)), dtype=np.float32)
    for row, user in enumerate(users):
        features[row, corpus.dataset.histories[user][:-1]] = 1.0
    return attack(features, corpus.dataset.labels(attr)[users], None, seed)


def table(results: dict) -> str:
    """The table that a run ends with, from what stands in results.json; figures in percent."""
    attr, lines = results["attr"], []

    def cell(value: float, interval: list[float] | None = None) -> str:
        text = f"{100 * value:.1f}"
        return (
            text
            if interval is None
            else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        )

    for task in results["tasks"]:
        fewest, most = results["candidates"][task]
        among = f"{most}" if fewest == most else f"{fewest} to {most}"
        listed = results["prompt candidates"]
        listed = "all of them" if listed else "none of them"
        lines += [
            f"{task} recommendation, {results['users']} users, the test item among {among} candidates"
            + (f", {listed} listed in the prompt (%)" if task == "direct" else " (%)"),
            f"  {'':<12}{'Hit@1':<20}{'Hit@3':<20}{'Hit@10':<20}{attr} AUC of the strongest attacker",
        ]
        for key, name in ("popularity", "popularity"), ("before", "P5"), ("after", "P5 + CFP"):
            row = results[key][task]
            cells = [cell(row[f"hit@{k}"], row[f"hit@{k} interval"]) for k in (1, 3, 10)]
            if "auc" in row:
                attacked = row["attackers"][attr]
                cells.append(
                    f"{cell(row['auc'][attr], row['auc interval'][attr])} {attacked['strongest']}"
                )
            lines.append(f"  {name:<12}{''.join(f'{text:<20}' for text in cells)}".rstrip())
        before, after = results["before"][task], results["after"][task]
        if "auc by group" in after:
            group = lambda row, name: bracket({"auc": row["auc by group"][attr][name]})
            lines.append(
                "  Users whose labels the adversary never saw, attacked apart: AUC "
                f"{cell(*group(before, 'held out'))} -> {cell(*group(after, 'held out'))}; the others: "
                f"{cell(*group(before, 'known'))} -> {cell(*group(after, 'known'))}."
            )
        lines += [
            f"  Hit@10 kept: {cell(after['hit@10'] / max(before['hit@10'], 1e-9))}.  AUC, to compare: "
            f"floor (shuffled labels) {cell(*bracket(results['floor'][task][attr]))}, "
            f"ceiling (raw history) {cell(*bracket(results['ceiling'][attr]))};",
            "  The co-trained discriminator's own AUC, "
            f"{cell(results['co-trained auc'][task][attr])}, is no measure: the prompt learnt to hide from",
            "  just this one (optimistic), and it knew these users' labels (pessimistic).",
            "",
        ]
    lines += [
        "AUC 50 is chance; below 50 is a leak as well. Attackers are fresh: logistic regression and a",
        "seven-layer MLP, trained afterwards on some users' token states and tested on others' (five",
        "folds); the one farther from 50 is shown. Brackets are 95% bootstrap intervals over users.",
    ]
    return "\n".join(lines)


def bracket(attacked: dict) -> tuple[float, list[float]]:
    """(AUC, interval) of what `attack` returns."""
    return attacked["auc"][0], attacked["auc"][1:]


def example(model: Backbone, corpus: Corpus, task: str, prefix: Prefix) -> str:
    """One user's test prompt and what the model writes in answer, without and with the prefix."""
    user = np.flatnonzero(corpus.split.test >= 0)[0]
    asked = held_out_example(corpus, task, user, "test")
    batch = collate(corpus, [asked], next(model.parameters()).device)
    title = dict(zip(map(str, corpus.numbers), corpus.dataset.titles))
    lines = [corpus.tokenizer.decode(asked.input_ids)]
    for name, given in ("P5", None), ("P5 + CFP", prefix):
        ids = generate(model, batch.input_ids, batch.mask, given)[0].tolist()
        text = corpus.tokenizer.decode(ids)
        lines.append(f"  {name:<12}{text} {title.get(text, '(no item has this number)')}")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------
# The audit: every surface on which the attribute could be read
# -------------------------------------------------------------------------------------------------

SHUFFLES = 5  # repetitions of the whole attack on shuffled labels


@torch.no_grad()
def surfaces(
    model: Backbone,
    corpus: Corpus,
    task: str,
    users: np.ndarray,
    prefix: Prefix | None,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """What an attacker could be given of each user's test prompt, one row per user.

    "user tokens" is the paper's, the mean state (users, d) at the user's tokens; "all tokens" that of
    the whole prompt; "first decoder state" what the answer begins with; "scores" the log-probability
    of every item of the catalogue (users, items); "top 10" marks the ten likeliest that the user has
    not met before the test item.
    """
    device = next(model.parameters()).device
    n_items = len(corpus.numbers)
    d = model.cfg.d_model
    widths = {"user tokens": d, "all tokens": d, "first decoder state": d}
    widths |= {"scores": n_items, "top 10": n_items}
    found = {name: np.zeros((len(users), n), dtype=np.float32) for name, n in widths.items()}
    catalogue = [[corpus.target(item) for item in range(n_items)]]
    for rows, batch in held_out_batches(corpus, task, "test", users, batch_size, device):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        start = torch.full_like(batch.input_ids[:, :1], model.cfg.decoder_start_token_id)
        scores = score_candidates(model, encoded, catalogue).cpu().numpy()
        found["user tokens"][rows] = mean_user_state(encoded.states, batch.user_mask).cpu()
        found["all tokens"][rows] = mean_user_state(encoded.states, batch.mask).cpu()
        found["first decoder state"][rows] = model.decode(start, encoded)[:, 0].float().cpu()
        found["scores"][rows] = scores
        for row, user in zip(rows, batch.users):
            unmet = found["scores"][row].copy()
            unmet[corpus.dataset.histories[user][:-1]] = -np.inf
            found["top 10"][row, np.argsort(-unmet, kind="stable")[:10]] = 1.0
    return found


def leace(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that takes out of features (users, d) what is linear about the labels, and no more.

    Source: Belrose et al. 2023, theorem 4.3: x - W^+ P W (x - mean), where W whitens the features and P
    projects onto the whitened covariances with the one-hot labels, of the users that are given here.
    """
    x = features.astype(np.float64)
    mean = x.mean(0)
    centred = x - mean
    one_hot = np.eye(labels.max() + 1)[labels]
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    kept = values > values.max() * 1e-10
    root = np.sqrt(values[kept])
    whiten = (vectors[:, kept] / root) @ vectors[:, kept].T  # W, and its pseudo-inverse
    unwhiten = (vectors[:, kept] * root) @ vectors[:, kept].T
    covariance = whiten @ centred.T @ (one_hot - one_hot.mean(0)) / len(x)  # (d, c)
    u, sizes, _ = np.linalg.svd(covariance, full_matrices=False)
    u = u[:, sizes > sizes.max() * 1e-8]
    projection = whiten @ u @ u.T @ unwhiten  # (d, d), for rows
    return lambda other: (other - (other - mean) @ projection).astype(np.float32)


def audit(opened: Opened, attr: str, seed: int, say=print) -> dict:
    """What audit.json holds: the attack on each surface of each task, before and after the prefix.

    The floor of a surface is the largest distance from one half of SHUFFLES repetitions of the whole
    attack, choice of the strongest included, on shuffled labels.
    """
    corpus, model = opened.corpus, opened.model
    users = np.flatnonzero(corpus.split.test >= 0)
    labels = corpus.dataset.labels(attr)[users]
    shuffled = [np.random.default_rng([seed, 13, i]).permutation(labels) for i in range(SHUFFLES)]
    result = {"attr": attr, "users": len(users), "ceiling": history_ceiling(corpus, attr, seed)}
    result["surfaces"] = {}
    for task in opened.config["tasks"]:
        before = surfaces(model, corpus, task, users, None)
        after = surfaces(model, corpus, task, users, opened.prefix)
        for name in before:
            say(f"  attacking {task}, {name}")
            floors = [attack(after[name], wrong, None, seed)["auc"][0] for wrong in shuffled]
            result["surfaces"][f"{task}, {name}"] = {
                "before": attack(before[name], labels, None, seed),
                "after": attack(after[name], labels, None, seed),
                "floor": max(abs(value - 0.5) for value in floors),
            }
        # Fitted on half of the users and attacked on the other half. Fitted on all, it makes the
        # classes' means equal over everybody, and an attacker's training users would then tell of its
        # tested users by being the opposite (AUC 36 in place of 50).
        half = make_folds(labels, np.random.default_rng([seed, 14]), 2) == 0
        erase = leace(before["user tokens"][half], labels[half])
        erased = erase(before["user tokens"][~half])
        result["surfaces"][f"{task}, user tokens"]["leace"] = {
            name: attack(erased, labels[~half], [name], seed) for name in ATTACKERS
        }
    return result


def in_words(where: str, row: dict) -> str:
    """One sentence: how far the strongest attacker got on a surface, and whether that is chance."""
    value, low, high = row["after"]["auc"]
    far = f"the strongest fresh attacker ({row['after']['strongest']}) reaches {100 * value:.1f}"
    far += f" (95%: {100 * low:.1f} to {100 * high:.1f}) on {where}"
    floor = f"shuffled labels are up to {100 * row['floor']:.1f} away from 50"
    if abs(value - 0.5) <= row["floor"] and low <= 0.5 <= high:
        return f"{far}; {floor}: not distinguishable from chance"
    return f"{far}; {floor}"


def audit_table(result: dict) -> str:
    """The audit as a table, AUC in percent, and in words."""
    percent = lambda attacked: "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in attacked["auc"]))
    lines = [
        f"{result['attr']}: AUC (%) of the strongest fresh attacker, {result['users']} users",
        f"  {'':<34}{'P5':<20}{'P5 + CFP':<20}floor",
    ]
    for where, row in result["surfaces"].items():
        floor = f"50 +- {100 * row['floor']:.1f}"
        lines.append(f"  {where:<34}{percent(row['before']):<20}{percent(row['after']):<20}{floor}")
        for name, attacked in row.get("leace", {}).items():
            erased = "  after LEACE on P5, half the users"
            lines.append(f"  {erased:<54}{percent(attacked):<20}{name}")
    lines.append(f"  {'raw history (ceiling)':<34}{percent(result['ceiling'])}")
    return "\n".join(lines + [""] + [in_words(*row) for row in result["surfaces"].items()])


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description="Audit a finished run: what do fresh attackers read, on which surface?",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished run")
    parser.add_argument("--audit", action="store_true", required=True, help="attack every surface")
    parser.add_argument("--attr", help="what to read; else what the run hides")
    parser.add_argument("--seed", type=int, default=0, help="of folds and attackers (0)")
    args = parser.parse_args(argv)
    opened = open_run(args.run, torch.device("cpu"))
    attr = args.attr or opened.config["attr"]
    opened.corpus.dataset.labels(attr)  # says so where there is no such attribute
    result = audit(opened, attr, args.seed)
    name = "audit.json" if attr == opened.config["attr"] else f"audit-{attr}.json"
    write_atomically(args.run / name, (json.dumps(result, indent=2) + "\n").encode())
    print(audit_table(result))
    return result


if __name__ == "__main__":
    run_command(main)
