"""Published weights: their names, their files, and where to get them.

A folder in the public layout holds `config.json` and the tensors, in `model.safetensors` or in
`pytorch_model.bin`, whole or in shards that an index file lists. Nothing in such a folder is
trusted: every field and every tensor is either understood or refused by name.
"""

import json
import os
import pickle
import re
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from dataclasses import fields
from http.client import HTTPException
from itertools import product
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from support.configs import LLAMA_KINDS, T5_KINDS, LlamaConfig, T5Config, config_from
from support.files import InputError, load_tensors, read_object, refuse, sha256_of, show, try_folder

# checkpoint name -> our name; {stack} is encoder or decoder, {i} the layer, {x} each of q, k, v and
# o, and {last} the feed-forward's place in a layer: 1 in the encoder, 2 in the decoder
T5_NAMES = {
    "shared.weight": "embedding.weight",
    "lm_head.weight": "head.weight",
    "{stack}.final_layer_norm.weight": "{stack}.norm.weight",
    "{stack}.block.{i}.layer.0.layer_norm.weight": "{stack}.layers.{i}.self_norm.weight",
    "{stack}.block.{i}.layer.0.SelfAttention.{x}.weight": "{stack}.layers.{i}.self_attention.{x}.weight",
    "decoder.block.{i}.layer.1.layer_norm.weight": "decoder.layers.{i}.cross_norm.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.{x}.weight": "decoder.layers.{i}.cross_attention.{x}.weight",
    "{stack}.block.{i}.layer.{last}.layer_norm.weight": "{stack}.layers.{i}.ff_norm.weight",
    "{stack}.block.{i}.layer.{last}.DenseReluDense.wi.weight": "{stack}.layers.{i}.ff.up.weight",
    "{stack}.block.{i}.layer.{last}.DenseReluDense.wi_0.weight": "{stack}.layers.{i}.ff.gate.weight",
    "{stack}.block.{i}.layer.{last}.DenseReluDense.wi_1.weight": "{stack}.layers.{i}.ff.up.weight",
    "{stack}.block.{i}.layer.{last}.DenseReluDense.wo.weight": "{stack}.layers.{i}.ff.down.weight",
}
# copies of the embedding that some published files carry as well, the last where the head is tied
COPIES = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"
# in the files of the first T5s, and read by no T5: attention to the encoder has no position bias
T5_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

LLAMA_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
    "model.layers.{i}.input_layernorm.weight": "layers.{i}.self_norm.weight",
    "model.layers.{i}.self_attn.{x}_proj.weight": "layers.{i}.self_attention.{x}.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.ff_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "layers.{i}.ff.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "layers.{i}.ff.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "layers.{i}.ff.down.weight",
}
BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
SHARED_BIAS = {"{stack}.block.0." + BIAS: "{stack}.relative_bias.weight"}
OWN_BIAS = {"{stack}.block.{i}." + BIAS: "{stack}.layers.{i}.relative_bias.weight"}
# what a model_type has beside that
MORE_NAMES = {"t5": SHARED_BIAS, "mt5": SHARED_BIAS, "umt5": OWN_BIAS} | {
    "qwen2": {
        f"model.layers.{{i}}.self_attn.{x}_proj.bias": f"layers.{{i}}.self_attention.{x}.bias"
        for x in "qkv"
    },
    "qwen3": {
        f"model.layers.{{i}}.self_attn.{x}_norm.weight": f"layers.{{i}}.self_attention.{x}_norm.weight"
        for x in "qk"
    },
}


def public_names(config: dict) -> dict[str, str]:
    """Checkpoint name -> our name of every parameter that `config` asks for, layers written out."""
    if config["model_type"] in LLAMA_KINDS:
        stacks, table = {"": config["num_hidden_layers"]}, LLAMA_NAMES
    else:
        stacks = {"encoder": config["num_layers"], "decoder": config["num_decoder_layers"]}
        gated = config["feed_forward_proj"] == "gated-gelu"
        other = ".wi." if gated else ".wi_"  # the names of the other activation
        table = {theirs: ours for theirs, ours in T5_NAMES.items() if other not in theirs}
    table, names = table | MORE_NAMES.get(config["model_type"], {}), {}
    for stack, (theirs, ours) in product(stacks, table.items()):
        if stack == "encoder" and theirs.startswith("decoder"):
            continue
        for x, i in product("qkvo", range(stacks[stack])):
            place = {"stack": stack, "i": i, "x": x, "last": 1 if stack == "encoder" else 2}
            names[theirs.format(**place)] = ours.format(**place)
    if config["tie_word_embeddings"]:
        del names["lm_head.weight"]
    return names


