"""Every setting: of backbones, P5's training, prompts and the mixer.

A field with a help text is a flag of `train.py` as well. T, R and lambda are Algorithm 1's.
"""

import math
from dataclasses import dataclass, fields

import torch

from support.fields import at_least, count, flag, rate, weight

T5_KINDS = "t5", "mt5", "umt5"  # values of model_type
LLAMA_KINDS = "llama", "mistral", "qwen2", "qwen3"


@dataclass(frozen=True)
class T5Config:
    """What defines a T5, under the names of the public `config.json`; the defaults are the tiny one.

    The tiny backbone has 0.16 million parameters without its embeddings and trains from scratch in
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
    dropout_rate: float = 0.0  # in [0, 1); none when it is frozen
    layer_norm_epsilon: float = 1e-6
    tie_word_embeddings: bool = True  # the head is the embedding
    scale_decoder_outputs: bool = True  # by d_model**-0.5; where untied, usually not
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0
    model_type: str = "t5"  # of mT5 nothing but this differs

    @property
    def own_biases(self) -> bool:
        """Whether each layer has relative position biases of its own, as UMT5's have."""
        return self.model_type == "umt5"

    @property
    def prefix_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(l, h, e) of the prefix of each stack that takes one."""
        width = self.num_heads, self.d_kv
        return {"encoder": (self.num_layers, *width), "decoder": (self.num_decoder_layers, *width)}


@dataclass(frozen=True)
class LlamaConfig:
    """What defines a Llama, a Mistral or a Qwen, under the names of the public `config.json`.

    The defaults are the tiny one.
    """

    vocab_size: int
    hidden_size: int = 64
    intermediate_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 4  # fewer than the heads of the queries: several share one
    head_dim: int = 16
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0  # the slowest rotation takes about 2 pi * theta tokens
    tie_word_embeddings: bool = False
    bos_token_id: int = 1
    eos_token_id: int = 2
    model_type: str = "llama"
    rope_scaling: dict | None = None  # as `read_config` gives it; see `rotation_speeds`

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.model_type == "qwen2"

    @property
    def qk_norm_eps(self) -> float | None:
        """Of the norms of each head's queries and keys, before they are turned; None for no norms."""
        return self.rms_norm_eps if self.model_type == "qwen3" else None

    def rotation_speeds(self) -> torch.Tensor:
        """Radians per token of each pair of a head's entries, (e/2,): theta**(-2j / e), or scaled.

        "linear" slows all of them down by `factor`. "llama3" does so with those that turn fewer than
        `low_freq_factor` times over the length that the model was first trained on, leaves alone those
        that turn more than `high_freq_factor` times, and goes linearly from one to the other.
        """
        speeds = self.rope_theta ** -(torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        if self.rope_scaling is None:
            return speeds
        left, scaling = 0.0, self.rope_scaling
        if scaling["rope_type"] == "llama3":
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            turns = scaling["original_max_position_embeddings"] * speeds / (2 * math.pi)
            left = ((turns - low) / (high - low)).clamp(0, 1)
        return speeds * (left + (1 - left) / scaling["factor"])

    @property
    def d_model(self) -> int:
        return self.hidden_size

    @property
    def decoder_start_token_id(self) -> int:
        # Paper silent: what stands between prompt and answer of a decoder-only model; we write
        # <s> prompt <s> answer </s>, which every tokenizer of this family can.
        return self.bos_token_id

    @property
    def prefix_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(l, h, e) of the prefix of the one stack."""
        return {"decoder": (self.num_hidden_layers, self.num_key_value_heads, self.head_dim)}


def config_from(config: dict) -> T5Config | LlamaConfig:
    """The shape of the model that a public `config.json` is about, as `read_config` gives it."""
    kind = T5Config if config["model_type"] in T5_KINDS else LlamaConfig
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in config.items() if key in known})


@dataclass(frozen=True)
class P5Config:
    """How P5 (Geng et al. 2022) is trained from scratch, and what its prompts look like."""

    d_ff: int = 128  # width of a tiny backbone's feed-forward
    steps: int = flag(850, "training steps at most; 0 for a folder as it is", count, "p5-steps")
    # A direct prompt costs a third of a sequential one, and all of the user's items answer it.
    direct_batch: int = flag(
        24, "direct prompts per step of P5's training", spelled="p5-direct-batch"
    )
    sequential_batch: int = flag(
        64, "sequential prompts per step of P5's training", spelled="p5-sequential-batch"
    )
    direct_share: float = 0.5  # of the direct prompts in the loss; 0 or 1 for one task alone
    lr: float = 1e-3  # AdamW
    # A user's token is met far more rarely than any other weight is used. With one rate for all it
    # stays empty, and what is known about the user never gets into it. An item's row in an untied
    # head is as rare (and with the slow rate Llama's Hit@10 stays at 42% in place of 51%).
    # Decay, for a user has some thirty items, which 64 free numbers learn by heart.
    embedding_lr: float = 0.1  # of embeddings, head and relative position biases
    embedding_decay: float = 0.06
    warmup: int = 50  # steps; after them the rates fall linearly to 0
    max_norm: float = 0.5  # of a step's gradient
    checks: int = 4  # times that the validation items are looked at; the best weights are kept
    window: int = flag(8, "items of history in a sequential prompt")
    max_tokens: int = 512  # of a prompt
    prompt_candidates: int = flag(0, "listed in a direct prompt; the paper's 100, or 0", count)

    @property
    def tasks(self) -> dict[str, tuple[int, float]]:
        """Task -> (prompts per step, share of the loss), of those that it is trained for."""
        direct = {"direct": (self.direct_batch, self.direct_share)}
        tasks = {"sequential": (self.sequential_batch, 1 - self.direct_share)} | direct
        return {task: each for task, each in tasks.items() if each[1] > 0}


@dataclass(frozen=True)
class CFPConfig:
    """The hyper-parameters of one counterfactually-fair prompt; the defaults are the fair game's.

    # Differs from the paper: with its T = 10 and R = 20 (`PAPER_SCHEDULE`) the discriminator is
    # out of date: the prefix hides from a classifier of long ago, and a fresh one still reads the
    # attribute. Here the discriminator moves `dis_steps` times after every single step of the
    # prefix. Lines 10-12 are left out (`rec_steps` 0): L_rec is in every step of line 6 as well.
    """

    prefix_len: int = flag(20, "tokens of the prefix; the paper's {5, 15, 30}; 0 for none", count)
    prefix_hidden: int = 64  # width of the reparametrising MLP
    lam: float = flag(2.0, "lambda of Eq. 4; the paper's {1, 5, 10, 100}; 0 hides nothing", weight)
    inner_steps: int = flag(1, "T of the prefix on Eq. 4, line 3; the paper's {10, 20}")
    rec_steps: int = flag(0, "T of the prefix on Eq. 2, line 10; the paper's {10, 20}", count)
    # Two more steps of the discriminator cost as much as one of the prefix: without the dependence
    # beside it, it needs three.
    dis_steps: int = flag(1, "T of the discriminator, line 14; the paper's {10, 20}")
    every: int = flag(1, "R, batches between discriminator updates; the paper's 20")
    epochs: int = flag(130, "passes over the users")
    batch_size: int = flag(400, "users per batch; the paper's 16", at_least(4))  # compares people
    lr: float = flag(5e-3, "learning rate of the prefix", rate)  # falls linearly to a twentieth
    dis_lr: float = flag(5e-3, "learning rate of the discriminators", rate)
    dis_depths: tuple[int, ...] = (1, 3, 7)  # linear layers of each member; the paper's one has 7
    dis_hidden: int = 128  # width between the discriminator's layers
    dis_dropout: float = 0.2
    dis_noise: float = 0.35  # standard deviations of Gaussian noise on the discriminator's input
    dis_weight_decay: float = 0.3
    adversary: str = flag(
        "both",
        "what the prefix plays against: the paper's game with discriminators, the dependence of states "
        "on labels (HSIC) alone, or both",
        choices=("game", "dependence", "both"),
    )
    hsic: float = flag(20.0, "weight of the dependence in L, where it counts", weight)
    hide_from: str = flag(
        "user-tokens",
        "what the adversary reads: the user tokens, as in the paper, or the first state of the "
        "decoder as well, from which the recommendations are written",
        choices=("user-tokens", "scores"),
    )
    # L_dis counts up to so many times the labels' entropy, None: always. Not 1: on users that they have
    # not met before, discriminators do a little worse than a blind guess where a fresh attacker
    # still reads, and more than half of the batches would count for nothing.
    cap: float | None = 1.15
    discriminator: str = flag(
        "classifier",
        "who guesses the attribute: the classifier, or a soft probing prompt as in section 6",
        choices=("classifier", "soft"),
    )


# Section 5.1 and appendix A.3. # Paper silent: epochs and learning rates, which are ours; two
# epochs are 1,500 steps of the prefix in the toy world.
PAPER_SCHEDULE = dict(  # T, R and lambda of section 5.1
    prefix_len=15,
    lam=10.0,
    inner_steps=10,  # T
    rec_steps=10,  # T
    dis_steps=10,  # T
    every=20,  # R
    epochs=2,
    batch_size=16,
    adversary="game",
    dis_lr=1e-2,
    dis_depths=(7,),
    dis_dropout=0.0,
    dis_noise=0.0,
    dis_weight_decay=0.01,
    cap=None,
)


@dataclass(frozen=True)
class MixerConfig:
    """The hyper-parameters of the mixer; the game that trains it is `CFPConfig`'s, but for these."""

    hidden: int = flag(256, "width of its attention, a multiple of its heads")
    n_heads: int = 8
    lam: float = flag(5.0, "lambda of Eq. 5, for an attribute of two equal classes", weight)
    # slower than the prompts': the discriminators meet a choice in every fourth batch only
    lr: float = flag(3e-3, "learning rate of the mixer", rate)
    dis_lr: float = flag(1e-2, "learning rate of the discriminators", rate)
    dis_steps: int = flag(4, "T of the discriminators, line 14")
    epochs: int = flag(130, "passes over the users")
