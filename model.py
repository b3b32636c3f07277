"""The recommender's backbones: a compact T5 (Raffel et al. 2020) and a Llama (Touvron et al. 2023).

One letter per axis, as a suffix on tensors (the key that every other file refers to):

    b batch            s source tokens     y target tokens     n prefix tokens    d d_model
    h attention heads  e width of a head   f feed-forward      v vocabulary       l layers
    c classes          i candidate items   k keys attended to  t nodes of a tree of candidates

Both are used in the same way: `encode` reads prompts, `decode` goes on with answers, `logits` says
which token comes next. What is particular to this project is one hook: every self-attention layer
may be handed a `prefix`, keys and values that it attends to beside the text's own. This file does not
know what they mean.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.backbones import fill_backbone, init_from_scratch
from support.configs import LlamaConfig, T5Config
from support.tokens import Tokenizer
from support.weights import read_weights

MASKED = -1e9  # added to an attention score that must not count; finite, so that no row becomes NaN
NO_TOKEN = -1  # fills up a batch of targets of different lengths


class Prefix(NamedTuple):
    """Keys and values for every self-attention layer of a stack: (l, 2, b or 1, h, n, e), or None.

    Index 0 of the second axis holds the keys, index 1 the values. A batch axis of 1 serves all
    rows. A decoder-only model has no encoder and takes the decoder's alone.
    """

    encoder: Tensor | None
    decoder: Tensor | None


class Encoded(NamedTuple):
    """Prompts as a model has read them: what is needed to go on with their answers."""

    states: Tensor  # (b, s, d) after the last layer and its norm
    mask: Tensor  # (b, s) bool, True on text, False on padding
    prefix: Prefix | None
    keys_values: list | None = None  # Llama: of each layer, (b, h, s, e) both; T5 has `states`

    def of_rows(self, rows: Tensor) -> "Encoded":
        """The same prompts, some of them only; `rows` are indices (n,)."""
        states, mask, prefix, keys_values = self
        if prefix is not None:
            shared = lambda stack: stack is None or stack.shape[2] == 1  # serves all rows
            prefix = Prefix(*(s if shared(s) else s.index_select(2, rows) for s in prefix))
        if keys_values is not None:
            keys_values = [(keys[rows], values[rows]) for keys, values in keys_values]
        return Encoded(states[rows], mask[rows], prefix, keys_values)


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


def embedding(n: int, width: int) -> nn.Embedding:
    """(n, width), its numbers still to come from `init_from_scratch` or a file.

    nn.Embedding would draw them, which on the meta device imports PyTorch's compiler: two seconds.
    """
    return nn.Embedding.from_pretrained(torch.empty(n, width), freeze=False)


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
    """Multi-head attention; `heads` says how many of queries, how many of keys and values, and how wide."""

    def __init__(self, d_model: int, heads: tuple, scale: float, dropout=0.0, bias=False, eps=None):
        super().__init__()
        n_heads, n_kv_heads, width = heads
        self.head_width, self.grouped = width, n_kv_heads < n_heads
        self.scale, self.dropout = scale, dropout
        self.q = nn.Linear(d_model, n_heads * width, bias=bias)  # Qwen2 has these three biases
        self.k = nn.Linear(d_model, n_kv_heads * width, bias=bias)
        self.v = nn.Linear(d_model, n_kv_heads * width, bias=bias)
        self.o = nn.Linear(n_heads * width, d_model, bias=False)
        norm = nn.Identity if eps is None else lambda: RMSNorm(width, eps)
        self.q_norm, self.k_norm = norm(), norm()  # of each head, in Qwen3

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (b, s, h*e) -> (b, h, s, e)

    def queries(self, x_bsd: Tensor) -> Tensor:
        return self.q_norm(self.split_heads(self.q(x_bsd)))

    def keys_values(self, x_bkd: Tensor) -> tuple[Tensor, Tensor]:
        return self.k_norm(self.split_heads(self.k(x_bkd))), self.split_heads(self.v(x_bkd))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """(b, s, d) from queries (b, h, s, e), keys and values (b, h, k, e), additive bias (.., s, k)."""
        dropout = self.dropout if self.training else 0.0
        if bias.requires_grad:
            # P5's training: no fused kernel gives the bias a gradient, and what PyTorch falls back on
            # looks for rows that see nothing as well, which makes a step 4% longer.
            weights = (self.scale * queries @ keys.transpose(-1, -2) + bias).softmax(-1)
            out = F.dropout(weights, dropout) @ values
        else:
            mask = bias.to(queries.dtype)
            out = F.scaled_dot_product_attention(
                queries, keys, values, mask, dropout, scale=self.scale, enable_gqa=self.grouped
            )
        return self.o(out.transpose(1, 2).flatten(2))  # (b, h, s, e) -> (b, s, d)


class FeedForward(nn.Module):
    """(b, s, d) -> (b, s, d): ReLU (T5 1.0), or a gate of GELU (T5 1.1) or SiLU (Llama) times the rest."""

    def __init__(self, d_model: int, d_ff: int, activation: str, dropout: float = 0.0):
        super().__init__()
        self.activation = activation
        self.gate = None if activation == "relu" else nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_bsd: Tensor) -> Tensor:
        if self.activation == "relu":
            hidden_bsf = F.relu(self.up(x_bsd))
        elif self.activation == "gated-gelu":
            hidden_bsf = F.gelu(self.gate(x_bsd), approximate="tanh") * self.up(x_bsd)
        else:
            hidden_bsf = F.silu(self.gate(x_bsd)) * self.up(x_bsd)
        return self.down(self.dropout(hidden_bsf))


def join(*parts: tuple[Tensor, Tensor] | Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys and values of several stretches of text, (b, h, k, e) each, as one; None is left out."""
    parts = [part for part in parts if part is not None]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([k for k, _ in parts], dim=2), torch.cat([v for _, v in parts], dim=2)


