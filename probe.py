"""AUC: who is attacked, with what, on whom; and the paper's three probes (appendix A).

    python probe.py --kind classifier --attr gender --run runs/toy-gender-seed0 [--hide gender]

Attackers are fresh: they had no part in training the prompt, learn afterwards from what the recommender's
states say of some users, and are tested on others, whose label the prompt's adversary never saw either.
What they draw is drawn on the CPU, so attackers on a GPU are the same ones up to rounding. The command
reads an attribute off a run's frozen backbone, bare or, with --hide, through the run's prefix.
"""

import support  # noqa: F401, I001 (before torch; see there)
import copy
import dataclasses
from functools import partial
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cfp import CFP, Game, MLPs, mean_user_state, read_user_tokens, step
from data import Asked, Corpus, Example, collate, encode_prompt, people_with
from mixer import Opened, Study, concatenate, open_run
from model import NO_TOKEN, Backbone, Encoded, Prefix, target_loss
from support.candidates import score_candidates
from support.configs import CFPConfig, LlamaConfig, T5Config
from support.files import run_command, show, try_folder
from support.flags import probe_args, to_hide
from support.hits import interval_over_users
from support.processes import all_rows
from support.runs import write_json
from support.screens import probe_table
from support.side_by_side import (
    FOLDS,
    Problems,
    Scores,
    best_of,
    five_folds,
    in_place,
    macro_aucs,
    make_folds,
    one_by_one,
    ridge,
    standardised,
    whitened,
)
from support.training import set_rates

SHUFFLES = 20  # repetitions of a whole attack on shuffled labels, behind every floor


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """P(score of a positive > score of a negative) + half P(equal), in [0, 1].

    `scores` (users,), `positive` (users,) bool. `weights` (users, draws) counts every user that
    often and gives one value per draw; NaN where a draw has no positives or no negatives.
    """
    weights = np.ones((len(scores), 1), np.int32) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    scores, positives = scores[order], np.flatnonzero(positive[order])
    weights = np.take(weights, order, axis=0)
    up_to = np.cumsum(weights, axis=0, dtype=weights.dtype)  # (users, draws)
    n_users, up_to = up_to[-1], np.concatenate([np.zeros_like(up_to[:1]), up_to])
    starts, ends = (np.searchsorted(scores, scores[positives], side) for side in ("left", "right"))
    drawn = weights[positives].astype(float)  # exact: all are whole numbers
    n_positive = drawn.sum(0)
    # a sum of mean ranks (Mann and Whitney 1947), less what the positives win among themselves
    won = (drawn * (up_to[starts] + up_to[ends])).sum(0) / 2.0 - n_positive**2 / 2.0
    pairs = n_positive * (n_users - n_positive)
    return np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)


