"""The recommenders that the paper compares with, and the parts that make them fair.

PMF, SimpleX, SASRec and BERT4Rec; `Filters` (Li et al. 2021) make C-PMF and C-SX of the first two,
`Prompt` (Wu et al. 2022) makes S-SAS and S-B4 of the others. Each of the four has

    examples(data)                     the rows that an epoch goes through: interactions, or users
    loss(data, rows_b, fair)           their mean loss, a scalar in the unit that its docstring names
    state(users_b, history_bs, fair)   (b, d), what the user is to the recommender and is attacked
    scores(state_bd)                   (b, i), of the whole catalogue

where `fair` is what makes it fair, None for nothing. Items are indices from 0; histories are padded on
the left with the number of items. The axes' letters are explained at the top of `model.py`; s is items
of history here, n tokens of a prompt, k negatives. `baselines.py` trains and measures the four.
"""

from dataclasses import dataclass
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.fields import at_least, flag, rate


class Interactions(NamedTuple):
    """The training interactions: held-out items are nowhere in here, not even as what was met."""

    pairs: Tensor  # (interactions, 2) user and item
    histories: Tensor  # (users, s) each user's items, oldest first, padded on the left
    seen: Tensor  # (users, i) bool: what no negative may be


@dataclass(frozen=True)
class TrainingConfig:
    """How any of the four is trained: with AdamW; the best weights on validation are kept."""

    d: int = flag(64, "width of its vectors", at_least(1))
    epochs: int = flag(100, "passes of a recommender's training, at most", at_least(1))
    batch_size: int = flag(1024, "interactions, or users for SASRec and BERT4Rec", at_least(1))
    lr: float = flag(1e-3, "learning rate of a recommender", rate)
    weight_decay: float = 0.0  # of all weights; the penalty of PMF and SimpleX is `l2`
    # whether the rate falls linearly to 0, after a hundredth of the steps in which it rises
    decay: bool = False
    check: int = flag(2, "epochs between two looks at the validation items", at_least(1))
    patience: int = flag(10, "looks without a gain after which it ends", at_least(1))


def draw_unseen(seen: Tensor, users: Tensor, k: int) -> Tensor:
    """`k` items drawn uniformly from what each of the users (b,) has not seen, (b, k).

    Items that were `seen` (users, i) are drawn anew, twenty times at most: a user who has seen nearly all
    of a small catalogue may be left with a wrong negative.
    """
    n_items = seen.shape[1]
    drawn = torch.randint(n_items, (len(users), k), device=seen.device)
    for _ in range(20):
        wrong = seen[users.unsqueeze(1), drawn]
        if not wrong.any():
            break
        drawn[wrong] = torch.randint(n_items, (int(wrong.sum()),), device=seen.device)
    return drawn


@dataclass(frozen=True)
class PMFConfig(TrainingConfig):
    objective: str = "logistic"  # the only one; it stands in the config.json of every run
    n_negatives: int = 4  # per positive
    l2: float = 0.01  # precision of the Gaussian priors over that of the data


def logistic_loss(positive_b: Tensor, negative_bk: Tensor) -> Tensor:
    """-log P(positive) - sum over its negatives of log P(not negative), the mean over positives, in nats.

    Source: Rendle et al. 2020; with k = 1 also SASRec's binary cross-entropy (Kang and McAuley 2018).
    """
    return F.softplus(-positive_b).mean() + F.softplus(negative_bk).sum(1).mean()