SHAPES = dict.fromkeys(T5_KINDS, T5Config) | dict.fromkeys(LLAMA_KINDS, LlamaConfig)
NEEDED = {
    T5Config: "vocab_size d_model d_kv d_ff num_layers num_heads".split(),
    LlamaConfig: "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads".split(),
    # of which transformers takes others than Llama's where they are missing
    "qwen2": ["bos_token_id", "eos_token_id"],
    "qwen3": ["bos_token_id", "eos_token_id", "head_dim"],
}
SMALL = "google/flan-t5-small, HuggingFaceTB/SmolLM2-135M or Qwen/Qwen2.5-0.5B"  # that work
# null in these means that they are not there, as in transformers, which writes it so
NULL_IS_ABSENT = "num_decoder_layers num_key_value_heads head_dim tie_word_embeddings".split()
NULL_IS_ABSENT += ["pad_token_id", "decoder_start_token_id"]
# field -> the values of it that are implemented; whatever else it says is refused, not ignored
IMPLEMENTED = {
    T5Config: dict(feed_forward_proj=("relu", "gated-gelu"), is_encoder_decoder=(True,)),
    LlamaConfig: dict(hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,)),
}
IMPLEMENTED[LlamaConfig] |= dict(partial_rotary_factor=(1.0, None))
# rope_type -> the numbers that it needs, which are positive
ROPE = {"default": [], "linear": ["factor"]}
ROPE["llama3"] = "factor low_freq_factor high_freq_factor original_max_position_embeddings".split()
WINDOW = 1024  # tokens: prompts and answers are shorter, so that a sliding window from there on hides nothing
# field, or type of all others -> what its value is, the types of it in JSON, the lowest, the highest
RANGES = {
    int: ("a whole number", [int], 1, 999_999),
    float: ("a number", [int, float], 1e-30, 1e30),
    bool: ("true or false", [bool], False, True),
    str: ("text", [str], "", "~"),  # IMPLEMENTED has its values
    "dropout_rate": ("a number", [int, float], 0, 0.999),
    "relative_attention_num_buckets": ("a whole number", [int], 4, 999_999),  # half, both ways
}


def read_config(folder: Path) -> dict:
    """The `config.json` of a folder, absent fields filled in with what their absence means.

    Raises InputError, naming the field, where the model is not one that `model.py` implements.
    """
    path = folder / "config.json"
    if not os.path.exists(path):
        refuse(f"{path} is missing", other_form(folder) or f"is {folder} the folder of a model?")
    config = read_object(path, f"the model in {folder}", "copy it there again")
    kind = config.get("model_type")
    if kind not in list(SHAPES):
        why = f"{', '.join(SHAPES)} are implemented"
        refuse(path, f"model_type is {kind!r}; {why}, small ones are {SMALL}")
    shape = SHAPES[kind]
    config = {k: v for k, v in config.items() if v is not None or k not in NULL_IS_ABSENT}
    if shape is LlamaConfig:
        read_rope(path, config)
    for field, values in (IMPLEMENTED[shape] | {"quantization_config": (None,)}).items():
        if field in config and config[field] not in values:
            choices = " or ".join(map(repr, values))
            why = f"implemented is {choices}; models that work are {SMALL}"
            refuse(path, f"{field} is {repr(config[field])[:80]}; {why}")
    needed = NEEDED[shape] + NEEDED.get(kind, [])
    if missing := [field for field in needed if config.get(field) is None]:
        refuse(path, f"{', '.join(missing)} missing; copy it again")
    defaults = {field.name: field.default for field in fields(shape)}
    defaults["num_decoder_layers"] = config.get("num_layers")
    defaults["scale_decoder_outputs"] = config.get("tie_word_embeddings", True)
    if kind in ("mt5", "umt5"):
        defaults["feed_forward_proj"] = "gated-gelu"
    if kind == "mt5":  # never scaled, whatever is tied
        config["scale_decoder_outputs"] = False
    defaults["num_key_value_heads"] = heads = config.get("num_attention_heads")
    check_fields(path, defaults | config)
    if shape is LlamaConfig:
        defaults["head_dim"] = config["hidden_size"] // heads
        groups, width = ((defaults | config)[name] for name in ("num_key_value_heads", "head_dim"))
        if heads % groups or width % 2 or not width:  # pairs of a head's entries are rotated
            why = f"num_attention_heads {heads} is no multiple of num_key_value_heads {groups}"
            refuse(path, f"{why}, or head_dim {width} of 2; copy it again")
    return defaults | config


