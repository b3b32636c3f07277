"""What a backbone answers: the most probable text, and the exact probability of each candidate item.

The axes' letters are explained at the top of `model.py`.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import Backbone, Encoded, Prefix


@torch.no_grad()
def generate(
    model: Backbone,
    input_ids: Tensor,
    mask: Tensor,
    prefix: Prefix | None = None,
    max_tokens: int = 8,
) -> Tensor:
    """Greedy answer to each prompt: ids (b, up to max_tokens), the end token repeated after the first."""
    encoded, cache = model.encode(input_ids, mask, prefix), model.new_cache()
    token = torch.full_like(input_ids[:, :1], model.cfg.decoder_start_token_id)
    done = torch.zeros_like(token, dtype=torch.bool)
    answer = []
    while len(answer) < max_tokens and not done.all():
        state = model.decode(token, encoded, cache)
        token = model.logits(state).argmax(-1).masked_fill(done, model.cfg.eos_token_id)
        done |= token == model.cfg.eos_token_id
        answer.append(token)
    return torch.cat(answer, dim=1)


AT_ONCE = 128  # beginnings of a user's candidates that stand side by side in the decoder, about


class CandidateTree(NamedTuple):
    """The distinct beginnings of some token sequences, laid out as one row of tokens ("nodes").

    Node 0 is the start token; two candidates that begin alike share the nodes of their beginning.
    """

    token: np.ndarray  # (t,) the token of each node
    depth: np.ndarray  # (t,) how many tokens come before it: its position
    parent: np.ndarray  # (t,) index of the node before it; -1 for node 0
    path: np.ndarray  # (i, y) for each candidate the node after which each token is predicted
    target: np.ndarray  # (i, y) those tokens, -1 after the last


def candidate_tree(candidates: list[tuple[int, ...]], start: int) -> CandidateTree:
    """The tree of candidates given as token ids, each with its end token."""
    nodes = {(): 0}
    token, depth, parent = [start], [0], [-1]
    length = max(map(len, candidates), default=0)
    path = np.zeros((len(candidates), length), dtype=np.int64)
    target = np.full((len(candidates), length), -1, dtype=np.int64)
    for row, ids in enumerate(candidates):
        target[row, : len(ids)] = ids
        for j in range(1, len(ids)):  # the last token is predicted, never fed
            beginning = ids[:j]
            if beginning not in nodes:
                nodes[beginning] = len(token)
                token.append(beginning[-1])
                depth.append(j)
                parent.append(nodes[beginning[:-1]])
            path[row, j] = nodes[beginning]
    return CandidateTree(np.array(token), np.array(depth), np.array(parent), path, target)


def pad_stack(rows: list[np.ndarray], value: int) -> Tensor:
    """Arrays of different sizes as one tensor (b, ..), filled up with `value`."""
    shape = np.max([row.shape for row in rows], axis=0)
    out = np.full((len(rows), *shape), value, dtype=np.int64)
    for i, row in enumerate(rows):
        out[(i, *map(slice, row.shape))] = row
    return torch.from_numpy(out)


@torch.no_grad()
def score_candidates(
    model: Backbone, encoded: Encoded, candidates: list[list[tuple[int, ...]]]
) -> Tensor:
    """Exact log P(candidate | prompt) in nats, (b, i), -inf where a row has fewer candidates.

    `candidates` gives each row's targets as token ids with the end token (a list of one serves every
    row). The decoder runs once: all distinct beginnings of a row's candidates stand side by side, and
    each sees only the tokens that come before it in its own candidates. Where there are many they are
    taken in pieces: the attention among the beginnings grows with the square of their number.
    """
    device, n_rows = encoded.mask.device, len(encoded.mask)
    trees = [candidate_tree(row, model.cfg.decoder_start_token_id) for row in candidates]
    n_nodes, n_candidates = max(len(t.token) for t in trees), max(map(len, candidates))
    if n_nodes > 2 * AT_ONCE and n_candidates > 1:
        size = max(n_candidates * AT_ONCE // n_nodes, 1)
        pieces = [[row[i : i + size] for row in candidates] for i in range(0, n_candidates, size)]
        return torch.cat([score_candidates(model, encoded, piece) for piece in pieces], dim=1)
    tokens = pad_stack([tree.token for tree in trees], 0)  # (b, t); who fills up is seen by nobody
    depths = pad_stack([tree.depth for tree in trees], 0)
    parents = pad_stack([tree.parent for tree in trees], -1)
    paths = pad_stack([tree.path for tree in trees], 0)  # (b, i, y)
    targets = pad_stack([tree.target for tree in trees], -1)
    visible = torch.eye(tokens.shape[1], dtype=torch.bool).repeat(len(trees), 1, 1)  # (b, t, t)
    ancestor = parents
    while (ancestor >= 0).any():  # as many rounds as the longest candidate has tokens
        row, node = torch.nonzero(ancestor >= 0, as_tuple=True)
        visible[row, node, ancestor[row, node]] = True
        ancestor = torch.where(ancestor >= 0, parents.gather(1, ancestor.clamp(min=0)), ancestor)
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


def log_normalizer(model: Backbone, states_btd: Tensor) -> Tensor:
    """log of the sum of exp(logits) over the vocabulary after each state (b, t, d), in nats, (b, t).

    Some states and a slice of the vocabulary at a time: the logits of all at once would be gigabytes,
    and what stays in a processor's cache is 2.7 times as fast as all states with a slice.
    """
    slices, found = model.head_weight().split(1024), []
    for states_sd in states_btd.flatten(0, -2).split(65536 if states_btd.is_cuda else 512):
        parts = [F.linear(states_sd, weight).float().logsumexp(-1) for weight in slices]
        found.append(torch.stack(parts).logsumexp(0))
    return torch.cat(found).view(states_btd.shape[:-1])
