"""The recommender's backbone: a compact T5 (Raffel et al. 2020) in the checkpoint's own vocabulary.

One letter per axis, as a suffix on tensors (the key that every other file refers to):

    b batch            s source tokens     y target tokens     n prefix tokens    d d_model
    h attention heads  e width of a head   f feed-forward      v vocabulary       l layers
    c classes          i candidate items   k keys attended to  t nodes of a tree of candidates

What is particular to this project is one hook: every self-attention layer may be handed a `prefix`,
keys and values that it attends to beside the text's own. This file does not know what they mean.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from files import InputError, load_tensors, save_tensors, write_atomically

MASKED = -1e9  # added to an attention score that must not count; finite, so that no row becomes NaN


@dataclass(frozen=True)
class T5Config:
    """What defines a T5, under the names of the public `config.json`; the defaults are the tiny one.

    The tiny backbone has 0.25 million parameters without its embeddings and trains from scratch in
    about a minute; t5-small is d_model 512, d_kv 64, d_ff 2048, 6 layers, 8 heads.
    """

    vocab_size: int
    d_model: int = 64
    d_kv: int = 16  # width of one head; num_heads * d_kv need not equal d_model
    d_ff: int = 128
    num_layers: int = 2  # of the encoder
    num_decoder_layers: int = 2
    num_heads: int = 4
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128  # tokens; all beyond share the last bucket
    feed_forward_proj: str = "relu"  # or "gated-gelu" (T5 1.1, Flan-T5)
    dropout_rate: float = (
        0.0  # in [0, 1); used while the backbone is trained, never when it is frozen
    )
    layer_norm_epsilon: float = 1e-6
    tie_word_embeddings: bool = True  # the head is the embedding
    scale_decoder_outputs: bool = (
        True  # by d_model**-0.5 before the head; where untied, usually not
    )
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0


class Prefix(NamedTuple):
    """Keys and values for every self-attention layer of a stack: (l, 2, b or 1, h, n, e), or None.

    Index 0 of the second axis holds the keys, index 1 the values. A batch axis of 1 serves all
    rows.
    """

    encoder: Tensor | None
    decoder: Tensor | None


class RMSNorm(nn.Module):
    """x / rms(x) * weight: no mean is subtracted and there is no bias."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # in float32 whatever the weights' type: squares of bf16 lose the small activations
        variance = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps)).to(self.weight.dtype)