def read_rope(path: Path, config: dict) -> None:
    """Rewrite what a Llama's config says of positions as `rope_theta` and `rope_scaling`, None for none.

    Raises InputError for a scaling or a sliding window that is not implemented.
    """
    rope = config.pop("rope_scaling", None) or config.pop("rope_parameters", None) or {}
    named = dict(rope) if isinstance(rope, dict) else {"rope_type": rope}
    theta = named.pop("rope_theta", config.get("rope_theta", LlamaConfig.rope_theta))
    named.setdefault("rope_type", named.pop("type", "default"))  # its older name
    turns_all = named.pop("partial_rotary_factor", None) in (None, 1.0)
    kind = str(named["rope_type"])
    numbers = [value for key, value in named.items() if key != "rope_type"]
    fits = turns_all and named.keys() == {"rope_type", *ROPE.get(kind, ["unknown"])}
    fits = fits and all(type(value) in (int, float) and 0 < value < 1e9 for value in numbers)
    if not fits or (kind == "llama3" and not named["low_freq_factor"] < named["high_freq_factor"]):
        why = f"implemented are {', '.join(ROPE)}; models that work are {SMALL}"
        refuse(path, f"rope_scaling is {json.dumps(rope)[:160]}; {why}")
    config["rope_theta"], config["rope_scaling"] = theta, named if numbers else None
    slides = config.get("use_sliding_window", config["model_type"] == "mistral")
    window = config.get("sliding_window") if slides else None
    if window is not None and not (type(window) is int and window >= WINDOW):
        why = f"implemented is {WINDOW} or more, or null"
        refuse(path, f"sliding_window is {json.dumps(window)[:80]}; {why}")


def check_fields(path: Path, config: dict) -> None:
    """Raises InputError where a field that is read has a value of another type or out of its range."""
    for field in fields(SHAPES[config["model_type"]]):
        if field.name == "rope_scaling":  # see `read_rope`
            continue
        what, kinds, low, high = RANGES.get(field.name) or RANGES[field.type]
        if field.name.endswith("_token_id"):
            low, high = 0, config["vocab_size"] - 1
        if field.name == "relative_attention_max_distance":  # half of them are for near tokens
            low = config["relative_attention_num_buckets"] // 2 + 1
        if type(value := config[field.name]) not in kinds or not low <= value <= high:
            what += f" from {low} on, {high} at most" if "number" in what else ""
            refuse(path, f"{field.name} is {json.dumps(value)[:80]}, not {what}; mend it")


def read_weights(
    folder: Path,
) -> tuple[T5Config | LlamaConfig, dict[str, tuple[Path, str, Tensor]]]:
    """A folder's config, and our name -> (file, its name there, tensor), for every parameter, none left over.

    Raises InputError, naming the file and the key, where that cannot be.
    """
    config = read_config(folder)
    found = {}  # checkpoint name -> (file, tensor)
    path = folder  # where an index lists nothing
    for path, listed in weight_files(folder):
        tensors = load_tensors(path) if path.suffix == ".safetensors" else load_bin(path)
        if listed is not None and (wrong := sorted(listed ^ tensors.keys())):
            refuse(path, f"{wrong[0]} is in the file or in the index, not in both; copy both")
        found |= {key: (path, tensor) for key, tensor in tensors.items()}
    rename(found, config)
    names, where = public_names(config), folder / "config.json"
    drop_what_is_not_read(found, names, config)
    if left_over := sorted(found.keys() - names.keys()):
        many = f"({len(left_over)} such keys)"
        refuse(found[left_over[0]][0], f"{left_over[0]} does not belong here {many}; see {where}")
    if absent := sorted(names.keys() - found.keys()):
        refuse(path, f"{absent[0]} is missing ({len(absent)} such keys); see {where}")
    for key, (path, tensor) in found.items():
        if not tensor.is_floating_point():
            kind = f"{key} is {tensor.dtype}"
            refuse(path, f"{kind}; quantised weights are not implemented, take others")
        if not torch.isfinite(tensor).all():
            refuse(path, f"{key} holds NaN or infinite weights; copy the file again")
    tensors = {ours: (found[theirs][0], theirs, found[theirs][1]) for theirs, ours in names.items()}
    return config_from(config), tensors