def in_front(prefix_ls: Tensor | None, visible: Tensor) -> Tensor:
    """`visible` (b or 1, s or 1, k) with a column for each token of a prefix in front: all see it."""
    return visible if prefix_ls is None else F.pad(visible, (prefix_ls.shape[-2], 0), value=True)


def for_rows(prefix: Tensor | None, keys: Tensor) -> Tensor | None:
    """One layer's prefix (2, b or 1, h, n, e) in the type of `keys` and for as many rows."""
    return None if prefix is None else prefix.to(keys.dtype).expand(-1, len(keys), -1, -1, -1)


class Backbone(nn.Module):
    """What a T5 and a Llama have alike: their configuration, an embedding and a head, which may be tied."""

    def __init__(self, cfg: T5Config | LlamaConfig):
        super().__init__()
        self.cfg = cfg
        self.embedding = embedding(cfg.vocab_size, cfg.d_model)

    def head_weight(self) -> Tensor:
        """(v, d): its rows times a state of `decode` are the logits."""
        return (self.embedding if self.head is None else self.head).weight

    def logits(self, states_byd: Tensor) -> Tensor:
        """Unnormalised log-probabilities (b, y, v) of the token that follows each state."""
        return F.linear(states_byd, self.head_weight())


class Block(nn.Module):
    """One layer: self-attention, in the decoder attention to the encoder, feed-forward; norms first."""

    def __init__(self, cfg: T5Config, is_decoder: bool):
        super().__init__()
        # unscaled attention: T5 folds 1/sqrt(e) into the initial weights
        shape = cfg.d_model, (cfg.num_heads, cfg.num_heads, cfg.d_kv), 1.0, cfg.dropout_rate
        self.self_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.self_attention = Attention(*shape)
        self.cross_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon) if is_decoder else None
        self.cross_attention = Attention(*shape) if is_decoder else None
        self.ff_norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.ff = FeedForward(cfg.d_model, cfg.d_ff, cfg.feed_forward_proj, cfg.dropout_rate)
        self.dropout = nn.Dropout(cfg.dropout_rate)

    def forward(
        self,
        x_bsd: Tensor,
        self_bias: Tensor,
        prefix: Tensor | None = None,
        encoded: Tensor | None = None,
        cross_bias: Tensor | None = None,
    ) -> Tensor:
        """x (b, s, d) through the layer. `prefix` is (2, b or 1, h, n, e), `encoded` (b, k, d)."""
        normed, attention = self.self_norm(x_bsd), self.self_attention
        own = attention.keys_values(normed)
        keys, values = join(for_rows(prefix, own[0]), own)
        out = attention(attention.queries(normed), keys, values, self_bias)
        x_bsd = x_bsd + self.dropout(out)
        if self.cross_attention is not None:
            cross = self.cross_attention.keys_values(encoded)
            queries = self.cross_attention.queries(self.cross_norm(x_bsd))
            x_bsd = x_bsd + self.dropout(self.cross_attention(queries, *cross, cross_bias))
        return x_bsd + self.dropout(self.ff(self.ff_norm(x_bsd)))


