"""Published weights: their names, their files, and where they are to be had.

A folder in the public layout holds `config.json` and the tensors, in `model.safetensors` or in
`pytorch_model.bin`, whole or in shards that an index file lists. Nothing in such a folder is
trusted: every field and every tensor is either understood or refused by name.
"""

import hashlib
import json
import os
import pickle
import re
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from support.files import InputError, load_tensors

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
T5_COPIES = {
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
    "lm_head.weight": "shared.weight",
}
# in the files of the first T5s, and read by no T5: attention to the encoder has no position bias
T5_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

LLAMA_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
    "model.layers.{i}.input_layernorm.weight": "layers.{i}.self_norm.weight",
    "model.layers.{i}.self_attn.q_proj.weight": "layers.{i}.self_attention.q.weight",
    "model.layers.{i}.self_attn.k_proj.weight": "layers.{i}.self_attention.k.weight",
    "model.layers.{i}.self_attn.v_proj.weight": "layers.{i}.self_attention.v.weight",
    "model.layers.{i}.self_attn.o_proj.weight": "layers.{i}.self_attention.o.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.ff_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "layers.{i}.ff.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "layers.{i}.ff.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "layers.{i}.ff.down.weight",
}
LLAMA_COPIES = {"lm_head.weight": "model.embed_tokens.weight"}


def public_names(config: dict) -> dict[str, str]:
    """Checkpoint name -> our name of every parameter that `config` asks for, layers written out."""
    tied, names = config["tie_word_embeddings"], {}
    if config["model_type"] == "llama":
        stacks, table = [("", config["num_hidden_layers"])], LLAMA_NAMES
    else:
        stacks = [("encoder", config["num_layers"]), ("decoder", config["num_decoder_layers"])]
        gated = config["feed_forward_proj"] == "gated-gelu"
        other = ".wi." if gated else ".wi_"  # the names of the other activation
        table = {theirs: ours for theirs, ours in T5_NAMES.items() if other not in theirs}
    for stack, layers in stacks:
        for theirs, ours in table.items():
            other_stack = theirs.startswith(("encoder", "decoder")) and not theirs.startswith(stack)
            if not other_stack and not (tied and theirs == "lm_head.weight"):
                for i in range(layers if "{i}" in theirs else 1):
                    names[theirs.format(stack=stack, i=i)] = ours.format(stack=stack, i=i)
    return names


# -------------------------------------------------------------------------------------------------
# config.json
# -------------------------------------------------------------------------------------------------

NEEDED = {
    "t5": ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
    "llama": (
        *("vocab_size", "hidden_size", "intermediate_size"),
        *("num_hidden_layers", "num_attention_heads"),
    ),
}
# field -> the values of it that are implemented; whatever else it says is refused, not ignored
IMPLEMENTED = {
    "t5": {
        "feed_forward_proj": ("relu", "gated-gelu"),
        "is_encoder_decoder": (True,),
        "quantization_config": (None,),
    },
    "llama": {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "rope_scaling": (None,),
        "partial_rotary_factor": (1.0,),
        "quantization_config": (None,),
    },
}