class PMF(nn.Module):
    """Probabilistic matrix factorisation: score(u, i) = p_u q_i + b_i, Gaussian priors on p and q.

    Source: Mnih and Salakhutdinov 2007, Eq. 3 and 4: the priors are a penalty on the squared lengths.
    # Differs from the paper: theirs predicts ratings, which ranks unrated items poorly; ours predicts
    # choices, as in Li et al. 2021, and has an item bias, as in Rendle et al. 2020. The penalty falls on
    # the users and items of a batch alone, or all the other batches would pull a rare item to zero.
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
        """Mean over the interactions of the logistic loss in nats and of the priors' penalty."""
        users, positive = data.pairs[rows].T
        negatives = draw_unseen(data.seen, users, self.cfg.n_negatives)
        items = torch.column_stack([positive, negatives])  # (b, 1 + k)
        state_bd, q_bkd = self.state(users, data.histories[:0], fair), self.item(items)
        s_bk = (q_bkd @ state_bd.unsqueeze(2)).squeeze(2) + self.bias[items]
        squares = state_bd.square().sum() + q_bkd.square().sum()
        return logistic_loss(s_bk[:, 0], s_bk[:, 1:]) + self.cfg.l2 / 2 * squares / len(rows)


@dataclass(frozen=True)
class SimpleXConfig(TrainingConfig):
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
    # it is always the whole history. One set of negatives serves a whole batch, in one matrix product.
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
        h_bd = self.fuse(users, self.met_without(data.seen, users, positive))
        h_bd = F.normalize(self.dropout(h_bd if fair is None else fair(h_bd)), dim=1)
        e_id = F.normalize(self.item.weight, dim=1)
        negatives = torch.randperm(len(e_id), device=users.device)[: cfg.n_negatives]
        cosine_b, cosine_bk = (h_bd * e_id[positive]).sum(1), h_bd @ e_id[negatives].T
        unseen_bk = ~data.seen[users][:, negatives]
        weights = cfg.margin, cfg.negative_weight
        ccl = cosine_contrastive_loss(cosine_b, cosine_bk, unseen_bk, *weights)
        squares = self.user(users).square().sum() + self.item(positive).square().sum()
        return ccl + cfg.l2 / 2 * squares / len(rows)

    @staticmethod
    def met_without(seen: Tensor, users: Tensor, positive: Tensor) -> Tensor:
        """(b, i): what each user met in training, without the one item that is to be predicted."""
        return seen[users].float().scatter_(1, positive.unsqueeze(1), 0.0)


@dataclass(frozen=True)
class SequenceConfig(TrainingConfig):
    window: int = 200  # items of history that are read; the oldest are dropped
    n_layers: int = 2
    n_heads: int = 2
    dropout: float = 0.2


class Block(nn.Module):
    """A post-LN transformer block.

    `mask` (b, 1, s, n + s) is True where a position may look. `fair` is a prompt's share in this layer:
    a prefix (n, d) that every position reads, and two adapters.
    # Differs from the paper: SASRec's block normalises before the attention, and only the query; post-LN
    # reaches the same (pmixer's study) and is what BERT4Rec has. Attention weights have no dropout: a
    # step would take half as long again on a CPU.
    """

    def __init__(self, d: int, n_heads: int, d_ff: int, activation: nn.Module, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.q, self.kv, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        layers = nn.Linear(d, d_ff), activation, nn.Dropout(dropout), nn.Linear(d_ff, d)
        self.ff = nn.Sequential(*layers)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_bsd: Tensor, mask: Tensor, fair: tuple | None = None) -> Tensor:
        read, adapters = x_bsd, None
        if fair is not None:
            prefix_nd, adapters = fair
            read = torch.cat([prefix_nd.expand(len(x_bsd), -1, -1), x_bsd], dim=1)
        heads = lambda x: x.unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # (b, h, s, e)
        k, v = self.kv(read).chunk(2, dim=2)
        a = F.scaled_dot_product_attention(heads(self.q(x_bsd)), heads(k), heads(v), attn_mask=mask)
        a = self.dropout(self.out(a.transpose(1, 2).flatten(2)))
        x = self.norm1(x_bsd + (a if adapters is None else a + adapters[0](a)))
        f = self.dropout(self.ff(x))
        return self.norm2(x + (f if adapters is None else f + adapters[1](f)))