class Stack(nn.Module):
    """Encoder or decoder: layers, their one table of relative position biases (UMT5: one each), a norm."""

    def __init__(self, cfg: T5Config, is_decoder: bool):
        super().__init__()
        self.cfg, self.is_decoder = cfg, is_decoder
        n_layers = cfg.num_decoder_layers if is_decoder else cfg.num_layers
        self.layers = nn.ModuleList(Block(cfg, is_decoder) for _ in range(n_layers))
        self.relative_bias = None
        for has_table in self.layers if cfg.own_biases else [self]:
            has_table.relative_bias = embedding(cfg.relative_attention_num_buckets, cfg.num_heads)
        self.norm = RMSNorm(cfg.d_model, cfg.layer_norm_epsilon)
        self.dropout = nn.Dropout(cfg.dropout_rate)

    def self_biases(self, queries: Tensor, keys: Tensor, visible: Tensor) -> list[Tensor]:
        """What is added to the attention scores of each layer, (b or 1, h, s, k).

        `queries` (.., s) and `keys` (.., k) are positions in tokens; `visible` (b or 1, s or 1, k) is
        False where a key must not be seen, and has a column more for each token of a prefix: these
        are in front and have no position, so that the rest of their bias is 0.
        """
        bucket = relative_position_bucket(
            keys[..., None, :] - queries[..., :, None],
            bidirectional=not self.is_decoder,
            num_buckets=self.cfg.relative_attention_num_buckets,
            max_distance=self.cfg.relative_attention_max_distance,
        )
        biases = []
        for has_table in self.layers if self.relative_bias is None else [self]:
            bias = has_table.relative_bias(bucket).movedim(-1, -3)  # (.., s, k, h) -> (.., h, s, k)
            bias = F.pad(bias, (visible.shape[-1] - bias.shape[-1], 0))
            biases.append(bias + MASKED * (~visible).unsqueeze(-3).to(bias.dtype))
        return biases * (len(self.layers) // len(biases))

    def forward(
        self,
        x_bsd: Tensor,
        biases: list[Tensor],
        prefix: Tensor | None,
        encoded: Tensor | None = None,
        cross_bias: Tensor | None = None,
    ) -> Tensor:
        x_bsd = self.dropout(x_bsd)
        for i, layer in enumerate(self.layers):
            layer_prefix = None if prefix is None else prefix[i]
            x_bsd = layer(x_bsd, biases[i], layer_prefix, encoded, cross_bias)
        return self.dropout(self.norm(x_bsd))


class T5(Backbone):
    """Encoder-decoder transformer: text in, the probability of each next token of the answer out."""

    def __init__(self, cfg: T5Config):
        super().__init__(cfg)
        self.encoder = Stack(cfg, is_decoder=False)
        self.decoder = Stack(cfg, is_decoder=True)
        self.head = None
        if not cfg.tie_word_embeddings:
            self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)

    def encode(self, input_ids: Tensor, mask: Tensor, prefix: Prefix | None = None) -> Encoded:
        """Prompts of token ids (b, s) as read; `mask` (b, s) is True on text, False on padding."""
        assert input_ids.shape == mask.shape, f"ids {input_ids.shape} but mask {mask.shape}"
        prefix_ls = check_prefix(prefix.encoder if prefix else None, len(self.encoder.layers))
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        visible = in_front(prefix_ls, mask[:, None, :])
        biases = self.encoder.self_biases(position, position, visible)
        return Encoded(self.encoder(self.embedding(input_ids), biases, prefix_ls), mask, prefix)

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoded: Encoded,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Decoder states (b, y, d) after each of the ids (b, y), as `logits` wants them.

        `positions` (b or 1, y) and `visible` (b or 1, y, y) replace the default order 0, 1, 2, .. in
        which each token sees those before it; `score_candidates` lays a tree out with them.
        """
        prefix = encoded.prefix
        prefix_ls = check_prefix(prefix.decoder if prefix else None, len(self.decoder.layers))
        positions, visible = in_order(decoder_input_ids, positions, visible)
        biases = self.decoder.self_biases(positions, positions, in_front(prefix_ls, visible))
        cross_bias = MASKED * (~encoded.mask)[:, None, None, :].to(encoded.states.dtype)
        x_byd = self.embedding(decoder_input_ids)
        states = self.decoder(x_byd, biases, prefix_ls, encoded.states, cross_bias)
        if self.cfg.scale_decoder_outputs:  # the tied embedding has unit variance per entry
            states = states * self.cfg.d_model**-0.5
        return states


class Rotary(NamedTuple):
    """Cosine and sine of the angle of each pair of entries at each position, (b or 1, 1, s, e/2)."""

    cos: Tensor
    sin: Tensor


def rotary(positions: Tensor, speeds: Tensor) -> Rotary:
    """Rotary position embedding (Su et al. 2021) for positions (b or 1, s), in tokens.

    Pair j turns by `speeds[j]` radians per token; see `LlamaConfig.rotation_speeds`.
    """
    angle = positions[:, None, :, None].float() * speeds.to(positions.device)
    return Rotary(angle.cos(), angle.sin())


def rotate(x_bhse: Tensor, by: Rotary) -> Tensor:
    """Turn each pair of entries; j is paired with j + e/2, the half-split layout of the checkpoints."""
    first, second = x_bhse.float().chunk(2, dim=-1)
    turned = first * by.cos - second * by.sin, second * by.cos + first * by.sin
    return torch.cat(turned, dim=-1).to(x_bhse.dtype)


class LlamaBlock(nn.Module):
    """One layer: self-attention with rotary positions, gated feed-forward; norms first."""

    def __init__(self, cfg: LlamaConfig):
        super().__init__()
        heads = cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim
        self.self_norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        more = dict(bias=cfg.qkv_bias, eps=cfg.qk_norm_eps)
        self.self_attention = Attention(cfg.hidden_size, heads, cfg.head_dim**-0.5, **more)
        self.ff_norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.ff = FeedForward(cfg.hidden_size, cfg.intermediate_size, "gated-silu")

    def forward(
        self,
        x_bsd: Tensor,
        bias: Tensor,
        by: Rotary,
        prefix: Tensor | None,
        prompt: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (b, s, d) through the layer, which sees prefix, prompt and text, and the text's keys and values.

        The prefix takes no rotary position: its keys are free vectors, which every position meets
        unturned, and the text keeps the positions that it has without a prefix.
        """
        normed, attention = self.self_norm(x_bsd), self.self_attention
        keys, values = attention.keys_values(normed)
        own = rotate(keys, by), values
        keys, values = join(for_rows(prefix, keys), prompt, own)
        x_bsd = x_bsd + attention(rotate(attention.queries(normed), by), keys, values, bias)
        return x_bsd + self.ff(self.ff_norm(x_bsd)), own