def rename(found: dict, config: dict) -> None:
    """Give tensors their usual names, and say in `config` whether the head is tied, as far as files do so."""
    is_llama = config["model_type"] in LLAMA_KINDS
    if is_llama and "embed_tokens.weight" in found:  # saved without its head
        bare = [key for key in found if key != "lm_head.weight"]
        found |= {f"model.{key}": found.pop(key) for key in bare}
    original = "model.embed_tokens.weight" if is_llama else "shared.weight"
    # tensors that are one in memory are saved under one of their names by safetensors' `save_model`
    copies = [copy for copy in COPIES if config["tie_word_embeddings"] or copy != "lm_head.weight"]
    if original not in found and (there := [copy for copy in copies if copy in found]):
        found[original] = found[there[0]]
    head, table = found.get("lm_head.weight"), found.get(original)
    # transformers 5 writes that every T5 is tied; one whose outputs are not scaled has a head of its own
    if not is_llama and not config["scale_decoder_outputs"] and head and table:
        config["tie_word_embeddings"] = head is table or torch.equal(head[1], table[1])


def drop_what_is_not_read(found: dict, names: dict[str, str], config: dict) -> None:
    """Leave out what some files carry and no parameter is read from; it must be what it should be."""
    found.pop(T5_UNUSED, None)
    is_llama = config["model_type"] in LLAMA_KINDS
    original = "model.embed_tokens.weight" if is_llama else "shared.weight"
    for copy in COPIES:
        if copy in found and copy not in names and original in found:
            path, tensor = found.pop(copy)
            if not torch.equal(tensor, found[original][1]):
                whose = f"{copy} differs from {original}, whose copy it should be"
                refuse(path, f"{whose}; copy it again")
    for i in range(config["num_hidden_layers"] if is_llama else 0):
        key = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
        if key in found:  # the rotation speeds that older files carry
            path, tensor = found.pop(key)
            ours = config_from(config).rotation_speeds()
            # files of half precision hold them to three digits
            if tensor.shape != ours.shape or not torch.allclose(tensor.float(), ours, rtol=1e-2):
                made = f"what rope_theta {config['rope_theta']} in config.json makes"
                refuse(path, f"{key} is not {made}; copy both again")


def weight_files(folder: Path) -> list[tuple[Path, set[str] | None]]:
    """The files that hold the tensors, each with the keys that an index says it has."""
    for name in "model.safetensors", "pytorch_model.bin":
        if (folder / name).exists():
            return [(folder / name, None)]
        if (folder / f"{name}.index.json").exists():
            return read_index(folder / f"{name}.index.json", Path(name).suffix)
    others = "pytorch_model.bin and either's index of shards"
    remedy = other_form(folder) or "copy the folder again"
    raise InputError(f"{folder / 'model.safetensors'} is missing, and so are {others}; {remedy}")


# files -> what they are, and what to bring in their place
OTHER_FORMS = {
    "adapter_*": "of an adapter; merge it into its base model and save that",
    "*.gguf": "GGUF; bring the safetensors that it was made of",
    "flax_model*": "of Flax; save the model with PyTorch",
    "*.h5": "of TensorFlow; save the model with PyTorch",
    "consolidated*": "in its maker's own layout; bring the folder in the layout of transformers",
    "model.*.safetensors": "a variant; call it model.safetensors if it is the one to load",
    "pytorch_model.*.bin": "a variant; call it pytorch_model.bin if it is the one to load",
    "*-of-*": "a shard; bring the index of all of them as well, model.safetensors.index.json",
}