def read_config(folder: Path) -> dict:
    """The `config.json` of a folder, absent fields filled in with what their absence means.

    Raises InputError, naming the field, where the model is not one that `model.py` implements.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: is {folder} the folder of a model?") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; copy it there again") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); copy it again") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in NEEDED:
        raise InputError(
            f"{path}: model_type is {kind!r}; 't5' and 'llama' are implemented, take one"
        )
    rope = config.get("rope_parameters") or {}  # the newer way to write what follows
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    for field, values in IMPLEMENTED[kind].items():
        if field in config and config[field] not in values:
            raise InputError(
                f"{path}: {field} is {repr(config[field])[:80]}; implemented is "
                f"{' or '.join(map(repr, values))}"
            )
    if missing := [name for name in NEEDED[kind] if config.get(name) is None]:
        raise InputError(f"{path}: {', '.join(missing)} missing; copy it again")
    absent = lambda name, value: config[name] if config.get(name) is not None else value
    if kind == "t5":
        config["feed_forward_proj"] = absent("feed_forward_proj", "relu")
        config["num_decoder_layers"] = absent("num_decoder_layers", config["num_layers"])
        config["tie_word_embeddings"] = absent("tie_word_embeddings", True)
        config["scale_decoder_outputs"] = absent(
            "scale_decoder_outputs", config["tie_word_embeddings"]
        )
    else:
        heads = config["num_attention_heads"]
        config["num_key_value_heads"] = absent("num_key_value_heads", heads)
        config["head_dim"] = absent("head_dim", config["hidden_size"] // max(heads, 1))
        config["rope_theta"] = float(rope.get("rope_theta", absent("rope_theta", 10000.0)))
        config["tie_word_embeddings"] = absent("tie_word_embeddings", False)
        if heads % config["num_key_value_heads"]:
            raise InputError(
                f"{path}: num_attention_heads {heads} is no multiple of num_key_value_heads "
                f"{config['num_key_value_heads']}; copy it again"
            )
    for name, value in config.items():
        size = name in NEEDED[kind] or name in ("num_decoder_layers", "num_key_value_heads")
        if (size or name == "head_dim") and (type(value) is not int or value < 1):
            raise InputError(
                f"{path}: {name} is {value!r}, not a whole number from 1 on; copy it again"
            )
        if name in ("bos_token_id", "eos_token_id") and type(value) is not int:
            raise InputError(
                f"{path}: {name} is {value!r}; one token id is implemented; take another model"
            )
    return config


# -------------------------------------------------------------------------------------------------
# Tensors
# -------------------------------------------------------------------------------------------------


def read_tensors(folder: Path, config: dict) -> dict[str, tuple[Path, str, Tensor]]:
    """Our name -> (file, its name there, tensor), one for every parameter and none left over."""
    found = {}  # checkpoint name -> (file, tensor)
    files, total_size = weight_files(folder)
    for path, expected in files:
        tensors = load_tensors(path) if path.suffix == ".safetensors" else load_bin(path)
        if expected is not None and (wrong := sorted(expected ^ tensors.keys())):
            raise InputError(
                f"{path}: {wrong[0]} is in the file or in the index, not in both; copy both"
            )
        found |= {key: (path, tensor) for key, tensor in tensors.items()}
    size = sum(tensor.nbytes for _, tensor in found.values())
    if total_size not in (None, size):
        raise InputError(
            f"{path.parent}: the index says {total_size} bytes of tensors, the shards have {size}; copy "
            "the folder again"
        )
    names = public_names(config)
    found.pop(T5_UNUSED, None)
    if config["model_type"] == "llama":
        drop_rotary_tables(found, config)
    for copy, original in (T5_COPIES if config["model_type"] == "t5" else LLAMA_COPIES).items():
        if copy in found and copy not in names and original in found:
            path, tensor = found.pop(copy)
            if not torch.equal(tensor, found[original][1]):
                raise InputError(
                    f"{path}: {copy} differs from {original}, whose copy it should be; copy it again"
                )
    left_over, absent = sorted(found.keys() - names.keys()), sorted(names.keys() - found.keys())
    if left_over:
        raise InputError(
            f"{found[left_over[0]][0]}: {left_over[0]} does not belong here ({len(left_over)} such "
            f"keys); see {folder / 'config.json'}"
        )
    if absent:
        raise InputError(
            f"{path}: {absent[0]} is missing ({len(absent)} such keys); see {folder / 'config.json'}"
        )
    for key, (path, tensor) in found.items():
        if not tensor.is_floating_point():
            raise InputError(
                f"{path}: {key} is {tensor.dtype}; quantised weights are not implemented, take others"
            )
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {key} holds NaN or infinite weights; copy the file again")
    return {ours: (found[theirs][0], theirs, found[theirs][1]) for theirs, ours in names.items()}


Files = list[tuple[Path, set[str] | None]]  # each with the keys that an index says it has


def weight_files(folder: Path) -> tuple[Files, int | None]:
    """The files that hold the tensors, and how many bytes of tensors an index says they have."""
    for name in "model.safetensors", "pytorch_model.bin":
        if (folder / name).exists():
            return [(folder / name, None)], None
        if (folder / f"{name}.index.json").exists():
            return read_index(folder / f"{name}.index.json", Path(name).suffix)
    raise InputError(
        f"{folder / 'model.safetensors'} is missing, and so are pytorch_model.bin and either's "
        "index of shards; copy the folder again"
    )


def read_index(path: Path, suffix: str) -> tuple[Files, int | None]:
    """The shards that an index lists, with their keys. It cannot reach outside its own folder."""
    again = "; copy the folder again"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        items = list(index["weight_map"].items())
        # what a .bin's index counts has changed over time: shared tensors once, or every time
        total_size = index.get("metadata", {}).get("total_size") if suffix != ".bin" else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not an index of shards ({error!r}){again}") from None
    shards: dict[str, set[str]] = {}
    for key, name in items:
        plain = isinstance(name, str) and Path(name).name == name and name.endswith(suffix)
        if not plain or "\\" in name:
            raise InputError(
                f"{path}: {key} is in {name!r}, not the name of a {suffix} file here{again}"
            )
        shards.setdefault(name, set()).add(key)
    for name in shards:
        if (path.parent / name).resolve().parent != path.parent.resolve():
            raise InputError(
                f"{path}: {name} is a link that leaves the folder; put the file itself there"
            )
        if not (path.parent / name).exists():
            raise InputError(f"{path.parent / name} is missing, {path.name} lists it{again}")
    if more := {p.name for p in path.parent.glob(f"*-of-*{suffix}")} - shards.keys():
        raise InputError(f"{path.parent / min(more)} is not in {path.name}{again}")
    return [(path.parent / name, keys) for name, keys in sorted(shards.items())], total_size


def load_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, as views of a memory map of it.

    A pickle can run anything. It is only read with weights_only=True, and by a torch in which the
    two known ways around that are closed (CVE-2025-32434 in 2.6, CVE-2026-24747 in 2.10).
    """
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 10):
        raise InputError(
            f"{path}: reading a .bin takes torch 2.10, this is {torch.__version__}; update it"
        )
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        # its first sentence; torch goes on with how to read it all the same, which is not safe
        why = re.split(r"\. |\n", str(error).strip() or repr(error))[0][:120]
        raise InputError(
            f"{path}: not a file of tensors that can be read safely ({why}); copy it again, or "
            "convert it to safetensors where you trust it"
        ) from None
    if not isinstance(tensors, dict):
        raise InputError(
            f"{path}: holds a {type(tensors).__name__}, not names and tensors; copy it again"
        )
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or tensor.is_sparse:
            raise InputError(
                f"{path}: {str(key)[:80]!r} is not a name with a dense tensor; copy it again"
            )
    return tensors