class Encoder(nn.Module):
    """SASRec's and BERT4Rec's: from the items of histories to states. Positions count from the end."""

    def __init__(self, cfg: SequenceConfig, n_symbols: int, pad: int, causal: bool):
        super().__init__()
        self.causal, self.pad = causal, pad
        # SASRec scales its input up by sqrt(d), BERT4Rec normalises it
        self.scale = cfg.d**0.5 if causal else 1.0
        self.symbol = nn.Embedding(n_symbols, cfg.d)
        self.position = nn.Embedding(cfg.window, cfg.d)
        self.norm = nn.Identity() if causal else nn.LayerNorm(cfg.d)
        self.dropout = nn.Dropout(cfg.dropout)
        about = (cfg.d, nn.ReLU()) if causal else (4 * cfg.d, nn.GELU())  # of the feed-forward part
        blocks = (Block(cfg.d, cfg.n_heads, *about, cfg.dropout) for _ in range(cfg.n_layers))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, ids_bs: Tensor, prompt: "Prompt | None" = None) -> Tensor:
        """States (b, s, d); those at padding mean nothing."""
        (_, s), real = ids_bs.shape, ids_bs != self.pad
        x = self.symbol(ids_bs) * self.scale + self.position.weight[-s:]
        x = self.dropout(self.norm(x))
        mask = real.unsqueeze(1).expand(-1, s, -1)
        if self.causal:
            mask = mask.tril()
        # a padding that may look nowhere would give 0 / 0, so each position may look at itself
        mask = mask | torch.eye(s, dtype=torch.bool, device=ids_bs.device)  # (b, s, s)
        if prompt is not None:
            mask = torch.cat([mask.new_ones(len(mask), s, prompt.prefix.shape[1]), mask], dim=2)
        for layer, block in enumerate(self.blocks):
            fair = None if prompt is None else (prompt.prefix[layer], prompt.adapters[layer])
            x = block(x, mask.unsqueeze(1), fair)
        return x


def newest(ids_bs: Tensor, window: int, pad: int) -> Tensor:
    """The last `window` columns, without columns in front that hold nothing but padding."""
    ids_bs = ids_bs[:, -window:]
    with_items = (ids_bs != pad).any(0).nonzero()
    return ids_bs[:, int(with_items[0]) :] if len(with_items) else ids_bs[:, -1:]


@dataclass(frozen=True)
class SASRecConfig(SequenceConfig):
    d: int = 50
    batch_size: int = 128
    n_heads: int = 1
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
        """Users with at least two training items: after a single one nothing follows."""
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
class BERT4RecConfig(SequenceConfig):
    batch_size: int = 256
    weight_decay: float = 0.01
    decay: bool = True
    mask_share: float = 0.2  # rho
    last_only: float = 0.1  # share of the sequences of which the last item alone is masked


def draw_mask(ids_bs: Tensor, pad: int, share: float, last_only: float) -> Tensor:
    """(b, s) bool: which items are to be guessed, at least one in each row and never padding.

    Each with probability `share`; in a share `last_only` of the rows only the last, as at test time.
    """
    real = ids_bs != pad
    mask = (torch.rand(ids_bs.shape, device=ids_bs.device) < share) & real
    alone = torch.rand(len(ids_bs), device=ids_bs.device) < last_only
    last = torch.zeros_like(real)
    last[:, -1] = True
    # a row in which nothing was drawn has the last item as well
    return torch.where((alone | ~mask.any(1)).unsqueeze(1), last & real, mask)