def other_form(folder: Path) -> str:
    """What a folder holds in place of what is read here, "" where it holds nothing of the kind."""
    for pattern, what in OTHER_FORMS.items():
        if found := sorted(folder.glob(f"[!.]{pattern}" if pattern[0] == "*" else pattern)):
            return f"{found[0].name} is {what}"
    return ""


def read_index(path: Path, suffix: str) -> list[tuple[Path, set[str]]]:
    """The shards that an index lists, with their keys. It cannot reach outside its own folder."""
    again, folder = "; copy the folder again", path.parent.resolve()
    # in the hub's cache every file is a link: REPOSITORY/snapshots/COMMIT/.. to REPOSITORY/blobs/..
    snapshots = [up for up in folder.parents if up.name == "snapshots"]
    home = next((up.parent for up in snapshots if (up.parent / "blobs").is_dir()), folder)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        files_of_keys = list(index["weight_map"].items())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        refuse(path, f"not an index of shards ({error!r}){again}")
    shards: dict[str, set[str]] = {}
    for key, name in files_of_keys:
        plain = isinstance(name, str) and Path(name).name == name and name.endswith(suffix)
        if not plain or "\\" in name:
            refuse(path, f"{key} is in {name!r}, not the name of a {suffix} file here{again}")
        shards.setdefault(name, set()).add(key)
    for name in shards:
        if not (path.parent / name).exists():
            raise InputError(f"{path.parent / name} is missing, {path.name} lists it{again}")
        if not (path.parent / name).resolve().is_relative_to(home):
            refuse(path, f"{name} is a link that leaves the folder; put the file itself there")
    # not hidden ones: macOS leaves a "._" beside every file on a disk that it has written to
    if more := {p.name for p in path.parent.glob(f"[!.]*-of-*{suffix}")} - shards.keys():
        raise InputError(f"{path.parent / min(more)} is not in {path.name}{again}")
    return [(path.parent / name, keys) for name, keys in sorted(shards.items())]


def weights_fingerprint(folder: Path) -> str:
    """Twelve hex digits that change with any byte of a folder's config or weights."""
    files = [path for path, _ in weight_files(folder)]
    return sha256_of(folder / "config.json", *files)[:12]


