"""What a backbone answers: the most probable text, and the exact probability of each candidate item.

`model` is a T5 or a Llama of `model.py`, where the axes' letters are explained; `encoded` are prompts that it
has read, a `prefix` is what it reads them behind.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@torch.no_grad()
def generate(model, input_ids: Tensor, mask: Tensor, prefix=None, max_tokens: int = 8) -> Tensor:
    """Greedy answer to each prompt: ids (b, up to max_tokens), the end token repeated after the first."""
    encoded = model.encode(input_ids, mask, prefix)
    answer = torch.full_like(input_ids[:, :1], model.cfg.decoder_start_token_id)
    done = torch.zeros_like(answer, dtype=torch.bool)
    while answer.shape[1] <= max_tokens and not done.all():
        states = model.decode(answer, encoded)  # an answer is short: nothing is kept of the last
        token = model.logits(states[:, -1:]).argmax(-1).masked_fill(done, model.cfg.eos_token_id)
        done |= token == model.cfg.eos_token_id
        answer = torch.cat([answer, token], dim=1)
    return answer[:, 1:]


AT_ONCE = 128  # beginnings of a user's candidates that stand side by side in the decoder, about


def candidate_tree(candidates: list[tuple[int, ...]], start: int, length: int) -> tuple:
    """The distinct beginnings of candidates (token ids, each with its end token) as one row of "nodes".

    Node 0 is the start token; two candidates that begin alike share the nodes of their beginning.
    Returns the token of each node (t,), its position (t,), for each candidate the nodes after which its
    tokens are predicted (i, `length`), the last one repeated, and those tokens, -1 after the last.
    """
    nodes, paths = {(): 0}, np.zeros((len(candidates), length), dtype=np.int64)
    targets = np.full_like(paths, -1)
    for row, ids in enumerate(candidates):
        targets[row, : len(ids)] = ids
        for j in range(1, length):  # the last token is predicted, never fed
            paths[row, j] = nodes.setdefault(ids[: min(j, len(ids) - 1)], len(nodes))
    tokens = [start, *(beginning[-1] for beginning in nodes if beginning)]
    return np.array(tokens), np.array([*map(len, nodes)]), paths, targets


@torch.no_grad()
def score_candidates(model, encoded, candidates: list[list[tuple[int, ...]]]) -> Tensor:
    """Exact log P(candidate | prompt) in nats, (b, i), -inf where a row has fewer candidates.

    `candidates` gives each row's targets as token ids with the end token (a list of one serves every
    row). The decoder runs once: all distinct beginnings of a row's candidates stand side by side, and
    each sees only the tokens that come before it. Where there are many they are taken in pieces: the
    attention among the beginnings grows with the square of their number.
    """
    device, n_rows = encoded.mask.device, len(encoded.mask)
    length = max(len(ids) for row in candidates for ids in row)
    trees = [candidate_tree(row, model.cfg.decoder_start_token_id, length) for row in candidates]
    stack = lambda rows, value: pad_sequence([*map(torch.from_numpy, rows)], True, value)
    # (b, t), (b, t), (b, i, y), (b, i, y); what fills up is seen by nobody
    tokens, depths, paths, targets = map(stack, zip(*trees), (0, 0, 0, -1))
    n_nodes, n_candidates = tokens.shape[1], paths.shape[1]
    if n_nodes > 2 * AT_ONCE and n_candidates > 1:
        size = max(n_candidates * AT_ONCE // n_nodes, 1)
        pieces = [[row[i : i + size] for row in candidates] for i in range(0, n_candidates, size)]
        return torch.cat([score_candidates(model, encoded, piece) for piece in pieces], dim=1)
    visible = torch.eye(n_nodes, dtype=torch.bool).repeat(len(trees), 1, 1)  # (b, t, t)
    tree = torch.arange(len(trees))[:, None, None]
    for j in range(length):  # a node sees those that come before it on its path
        visible[tree, paths[:, :, j : j + 1], paths[:, :, : j + 1]] = True
    states = model.decode(
        tokens.to(device).expand(n_rows, -1),
        encoded,
        positions=depths.to(device),
        visible=visible.to(device),
    )
    paths, targets = paths.to(device), targets.to(device)
    log_z, row = log_normalizer(model, states), torch.arange(n_rows, device=device)[:, None]
    scores = torch.zeros(n_rows, paths.shape[1], device=device)
    for part in torch.arange(paths.shape[1], device=device).split(AT_ONCE):  # (b, i, d) is large
        # one token of every candidate at a time: node and target are (b or 1, i)
        for node, target in zip(paths[:, part].unbind(-1), targets[:, part].unbind(-1)):
            weight_bid = model.head_weight()[target.clamp(min=0)]
            logit = (states[row, node].float() * weight_bid.float()).sum(-1)
            scores[:, part] += (logit - log_z[row, node]).masked_fill(target < 0, 0.0)
    return scores.masked_fill((targets < 0).all(-1), -torch.inf)


def log_normalizer(model, states_btd: Tensor) -> Tensor:
    """log of the sum of exp(logits) over the vocabulary after each state (b, t, d), in nats, (b, t).

    Some states and a slice of the vocabulary at a time: the logits of all at once would be gigabytes,
    and what stays in a processor's cache is 2.7 times as fast as all states with a slice.
    """
    slices, found = model.head_weight().split(1024), []
    for states_sd in states_btd.flatten(0, -2).split(65536 if states_btd.is_cuda else 512):
        parts = [F.linear(states_sd, weight).float().logsumexp(-1) for weight in slices]
        found.append(torch.stack(parts).logsumexp(0))
    return torch.cat(found).view(states_btd.shape[:-1])


def rank_of_first(scores: np.ndarray, n_candidates: list[int]) -> np.ndarray:
    """Rank, 1 is best, of column 0 of each row (b, i) among its first `n_candidates` columns.

    Ties count against the model: a candidate with the same score stands before the right one, and
    so does a score that is not a number.
    """
    n_candidates = np.asarray(n_candidates)
    is_one = np.arange(scores.shape[1]) < n_candidates[:, None]
    beaten = is_one & (scores < scores[:, :1])  # False where either is NaN
    return n_candidates - beaten.sum(1)


# How far two computations of the same log-probability may lie apart, in nats.
SLACK = {torch.float32: 1e-3, torch.bfloat16: 1.0, torch.float16: 0.2}


@torch.no_grad()
def ranks_by_end(model, encoded, candidates: list[list[tuple[int, ...]]]) -> np.ndarray:
    """Rank (b,), 1 is best, of each row's first candidate: `rank_of_first` of `score_candidates`, for less.

    An answer is at most as likely as its tokens without the end. So the first candidate beats every other
    whose beginning is already less likely than the whole of it, and the ends of the rest alone are looked
    at: of a catalogue of thousands, about as many as stand before the right item.
    """
    begun = score_candidates(model, encoded, [[ids[:-1] for ids in row] for row in candidates])
    first = score_candidates(model, encoded, [row[:1] for row in candidates])
    beaten = (begun < first - SLACK[encoded.states.dtype]).cpu().numpy()  # not where either is NaN
    beaten[:, 0] = False
    left = [[ids for ids, is_so in zip(*pair) if not is_so] for pair in zip(candidates, beaten)]
    ranks, n_left = np.empty(len(left), dtype=np.int64), np.array([*map(len, left)])
    # rows with about as many left are scored together
    for rows in np.array_split(np.argsort(n_left, kind="stable"), min(4, len(left))):
        part = encoded.of_rows(torch.from_numpy(rows).to(encoded.mask.device))
        scores = score_candidates(model, part, [left[row] for row in rows])
        ranks[rows] = rank_of_first(scores.cpu().numpy(), n_left[rows])
    return ranks