class BERT4Rec(nn.Module):
    """Self-attention in both directions that guesses masked items; the next is a [MASK] at the end.

    Source: Sun et al. 2019, sections 3.3 to 3.6.
    # Differs from the paper: every epoch draws new masks and, of a history longer than the window, a new
    # stretch; theirs has ten copies of overlapping stretches.
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
        """The state at a [MASK] put after the history; in a full window the oldest item makes room."""
        last = torch.full_like(history_bs[:, :1], self.mask_id)
        ids = newest(torch.cat([history_bs, last], dim=1), self.cfg.window, self.n_items)
        return self.encoder(ids, fair)[:, -1]

    def scores(self, state_bd: Tensor) -> Tensor:
        """Logits (b, i), Eq. 7: the head comes after the state."""
        return self.head(state_bd) @ self.encoder.symbol.weight[: self.n_items].T + self.bias

    def loss(self, data: Interactions, rows: Tensor, fair: "Prompt | None" = None) -> Tensor:
        """Cross-entropy over the catalogue in nats, mean over the masked positions (Eq. 8)."""
        cfg, ids = self.cfg, self.stretch(data.histories[rows])
        masked = draw_mask(ids, self.n_items, cfg.mask_share, cfg.last_only)
        states_md = self.encoder(ids.masked_fill(masked, self.mask_id), fair)[masked]
        return F.cross_entropy(self.scores(states_md), ids[masked])

    def stretch(self, history_bs: Tensor) -> Tensor:
        """`window` neighbouring items of each history, (b, s); the whole of a shorter one."""
        history_bs, window = newest(history_bs, history_bs.shape[1], self.n_items), self.cfg.window
        n_spare = (history_bs != self.n_items).sum(1, keepdim=True) - window
        drawn = torch.rand(n_spare.shape, device=n_spare.device)
        earlier = (drawn * (n_spare + 1).clamp(min=1)).long()
        columns = torch.arange(history_bs.shape[1], device=n_spare.device)[-window:]
        return history_bs.gather(1, columns - earlier)


class Filters(nn.Module):
    """A filter of user vectors for each attribute; several attributes are hidden by their mean output.

    Source: Li et al. 2021, section 4.2, their "combination": each filter has two layers and a BatchNorm.
    """

    def __init__(self, attrs: list[str], d: int):
        super().__init__()
        self.attrs = list(attrs)
        layers = lambda: (nn.Linear(d, 2 * d), nn.LeakyReLU(), nn.Linear(2 * d, d), nn.LeakyReLU())
        self.filters = nn.ModuleList(nn.Sequential(*layers(), nn.BatchNorm1d(d)) for _ in attrs)

    def forward(self, user_bd: Tensor, attrs: tuple[str, ...]) -> Tensor:
        outputs = [self.filters[self.attrs.index(attr)](user_bd) for attr in attrs]
        return torch.stack(outputs).mean(0)


class Prompt(nn.Module):
    """Vectors before the sequence in every layer, and two adapters in every block, on a frozen encoder.

    Source: Wu et al. 2022, section 4: they remove what tells of one combination of attributes.
    # Differs from the paper: their prompt also has vectors of the user's own attributes; a recommender
    # need not be told what is hidden from it. Each layer has its own adapters.
    """

    def __init__(self, encoder: Encoder, length: int):
        super().__init__()
        items = encoder.symbol.weight.detach()
        d, n_layers = items.shape[1], len(encoder.blocks)
        drawn = torch.randn(n_layers, length, d, device=items.device)
        self.prefix = nn.Parameter(encoder.scale * (items.mean(0) + items.std(0) * drawn))
        pairs = (nn.ModuleList(adapter(d) for _ in range(2)) for _ in range(n_layers))
        self.adapters = nn.ModuleList(pairs)


def adapter(d: int) -> nn.Sequential:
    """(.., d) -> (.., d) through a quarter of the width; at first its output is close to zero."""
    layers = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d // 4), nn.ReLU(), nn.Linear(d // 4, d))
    for layer in layers[1], layers[3]:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return layers


Recommender = PMF | SimpleX | SASRec | BERT4Rec
RECOMMENDERS = {
    "pmf": (PMF, PMFConfig),
    "simplex": (SimpleX, SimpleXConfig),
    "sasrec": (SASRec, SASRecConfig),
    "bert4rec": (BERT4Rec, BERT4RecConfig),
}