def load_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, as views of a memory map of it; one from before torch 1.6 is copied.

    Of a file in which a training kept more, those under "model" or "state_dict". A pickle can run
    anything. It is only read with weights_only=True, and by a torch in which the two known ways around
    that are closed (CVE-2025-32434 in 2.6, CVE-2026-24747 in 2.10).
    """
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 10):
        refuse(path, f"reading a .bin takes torch 2.10, this is {torch.__version__}; update it")
    is_zip = zipfile.is_zipfile(path)  # since torch 1.6, and only these can be mapped
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        # its first sentence; torch goes on with how to read it all the same, which is not safe
        why = re.split(r"\. |\n", str(error).strip() or repr(error))[0][:120]
        why = f"not a file of tensors that can be read safely ({why}); copy it again, or convert it to "
        refuse(path, f"{why}safetensors where you trust it")
    if not isinstance(tensors, dict):
        refuse(path, f"holds a {type(tensors).__name__}, not names and tensors; copy it again")
    for kept_as in "model", "state_dict":
        if isinstance(tensors.get(kept_as), dict):
            tensors = tensors[kept_as]
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or tensor.is_sparse:
            refuse(path, f"{str(key)[:80]!r} is not a name with a dense tensor; copy it again")
    return tensors


HUB = "https://huggingface.co"
PUBLISHED = {  # name: (repository, its tokenizer)
    "t5-small": ("google-t5/t5-small", "spiece.model"),
    "t5-base": ("google-t5/t5-base", "spiece.model"),
    "t5-large": ("google-t5/t5-large", "spiece.model"),
    "google/flan-t5-small": ("google/flan-t5-small", "spiece.model"),
    "google/flan-t5-base": ("google/flan-t5-base", "spiece.model"),
    "google/mt5-small": ("google/mt5-small", "spiece.model"),
    "google/umt5-small": ("google/umt5-small", "spiece.model"),
    "HuggingFaceTB/SmolLM2-135M": ("HuggingFaceTB/SmolLM2-135M", "tokenizer.json"),
    "HuggingFaceTB/SmolLM2-360M": ("HuggingFaceTB/SmolLM2-360M", "tokenizer.json"),
    "Qwen/Qwen2.5-0.5B": ("Qwen/Qwen2.5-0.5B", "tokenizer.json"),
    "Qwen/Qwen3-0.6B-Base": ("Qwen/Qwen3-0.6B-Base", "tokenizer.json"),
    "open_llama_3b": ("openlm-research/open_llama_3b", "tokenizer.model"),
    "open_llama_3b_v2": ("openlm-research/open_llama_3b_v2", "tokenizer.model"),
}


class KeepHeaders(urllib.request.HTTPRedirectHandler):
    """Follows redirections, and keeps what the hub says of a file before it hands over to a store."""

    def __init__(self):
        self.headers = {}

    def redirect_request(self, request, file, code, message, headers, url):
        self.headers |= {key.lower(): value for key, value in headers.items()}
        return super().redirect_request(request, file, code, message, headers, url)


def download(url: str, path: Path, say: Callable = show) -> None:
    """Download `url` to `path`, which gets its name when size and SHA-256 (where given) are right.

    Until then the bytes are in a .part file beside it. Raises OSError where the connection breaks off,
    FileNotFoundError for a 404, and InputError for a wrong file.
    """
    keep, part, have = KeepHeaders(), path.with_name(f".{path.name}.part"), 0
    try:
        response = urllib.request.build_opener(keep).open(urllib.request.Request(url), timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(f"{url} does not exist") from None
        raise
    try:
        with response, part.open("wb") as file:
            length = response.headers.get("Content-Length", "")
            if not length.isdecimal():
                refuse(url, "the server does not say how large it is; try again later")
            linked = keep.headers.get("x-linked-size", length)
            if linked != length:
                refuse(url, f"the hub says {linked} bytes, its store {length}; try again later")
            total = int(length)
            say(f"{path.name}: {total / 1e6:.1f} MB from {url}")
            while chunk := response.read(1 << 20):
                file.write(chunk)
                before, have = have, have + len(chunk)
                if total > 10_000_000 and 10 * have // total > 10 * before // total:
                    say(f"{path.name}: {have / 1e6:.0f} of {total / 1e6:.0f} MB")
            file.flush()
            os.fsync(file.fileno())
        if have != total:
            raise OSError(f"{url}: the connection broke off after {have} of {total} bytes")
        linked = keep.headers.get("x-linked-etag")
        etag = response.headers.get("X-Linked-ETag", linked or response.headers.get("ETag", ""))
        sha256 = etag.strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", sha256) and (found := sha256_of(part)) != sha256:
            refuse(url, f"its SHA-256 is {found}, the hub says {sha256}; try again")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # where it has got its name, there is nothing left to remove


def fetch_backbone(name: str, folder: Path, hub: str = HUB, say: Callable = show) -> Path:
    """`folder` with the published model's config, tokenizer and weights; what is missing is downloaded.

    Raises InputError where the hub cannot be reached.
    """
    repository, tokenizer = PUBLISHED[name]

    def get(file: str) -> None:
        if not (folder / file).exists():
            download(f"{hub}/{repository}/resolve/main/{file}", folder / file, say)

    try:
        try_folder(folder)
        get("config.json")
        get(tokenizer)
        try:
            weight_files(folder)
        except InputError:  # not all of them are there
            get_weights(folder, get)
            weight_files(folder)  # says what is wrong where something still is
    except InputError:
        raise
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{name} cannot be had from {hub}/{repository} ({error}); put config.json, {tokenizer} and "
        files = "model.safetensors or pytorch_model.bin (or their index and shards)"
        raise InputError(f"{why}{files} into {folder} by hand") from None
    return folder


def get_weights(folder: Path, get: Callable[[str], None]) -> None:
    """The first that the hub has: a whole file or an index with its shards, safetensors before .bin."""
    for file in "model.safetensors", "pytorch_model.bin":
        index = folder / f"{file}.index.json"
        with suppress(FileNotFoundError):
            return get(file)
        try:
            get(index.name)
        except FileNotFoundError:
            continue
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        for shard in sorted(set(listed)):
            if Path(shard).name != shard:
                refuse(index, f"{shard!r} is not a file name; remove it")
            get(shard)
        return
