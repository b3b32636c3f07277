"""The recommenders that the paper compares with, and the parts that make them fair.

PMF, SimpleX, SASRec and BERT4Rec; `Filters` (Li et al. 2021) make C-PMF and C-SX of the first two,
`Prompt` (Wu et al. 2022) makes S-SAS and S-B4 of the others. Each of the four has

    examples(data)                 the rows that an epoch goes through: interactions, or users
    loss(data, rows_b, fair)       their mean loss, a scalar in the unit that its docstring names
    state(users_b, history_bs, fair)   (b, d), what the user is to the recommender and is attacked
    scores(state_bd)               (b, i), of the whole catalogue

where `fair` is what makes it fair, None for as it is. Items are indices from 0; histories are padded on
the left with the number of items, one past the last. The axes' letters are explained at the top of
`model.py`; s is items of history here, n tokens of a prompt, k negatives. Nothing in here knows where
the data come from; `baselines.py` trains and measures.
"""

from dataclasses import dataclass
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Interactions(NamedTuple):
    """The training interactions: held-out items are nowhere in here, not even as what was met."""

    pairs: Tensor  # (interactions, 2) user and item
    histories: Tensor  # (users, s) each user's items, oldest first, padded on the left
    seen: Tensor  # (users, i) bool: what no negative may be


@dataclass(frozen=True)
class Training:
    """How any of the four is trained: AdamW, the best weights on validation are kept."""

    d: int = 64  # width of users and items
    epochs: int = 100  # at most, passes over `examples`
    batch_size: int = 1024  # interactions, or users for the sequence models
    lr: float = 1e-3
    weight_decay: float = 0.0  # of all weights; the pair models' penalty is `l2`
    decay: bool = (
        False  # the rate falls linearly to 0 over `epochs`, after a hundredth of warming up
    )
    check: int = 2  # epochs between two looks at the validation items
    patience: int = 10  # looks without a gain after which training ends


def draw_unseen(seen: Tensor, users: Tensor, k: int) -> Tensor:
    """`k` items drawn uniformly from what each of the users (b,) has not seen, (b, k).

    `seen` (users, i) bool. What was seen is drawn anew, twenty times at most: a user who has seen all
    but one of a small catalogue may keep a wrong negative then.
    """
    n_items = seen.shape[1]
    drawn = torch.randint(n_items, (len(users), k), device=seen.device)
    for _ in range(20):
        wrong = seen[users.unsqueeze(1), drawn]
        if not wrong.any():
            break
        drawn[wrong] = torch.randint(n_items, (int(wrong.sum()),), device=seen.device)
    return drawn


# -------------------------------------------------------------------------------------------------
# PMF
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PMFConfig(Training):
    objective: str = "logistic"  # or "bpr"
    n_negatives: int = 4  # per positive
    l2: float = 0.01  # precision of the Gaussian priors over that of the data


def bpr_loss(positive_b: Tensor, negative_bk: Tensor) -> Tensor:
    """-log P(the positive stands before the negative), the mean over all pairs of them, in nats.

    Source: Rendle et al. 2009. ln 2 for a model that gives all items the same score.
    """
    return F.softplus(negative_bk - positive_b.unsqueeze(1)).mean()


def logistic_loss(positive_b: Tensor, negative_bk: Tensor) -> Tensor:
    """-log P(positive) - sum over its negatives of log P(not negative), the mean over positives, in nats.

    Source: Rendle et al. 2020; with k = 1 also SASRec's binary cross-entropy (Kang and McAuley 2018).
    """
    return F.softplus(-positive_b).mean() + F.softplus(negative_bk).sum(1).mean()


