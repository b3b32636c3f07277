"""T5 and Llama against the reference, the prefix hook, decoding, exact scores, files."""

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import random_llama, random_prefix, random_t5

import model as model_module
from model import (
    NO_TOKEN,
    T5,
    Llama,
    LlamaConfig,
    Prefix,
    T5Config,
    load_backbone,
    relative_position_bucket,
    target_loss,
)
from support.backbones import init_from_scratch, save_backbone
from support.candidates import generate, score_candidates
from support.command import read_command
from support.files import InputError, load_tensors, save_tensors
from support.flags import P5_ON, settings
from support.weights import public_names

# eight pairs of entries: some turn often over 24 tokens, some hardly, some lie between
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3 |= dict(original_max_position_embeddings=24)
GATED = dict(feed_forward_proj="gated-gelu")
UNTIED = dict(tie_word_embeddings=False, scale_decoder_outputs=False)
REFERENCE_CONFIGS = {
    "t5 relu, tied": T5Config(96, 32, 8, 48, num_heads=3),
    "t5 gated-gelu, untied": T5Config(
        *(96, 32, 8, 48),
        num_heads=3,
        **GATED,
        **UNTIED,
    ),
    "t5 shallow decoder, few buckets": T5Config(
        *(96, 32, 8, 48),
        num_heads=3,
        num_layers=3,
        num_decoder_layers=1,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        layer_norm_epsilon=1e-3,
    ),
    "llama plain": LlamaConfig(96, 32, 48, 2, 4, 4, 8),
    "llama grouped-query, own head_dim, other theta": LlamaConfig(
        96, 32, 48, 2, 4, 2, 12, rope_theta=500.0, rms_norm_eps=1e-3
    ),
    "llama tied": LlamaConfig(96, 32, 48, 3, 4, 1, 8, tie_word_embeddings=True),
    "llama linear rope": LlamaConfig(
        96, 32, 48, 2, 4, 2, 8, rope_scaling={"rope_type": "linear", "factor": 4.0}
    ),
    "llama 3": LlamaConfig(96, 32, 48, 2, 4, 2, 16, rope_theta=500.0, rope_scaling=LLAMA3),
    "mistral": LlamaConfig(96, 32, 48, 2, 4, 2, 8, model_type="mistral"),
    "qwen2": LlamaConfig(96, 32, 48, 2, 4, 2, 8, tie_word_embeddings=True, model_type="qwen2"),
    "qwen3": LlamaConfig(96, 32, 48, 2, 4, 2, 12, rope_theta=1e6, model_type="qwen3"),
    "mt5": T5Config(96, 32, 8, 48, num_heads=3, **GATED, model_type="mt5", **UNTIED),
    "mt5 tied": T5Config(
        96, 32, 8, 48, num_heads=3, **GATED, scale_decoder_outputs=False, model_type="mt5"
    ),
    "umt5": T5Config(96, 32, 8, 48, num_heads=3, **GATED, model_type="umt5", **UNTIED),
    "umt5 tied": T5Config(96, 32, 8, 48, 3, 2, num_heads=3, **GATED, model_type="umt5"),
}
LAYOUTS = "model.safetensors", "model.safetensors.index.json"
LAYOUTS += "pytorch_model.bin", "pytorch_model.bin.index.json"


def random_ids(batch=3, length=40, seed=1):
    ids = torch.randint(2, 90, (batch, length), generator=torch.Generator().manual_seed(seed))
    ids[1, -9:] = 0  # padding on the right
    return ids