class Llama(Backbone):
    """Decoder-only transformer: prompt and answer are one text, every token sees those before it."""

    def __init__(self, cfg: LlamaConfig):
        super().__init__(cfg)
        self.layers = nn.ModuleList(LlamaBlock(cfg) for _ in range(cfg.num_hidden_layers))
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.head = None
        if not cfg.tie_word_embeddings:
            self.head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)

    def run(self, ids, positions, visible, prefix, prompts) -> tuple[Tensor, list]:
        """States (b, y, d) of ids (b, y) at positions (b or 1, y), and each layer's keys and values.

        `visible` is (b or 1, y, prompt + own); `prompts` are the keys and values that go before, if any.
        """
        prefix_ls = check_prefix(prefix.decoder if prefix else None, len(self.layers))
        x_byd, own = self.embedding(ids), []
        bias = MASKED * (~in_front(prefix_ls, visible))[:, None].to(x_byd.dtype)
        by = rotary(positions, self.cfg.rotation_speeds())
        for i, layer in enumerate(self.layers):
            layer_prefix = None if prefix_ls is None else prefix_ls[i]
            prompt = None if prompts is None else prompts[i]
            x_byd, keys_values = layer(x_byd, bias, by, layer_prefix, prompt)
            own.append(keys_values)
        return self.norm(x_byd), own

    def encode(self, input_ids: Tensor, mask: Tensor, prefix: Prefix | None = None) -> Encoded:
        """Prompts of token ids (b, s) as read; `mask` (b, s) is True on text; padding is on the right."""
        assert input_ids.shape == mask.shape, f"ids {input_ids.shape} but mask {mask.shape}"
        position = torch.arange(input_ids.shape[1], device=mask.device)
        visible = (position <= position[:, None]) & mask[:, None, :]
        states, keys_values = self.run(input_ids, position[None], visible, prefix, None)
        return Encoded(states, mask, prefix, keys_values)

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoded: Encoded,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """States (b, y, d) after each of the ids (b, y), which go on where each row's prompt ends.

        The arguments are those of `T5.decode`; positions count from the end of the prompt.
        """
        positions, visible = in_order(decoder_input_ids, positions, visible)
        n_rows, n_ids = decoder_input_ids.shape
        prompt = encoded.mask[:, None, :].expand(n_rows, n_ids, -1)
        visible = torch.cat([prompt, visible.expand(n_rows, -1, -1)], dim=-1)
        positions = encoded.mask.sum(1, keepdim=True) + positions
        prefix, prompts = encoded.prefix, encoded.keys_values
        return self.run(decoder_input_ids, positions, visible, prefix, prompts)[0]