class PMF(nn.Module):
    """Probabilistic matrix factorisation: score(u, i) = p_u q_i + b_i, Gaussian priors on p and q.

    Source: Mnih and Salakhutdinov 2007, Eq. 3 and 4: the priors are a penalty on the squared lengths.
    # Differs from the paper: theirs predicts ratings, which ranks poorly among items that were never
    # rated; with an objective for choices instead, as in Li et al. 2021, and an item bias as in
    # Rendle et al. 2020. The penalty falls on the users and items of a batch alone, so that a
    # rare item is not pulled to zero in every step in which it does not occur.
    """

    def __init__(self, cfg: PMFConfig, n_users: int, n_items: int):
        super().__init__()
        self.cfg = cfg
        self.user = nn.Embedding(n_users, cfg.d)
        self.item = nn.Embedding(n_items, cfg.d)
        self.bias = nn.Parameter(torch.zeros(n_items))
        for table in self.user, self.item:
            nn.init.normal_(table.weight, std=0.1)

    def examples(self, data: Interactions) -> Tensor:
        return torch.arange(len(data.pairs))

    def state(self, users: Tensor, history_bs: Tensor, fair: Callable | None = None) -> Tensor:
        """p_u, whatever the history."""
        p_bd = self.user(users)
        return p_bd if fair is None else fair(p_bd)

    def scores(self, state_bd: Tensor) -> Tensor:
        return state_bd @ self.item.weight.T + self.bias

    def loss(self, data: Interactions, rows: Tensor, fair: Callable | None = None) -> Tensor:
        """Mean over the interactions of the objective in nats and of the priors' penalty."""
        users, positive = data.pairs[rows].T
        items = torch.column_stack(
            [positive, draw_unseen(data.seen, users, self.cfg.n_negatives)]
        )  # (b, 1 + k)
        state_bd, q_bkd = self.state(users, data.histories[:0], fair), self.item(items)
        s_bk = (q_bkd @ state_bd.unsqueeze(2)).squeeze(2) + self.bias[items]
        objective = {"bpr": bpr_loss, "logistic": logistic_loss}[self.cfg.objective]
        squares = state_bd.square().sum() + q_bkd.square().sum()
        return objective(s_bk[:, 0], s_bk[:, 1:]) + self.cfg.l2 / 2 * squares / len(rows)


# -------------------------------------------------------------------------------------------------
# SimpleX
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimpleXConfig(Training):
    gate: float = 0.5  # g, share of the user's own vector beside the history's
    margin: float = 0.5  # m: negatives with a smaller cosine cost nothing
    negative_weight: float = 10.0  # w, of all negatives together against the positive
    n_negatives: int = 1000  # N, the same for the whole batch; all items where there are fewer
    dropout: float = 0.1  # of the fused user vector
    l2: float = 1e-5  # of the batch's users and positives


def cosine_contrastive_loss(
    positive_b: Tensor, negative_bk: Tensor, counts_bk: Tensor, margin: float, weight: float
) -> Tensor:
    """CCL: 1 - cos(positive) + weight * mean over negatives of max(0, cos - margin), mean over the batch.

    Source: Mao et al. 2021, Eq. 1. `counts_bk` is False for what is no negative of that row.
    """
    beyond = (negative_bk - margin).relu() * counts_bk
    return (1 - positive_b + weight * beyond.sum(1) / counts_bk.sum(1).clamp(min=1)).mean()


class SimpleX(nn.Module):
    """cos(h_u, e_i), h_u = g e_u + (1 - g) V mean(e_j of the history).

    Source: Mao et al. 2021, section 3.3, with the mean as aggregation.
    # Differs from the paper: their history contains the item that is to be predicted; ours does not, and
    # it is the whole history, in training as at test time.
    # One set of negatives serves a whole batch, which makes a single matrix product of them.
    """

    def __init__(self, cfg: SimpleXConfig, n_users: int, n_items: int):
        super().__init__()
        self.cfg = cfg
        self.user = nn.Embedding(n_users, cfg.d)
        self.item = nn.Embedding(n_items, cfg.d)
        self.project = nn.Linear(cfg.d, cfg.d, bias=False)  # V
        self.dropout = nn.Dropout(cfg.dropout)
        for table in self.user, self.item:
            nn.init.normal_(table.weight, std=0.1)

    def examples(self, data: Interactions) -> Tensor:
        return torch.arange(len(data.pairs))

    def fuse(self, users: Tensor, met_bi: Tensor) -> Tensor:
        """h_u (b, d) of users and of what they met, (b, i) of zeros and ones; of none the mean is 0."""
        mean_bd = met_bi @ self.item.weight / met_bi.sum(1, keepdim=True).clamp(min=1)
        gate = self.cfg.gate
        return gate * self.user(users) + (1 - gate) * self.project(mean_bd)

    def state(self, users: Tensor, history_bs: Tensor, fair: Callable | None = None) -> Tensor:
        """h_u, with the history fused in before `fair` filters it."""
        n_items = len(self.item.weight)
        met = torch.zeros(len(users), n_items + 1, device=users.device)
        h_bd = self.fuse(users, met.scatter_(1, history_bs, 1.0)[:, :n_items])
        return h_bd if fair is None else fair(h_bd)

    def scores(self, state_bd: Tensor) -> Tensor:
        return F.normalize(state_bd, dim=1) @ F.normalize(self.item.weight, dim=1).T

    def loss(self, data: Interactions, rows: Tensor, fair: Callable | None = None) -> Tensor:
        """Mean CCL of the interactions, between 0 and 2 + w, and the penalty."""
        cfg, (users, positive) = self.cfg, data.pairs[rows].T
        met_bi = self.met_without(data.seen, users, positive)
        h_bd = self.fuse(users, met_bi)
        h_bd = self.dropout(h_bd if fair is None else fair(h_bd))
        negatives = torch.randperm(data.seen.shape[1], device=users.device)[: cfg.n_negatives]
        table = F.normalize(self.item.weight, dim=1)
        h_bd = F.normalize(h_bd, dim=1)
        unseen_bk = ~data.seen[users][:, negatives]
        ccl = cosine_contrastive_loss(
            (h_bd * table[positive]).sum(1),
            h_bd @ table[negatives].T,
            unseen_bk,
            cfg.margin,
            cfg.negative_weight,
        )
        squares = self.user(users).square().sum() + self.item(positive).square().sum()
        return ccl + cfg.l2 / 2 * squares / len(rows)

    @staticmethod
    def met_without(seen: Tensor, users: Tensor, positive: Tensor) -> Tensor:
        """(b, i): what each user met in training, without the one item that is to be predicted."""
        return seen[users].float().scatter_(1, positive.unsqueeze(1), 0.0)