def macro_auc(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """AUC of an attribute with any number of classes: (draws,), or one value without weights.

    `scores` (users, c), `labels` (users,). Binary: the AUC of class 1 against class 0.
    Source: section 5.1.
    # Paper silent: AUC for more than two classes; we take the mean over the classes of each class
    against all others (macro one-vs-rest), over all classes that occur.
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


def with_interval(scores: np.ndarray, labels: np.ndarray, seed: int) -> list[float]:
    """[AUC, low, high] of scores (users, c), with a 95% interval over resampled users."""
    of = partial(macro_auc, scores, labels)
    return [float(of()[0]), *interval_over_users(len(labels), of, np.random.default_rng(seed))]


def attack_logistic(
    x: Tensor, problems: Problems, n_classes: int, seed: int, penalties: tuple[float, ...]
) -> list[Scores]:
    """Logistic regression on x (users, d): mean cross-entropy + penalty / 2 * |weights|^2, each of them.

    All problems go through the same users in one matrix product, with every penalty, and are told apart
    by who counts. 300 steps of accelerated gradient descent (Nesterov 1983), each one over the curvature.
    """
    (n, d), (g, f, n_train), k = x.shape, problems.train.shape, len(penalties)
    counts = x.new_zeros(g, f, n).scatter_(2, problems.train, 1.0 / n_train)
    counts = counts.flatten(0, 1).T.repeat(1, k).unsqueeze(1)  # (n, 1, k*g*f)
    one_hot = F.one_hot(problems.labels, n_classes).float()  # (g, n, c)
    one_hot = one_hot.permute(1, 2, 0).repeat_interleave(f, dim=2).repeat(1, 1, k)  # (n, c, k*g*f)
    x = torch.cat([x, x.new_ones(n, 1)], dim=1)  # the bias, which is penalised like the others
    penalty = x.new_tensor(penalties).repeat_interleave(g * f).repeat(n_classes)  # (c*k*g*f)
    curvature = 0.5 * torch.linalg.matrix_norm(x, 2).square() / n_train + penalty
    weight = x.new_zeros(d + 1, len(penalty))
    ahead = weight
    for i in range(300):
        # classes in the middle: a softmax over a short last axis takes four times as long
        p = (x @ ahead).view(n, n_classes, k * g * f).softmax(1)
        gradient = x.T @ p.sub_(one_hot).mul_(counts).flatten(1) + penalty * ahead
        previous, weight = weight, ahead - gradient / curvature
        ahead = weight + i / (i + 3) * (weight - previous)
    logits = (x @ weight).view(n, n_classes, k, g, f).permute(2, 3, 4, 0, 1).log_softmax(-1)
    pick = lambda one, rows: one.gather(2, rows.unsqueeze(-1).expand(-1, -1, -1, n_classes))
    return [Scores(pick(one, problems.valid), pick(one, problems.test)) for one in logits]


def attack_kernel(
    x: Tensor, problems: Problems, n_classes: int, seed: int, whiten: bool
) -> list[Scores]:
    """Kernel ridge regression on x (users, d), solved exactly: neither linear nor a network.

    The kernel is a Gaussian by random Fourier features (Rahimi and Recht 2007), waves along random
    directions; its width is half, once and twice the median distance of two users. `whiten` is for what
    a prompt left in directions in which states hardly vary; more than 1,024 (raw histories) have none.
    """
    if whiten and x.shape[1] > 1024:
        return []
    x = whitened(x) if whiten else x
    n_waves, generator = min(1024, len(x) // 4), torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[1], n_waves, generator=generator).to(x.device)
    phases = 2 * np.pi * torch.rand(n_waves, generator=generator).to(x.device)
    some = torch.randperm(len(x), generator=generator)[:1000].to(x.device)
    median, found = torch.pdist(x[some]).median().clamp(min=1e-6), []  # 0 where nobody differs
    for width in (0.5, 1.0, 2.0):
        waves = torch.cos(x @ directions / (width * median) + phases) * (2 / n_waves) ** 0.5
        solve = lambda train, y, others: ridge(waves[train], y, waves[others])
        found += one_by_one(problems, n_classes, solve)
    return found


def attack_quadratic(x: Tensor, problems: Problems, n_classes: int, seed: int) -> list[Scores]:
    """Quadratic discriminant analysis on x (users, d), solved exactly: of each class a Gaussian.

    It reads classes that vary in different directions though their means are alike. States are whitened;
    more than 1,024 (raw histories) have none. A class has fewer users than its covariance has entries, so
    a half, four fifths or nineteen twentieths of it are the unit matrix (Friedman 1989).
    """
    if x.shape[1] > 1024:
        return []
    x, eye = whitened(x), torch.eye(x.shape[1], device=x.device)

    def log_likelihoods(train: Tensor, y: Tensor, others: Tensor) -> Tensor:
        n = y.sum(0).clamp(min=1)  # users of each class
        means = (y / n).T @ x[train]  # (c, d)
        apart, found = x[train] - y @ means, []
        spread = torch.einsum("uc,ud,ue->cde", y / n, apart, apart)
        from_means = (x[others] - means[:, None]).mT  # (c, d, others)
        for share in (0.5, 0.8, 0.95):
            root = torch.linalg.cholesky((1 - share) * spread + share * eye)
            z = torch.linalg.solve_triangular(root, from_means, upper=False)
            log_volume = root.diagonal(dim1=1, dim2=2).log().sum(1)
            found.append((n.log() - log_volume)[:, None] - z.square().sum(1) / 2)
        return torch.stack(found).mT.log_softmax(-1)

    return one_by_one(problems, n_classes, log_likelihoods)


def attack_mlp(
    x: Tensor, problems: Problems, n_classes: int, seed: int, depth: int, lr: float
) -> list[Scores]:
    """An MLP on x (users, d); depth 7 is the paper's (appendix A.3). Mean of two of them.

    All problems' networks are trained side by side with AdamW, for 24 passes over their
    training users at most. A labelling's networks are tested as they were after the pass whose AUC
    on validation users, mean over the folds, was farthest from one half, and are not looked at any more
    when six in a row were nearer.
    """
    torch.manual_seed(seed)
    n_seeds, (g, f, n_train) = 2, problems.train.shape
    together = lambda rows: rows.repeat(n_seeds, 1, 1).flatten(0, 1)  # (s*g*f, users), s the seeds
    train, rest = together(problems.train), together(torch.cat(problems[2:], dim=2))
    y = together(problems.labels_of(problems.train))
    valid_y = problems.labels_of(problems.valid)
    nets = MLPs(len(train), x.shape[1], n_classes, depth, hidden=64, dropout=0.0).to(x.device)
    optimizer = torch.optim.AdamW(nets.parameters(), lr=lr, weight_decay=0.3, fused=True)
    farthest, waited, kept = x.new_full((g,), -1.0), x.new_zeros(g), None
    for _ in range(24):
        order = torch.rand(train.shape).argsort(1).to(x.device)
        for some in order.split(max(128, n_train // 32), dim=1):  # (nets, b)
            logits = nets(x[train.gather(1, some)])
            loss = F.cross_entropy(logits.flatten(0, 1), y.gather(1, some).flatten()) * len(train)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = nets(x[rest]).log_softmax(-1).unflatten(0, (n_seeds, g, f)).mean(0)
        scores = Scores(*logits.split([problems.valid.shape[2], problems.test.shape[2]], dim=2))
        distance = (macro_aucs(scores.valid, valid_y).mean(1) - 0.5).abs()  # (g,)
        better = (distance > farthest) & (waited < 6)
        farthest, waited = distance.where(better, farthest), torch.where(better, 0, waited + 1)
        keep = better[:, None, None, None]
        kept = scores if kept is None else Scores(*map(lambda a, b: a.where(keep, b), scores, kept))
        if (waited >= 6).all():
            break
    return [kept]


ATTACKERS: dict[str, list[Callable[..., list[Scores]]]] = {  # each with its settings
    "logistic regression": [partial(attack_logistic, penalties=(1.0, 0.1, 0.01, 0.001))],
    "seven-layer MLP": [partial(attack_mlp, depth=7, lr=lr) for lr in (1e-3, 4e-3)],
    "two-layer MLP": [partial(attack_mlp, depth=2, lr=lr) for lr in (1e-3, 1e-2)],
    "kernel ridge": [partial(attack_kernel, whiten=whiten) for whiten in (False, True)],
    "quadratic discriminant": [attack_quadratic],
}
TOGETHER = "all attackers together"


def of_labelled(features: np.ndarray, labels: np.ndarray, tested: np.ndarray | None) -> tuple:
    """The rows of those users who have a label; where `tested` is None all of them are."""
    rows = labels >= 0
    return features[rows], labels[rows], (rows if tested is None else tested)[rows]


def cross_fit(
    features: np.ndarray,
    labels: np.ndarray,
    names: list[str] | None,
    seeds: list[int],
    device: str | torch.device,
    tested: np.ndarray,
) -> tuple[list[str], Tensor, Tensor]:
    """Every attacker on features (users, d) and one or more labellings (g, users), each with its seed.

    Returns the attackers' names, their AUC on validation users (a, g), the mean over the folds, and
    each tested user's ranks (a, g, tested, c), on the CPU. A setting that is more often wrong than right
    on validation users is turned around; of an attacker's settings the best one there counts, for each
    labelling. Where there are more attackers than one, the mean of their ranks is another. Features are
    standardised (no label is looked at for that).
    """
    problems = five_folds(labels, seeds, tested).to(device)
    y_valid, n_classes = problems.labels_of(problems.valid), int(labels.max()) + 1
    x, found = standardised(features).to(device), []
    for name in names or ATTACKERS:
        tried = [one for a in ATTACKERS[name] for one in a(x, problems, n_classes, seeds[0])]
        found.append((name, *best_of(tried, y_valid)))
    if len(found) > 1:
        mean = Scores(*(sum(parts) / len(found) for parts in zip(*(best for _, _, best in found))))
        found.append((TOGETHER, macro_aucs(mean.valid, y_valid).mean(1), mean))
    pooled = [in_place(best.test, problems)[:, tested] for _, _, best in found]
    return (
        [name for name, _, _ in found],
        torch.stack([v for _, v, _ in found]).cpu(),
        torch.stack(pooled),
    )


def attack(
    features: np.ndarray,
    labels: np.ndarray,
    names: list[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    tested: np.ndarray | None = None,
) -> dict:
    """Let fresh attackers predict each user's class from features (users, d) of users they never saw.

    `labels` (users,) are negative for users without one, who are in nothing here.
    Five folds over the `tested` users (users,), all if None, stratified by class: an attacker is tested on
    one, chosen on a second and trained on the other three and on everybody else, so that each of them is
    tested once. Where a prompt hides, they are to be people whose label had no part in it: among the others
    it hides chance as well, and what attackers learn from some of them is wrong for the rest.

    Chosen are an attacker's settings, the pass at which a network is taken, whether it is turned around
    and which attacker is the strongest, each once for all five folds; so a tested user's label has a part
    in a choice among a few dozen, through the network of another fold. That errs towards finding a leak:
    where there is none the AUC is a little above one half, and `floor` repeats it all. Returns "auc", the
    strongest attacker's [AUC, low, high] on tested users, with a 95% interval over resampled users;
    "strongest", its name; for each "by attacker" the same triple, "validation" the AUC it was chosen by,
    and "one-vs-one".
    """
    features, labels, tested = of_labelled(features, labels, tested)
    enough = np.bincount(labels[tested]) >= FOLDS
    assert enough.sum() >= 2, "an attack needs two classes of five users"
    tried, valid_auc, ranks = cross_fit(features, labels[None], names, [seed], device, tested)
    labels, ranks = labels[tested], ranks[:, 0].numpy()
    by_attacker = {name: with_interval(one, labels, seed) for name, one in zip(tried, ranks)}
    strongest = tried[valid_auc[:, 0].argmax()]
    return {
        "auc": by_attacker[strongest],
        "strongest": strongest,
        "by attacker": by_attacker,
        "validation": dict(zip(tried, valid_auc[:, 0].tolist())),
        "one-vs-one": {name: macro_ovo(one, labels) for name, one in zip(tried, ranks)},
    }


def floor(
    features: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    shuffles: int = SHUFFLES,
    device: str | torch.device = "cpu",
    tested: np.ndarray | None = None,
) -> float:
    """How far from one half `attack` gets on these features when there is nothing to find.

    The whole of it, the choice of the strongest included, is repeated on shuffled labels; returned is
    the 95% quantile of the distances between its AUC on tested users and one half.
    """
    rng, distances = np.random.default_rng([seed, 13]), []
    features, labels, tested = of_labelled(features, labels, tested)
    shuffled = np.stack([rng.permutation(labels) for _ in range(shuffles)])
    for some in np.array_split(np.arange(shuffles), -(-shuffles // 5)):  # fast, in little memory
        seeds = (seed + 1 + some).tolist()
        _, valid_auc, ranks = cross_fit(features, shuffled[some], None, seeds, device, tested)
        strongest = ranks[valid_auc.argmax(0), torch.arange(len(some))]
        own = torch.from_numpy(shuffled[some][:, tested])
        distances.append((macro_aucs(strongest, own) - 0.5).abs())
    return float(np.quantile(torch.cat(distances).numpy(), 0.95))


def whom(held_out: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which users attackers are tested on (users,): those whose label no prompt has learnt from.

    `held_out` (users,) is True where the adversary was not told the label. Where it knew all, everybody is
    tested who has one: `labels` (users,) are negative for the others.
    """
    labelled = labels >= 0
    unseen = held_out & labelled
    return unseen if unseen.any() else labelled


@torch.no_grad()
def user_states(
    model: Backbone, asked: Asked, prefix: Prefix | None = None, batch_size: int = 256
) -> np.ndarray:
    """Mean user-token states (users, d) of the held-out prompts: what the paper's attack is given."""
    states = np.zeros((len(asked.users), model.cfg.d_model), dtype=np.float32)
    for rows, batch in asked.batches(batch_size, next(model.parameters()).device):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        states[rows] = mean_user_state(encoded.states, batch.user_mask).cpu()
    return states


def class_names(corpus: Corpus, attr: str) -> list[str]:
    """What a person would call each class: the paper's Female and Male, the others as the data do."""
    names = corpus.dataset.classes[attr]
    return [{"F": "Female", "M": "Male"}.get(n, n) for n in names] if attr == "gender" else names


def class_answers(corpus: Corpus, attr: str) -> list[tuple[int, ...]]:
    """The token ids, with the end token, by which the model would name each class."""
    token = corpus.tokenizer.word
    return [
        (*(i for word in name.split(" ") for i in token(word)), corpus.tokenizer.eos_id)
        for name in class_names(corpus, attr)
    ]


def history_of(corpus: Corpus, user: int) -> str:
    """The numbers of the newest training items, as many as a sequential prompt shows."""
    items = corpus.split.train[user][-corpus.window :]
    return ", ".join(str(corpus.numbers[item]) for item in items)


def question(corpus: Corpus, user: int, attr: str, with_history: bool, asked: bool) -> str:
    """The paper's words, "Input" of the discrete prompts of appendix A.1.

    Without history the paper asks "for user_N" directly and "of user_N" in a context (`asked` False).
    """
    plural, _, verb, _ = corpus.dataset.nouns
    name = f"user_{user + 1}"
    if not with_history:
        return f"What is the {attr} {'for' if asked else 'of'} {name}?"
    seen = f"User_{user + 1} has {verb} {plural} {history_of(corpus, user)}."
    return f"{seen} What is the {attr} of {name}?"


def manual_prompt(
    corpus: Corpus, user: int, attr: str, with_history: bool, others: np.ndarray
) -> str:
    """A question about `user`; before it those about the `others` with their answers, if any.

    As many of them are taken, in their order, as `corpus.max_tokens` allows.
    """
    encode = lambda text: len(encode_prompt(text, user + 1, corpus.tokenizer)[0])
    asked = question(corpus, user, attr, with_history, asked=len(others) == 0)
    length, context = encode(asked), []
    names = class_names(corpus, attr)
    for other in others:
        answer = names[corpus.dataset.attributes[attr][other]]
        text = f"{question(corpus, other, attr, with_history, asked=False)} {answer}."
        length += encode(text)
        if length > corpus.max_tokens:
            break
        context.append(text)
    return " ".join([*context, asked])


@torch.no_grad()
def class_scores(
    opened: Opened,
    attr: str,
    prefix: Prefix | None,
    text_of: Callable[[int], str],
    users: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """log P(class | text), (users, c): the answer is constrained to the attribute's values.

    Source: appendix A.1, which takes the constraint from De Cao et al. 2021. Every value is scored exactly.
    """
    corpus, model, rows = opened.corpus, opened.model, []
    answers, device = [class_answers(corpus, attr)], next(model.parameters()).device
    for batch in np.array_split(users, -(-len(users) // batch_size)):
        encoded = model.encode(*as_batch(corpus, batch, text_of, device), prefix)
        rows.append(score_candidates(model, encoded, answers).cpu().numpy())
    return np.concatenate(rows)


def as_batch(
    corpus: Corpus, users: np.ndarray, text_of: Callable[[int], str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """A text about each user as ids and mask (b, s)."""
    encode = lambda user: encode_prompt(text_of(user), user + 1, corpus.tokenizer)
    examples = [Example(user, *encode(user), -1) for user in users]
    batch = collate(corpus, examples, device)
    return batch.input_ids, batch.mask


def manual_scores(
    opened: Opened,
    attr: str,
    prefix: Prefix | None,
    asking: tuple[bool, bool],
    users: np.ndarray,
    seed: int,
) -> np.ndarray:
    """`class_scores` of the discrete prompts of appendix A.1; `asking`: (in context?, with history?).

    The users in a context are drawn at random from all others who have a label.
    """
    corpus, rng = opened.corpus, np.random.default_rng([seed, 9])
    people, (in_context, with_history) = np.flatnonzero(corpus.dataset.labelled(attr)), asking

    def text_of(user: int) -> str:
        others = np.setdiff1d(people, [user])
        others = rng.permutation(others)[: 64 if in_context else 0]
        return manual_prompt(corpus, user, attr, with_history, others)

    return class_scores(opened, attr, prefix, text_of, users, 32)


def probe_manual(opened: Opened, attr: str, prefix: Prefix | None, seed: int) -> dict:
    """AUC of each way of asking (appendix A.1): direct and in context, without and with history."""
    labels, found = opened.corpus.dataset.labels(attr), {}
    users = np.flatnonzero(opened.corpus.dataset.labelled(attr))
    users = users[whom(opened.unseen(attr)[users], labels[users])]
    for in_context in False, True:
        for with_history in False, True:
            name = f"{'in-context' if in_context else 'direct'}, "
            name += f"{'with' if with_history else 'without'} interactions"
            asking = in_context, with_history
            scores = manual_scores(opened, attr, prefix, asking, users, seed)
            found[name] = measured(scores, labels[users], seed)
    return found


def soft_prompt(model_cfg: T5Config | LlamaConfig, length: int = 15) -> CFP:
    """The soft probing prompt of Eq. 6: the encoder's from a two-layer MLP, the decoder's from a three-layer.

    Source: appendix A.2. # Differs from the paper: keys and values in every layer, like the CFP's, in
    place of vectors before the text; they read more (the paper's reference for the MLPs, Li and
    Liang 2021, has them in every layer too).
    """
    return CFP(CFPConfig(prefix_len=length, prefix_hidden=64), model_cfg, decoder_depth=3)


def after(prefix: Prefix | None, soft: CFP) -> Prefix:
    """The soft prompt after the prefix that is probed through."""
    return soft() if prefix is None else concatenate([prefix, soft()])


def soft_text(corpus: Corpus, user: int) -> str:
    """The discrete part of the soft probe's input (appendix A.2)."""
    plural, _, verb, _ = corpus.dataset.nouns
    return f"User user_{user + 1} has {verb} {plural} {history_of(corpus, user)}."


def answer_tokens(corpus: Corpus, attr: str, device) -> Tensor:
    """The answer that names each class, token ids (c, y) filled up with NO_TOKEN."""
    answers = [*map(torch.tensor, class_answers(corpus, attr))]
    return pad_sequence(answers, batch_first=True, padding_value=NO_TOKEN).to(device)


def soft_loss(
    model: Backbone, prefix: Prefix, ids: Tensor, mask: Tensor, answer_ids: Tensor
) -> Tensor:
    """L of Eq. 6 in nats: minus the log-probability of the answer's tokens, mean over the users.

    `answer_ids` (b, y) are filled up with NO_TOKEN.
    """
    return target_loss(model, model.encode(ids, mask, prefix), answer_ids)


def probe_soft(
    opened: Opened, attr: str, prefix: Prefix | None, seed: int, epochs: int = 40
) -> dict:
    """AUC of a soft prompt on a tenth of the users in `whom`; tuned on all others but a tenth like it.

    Source: appendix A.2. That second tenth chooses the epoch.
    """
    corpus, model = opened.corpus, opened.model
    labels, rng = corpus.dataset.labels(attr), np.random.default_rng([seed, 10])
    torch.manual_seed(seed)
    people = np.flatnonzero(corpus.dataset.labelled(attr))
    tested = people[whom(opened.unseen(attr)[people], labels[people])]
    tenth = make_folds(labels[tested], rng, 10)
    test, valid = tested[tenth == 0], tested[tenth == 1]
    train = np.setdiff1d(people, [*test, *valid])
    device = next(model.parameters()).device
    answer_ids, text_of = answer_tokens(corpus, attr, device), partial(soft_text, corpus)
    soft = soft_prompt(model.cfg).to(device)
    optimizer = torch.optim.AdamW(soft.parameters(), 5e-3, weight_decay=0.0, fused=True)
    best, best_auc = None, -1.0
    for epoch in range(epochs):
        set_rates(optimizer, 1 - epoch / epochs)
        for users in np.array_split(rng.permutation(train), -(-len(train) // 64)):
            ids, mask = as_batch(corpus, users, text_of, device)
            loss = soft_loss(model, after(prefix, soft), ids, mask, answer_ids[labels[users]])
            step(optimizer, loss)
        with torch.no_grad():
            scores = class_scores(opened, attr, after(prefix, soft), text_of, valid, 256)
        valid_auc = macro_auc(scores, labels[valid])[0]
        if valid_auc > best_auc:
            best_auc, best = valid_auc, copy.deepcopy(soft)
    with torch.no_grad():
        scores = class_scores(opened, attr, after(prefix, best), text_of, test, 256)
    return {"soft prompt": measured(scores, labels[test], seed)}


def probe_classifier(opened: Opened, attr: str, prefix: Prefix | None, seed: int) -> dict:
    """AUC of the seven-layer classifier on the user-token states, per task (appendix A.3).

    # Differs from the paper: one state per user and task and five folds over the users, so that
    # everybody is tested and nobody is tested on a sentence about a person seen in training.
    """
    corpus, users, found = opened.corpus, people_with(opened.corpus, "test"), {}
    labels = corpus.dataset.labels(attr)[users]
    tested = whom(opened.unseen(attr)[users], labels)
    for task in opened.config["tasks"]:
        states = user_states(opened.model, Asked(corpus, task, "test", users), prefix)
        attacked = attack(states, labels, ["seven-layer MLP"], seed, tested=tested)
        found[f"classifier, {task} prompts"] = {
            "auc": attacked["auc"],
            "one-vs-one": attacked["one-vs-one"]["seven-layer MLP"],
            "users": int(tested.sum()),
        }
    return found


def first_decoder_state(model: Backbone, encoded: Encoded) -> Tensor:
    """(b, d): what the first token of the answer is predicted from."""
    start = torch.full_like(encoded.mask[:, :1], model.cfg.decoder_start_token_id, dtype=torch.long)
    return model.decode(start, encoded)[:, 0].float()


def read_scores(
    model: Backbone, encoded: list[Encoded], batches: list, prefix: Prefix | None
) -> list[Tensor]:
    """u_emb of the user tokens, then for each task the decoder's first state.

    # Differs from the paper: from that state the answer is written, so more than the user tokens is
    cleaned. A game's `size` counts both readings.
    """
    user_tokens = read_user_tokens(model, encoded, batches, prefix)
    return user_tokens + [all_rows(first_decoder_state(model, e)) for e in encoded]


class SoftGame(Game):
    """Against a soft probing prompt (section 6): it reads its own prompts through the prefix.

    So what it is given in place of user states is the prefix itself. Its loss counts without end: Eq. 6
    counts what it takes to write the class's name as well, so it stays far above the entropy (5.7 nats
    after 480 steps in the toy world), and with a cap the prefix would never be moved by it.
    """

    read = staticmethod(lambda model, encoded, batches, prefix: [prefix])
    can_collapse = False  # it begins without the words, far from a blind guess

    def __init__(self, study: Study, labels: dict[str, np.ndarray], choices: list, cfg: CFPConfig):
        self.study = study
        cfg = dataclasses.replace(cfg, dis_weight_decay=0.0, cap=None)
        rng = np.random.default_rng([study.seed, 20])
        size = study.model.cfg.d_model, len(study.tasks)
        super().__init__(labels, choices, cfg, size, rng, study.device)
        self.answers = {k: answer_tokens(study.corpus, k, study.device) for k in labels}

    def discriminator(self, n_classes: int) -> CFP:
        return soft_prompt(self.study.model.cfg)

    def dis_loss(self, attrs: tuple[str, ...], u_emb: list, users: np.ndarray) -> Tensor:
        """L of Eq. 6 in place of Eq. 3, (attributes, 1), in nats."""
        (prefix,), losses = u_emb, []
        for k, soft in self.adversary[attrs].items():
            known = self.labels[k][users].any(1)
            if not known.any():  # of nobody in this batch
                losses.append(0.0 * soft().decoder.sum())
                continue
            corpus, asked = self.study.corpus, users[known.cpu().numpy()]
            texts = as_batch(corpus, asked, partial(soft_text, corpus), self.study.device)
            answers = self.answers[k][self.labels[k][users][known].argmax(1)]
            losses.append(soft_loss(self.study.model, after(prefix, soft), *texts, answers))
        return torch.stack(losses).unsqueeze(1)


def game_of(
    study: Study, labels: dict[str, np.ndarray], choices: list[tuple[str, ...]], cfg: CFPConfig
) -> Game:
    """The game that the settings ask for: the paper's, or one against another adversary."""
    if cfg.discriminator == "soft":
        return SoftGame(study, labels, choices, cfg)
    n_readings = len(study.tasks) * (2 if cfg.hide_from == "scores" else 1)
    size, rng = (study.model.cfg.d_model, n_readings), np.random.default_rng([study.seed, 20])
    game = Game(labels, choices, cfg, size, rng, study.device)
    if cfg.hide_from == "scores":
        game.read = read_scores
    return game


PROBES = {"manual": probe_manual, "soft": probe_soft, "classifier": probe_classifier}


def measured(scores: np.ndarray, labels: np.ndarray, seed: int) -> dict:
    """AUC of log-probabilities (users, c) with its interval, the same one-vs-one, and of how many users.

    They are normalised first: with the answer constrained to the classes, these are all there is.
    """
    scores = scores.astype(np.float64)
    scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
    return {
        "auc": with_interval(scores, labels, seed),
        "one-vs-one": macro_ovo(scores, labels),
        "users": len(labels),
    }


def main(argv: list[str] | None = None) -> dict:
    args = probe_args(argv, PROBES)
    opened = open_run(args.run, torch.device("cpu"))
    try_folder(args.run)
    hide = to_hide(args.hide, opened)
    found = PROBES[args.kind](opened, args.attr, opened.hiding(hide), args.seed)
    show(probe_table(args.kind, args.attr, args.hide if hide else "", found))
    hidden = f"-hiding-{'+'.join(hide)}" if hide else ""
    write_json(args.run / f"probe-{args.kind}-{args.attr}{hidden}.json", found)
    return found


if __name__ == "__main__":
    run_command(main)