def in_order(ids: Tensor, positions: Tensor | None, visible: Tensor | None) -> tuple:
    """(positions (b or 1, y), visible (b or 1, y, y)) of ids (b, y): one after the other, or as given."""
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
    if visible is None:
        visible = positions[:, None, :] <= positions[:, :, None]
    return positions, visible


def target_loss(
    model: Backbone, encoded: Encoded, target_ids: Tensor, first_ids: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of the targets (b, y), filled up with NO_TOKEN, in nats: a scalar.

    All answers to a prompt begin after the same start token. Where it has several, `first_ids` (b, i),
    filled up likewise, are the first tokens of all: that part of the loss is then the mean over them.
    Source: Eq. 2, for prompts that were encoded with the prefix.
    """
    # the start token in front, the last one dropped: y_0 .. y_{j-1} for each y_j
    start = torch.full_like(target_ids[:, :1], model.cfg.decoder_start_token_id)
    decoder_input_ids = torch.cat([start, target_ids[:, :-1].clamp(min=0)], dim=1)
    logits_byv = model.logits(model.decode(decoder_input_ids, encoded)).float()
    token_nll = F.cross_entropy(
        logits_byv.flatten(0, 1), target_ids.flatten(), ignore_index=NO_TOKEN, reduction="none"
    ).view_as(target_ids)
    if first_ids is not None:
        nll_bi = -logits_byv[:, 0].log_softmax(-1).gather(1, first_ids.clamp(min=0))
        is_one = first_ids != NO_TOKEN
        first_nll = (nll_bi * is_one).sum(1, keepdim=True) / is_one.sum(1, keepdim=True)
        token_nll = torch.cat([first_nll, token_nll[:, 1:]], dim=1)
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


def from_scratch(kind: str, tokenizer: Tokenizer, d_ff: int, seed: int) -> Backbone:
    """A tiny T5 ("tiny") or Llama ("tiny-llama") of random weights, for this tokenizer."""
    if kind == "tiny":
        model = T5(T5Config(tokenizer.vocab_size, d_ff=d_ff))
    else:
        ends = dict(bos_token_id=tokenizer.before[0], eos_token_id=tokenizer.eos_id)
        model = Llama(LlamaConfig(tokenizer.vocab_size, intermediate_size=d_ff, **ends))
    init_from_scratch(model, torch.Generator().manual_seed(seed))
    return model


def load_backbone(
    folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Backbone:
    """The T5 or Llama of a folder in the public layout: `config.json` beside the weights, whole or in shards.

    Raises InputError naming the file and the key where the two do not fit; see `fill_backbone`.
    """
    cfg, found = read_weights(Path(folder))
    with torch.device("meta"):  # no memory for weights that are about to be replaced
        model = (T5 if isinstance(cfg, T5Config) else Llama)(cfg)
    fill_backbone(model, found, Path(folder), dtype, device)
    return model