# -------------------------------------------------------------------------------------------------
# SASRec and BERT4Rec
# -------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A post-LN transformer block, with Wu et al.'s prompt and adapters if given.

    `prefix_nd` stands before the sequence: every position reads it and nothing is read out of it, so
    that each layer has its own. `mask` (b, 1, s, n + s) is True where a position may look.
    # Differs from the paper: SASRec's block normalises before the attention and of that the query alone;
    # post-LN reaches the same (pmixer's study) and is what BERT4Rec has as well. No dropout of attention
    # weights, which would take half as long again on a CPU.
    """

    def __init__(self, d: int, n_heads: int, d_ff: int, activation: nn.Module, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.q, self.kv, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.ff = nn.Sequential(
            nn.Linear(d, d_ff), activation, nn.Dropout(dropout), nn.Linear(d_ff, d)
        )
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_bsd: Tensor,
        mask: Tensor,
        prefix_nd: Tensor | None = None,
        adapters: nn.ModuleList | None = None,
    ) -> Tensor:
        read = x_bsd
        if prefix_nd is not None:
            read = torch.cat([prefix_nd.expand(len(x_bsd), -1, -1), x_bsd], dim=1)
        heads = lambda x: x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # (b, h, s, e)
        k, v = self.kv(read).chunk(2, dim=2)
        a = F.scaled_dot_product_attention(heads(self.q(x_bsd)), heads(k), heads(v), attn_mask=mask)
        a = self.dropout(self.out(a.transpose(1, 2).flatten(2)))
        x = self.norm1(x_bsd + (a if adapters is None else a + adapters[0](a)))
        f = self.dropout(self.ff(x))
        return self.norm2(x + (f if adapters is None else f + adapters[1](f)))


class Encoder(nn.Module):
    """Items of histories to states: tables, positions and blocks of SASRec and of BERT4Rec.

    Positions are counted from the end, so more padding on the left changes nothing.
    """

    def __init__(
        self, cfg: "SASRecConfig | BERT4RecConfig", n_symbols: int, pad: int, causal: bool
    ):
        super().__init__()
        self.causal, self.pad = causal, pad
        # SASRec scales what it reads up by sqrt(d), BERT4Rec normalises it
        self.scale = cfg.d**0.5 if causal else 1.0
        self.symbol = nn.Embedding(n_symbols, cfg.d)
        self.position = nn.Embedding(cfg.window, cfg.d)
        self.norm = nn.Identity() if causal else nn.LayerNorm(cfg.d)
        self.dropout = nn.Dropout(cfg.dropout)
        width, activation = (cfg.d, nn.ReLU) if causal else (4 * cfg.d, nn.GELU)
        self.blocks = nn.ModuleList(
            Block(cfg.d, cfg.n_heads, width, activation(), cfg.dropout) for _ in range(cfg.n_layers)
        )

    def forward(self, ids_bs: Tensor, prompt: "Prompt | None" = None) -> Tensor:
        """States (b, s, d); what comes out where the input is padding means nothing."""
        (_, s), real = ids_bs.shape, ids_bs != self.pad
        x = self.symbol(ids_bs) * self.scale + self.position.weight[-s:]
        x = self.dropout(self.norm(x))
        mask = real.unsqueeze(1).expand(-1, s, -1)
        if self.causal:
            mask = mask.tril()
        # a padding that may look nowhere would be 0 / 0
        mask = mask | torch.eye(s, dtype=torch.bool, device=ids_bs.device)  # (b, s, s)
        if prompt is not None:
            mask = torch.cat([mask.new_ones(len(mask), s, prompt.prefix.shape[1]), mask], dim=2)
        for layer, block in enumerate(self.blocks):
            given = () if prompt is None else (prompt.prefix[layer], prompt.adapters[layer])
            x = block(x, mask.unsqueeze(1), *given)
        return x


def newest(ids_bs: Tensor, window: int, pad: int) -> Tensor:
    """The last `window` columns, without those in front that are nothing but padding."""
    ids_bs = ids_bs[:, -window:]
    some = (ids_bs != pad).any(0).nonzero()
    return ids_bs[:, int(some[0]) :] if len(some) else ids_bs[:, -1:]


@dataclass(frozen=True)
class SASRecConfig(Training):
    d: int = 50
    batch_size: int = 128
    window: int = 200  # items of history that are read; the oldest are dropped
    n_layers: int = 2
    n_heads: int = 1
    dropout: float = 0.2
    n_negatives: int = 1  # at each position


class SASRec(nn.Module):
    """Left-to-right self-attention: the state at a position times an item's vector scores it as the next.

    Source: Kang and McAuley 2018, sections III-A to III-E.
    """

    def __init__(self, cfg: SASRecConfig, n_users: int, n_items: int):
        super().__init__()
        self.cfg, self.n_items = cfg, n_items
        self.encoder = Encoder(cfg, n_items + 1, pad=n_items, causal=True)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.xavier_normal_(weight)

    def examples(self, data: Interactions) -> Tensor:
        """Users with two training items or more: of one nothing follows."""
        return ((data.histories != self.n_items).sum(1) > 1).nonzero().squeeze(1).cpu()

    def state(self, users: Tensor, history_bs: Tensor, fair: "Prompt | None" = None) -> Tensor:
        """The state at the last item."""
        ids = newest(history_bs, self.cfg.window, self.n_items)
        return self.encoder(ids, fair)[:, -1]

    def scores(self, state_bd: Tensor) -> Tensor:
        return state_bd @ self.encoder.symbol.weight[: self.n_items].T

    def loss(self, data: Interactions, rows: Tensor, fair: "Prompt | None" = None) -> Tensor:
        """Binary cross-entropy in nats of the next item and of negatives, mean over positions (Eq. 6)."""
        ids = newest(data.histories[rows], self.cfg.window + 1, self.n_items)
        inputs, targets = ids[:, :-1], ids[:, 1:]
        counts = inputs != self.n_items
        states_md = self.encoder(inputs, fair)[counts]
        users = rows.to(ids.device).unsqueeze(1).expand_as(inputs)[counts]
        negatives = draw_unseen(data.seen, users, self.cfg.n_negatives)
        items_mkd = self.encoder.symbol(torch.column_stack([targets[counts], negatives]))
        s_mk = (items_mkd @ states_md.unsqueeze(2)).squeeze(2)
        return logistic_loss(s_mk[:, 0], s_mk[:, 1:])


@dataclass(frozen=True)
class BERT4RecConfig(Training):
    batch_size: int = 256
    weight_decay: float = 0.01
    decay: bool = True
    window: int = 200  # items of history that are read; the oldest are dropped
    n_layers: int = 2
    n_heads: int = 2
    dropout: float = 0.2
    mask_share: float = 0.2  # rho
    last_only: float = 0.1  # share of the sequences of which the last item alone is masked


def draw_mask(ids_bs: Tensor, pad: int, share: float, last_only: float) -> Tensor:
    """(b, s) bool: which items are to be guessed: at least one in each row, never padding.

    Each with probability `share`; in a share `last_only` of the rows the last alone, as when the next
    item is asked for.
    """
    real = ids_bs != pad
    mask = (torch.rand(ids_bs.shape, device=ids_bs.device) < share) & real
    alone = torch.rand(len(ids_bs), device=ids_bs.device) < last_only
    last = torch.zeros_like(real)
    last[:, -1] = True
    # a row in which nothing was drawn is one of the last item as well
    return torch.where((alone | ~mask.any(1)).unsqueeze(1), last & real, mask)


class BERT4Rec(nn.Module):
    """Self-attention in both directions that guesses masked items; the next is a [MASK] at the end.

    Source: Sun et al. 2019, sections 3.3 to 3.6.
    # Differs from the paper: the masks are drawn anew in each epoch, and of a history that is longer than
    # the window a random stretch, in place of ten copies of overlapping stretches.
    """

    def __init__(self, cfg: BERT4RecConfig, n_users: int, n_items: int):
        super().__init__()
        self.cfg, self.n_items, self.mask_id = cfg, n_items, n_items + 1
        self.encoder = Encoder(cfg, n_items + 2, pad=n_items, causal=False)
        self.head = nn.Sequential(nn.Linear(cfg.d, cfg.d), nn.GELU(), nn.LayerNorm(cfg.d))
        self.bias = nn.Parameter(torch.zeros(n_items))
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)

    def examples(self, data: Interactions) -> Tensor:
        return torch.arange(len(data.histories))

    def state(self, users: Tensor, history_bs: Tensor, fair: "Prompt | None" = None) -> Tensor:
        """The state at a [MASK] that is put after the history, whose oldest item makes room for it."""
        last = torch.full_like(history_bs[:, :1], self.mask_id)
        ids = newest(torch.cat([history_bs, last], dim=1), self.cfg.window, self.n_items)
        return self.encoder(ids, fair)[:, -1]

    def scores(self, state_bd: Tensor) -> Tensor:
        """Logits (b, i), Eq. 7: the head is no part of the state."""
        return self.head(state_bd) @ self.encoder.symbol.weight[: self.n_items].T + self.bias

    def loss(self, data: Interactions, rows: Tensor, fair: "Prompt | None" = None) -> Tensor:
        """Cross-entropy over the catalogue in nats, mean over the masked positions (Eq. 8)."""
        cfg, ids = self.cfg, self.stretch(data.histories[rows])
        masked = draw_mask(ids, self.n_items, cfg.mask_share, cfg.last_only)
        states_md = self.encoder(ids.masked_fill(masked, self.mask_id), fair)[masked]
        return F.cross_entropy(self.scores(states_md), ids[masked])

    def stretch(self, history_bs: Tensor) -> Tensor:
        """`window` neighbouring items of each history, (b, s); the whole of a shorter one."""
        history_bs = newest(history_bs, history_bs.shape[1], self.n_items)
        beyond = (history_bs != self.n_items).sum(
            1, keepdim=True
        ) - self.cfg.window  # items to spare
        earlier = (
            torch.rand(beyond.shape, device=beyond.device) * (beyond + 1).clamp(min=1)
        ).long()
        width = min(self.cfg.window, history_bs.shape[1])
        columns = torch.arange(history_bs.shape[1] - width, history_bs.shape[1])
        return history_bs.gather(1, columns.to(earlier.device) - earlier)


# -------------------------------------------------------------------------------------------------
# What makes them fair
# -------------------------------------------------------------------------------------------------


class Filters(nn.Module):
    """A filter of user vectors for each attribute; several together are the mean of their outputs.

    Source: Li et al. 2021, section 4.2, their "combination": a network of two layers and a BatchNorm for
    each attribute, and the mean over the attributes that are to be hidden.
    """

    def __init__(self, attrs: list[str], d: int):
        super().__init__()
        self.attrs = list(attrs)
        self.filters = nn.ModuleList(
            nn.Sequential(
                nn.Linear(d, 2 * d),
                nn.LeakyReLU(),
                nn.Linear(2 * d, d),
                nn.LeakyReLU(),
                nn.BatchNorm1d(d),
            )
            for _ in attrs
        )

    def forward(self, user_bd: Tensor, attrs: tuple[str, ...]) -> Tensor:
        asked = [self.filters[self.attrs.index(attr)] for attr in attrs]
        return torch.stack([each(user_bd) for each in asked]).mean(0)


class Prompt(nn.Module):
    """Vectors before the sequence in every layer, and two adapters in every block, on a frozen encoder.

    Source: Wu et al. 2022, section 4: prompt and adapters eliminate what tells about one combination of
    attributes.
    # Differs from the paper: their prompt has vectors of the user's own attributes as well. Ours has not:
    # to hide an attribute from a recommender one need not tell it. Adapters are each layer's own.
    """

    def __init__(self, encoder: Encoder, length: int):
        super().__init__()
        items = encoder.symbol.weight.detach()
        d, n_layers = items.shape[1], len(encoder.blocks)
        drawn = torch.randn(n_layers, length, d, device=items.device)
        self.prefix = nn.Parameter(encoder.scale * (items.mean(0) + items.std(0) * drawn))
        self.adapters = nn.ModuleList(
            nn.ModuleList(adapter(d) for _ in range(2)) for _ in range(n_layers)
        )


def adapter(d: int) -> nn.Sequential:
    """(.., d) -> (.., d) through a quarter of the width; at first next to nothing comes out."""
    layers = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d // 4), nn.ReLU(), nn.Linear(d // 4, d))
    for layer in layers[1], layers[3]:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return layers