def drop_rotary_tables(found: dict, config: dict) -> None:
    """Leave out the rotation speeds that older files carry; they must be those that we compute."""
    for i in range(config["num_hidden_layers"]):
        key = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
        if key in found:
            path, tensor = found.pop(key)
            width = config["head_dim"]
            ours = config["rope_theta"] ** -(torch.arange(0, width, 2).float() / width)
            # files of half precision hold them to three digits
            if tensor.shape != ours.shape or not torch.allclose(tensor.float(), ours, rtol=1e-2):
                raise InputError(
                    f"{path}: {key} is not what rope_theta {config['rope_theta']} in config.json makes; "
                    "copy both again"
                )


# -------------------------------------------------------------------------------------------------
# Download
# -------------------------------------------------------------------------------------------------

HUB = "https://huggingface.co"
PUBLISHED = {  # name: (repository, its tokenizer)
    "t5-small": ("google-t5/t5-small", "spiece.model"),
    "t5-base": ("google-t5/t5-base", "spiece.model"),
    "t5-large": ("google-t5/t5-large", "spiece.model"),
    "google/flan-t5-small": ("google/flan-t5-small", "spiece.model"),
    "google/flan-t5-base": ("google/flan-t5-base", "spiece.model"),
    "open_llama_3b": ("openlm-research/open_llama_3b", "tokenizer.model"),
    "open_llama_3b_v2": ("openlm-research/open_llama_3b_v2", "tokenizer.model"),
}


def fetch_backbone(
    name: str, folder: Path, hub: str = HUB, say: Callable = print, pause: float = 2.0
) -> Path:
    """`folder` with the published model's config, tokenizer and weights, downloaded where not there yet.

    `pause` is the wait in seconds before the first of the new attempts. Raises InputError, saying
    where to put which file by hand, where the hub cannot be reached.
    """
    repository, tokenizer = PUBLISHED[name]

    def get(file: str) -> None:
        if not (folder / file).exists():
            download(f"{hub}/{repository}/resolve/main/{file}", folder / file, say, pause)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        get("config.json")
        get(tokenizer)
        if not has_weights(folder):
            for file in "model.safetensors", "pytorch_model.bin":
                try:
                    get(file)
                    break
                except Absent:
                    pass
                try:
                    get(f"{file}.index.json")
                except Absent:
                    continue
                index = json.loads((folder / f"{file}.index.json").read_text(encoding="utf-8"))
                for shard in sorted(set(index["weight_map"].values())):
                    if Path(shard).name != shard:
                        raise InputError(
                            f"{folder}/{file}.index.json: {shard!r} is not a file name; remove it"
                        )
                    get(shard)
                break
            weight_files(folder)  # says what is wrong where something still is
    except (
        Absent,
        OSError,
        HTTPException,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name} cannot be had from {hub}/{repository} ({error}); put config.json, {tokenizer} and "
            f"model.safetensors or pytorch_model.bin (or their index and shards) into {folder} by hand"
        ) from None
    return folder