def reference_checkpoint(folder, ours, batch=3):
    """A checkpoint written by `transformers`, the arguments of a call and the reference's logits.

    Weights are moved away from their initial values until the logits vary.
    """
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids, decoder_ids = random_ids(batch), random_ids(batch, length=6, seed=5).clamp(min=2)
    fields = dataclasses.asdict(ours)
    name = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}.get(kind := fields.pop("model_type"))
    if isinstance(ours, T5Config):
        config = getattr(transformers, f"{name}Config")(**fields)
        reference = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
        if not ours.tie_word_embeddings:  # recent versions tie whatever the config says
            reference.lm_head.weight = torch.nn.Parameter(torch.randn(96, 32))
    else:
        scaling, name = fields.pop("rope_scaling"), kind.capitalize()
        fields["rope_parameters"] = {"rope_theta": fields.pop("rope_theta")} | (scaling or {})
        fields["rope_parameters"].setdefault("rope_type", "default")
        config = getattr(transformers, f"{name}Config")(**fields)
        reference = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for param in reference.parameters():
            param.add_(torch.randn_like(param) * 0.1)
        inputs = dict(input_ids=ids, attention_mask=(ids != 0).long())
        if isinstance(ours, T5Config):
            inputs["decoder_input_ids"] = decoder_ids
        logits = reference(**inputs).logits
    reference.save_pretrained(folder)
    if isinstance(ours, T5Config) and not ours.tie_word_embeddings:
        state = reference.state_dict()
        save_tensors(
            folder / "model.safetensors", {k: v for k, v in state.items() if "embed_tok" not in k}
        )
        edit_config(folder, tie_word_embeddings=False)
    return ids, decoder_ids, logits