def relative_position_bucket(
    distance: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """Bucket in [0, num_buckets) of each key position minus query position (any integer tensor).

    Half of the buckets are one per distance, the other half grow logarithmically up to
    `max_distance` tokens. The encoder spends half of all on keys that come after the query; in the
    decoder these are masked and share bucket 0.
    Source: Raffel et al. 2020, section 2.1.
    """
    bucket = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        bucket = (distance > 0).long() * num_buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = num_buckets // 2
    scale = (num_buckets - exact) / math.log(max_distance / exact)
    log_bucket = exact + (torch.log(distance.clamp(min=1).float() / exact) * scale).long()
    return bucket + torch.where(distance < exact, distance, log_bucket.clamp(max=num_buckets - 1))


class Attention(nn.Module):
    """Multi-head attention without biases and without the 1/sqrt(e) scaling (T5 folds it into init)."""

    def __init__(self, cfg: T5Config):
        super().__init__()
        self.n_heads, inner = cfg.num_heads, cfg.num_heads * cfg.d_kv
        self.dropout = cfg.dropout_rate
        self.q = nn.Linear(cfg.d_model, inner, bias=False)
        self.k = nn.Linear(cfg.d_model, inner, bias=False)
        self.v = nn.Linear(cfg.d_model, inner, bias=False)
        self.o = nn.Linear(inner, cfg.d_model, bias=False)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (b, s, h*e) -> (b, h, s, e)

    def keys_values(self, x_bkd: Tensor) -> tuple[Tensor, Tensor]:
        return self.split_heads(self.k(x_bkd)), self.split_heads(self.v(x_bkd))

    def forward(self, x_bsd: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attend from x (b, s, d) to keys and values (b, h, k, e) under an additive bias (.., s, k)."""
        dropout = self.dropout if self.training else 0.0
        q = self.split_heads(self.q(x_bsd))
        out = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=bias.to(q.dtype), dropout_p=dropout, scale=1.0
        )
        return self.o(out.transpose(1, 2).flatten(2))  # (b, h, s, e) -> (b, s, d)


class FeedForward(nn.Module):
    """ReLU (T5 1.0) or gated-GELU (T5 1.1) feed-forward, (b, s, d) -> (b, s, d)."""

    def __init__(self, cfg: T5Config):
        super().__init__()
        self.gate = None
        if cfg.feed_forward_proj == "gated-gelu":
            self.gate = nn.Linear(cfg.d_model, cfg.d_ff, bias=False)
        elif cfg.feed_forward_proj != "relu":
            raise InputError(
                f"feed_forward_proj is {cfg.feed_forward_proj!r}; only 'relu' and 'gated-gelu' are "
                "implemented"
            )
        self.up = nn.Linear(cfg.d_model, cfg.d_ff, bias=False)
        self.down = nn.Linear(cfg.d_ff, cfg.d_model, bias=False)
        self.dropout = nn.Dropout(cfg.dropout_rate)

    def forward(self, x_bsd: Tensor) -> Tensor:
        if self.gate is None:
            hidden_bsf = F.relu(self.up(x_bsd))
        else:
            hidden_bsf = F.gelu(self.gate(x_bsd), approximate="tanh") * self.up(x_bsd)
        return self.down(self.dropout(hidden_bsf))


class Block(nn.Module):
    """One layer: self-attention, in the decoder attention to the encoder, feed-forward; norms first."""

    def __init__(self, cfg: T5Config, is_decoder: bool):
        super().__init__()
        self.self_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.self_attention = Attention(cfg)
        self.cross_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon) if is_decoder else None
        self.cross_attention = Attention(cfg) if is_decoder else None
        self.ff_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.ff = FeedForward(cfg)
        self.dropout = nn.Dropout(cfg.dropout_rate)

    def forward(
        self,
        x_bsd: Tensor,
        self_bias: Tensor,
        prefix: Tensor | None = None,
        encoded: Tensor | None = None,
        cross_bias: Tensor | None = None,
        cache: dict | None = None,
    ) -> Tensor:
        """x (b, s, d) through the layer. `prefix` is (2, b or 1, h, n, e), `encoded` (b, k, d).

        `cache` holds what earlier calls left for this layer: "self" and "cross" keys and values.
        """
        normed = self.self_norm(x_bsd)
        keys, values = self.self_attention.keys_values(normed)
        if cache is not None:
            if "self" in cache:
                keys = torch.cat([cache["self"][0], keys], dim=2)
                values = torch.cat([cache["self"][1], values], dim=2)
            cache["self"] = keys, values
        if prefix is not None:  # after the cache, so that the cache never holds the prefix twice
            prefix_keys, prefix_values = prefix.to(keys.dtype).expand(-1, len(keys), -1, -1, -1)
            keys = torch.cat([prefix_keys, keys], dim=2)  # (b, h, n + k, e)
            values = torch.cat([prefix_values, values], dim=2)
        x_bsd = x_bsd + self.dropout(self.self_attention(normed, keys, values, self_bias))
        if self.cross_attention is not None:
            cross = cache.get("cross") if cache is not None else None
            if cross is None:
                cross = self.cross_attention.keys_values(encoded)
                if cache is not None:
                    cache["cross"] = cross
            out = self.cross_attention(self.cross_norm(x_bsd), *cross, cross_bias)
            x_bsd = x_bsd + self.dropout(out)
        return x_bsd + self.dropout(self.ff(self.ff_norm(x_bsd)))


class Stack(nn.Module):
    """Encoder or decoder: its layers, the one table of relative position biases they share, a norm."""

    def __init__(self, cfg: T5Config, is_decoder: bool):
        super().__init__()
        self.cfg, self.is_decoder = cfg, is_decoder
        n_layers = cfg.num_decoder_layers if is_decoder else cfg.num_layers
        self.layers = nn.ModuleList(Block(cfg, is_decoder) for _ in range(n_layers))
        self.relative_bias = nn.Embedding(cfg.relative_attention_num_buckets, cfg.num_heads)
        self.norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.dropout = nn.Dropout(cfg.dropout_rate)

    def self_bias(self, queries: Tensor, keys: Tensor, visible: Tensor, prefix_len: int) -> Tensor:
        """What is added to the attention scores, (b or 1, h, s, n + k).

        `queries` (.., s) and `keys` (.., k) are positions in tokens; `visible` (.., s or 1, k) is
        False where a key must not be seen. The prefix comes first: it has no position, so its bias
        is 0, and it is never masked.
        """
        bucket = relative_position_bucket(
            keys[..., None, :] - queries[..., :, None],
            bidirectional=not self.is_decoder,
            num_buckets=self.cfg.relative_attention_num_buckets,
            max_distance=self.cfg.relative_attention_max_distance,
        )
        bias = self.relative_bias(bucket).movedim(-1, -3)  # (.., s, k, h) -> (.., h, s, k)
        bias = bias + MASKED * (~visible).unsqueeze(-3).to(bias.dtype)
        return F.pad(bias if bias.dim() == 4 else bias[None], (prefix_len, 0))

    def forward(
        self,
        x_bsd: Tensor,
        bias: Tensor,
        prefix: Tensor | None,
        encoded: Tensor | None = None,
        cross_bias: Tensor | None = None,
        cache: list[dict] | None = None,
    ) -> Tensor:
        x_bsd = self.dropout(x_bsd)
        for i, layer in enumerate(self.layers):
            layer_prefix = None if prefix is None else prefix[i]
            layer_cache = None if cache is None else cache[i]
            x_bsd = layer(x_bsd, bias, layer_prefix, encoded, cross_bias, layer_cache)
        return self.dropout(self.norm(x_bsd))


class T5(nn.Module):
    """Encoder-decoder transformer: text in, the probability of each next token of the answer out."""

    def __init__(self, cfg: T5Config):
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.encoder = Stack(cfg, is_decoder=False)
        self.decoder = Stack(cfg, is_decoder=True)
        self.head = None
        if not cfg.tie_word_embeddings:
            self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)

    def encode(self, input_ids: Tensor, mask: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Encoder states (b, s, d) of token ids (b, s); `mask` (b, s) is True on text, False on padding."""
        assert input_ids.shape == mask.shape, f"ids {input_ids.shape} but mask {mask.shape}"
        prefix_ls = check_prefix(prefix.encoder if prefix else None, len(self.encoder.layers))
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        prefix_len = 0 if prefix_ls is None else prefix_ls.shape[-2]
        bias = self.encoder.self_bias(position, position, mask[:, None, :], prefix_len)
        return self.encoder(self.embedding(input_ids), bias, prefix_ls)

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoded: Tensor,
        mask: Tensor,
        prefix: Prefix | None = None,
        cache: list[dict] | None = None,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Decoder states (b, y, d) after each of the ids (b, y), given encoder states (b, s, d).

        With a `cache` (from `new_cache`) the ids are the continuation of those of earlier calls.
        `positions` (b, y) and `visible` (b, y, y) replace the default order 0, 1, 2, .. in which
        each token sees those before it; `score_candidates` lays a tree out with them.
        """
        prefix_ls = check_prefix(prefix.decoder if prefix else None, len(self.decoder.layers))
        prefix_len = 0 if prefix_ls is None else prefix_ls.shape[-2]
        past = cache[0]["self"][0].shape[2] if cache and "self" in cache[0] else 0
        keys = torch.arange(past + decoder_input_ids.shape[1], device=encoded.device)
        queries = keys[past:]
        if positions is not None:
            queries = keys = positions
        if visible is None:
            visible = keys[None, :] <= queries[:, None]
        bias = self.decoder.self_bias(queries, keys, visible, prefix_len)
        cross_bias = MASKED * (~mask)[:, None, None, :].to(encoded.dtype)  # (b, 1, 1, s)
        x_byd = self.embedding(decoder_input_ids)
        return self.decoder(x_byd, bias, prefix_ls, encoded, cross_bias, cache)

    def new_cache(self) -> list[dict]:
        """An empty key/value cache for `decode`, one entry per decoder layer."""
        return [{} for _ in self.decoder.layers]

    def logits(self, states_byd: Tensor, tokens: slice = slice(None)) -> Tensor:
        """Unnormalised log-probabilities (b, y, v) of the token that follows each decoder state.

        `tokens` restricts them to a slice of the vocabulary.
        """
        return F.linear(self.scaled(states_byd), self.head_weight()[tokens])

    def logits_of(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The logits of one token (..) after each decoder state (.., d), without those of the others."""
        return (self.scaled(states) * self.head_weight()[tokens]).sum(-1)

    def head_weight(self) -> Tensor:
        return (self.embedding if self.head is None else self.head).weight  # (v, d)

    def scaled(self, states: Tensor) -> Tensor:
        if self.cfg.scale_decoder_outputs:  # the tied embedding has unit variance per entry
            states = states * self.cfg.d_model**-0.5
        return states

    def shift_right(self, target_ids: Tensor) -> Tensor:
        """y_0 .. y_{j-1} for each y_j: the start token in front, the last one dropped; (b, y)."""
        start = torch.full_like(target_ids[:, :1], self.cfg.decoder_start_token_id)
        return torch.cat([start, target_ids[:, :-1]], dim=1)

    def forward(
        self,
        input_ids: Tensor,
        decoder_input_ids: Tensor,
        prefix: Prefix | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits (b, y, v) for ids (b, s) and decoder ids (b, y). Without a mask, padding ids are masked."""
        mask = input_ids != self.cfg.pad_token_id if mask is None else mask
        encoded = self.encode(input_ids, mask, prefix)
        return self.logits(self.decode(decoder_input_ids, encoded, mask, prefix))

    def target_loss(
        self, encoded: Tensor, mask: Tensor, target_ids: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """Negative log-likelihood of the targets (b, y), padded with pad_token_id, in nats: a scalar.

        Source: Eq. 2, for encoder states (b, s, d) that were computed with the same prefix.
        """
        states = self.decode(self.shift_right(target_ids), encoded, mask, prefix)
        token_nll = F.cross_entropy(
            self.logits(states).float().flatten(0, 1),  # (b, y, v) -> (b*y, v)
            target_ids.flatten(),
            ignore_index=self.cfg.pad_token_id,
            reduction="none",
        ).view_as(target_ids)
        # Paper silent: Eq. 2 sums over the tokens of one target and Eq. 4 over users; over users we
        # take the mean, so that lambda means the same at every batch size.
        return token_nll.sum(1).mean()


def check_prefix(prefix: Tensor | None, n_layers: int) -> Tensor | None:
    """The prefix of one stack as it is, or None where it has no tokens."""
    if prefix is None or prefix.shape[-2] == 0:
        return None
    assert prefix.dim() == 6 and prefix.shape[:2] == (n_layers, 2), (
        f"a prefix is (layers, 2, b or 1, h, n, e) with {n_layers} layers, "
        f"not {tuple(prefix.shape)}"
    )
    return prefix


@torch.no_grad()
def init_from_scratch(model: T5, generator: torch.Generator) -> None:
    """Random weights with T5's standard deviations (Raffel et al. 2020, the released code)."""
    cfg = model.cfg
    std = {"q": (cfg.d_model * cfg.d_kv) ** -0.5, "k": cfg.d_model**-0.5, "v": cfg.d_model**-0.5}
    std |= {"o": (cfg.num_heads * cfg.d_kv) ** -0.5, "gate": cfg.d_model**-0.5}
    std |= {"up": cfg.d_model**-0.5, "down": cfg.d_ff**-0.5, "head": cfg.d_model**-0.5}
    std |= {"embedding": 1.0, "relative_bias": 1.0}
    for name, param in model.named_parameters():
        kind = name.split(".")[-2]
        if "norm" not in kind:
            param.normal_(0.0, std[kind], generator=generator)


# -------------------------------------------------------------------------------------------------
# Answers: the most probable text, and the exact probability of each candidate item
# -------------------------------------------------------------------------------------------------


@torch.no_grad()
def generate(
    model: T5, input_ids: Tensor, mask: Tensor, prefix: Prefix | None = None, max_tokens: int = 8
) -> Tensor:
    """Greedy answer to each prompt: ids (b, up to max_tokens), padded after the end token."""
    encoded, cache = model.encode(input_ids, mask, prefix), model.new_cache()
    token = torch.full_like(input_ids[:, :1], model.cfg.decoder_start_token_id)
    done = torch.zeros_like(token, dtype=torch.bool)
    answer = []
    while len(answer) < max_tokens and not done.all():
        state = model.decode(token, encoded, mask, prefix, cache)
        token = model.logits(state).argmax(-1).masked_fill(done, model.cfg.pad_token_id)
        done |= token == model.cfg.eos_token_id
        answer.append(token)
    return torch.cat(answer, dim=1)


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
    length = max(map(len, candidates))
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
    model: T5,
    encoded: Tensor,
    mask: Tensor,
    candidates: list[list[tuple[int, ...]]],
    prefix: Prefix | None = None,
) -> Tensor:
    """Exact log P(candidate | prompt) in nats, (b, i), -inf where a row has fewer candidates.

    `encoded` (b, s, d) are the encoder states under the same prefix; `candidates` gives each row's
    targets as token ids with the end token (a list of one serves every row). The decoder runs once:
    all distinct beginnings of a row's candidates stand side by side, and each sees only the tokens
    that come before it in its own candidates.
    """
    device, n_rows = encoded.device, len(encoded)
    trees = [candidate_tree(row, model.cfg.decoder_start_token_id) for row in candidates]
    tokens = pad_stack([tree.token for tree in trees], model.cfg.pad_token_id)  # (b, t)
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
        mask,
        prefix,
        positions=depths.to(device),
        visible=visible.to(device),
    )
    paths, targets = paths.to(device), targets.to(device)
    log_z, row = log_normalizer(model, states), torch.arange(n_rows, device=device)[:, None]
    scores = torch.zeros(n_rows, paths.shape[1], device=device)
    for node, target in zip(paths.unbind(-1), targets.unbind(-1)):  # each (b or 1, i)
        logit = model.logits_of(states[row, node], target.clamp(min=0)).float()
        scores += (logit - log_z[row, node]).masked_fill(target < 0, 0.0)
    return scores.masked_fill((targets < 0).all(-1), -torch.inf)


def log_normalizer(model: T5, states_btd: Tensor) -> Tensor:
    """log of the sum of exp(logits) over the vocabulary after each state (b, t, d), in nats, (b, t).

    A slice of the vocabulary at a time: the logits of all states at once would be gigabytes, and
    a slice that stays in the processor's cache is 1.6 times as fast.
    """
    slices = range(0, model.cfg.vocab_size, 1024)
    parts = [model.logits(states_btd, slice(v, v + 1024)).float().logsumexp(-1) for v in slices]
    return torch.stack(parts).logsumexp(0)


# -------------------------------------------------------------------------------------------------
# Files: the public layout, `config.json` beside `model.safetensors`
# -------------------------------------------------------------------------------------------------

# checkpoint name -> our name; {stack} is encoder and decoder, {i} the layer
T5_NAMES = {
    "shared.weight": "embedding.weight",
    "lm_head.weight": "head.weight",
    "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "{stack}.relative_bias.weight",
    "{stack}.final_layer_norm.weight": "{stack}.norm.weight",
    "{stack}.block.{i}.layer.0.layer_norm.weight": "{stack}.layers.{i}.self_norm.weight",
    "{stack}.block.{i}.layer.0.SelfAttention.q.weight": "{stack}.layers.{i}.self_attention.q.weight",
    "{stack}.block.{i}.layer.0.SelfAttention.k.weight": "{stack}.layers.{i}.self_attention.k.weight",
    "{stack}.block.{i}.layer.0.SelfAttention.v.weight": "{stack}.layers.{i}.self_attention.v.weight",
    "{stack}.block.{i}.layer.0.SelfAttention.o.weight": "{stack}.layers.{i}.self_attention.o.weight",
    "decoder.block.{i}.layer.1.layer_norm.weight": "decoder.layers.{i}.cross_norm.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.q.weight": "decoder.layers.{i}.cross_attention.q.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.k.weight": "decoder.layers.{i}.cross_attention.k.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.v.weight": "decoder.layers.{i}.cross_attention.v.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.o.weight": "decoder.layers.{i}.cross_attention.o.weight",
    "encoder.block.{i}.layer.1.layer_norm.weight": "encoder.layers.{i}.ff_norm.weight",
    "encoder.block.{i}.layer.1.DenseReluDense.wi.weight": "encoder.layers.{i}.ff.up.weight",
    "encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight": "encoder.layers.{i}.ff.gate.weight",
    "encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight": "encoder.layers.{i}.ff.up.weight",
    "encoder.block.{i}.layer.1.DenseReluDense.wo.weight": "encoder.layers.{i}.ff.down.weight",
    "decoder.block.{i}.layer.2.layer_norm.weight": "decoder.layers.{i}.ff_norm.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wi.weight": "decoder.layers.{i}.ff.up.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wi_0.weight": "decoder.layers.{i}.ff.gate.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wi_1.weight": "decoder.layers.{i}.ff.up.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wo.weight": "decoder.layers.{i}.ff.down.weight",
}
# copies of shared.weight that some published files carry as well, the last where the head is tied
T5_COPIES = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"


def public_names(cfg: T5Config) -> dict[str, str]:
    """Checkpoint name -> our name for every parameter of this configuration, layers written out."""
    gated, names = cfg.feed_forward_proj == "gated-gelu", {}
    for stack, layers in ("encoder", cfg.num_layers), ("decoder", cfg.num_decoder_layers):
        for theirs, ours in T5_NAMES.items():
            other_activation = (".wi." in theirs and gated) or (".wi_" in theirs and not gated)
            no_head = theirs == "lm_head.weight" and cfg.tie_word_embeddings
            other_stack = theirs.startswith(("encoder", "decoder")) and not theirs.startswith(stack)
            if not (other_activation or no_head or other_stack):
                for i in range(layers if "{i}" in theirs else 1):
                    names[theirs.format(stack=stack, i=i)] = ours.format(stack=stack, i=i)
    return names


def save_backbone(model: T5, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` in the public layout into an existing folder."""
    ours = model.state_dict()
    save_tensors(
        folder / "model.safetensors",
        {theirs: ours[name] for theirs, name in public_names(model.cfg).items()},
    )
    config = {"model_type": "t5"} | asdict(model.cfg)
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())


def load_backbone(
    folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> T5:
    """The T5 of a folder with `config.json` and `model.safetensors`, frozen by nobody yet.

    Every tensor of the file is used once, every parameter is filled, every shape is compared.
    Raises InputError naming the file and the key where that is not so.
    """
    config_path, path = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    try:
        config = json.loads(config_path.read_text())
    except FileNotFoundError:
        raise InputError(f"{config_path} is missing: is {folder} the folder of a model?") from None
    except ValueError as error:
        raise InputError(f"{config_path} is not JSON ({error}); copy it again") from None
    if config.get("model_type") != "t5":
        raise InputError(
            f"{config_path}: model_type is {config.get('model_type')!r}; only 't5' is implemented"
        )
    known = {field.name for field in fields(T5Config)}
    cfg = {key: value for key, value in config.items() if key in known}
    # config.json may leave these two out; this is what their absence means
    cfg.setdefault("num_decoder_layers", cfg.get("num_layers"))
    cfg.setdefault("scale_decoder_outputs", cfg.get("tie_word_embeddings", True))
    needed = "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"
    if missing := [name for name in needed if name not in cfg]:
        raise InputError(f"{config_path}: {', '.join(missing)} missing; copy it again")
    with torch.device("meta"):  # no memory for weights that are about to be replaced
        model = T5(T5Config(**cfg))
    names, tensors = public_names(model.cfg), load_tensors(path)
    for copy in T5_COPIES if model.cfg.tie_word_embeddings else T5_COPIES[:2]:
        duplicate, original = tensors.pop(copy, None), tensors.get("shared.weight")
        if duplicate is not None and original is not None and not torch.equal(duplicate, original):
            raise InputError(f"{path}: {copy} differs from shared.weight, whose copy it should be")
    left_over = sorted(tensors.keys() - names.keys())
    absent = sorted(names.keys() - tensors.keys())
    if left_over or absent:
        what, key = ("does not belong here", left_over) if left_over else ("is missing", absent)
        raise InputError(f"{path}: {key[0]} {what} ({len(key)} such keys); see {config_path}")
    shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
    state = {}
    for theirs, ours in names.items():
        if tuple(tensors[theirs].shape) != shapes[ours]:
            raise InputError(
                f"{path}: {theirs} has shape {tuple(tensors[theirs].shape)}, "
                f"{config_path} makes it {shapes[ours]}"
            )
        state[ours] = tensors[theirs].to(device=device, dtype=dtype)
    model.load_state_dict(state, assign=True)
    return model