def has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except InputError:
        return False


class Absent(Exception):
    """The server has no such file."""


class KeepHeaders(urllib.request.HTTPRedirectHandler):
    """Follows redirections, and keeps what the hub says of a file before it hands over to a store."""

    def __init__(self):
        self.headers = {}

    def redirect_request(self, request, file, code, message, headers, url):
        self.headers |= {key.lower(): value for key, value in headers.items()}
        return super().redirect_request(request, file, code, message, headers, url)


def download(url: str, path: Path, say: Callable = print, pause: float = 2.0) -> None:
    """Download `url` to `path`, which gets its name when size and SHA-256 (where given) are right.

    Until then the bytes are in a .part file beside it, and after a broken connection, or in a later
    call, it goes on from there. Gives up after five attempts in a row without a new byte, at once
    where none ever came. Raises Absent for a 404, OSError, and InputError for a wrong file.
    """
    part, failures, size = path.with_name(f".{path.name}.part"), 0, 0
    while True:
        have = part.stat().st_size if part.exists() else 0
        try:
            total, sha256 = download_rest(url, part, have, path.name, say)
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            total, problem = None, error
            if error.code == 404:
                raise Absent(f"{url} does not exist") from None
            if error.code == 416 and have:  # nothing comes after what is in the .part file: anew
                part.unlink()
                continue
            if error.code < 500:
                raise
        except (OSError, HTTPException) as error:
            total, problem = None, error
        before, size = have, part.stat().st_size if part.exists() else 0
        if size == total:
            break
        failures = 0 if size > before else failures + 1
        if failures == 5 or size == 0:
            raise OSError(f"{url}: {problem}, {size} bytes are kept for the next attempt")
        say(f"{path.name}: {problem} after {size} bytes; going on from there")
        time.sleep(pause * (1 + failures))
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        os.fsync(file.fileno())
    if sha256 is not None and digest.hexdigest() != sha256:
        part.unlink()
        raise InputError(
            f"{url}: its SHA-256 is {digest.hexdigest()}, the hub says {sha256}; try again"
        )
    os.replace(part, path)


def download_rest(
    url: str, part: Path, have: int, name: str, say: Callable
) -> tuple[int, str | None]:
    """Append what comes after byte `have` to the .part file; (size, SHA-256 or None) of the whole."""
    keep = KeepHeaders()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.build_opener(keep).open(request, timeout=30) as response:
        headers = {key.lower(): value for key, value in response.headers.items()}
        whole = re.fullmatch(rf"bytes {have}-\d+/(\d+)", headers.get("content-range", ""))
        if response.status == 206 and not whole:
            part.unlink()
            raise OSError(
                f"{url}: asked for bytes from {have} on, got {headers.get('content-range')}"
            )
        if response.status != 206:  # the server sends it all once more
            have = 0
        length = whole[1] if response.status == 206 else headers.get("content-length", "")
        if not length.isdecimal():
            raise InputError(f"{url}: the server does not say how large it is; try again later")
        total = int(length)
        linked = keep.headers.get("x-linked-size", length)
        if linked != length:
            part.unlink(missing_ok=True)
            raise InputError(
                f"{url}: the hub says {linked} bytes, its store {length}; try again later"
            )
        say(f"{name}: {total / 1e6:.1f} MB from {url}" + (f", from byte {have} on" if have else ""))
        with part.open("ab" if have else "wb") as file:
            tenth = 10 * have // max(total, 1)
            while have < total and (chunk := response.read(min(1 << 20, total - have))):
                file.write(chunk)
                have += len(chunk)
                if 10 * have // total > tenth and total > 10_000_000:
                    tenth = 10 * have // total
                    say(f"{name}: {have / 1e6:.0f} of {total / 1e6:.0f} MB")
    etag = (keep.headers | headers).get("x-linked-etag", headers.get("etag", "")).strip('"')
    return total, etag.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", etag) else None