def relayout(folder, layout):
    """Write a folder's tensors anew: whole or in two shards with an index, safetensors or .bin."""
    tensors = {k: v.clone() for k, v in load_tensors(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    suffix = ".safetensors" if "safetensors" in layout else ".bin"
    write = save_tensors if suffix == ".safetensors" else lambda path, t: torch.save(t, path)
    if not layout.endswith("index.json"):
        return write(folder / layout, tensors)
    weight_map = {}
    for number, keys in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        name = f"{layout.split('.')[0]}-0000{number}-of-00002{suffix}"
        write(folder / name, {key: tensors[key] for key in keys})
        weight_map |= {key: name for key in keys}
    metadata = {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
    (folder / layout).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))


def our_logits(backbone, ids, decoder_ids):
    with torch.no_grad():
        encoded = backbone.encode(ids, ids != 0 if isinstance(backbone, T5) else ids == ids)
        whole = (
            backbone.decode(decoder_ids, encoded) if isinstance(backbone, T5) else encoded.states
        )
        return backbone.logits(whole)


def difference(ours, theirs, ids):
    """Largest difference of logits relative to the largest, where Llama's text is not padding."""
    rows = ids != 0 if theirs.shape[1] == ids.shape[1] else slice(None)
    return ((ours - theirs)[rows].abs().max() / theirs[rows].abs().max()).item()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cfg", REFERENCE_CONFIGS.values(), ids=REFERENCE_CONFIGS)
def test_logits_match_reference(tmp_path, cfg, layout):
    ids, decoder_ids, theirs = reference_checkpoint(tmp_path, cfg)
    relayout(tmp_path, layout)
    backbone = load_backbone(tmp_path).eval()
    assert theirs.std() > 0.1
    assert difference(our_logits(backbone, ids, decoder_ids), theirs, ids) <= 1e-4


@pytest.mark.parametrize("cfg", REFERENCE_CONFIGS.values(), ids=REFERENCE_CONFIGS)
def test_parity_test_has_teeth(tmp_path, cfg):
    ids, decoder_ids, theirs = reference_checkpoint(tmp_path, cfg)
    backbone = load_backbone(tmp_path).eval()
    config = json.loads((tmp_path / "config.json").read_text())
    for ours in public_names(config | dataclasses.asdict(backbone.cfg)).values():
        if ".layers.1." in ours:
            continue  # one layer of each kind is enough
        param = backbone.get_parameter(ours)
        kept = param.detach().clone()
        with torch.no_grad():
            param.mul_(1.5).add_(0.05)
            wrong = difference(our_logits(backbone, ids, decoder_ids), theirs, ids)
            param.copy_(kept)
        assert wrong > 1e-4, ours


@pytest.mark.parametrize("field", ["rope_theta", "rms_norm_eps", "head_dim"])
def test_llama_honours_its_config(tmp_path, field):
    cfg = REFERENCE_CONFIGS["llama grouped-query, own head_dim, other theta"]
    ids, decoder_ids, theirs = reference_checkpoint(tmp_path, cfg)
    edit_config(tmp_path, **{field: 2 * getattr(cfg, field), "rope_parameters": None})
    if field == "head_dim":
        with pytest.raises(InputError, match="has shape"):
            load_backbone(tmp_path)
    else:
        logits = our_logits(load_backbone(tmp_path).eval(), ids, decoder_ids)
        assert difference(logits, theirs, ids) > 1e-4


def test_scaled_rotation_is_not_plain_rotation(tmp_path):
    ids, decoder_ids, theirs = reference_checkpoint(tmp_path, REFERENCE_CONFIGS["llama 3"])
    edit_config(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    logits = our_logits(load_backbone(tmp_path).eval(), ids, decoder_ids)
    assert difference(logits, theirs, ids) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", ["t5-small", "t5-base"])
def test_real_shapes_match_reference(tmp_path, size):
    """The published shapes with random weights, as `transformers` writes them."""
    widths = {"t5-small": (512, 64, 2048, 6, 6, 8), "t5-base": (768, 64, 3072, 12, 12, 12)}[size]
    ids, decoder_ids, theirs = reference_checkpoint(tmp_path, T5Config(32128, *widths))
    backbone = load_backbone(tmp_path).eval()
    assert theirs.std() > 0.1
    assert difference(our_logits(backbone, ids, decoder_ids), theirs, ids) <= 1e-4


def test_relative_position_buckets_by_hand():
    distance = torch.tensor([-20, -3, -1, 0, 1, 3, 20])
    both = relative_position_bucket(distance, True, num_buckets=8, max_distance=16)
    assert both.tolist() == [3, 2, 1, 0, 5, 6, 7]
    causal = relative_position_bucket(distance, False, num_buckets=8, max_distance=16)
    assert causal.tolist() == [7, 3, 1, 0, 0, 0, 0]


@pytest.fixture(params=["t5", "llama", "llama grouped"])
def backbone(request):
    if request.param == "t5":
        return random_t5(96).eval()
    return random_llama(96, num_key_value_heads=4 if request.param == "llama" else 2).eval()


def logits_of(backbone, ids, decoder_ids, prefix=None):
    return backbone.logits(backbone.decode(decoder_ids, backbone.encode(ids, ids != 0, prefix)))


def test_empty_prefix_changes_nothing(backbone):
    ids, decoder_ids = random_ids(), random_ids(length=4)
    empty = random_prefix(backbone.cfg, 0)
    assert torch.equal(
        logits_of(backbone, ids, decoder_ids), logits_of(backbone, ids, decoder_ids, empty)
    )


def test_prefix_is_seen_by_every_position_and_has_no_order(backbone):
    ids, mask = random_ids(), random_ids() != 0
    prefix = random_prefix(backbone.cfg, 4)
    with_prefix = backbone.encode(ids, mask, prefix).states
    without = backbone.encode(ids, mask).states
    assert (with_prefix - without).abs().amax(-1)[mask].min() > 1e-4
    permuted = Prefix(*(None if side is None else side.flip(-2) for side in prefix))
    assert torch.allclose(with_prefix, backbone.encode(ids, mask, permuted).states, atol=1e-4)


def test_prefix_per_row_equals_one_by_one(backbone):
    ids, decoder_ids = random_ids(), random_ids(length=4)
    prefix = random_prefix(backbone.cfg, 5, batch=3)
    together = logits_of(backbone, ids, decoder_ids, prefix)
    for row in range(3):
        one = slice(row, row + 1)
        alone = Prefix(*(None if side is None else side[:, :, one] for side in prefix))
        logits = logits_of(backbone, ids[one], decoder_ids[one], alone)
        assert torch.allclose(together[row], logits[0], atol=1e-4)


def test_padding_changes_nothing(backbone):
    ids, decoder_ids = random_ids(), random_ids(length=4)
    padded = torch.cat([ids, torch.zeros(3, 7, dtype=torch.long)], dim=1)
    shorter = logits_of(backbone, ids, decoder_ids)
    assert torch.allclose(shorter, logits_of(backbone, padded, decoder_ids), atol=1e-4)


def test_llama_answer_goes_on_where_the_prompt_ends():
    """Prompt and answer in two calls, with padding between, are the text in one call."""
    llama = random_llama(96, num_key_value_heads=2).eval()
    ids, answer = random_ids(), random_ids(length=5, seed=4).clamp(min=2)
    states = llama.decode(answer, llama.encode(ids, ids != 0))
    for row in range(3):
        text = torch.cat([ids[row][ids[row] != 0], answer[row]])[None]
        whole = llama.encode(text, torch.ones_like(text, dtype=torch.bool)).states
        assert torch.allclose(whole[0, -5:], states[row], atol=1e-5)


def test_generate_takes_the_most_probable_token_each_time(backbone):
    ids = random_ids()
    answer = generate(backbone, ids, ids != 0, max_tokens=4)
    start = torch.full_like(answer[:, :1], backbone.cfg.decoder_start_token_id)
    decoder_ids = torch.cat([start, answer[:, :-1]], dim=1)
    best = logits_of(backbone, ids, decoder_ids).argmax(-1)
    for row in range(3):
        ended = (answer[row] == backbone.cfg.eos_token_id).nonzero()
        length = ended[0] + 1 if len(ended) else answer.shape[1]
        assert torch.equal(answer[row, :length], best[row, :length])


def test_candidate_scores_equal_scoring_each_alone(backbone):
    ids = random_ids()
    rows = [
        [(5, 1), (5, 6, 1), (5, 6, 7, 1), (8, 1)],
        [(9, 1), (9, 9, 1)],
        [(3, 4, 5, 6, 1), (3, 4, 6, 1), (3, 1)],
    ]
    encoded = backbone.encode(ids, ids != 0, random_prefix(backbone.cfg, 3))
    scores = score_candidates(backbone, encoded, rows)
    shared = score_candidates(backbone, encoded, rows[:1])
    for row, candidates in enumerate(rows):
        for i, candidate in enumerate([*candidates, *rows[0]]):
            loss = target_loss(
                backbone, encoded.of_rows(torch.tensor([row])), torch.tensor([candidate])
            )
            found = scores[row, i] if i < len(candidates) else shared[row, i - len(candidates)]
            assert found == pytest.approx(-loss.item(), abs=2e-4)
        assert (scores[row, len(candidates) :] == -torch.inf).all()


def test_eq2_by_hand(backbone):
    """Two targets of two tokens and of one: minus the sum of their tokens' log-probabilities."""
    ids, start = random_ids(batch=2), backbone.cfg.decoder_start_token_id
    target = torch.tensor([[7, 1], [1, NO_TOKEN]])
    logp = logits_of(backbone, ids, torch.tensor([[start, 7], [start, 0]])).log_softmax(-1)
    by_hand = -(logp[0, 0, 7] + logp[0, 1, 1] + logp[1, 0, 1]) / 2
    loss = target_loss(backbone, backbone.encode(ids, ids != 0), target)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_several_answers_to_one_prompt_cost_what_each_costs_alone(backbone):
    """Their first tokens at once: over the answers, the mean is that of each alone."""
    ids, answers = random_ids(batch=2), [[[7, 6, 1], [5, 6, 1], [9, 4, 1]], [[8, 5, 1], [3, 7, 1]]]
    encoded = backbone.encode(ids, ids != 0)
    firsts = torch.tensor([[7, 5, 9], [8, 3, NO_TOKEN]])
    for row, own in enumerate(answers):
        prompt, first = encoded.of_rows(torch.tensor([row])), firsts[row : row + 1]
        alone = [target_loss(backbone, prompt, torch.tensor([answer])).item() for answer in own]
        among = [
            target_loss(backbone, prompt, torch.tensor([answer]), first).item() for answer in own
        ]
        assert sum(among) == pytest.approx(sum(alone), rel=1e-5)
    both = torch.tensor([own[0] for own in answers])
    rows = [
        target_loss(
            backbone, encoded.of_rows(torch.tensor([r])), both[r : r + 1], firsts[r : r + 1]
        )
        for r in (0, 1)
    ]
    loss = target_loss(backbone, encoded, both, firsts)
    assert loss.item() == pytest.approx(sum(rows).item() / 2, rel=1e-5)


def test_bf16_backbone_is_close_and_its_prefix_gets_float32_gradients(backbone):
    ids, target = random_ids(), torch.tensor([[7, 1], [5, 1], [9, 1]])
    prefix = random_prefix(backbone.cfg, 3)
    prefix = Prefix(*(None if side is None else side.requires_grad_() for side in prefix))
    exact = target_loss(backbone, backbone.encode(ids, ids != 0, prefix), target).item()
    half = backbone.to(torch.bfloat16).requires_grad_(False)
    loss = target_loss(half, half.encode(ids, ids != 0, prefix), target)
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.1)
    assert prefix.decoder.grad.dtype == torch.float32 and prefix.decoder.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_saved_backbone_comes_back(tmp_path, kind):
    if kind == "t5":
        saved = random_t5(50, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    else:
        saved = random_llama(50, num_key_value_heads=2, rope_theta=77.0)
    save_backbone(saved, tmp_path)
    again = load_backbone(tmp_path)
    assert again.cfg == saved.cfg
    for name, value in saved.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_old_files_with_copies_and_tables_load(tmp_path):
    """What published files carry beyond the parameters: copies, an unused bias, rotation speeds."""
    (t5 := tmp_path / "t5").mkdir()
    save_backbone(random_t5(50), t5)

    def add_t5(tensors):
        for name in "encoder.embed_tokens", "decoder.embed_tokens", "lm_head":
            tensors[f"{name}.weight"] = tensors["shared.weight"].clone()
        attention = "decoder.block.0.layer.1.EncDecAttention"
        tensors[f"{attention}.relative_attention_bias.weight"] = torch.zeros(32, 4)

    edit_tensors(t5, add_t5)
    load_backbone(t5)
    edit_tensors(t5, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(InputError, match="lm_head.weight differs from shared.weight"):
        load_backbone(t5)

    (llama := tmp_path / "llama").mkdir()
    save_backbone(random_llama(50), llama)
    key = "model.layers.1.self_attn.rotary_emb.inv_freq"
    speeds = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    edit_tensors(llama, lambda tensors: tensors.update({key: speeds.half()}))
    load_backbone(llama)
    edit_tensors(llama, lambda tensors: tensors.update({key: speeds * 2}))
    with pytest.raises(InputError, match="inv_freq is not what rope_theta"):
        load_backbone(llama)


def tied(folder, kind):
    """A tied model; its tensors under their published names."""
    save_backbone(
        random_t5(50) if kind == "t5" else random_llama(50, tie_word_embeddings=True), folder
    )
    return {k: v.clone() for k, v in load_tensors(folder / "model.safetensors").items()}


def under_one_name(name):
    """What safetensors' `save_model` leaves of an embedding that is a head as well."""

    def write(folder, tensors):
        original = "shared.weight" if "shared.weight" in tensors else "model.embed_tokens.weight"
        tensors[name] = tensors.pop(original)
        save_tensors(folder / "model.safetensors", tensors)

    return write


def without_prefix(folder, tensors):
    bare = {key.removeprefix("model."): value for key, value in tensors.items()}
    save_tensors(folder / "model.safetensors", bare)


def as_bin(change=lambda tensors: tensors, **how):
    def write(folder, tensors):
        (folder / "model.safetensors").unlink()
        torch.save(change(tensors), folder / "pytorch_model.bin", **how)

    return write


@pytest.mark.parametrize("cfg, kind", [("umt5", "t5"), ("mistral", "llama"), ("qwen3", "llama")])
def test_relatives_are_trained_at_the_rates_of_their_family(tmp_path, cfg, kind):
    """Not at those that fill the empty embeddings of a model from scratch."""
    cfg = REFERENCE_CONFIGS[cfg]
    model = T5(cfg) if isinstance(cfg, T5Config) else Llama(cfg)
    init_from_scratch(model, torch.Generator().manual_seed(0))
    save_backbone(model, tmp_path)
    read = read_command(["--attr", "gender", "--toy-users", "20", "--backbone", str(tmp_path)])
    p5, _, _ = settings(read.args, read.attrs, read.kind)
    assert read.kind == kind and p5.lr == p5.embedding_lr == P5_ON[kind]["lr"]


def test_batches_of_p5_s_training_are_as_small_as_the_user_says():
    argv = "--attr gender --toy-users 20 --p5-direct-batch 3 --p5-sequential-batch 5"
    read = read_command(argv.split())
    p5, _, _ = settings(read.args, read.attrs, "t5")
    assert (p5.direct_batch, p5.sequential_batch) == (3, 5)


FORMS = {  # (kind of model, how its tensors are written anew)
    "t5 under the head's name": ("t5", under_one_name("lm_head.weight")),
    "t5 under the decoder's name": ("t5", under_one_name("decoder.embed_tokens.weight")),
    "llama under the head's name": ("llama", under_one_name("lm_head.weight")),
    "llama without its head": ("llama", without_prefix),
    "bin of a torch before 1.6": ("t5", as_bin(_use_new_zipfile_serialization=False)),
    "bin of a training": (
        "llama",
        as_bin(lambda t: {"model": t, "epoch": 3, "optimizer": {"a": [1]}}),
    ),
    "bin of a state_dict": ("t5", as_bin(lambda t: {"state_dict": t})),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_loads_in_every_form(tmp_path, form):
    kind, write = FORMS[form]
    tensors = tied(tmp_path, kind)
    expected = {name: value.clone() for name, value in load_backbone(tmp_path).state_dict().items()}
    write(tmp_path, tensors)
    found = load_backbone(tmp_path).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["T5", "Llama"])
def test_what_safetensors_save_model_leaves_has_the_same_logits(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    save_model = pytest.importorskip("safetensors.torch").save_model
    kind = "t5 relu, tied" if name == "T5" else "llama tied"
    ids, decoder_ids, _ = reference_checkpoint(tmp_path, REFERENCE_CONFIGS[kind])
    whole = our_logits(load_backbone(tmp_path).eval(), ids, decoder_ids)
    model = {"T5": "T5ForConditionalGeneration", "Llama": "LlamaForCausalLM"}[name]
    reference = getattr(transformers, model).from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    save_model(reference, str(tmp_path / "model.safetensors"))
    again = our_logits(load_backbone(tmp_path).eval(), ids, decoder_ids)
    assert torch.equal(whole, again)


def test_a_t5_that_transformers_calls_tied_keeps_its_own_head(tmp_path):
    """Version 5 writes so of every T5; one whose outputs are not scaled has a head of its own in the file."""
    cfg = REFERENCE_CONFIGS["t5 gated-gelu, untied"]
    ids, decoder_ids, theirs = reference_checkpoint(tmp_path, cfg)
    edit_config(tmp_path, tie_word_embeddings=True, scale_decoder_outputs=False)
    backbone = load_backbone(tmp_path).eval()
    assert backbone.head is not None
    assert difference(our_logits(backbone, ids, decoder_ids), theirs, ids) <= 1e-4


OTHER_FILES = {
    "adapter_model.safetensors": "merge it into its base model",
    "model-q4.gguf": "is GGUF; bring the safetensors",
    "flax_model.msgpack": "is of Flax; save the model with PyTorch",
    "tf_model.h5": "is of TensorFlow",
    "consolidated.00.pth": "is in its maker's own layout",
    "model.fp16.safetensors": "is a variant; call it model.safetensors",
    "pytorch_model.fp16.bin": "is a variant; call it pytorch_model.bin",
    "model-00001-of-00002.safetensors": "bring the index",
}


@pytest.mark.parametrize("file", OTHER_FILES)
def test_a_folder_in_another_form_says_what_it_is(tmp_path, file):
    """Beside a config.json, and without one, as GGUF and adapters are."""
    save_backbone(random_t5(50), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / file)
    for missing in "model.safetensors", "config.json":
        with pytest.raises(InputError) as error:
            load_backbone(tmp_path)
        text = str(error.value)
        assert (
            f"{missing} is missing" in text and f"{file} is " in text and OTHER_FILES[file] in text
        )
        (tmp_path / "config.json").unlink(missing_ok=True)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_tensors(folder, change):
    tensors = {
        key: value.clone() for key, value in load_tensors(folder / "model.safetensors").items()
    }
    change(tensors)
    save_tensors(folder / "model.safetensors", tensors)


NORM = "decoder.block.1.layer.2.layer_norm.weight"
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


def symlink_out(folder):
    shutil.move(folder / SHARD, folder.parent / SHARD)
    (folder / SHARD).symlink_to(folder.parent / SHARD)


# name: (layout, damage, what the message says, the file that it names)
WRONG_FOLDERS = {
    "no config": (0, lambda f: (f / "config.json").unlink(), "is missing", "config.json"),
    "no weights": (
        *(0, lambda f: (f / "model.safetensors").unlink()),
        *("is missing", "model.safetensors"),
    ),
    "config not json": (
        *(0, lambda f: (f / "config.json").write_text("{")),
        *("is no JSON", "config.json"),
    ),
    "other model": (
        *(0, lambda f: edit_config(f, model_type="bert")),
        *("model_type is 'bert'", "config.json"),
    ),
    "other activation": (
        *(0, lambda f: edit_config(f, feed_forward_proj="gated-silu")),
        *("feed_forward_proj is 'gated-silu'", "config.json"),
    ),
    "quantised": (
        *(0, lambda f: edit_config(f, quantization_config={"bits": 4})),
        *("quantization_config", "config.json"),
    ),
    "field missing": (0, lambda f: edit_config(f, d_kv=None), "d_kv missing", "config.json"),
    "field wrong": (0, lambda f: edit_config(f, num_layers=-1), "num_layers is -1", "config.json"),
    "missing tensor": (
        *(0, lambda f: edit_tensors(f, lambda t: t.pop(NORM))),
        *(f"{NORM} is missing", "model.safetensors"),
    ),
    "extra tensor": (
        *(0, lambda f: edit_tensors(f, lambda t: t.update(x=torch.ones(2)))),
        *("x does not belong", "model.safetensors"),
    ),
    "wrong shape": (
        *(0, lambda f: edit_tensors(f, lambda t: t.update({NORM: torch.ones(3)}))),
        *(f"{NORM} has shape (3,)", "model.safetensors"),
    ),
    "integers": (
        *(0, lambda f: edit_tensors(f, lambda t: t.update({NORM: torch.ones(64).char()}))),
        *(f"{NORM} is torch.int8", "model.safetensors"),
    ),
    "truncated": (
        *(0, lambda f: truncate(f / "model.safetensors")),
        *("its header describes", "model.safetensors"),
    ),
    "not a number": (
        *(0, lambda f: edit_tensors(f, lambda t: t[NORM].fill_(torch.nan))),
        *(f"{NORM} holds NaN", "model.safetensors"),
    ),
    "infinite": (
        *(0, lambda f: edit_tensors(f, lambda t: t[NORM][3:4].fill_(torch.inf))),
        *(f"{NORM} holds NaN or infinite", "model.safetensors"),
    ),
    "index not json": (1, lambda f: (f / INDEX).write_text("["), "not an index", INDEX),
    "index without map": (1, lambda f: (f / INDEX).write_text("{}"), "not an index", INDEX),
    "index points outside": (
        *(1, lambda f: edit_index(f, lambda m: m.update({NORM: "../x.safetensors"}))),
        *(f"{NORM} is in '../x.safetensors'", INDEX),
    ),
    "index names an absolute path": (
        *(1, lambda f: edit_index(f, lambda m: m.update({NORM: "/tmp/x.safetensors"}))),
        *(f"{NORM} is in '/tmp/x.safetensors'", INDEX),
    ),
    "index names another kind": (
        *(1, lambda f: edit_index(f, lambda m: m.update({NORM: "x.bin"}))),
        *(f"{NORM} is in 'x.bin'", INDEX),
    ),
    "shard is a link": (1, symlink_out, "is a link that leaves the folder", INDEX),
    "shard missing": (1, lambda f: (f / SHARD).unlink(), "lists it", SHARD),
    "shard truncated": (1, lambda f: truncate(f / SHARD), "its header describes", SHARD),
    "shard not listed": (
        *(1, lambda f: shutil.copy(f / SHARD, f / SHARD.replace("00001-", "00003-"))),
        *("is not in", "model-00003-of-00002.safetensors"),
    ),
    "key not in its shard": (
        *(1, lambda f: edit_index(f, lambda m: m.update({"y.weight": SHARD}))),
        *("y.weight is in the file or in the index, not in both", SHARD),
    ),
    "key not in the index": (
        *(1, lambda f: edit_index(f, lambda m: m.pop(NORM))),
        *(f"{NORM} is in the file or in the index", "model-0000"),
    ),
    "bin truncated": (
        *(2, lambda f: truncate(f / "pytorch_model.bin")),
        *("not a file of tensors", "pytorch_model.bin"),
    ),
    "bin of something else": (
        *(2, lambda f: torch.save([1, 2], f / "pytorch_model.bin")),
        *("holds a list", "pytorch_model.bin"),
    ),
    "bin with code": (
        *(2, lambda f: torch.save({"a": Evil()}, f / "pytorch_model.bin")),
        *("not a file of tensors", "pytorch_model.bin"),
    ),
    "bin with numbers": (
        *(2, lambda f: torch.save({"a": 1}, f / "pytorch_model.bin")),
        *("'a' is not a name with a dense tensor", "pytorch_model.bin"),
    ),
}
WRONG_LLAMAS = {
    "rope scaling": (dict(rope_scaling={"type": "dynamic", "factor": 2.0}), "rope_scaling"),
    "rope scaling without factor": (dict(rope_scaling={"type": "linear"}), "rope_scaling"),
    "rope scaling by nothing": (dict(rope_scaling=LLAMA3 | {"factor": 0}), "rope_scaling"),
    "rope scaling with more": (dict(rope_scaling=LLAMA3 | {"beta": 2}), "rope_scaling"),
    "rope scaling upside down": (
        dict(rope_scaling=LLAMA3 | {"high_freq_factor": 1}),
        "rope_scaling",
    ),
    "short window": (dict(model_type="mistral", sliding_window=64), "sliding_window is 64"),
    "qwen without ends": (dict(model_type="qwen2", bos_token_id=None), "bos_token_id missing"),
    "newer rope scaling": (dict(rope_parameters={"rope_type": "yarn"}), "rope_scaling"),
    "attention bias": (dict(attention_bias=True), "attention_bias is True"),
    "other activation": (dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    "several ends": (dict(eos_token_id=[2, 3]), "eos_token_id is [2, 3]"),
    "uneven groups": (dict(num_key_value_heads=3), "no multiple of num_key_value_heads 3"),
}


class Evil:
    """A pickle that would write a file."""

    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_load_rejects(tmp_path, case, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    save_backbone(random_t5(50), folder)
    layout, damage, expected, file = WRONG_FOLDERS[case]
    relayout(folder, LAYOUTS[layout])
    load_backbone(folder)
    damage(folder)
    with pytest.raises(InputError) as error:
        load_backbone(folder)
    assert expected in str(error.value) and f"{folder}/{file}".rstrip("/") in str(error.value)
    assert "\n" not in str(error.value) and capsys.readouterr().out == ""


@pytest.mark.parametrize("case", WRONG_LLAMAS)
def test_load_rejects_llama_by_field(tmp_path, case):
    save_backbone(random_llama(50), tmp_path)
    changes, expected = WRONG_LLAMAS[case]
    edit_config(tmp_path, **changes)
    with pytest.raises(InputError) as error:
        load_backbone(tmp_path)
    assert expected in str(error.value) and f"{tmp_path}/config.json" in str(error.value)


def test_load_needs_a_torch_without_known_holes(tmp_path, monkeypatch):
    save_backbone(random_t5(50), tmp_path)
    relayout(tmp_path, "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(InputError, match="takes torch 2.10, this is 2.9.1"):
        load_backbone(tmp_path)


def test_model_knows_nothing_of_fairness():
    source = open(model_module.__file__).read().lower()
    assert not any(word in source for word in ("gender", "discriminator", "adversar"))
