"""Published weights: their names, their files, and where to get them.

A folder in the public layout holds `config.json` and the tensors, in `model.safetensors` or in
`pytorch_model.bin`, whole or in shards that an index file lists. Nothing in such a folder is
trusted: every field and every tensor is either understood or refused by name.
"""

import json
import os
import pickle
import re
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from itertools import product
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from support.files import InputError, load_tensors, refuse, sha256_of

# checkpoint name -> our name; {stack} is encoder or decoder, {i} the layer, {x} each of q, k, v and
# o, and {last} the feed-forward's place in a layer: 1 in the encoder, 2 in the decoder
T5_NAMES = {
    "shared.weight": "embedding.weight",
    "lm_head.weight": "head.weight",
    "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "{stack}.relative_bias.weight",
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
T5_COPIES = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"
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
LLAMA_COPIES = ("lm_head.weight",)


def public_names(config: dict) -> dict[str, str]:
    """Checkpoint name -> our name of every parameter that `config` asks for, layers written out."""
    if config["model_type"] == "llama":
        stacks, table = {"": config["num_hidden_layers"]}, LLAMA_NAMES
    else:
        stacks = {"encoder": config["num_layers"], "decoder": config["num_decoder_layers"]}
        gated = config["feed_forward_proj"] == "gated-gelu"
        other = ".wi." if gated else ".wi_"  # the names of the other activation
        table = {theirs: ours for theirs, ours in T5_NAMES.items() if other not in theirs}
    names = {}
    for stack, (theirs, ours) in product(stacks, table.items()):
        if stack == "encoder" and theirs.startswith("decoder"):
            continue
        for x, i in product("qkvo", range(stacks[stack])):
            place = {"stack": stack, "i": i, "x": x, "last": 1 if stack == "encoder" else 2}
            names[theirs.format(**place)] = ours.format(**place)
    if config["tie_word_embeddings"]:
        del names["lm_head.weight"]
    return names


NEEDED = {
    "t5": "vocab_size d_model d_kv d_ff num_layers num_heads".split(),
    "llama": "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads".split(),
}
# field -> the values of it that are implemented; whatever else it says is refused, not ignored
IMPLEMENTED = {
    "t5": dict(feed_forward_proj=("relu", "gated-gelu"), is_encoder_decoder=(True,)),
    "llama": dict(hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,)),
}
IMPLEMENTED["llama"] |= dict(rope_scaling=(None,), partial_rotary_factor=(1.0,))


def read_config(folder: Path) -> dict:
    """The `config.json` of a folder, absent fields filled in with what their absence means.

    Raises InputError, naming the field, where the model is not one that `model.py` implements.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        refuse(f"{path} is missing", f"is {folder} the folder of a model?")
    except OSError as error:
        refuse(path, f"{error.strerror or error}; copy it there again")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); copy it again") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in NEEDED:
        refuse(path, f"model_type is {kind!r}; 't5' and 'llama' are implemented, take one")
    rope = config.get("rope_parameters") or {}  # the newer way to write what follows
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    for field, values in (IMPLEMENTED[kind] | {"quantization_config": (None,)}).items():
        if field in config and config[field] not in values:
            choices = " or ".join(map(repr, values))
            refuse(path, f"{field} is {repr(config[field])[:80]}; implemented is {choices}")
    if missing := [field for field in NEEDED[kind] if config.get(field) is None]:
        refuse(path, f"{', '.join(missing)} missing; copy it again")
    check_sizes(path, config, NEEDED[kind])
    set_in = {field: value for field, value in config.items() if value is not None}
    if kind == "t5":
        tied = set_in.get("tie_word_embeddings", True)
        defaults = {"feed_forward_proj": "relu", "num_decoder_layers": config["num_layers"]}
        defaults |= {"tie_word_embeddings": tied, "scale_decoder_outputs": tied}
    else:
        heads = config["num_attention_heads"]
        defaults = {"num_key_value_heads": heads, "head_dim": config["hidden_size"] // heads}
        defaults |= {"tie_word_embeddings": False}
        set_in["rope_theta"] = float(rope.get("rope_theta", set_in.get("rope_theta", 10000.0)))
    config |= defaults | set_in
    check_sizes(path, config, ["num_decoder_layers", "num_key_value_heads", "head_dim"])
    if kind == "llama" and heads % config["num_key_value_heads"]:
        groups = f"num_key_value_heads {config['num_key_value_heads']}"
        refuse(path, f"num_attention_heads {heads} is no multiple of {groups}; copy it again")
    for field in "bos_token_id", "eos_token_id":
        if type(ids := config.get(field, 0)) is not int:
            refuse(path, f"{field} is {ids!r}; one token id is implemented; take another model")
    return config


def check_sizes(path: Path, config: dict, fields: list[str]) -> None:
    """Raises InputError where one of the fields is there and is no size."""
    for field in fields:
        if type(value := config.get(field, 1)) is not int or value < 1:
            refuse(path, f"{field} is {value!r}, not a whole number from 1 on; copy it again")


def read_tensors(folder: Path, config: dict) -> dict[str, tuple[Path, str, Tensor]]:
    """Our name -> (file, its name there, tensor), one for every parameter and none left over."""
    found = {}  # checkpoint name -> (file, tensor)
    files, total_size = weight_files(folder)
    for path, listed in files:
        tensors = load_tensors(path) if path.suffix == ".safetensors" else load_bin(path)
        if listed is not None and (wrong := sorted(listed ^ tensors.keys())):
            refuse(path, f"{wrong[0]} is in the file or in the index, not in both; copy both")
        found |= {key: (path, tensor) for key, tensor in tensors.items()}
    size = sum(tensor.nbytes for _, tensor in found.values())
    if total_size not in (None, size):
        says = f"the index says {total_size} bytes of tensors, the shards have {size}"
        refuse(path.parent, f"{says}; copy the folder again")
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
    return {ours: (found[theirs][0], theirs, found[theirs][1]) for theirs, ours in names.items()}


def drop_what_is_not_read(found: dict, names: dict[str, str], config: dict) -> None:
    """Leave out what some files carry and no parameter is read from; it must be what it should be."""
    found.pop(T5_UNUSED, None)
    is_llama = config["model_type"] == "llama"
    original = "model.embed_tokens.weight" if is_llama else "shared.weight"
    for copy in LLAMA_COPIES if is_llama else T5_COPIES:
        if copy in found and copy not in names and original in found:
            path, tensor = found.pop(copy)
            if not torch.equal(tensor, found[original][1]):
                whose = f"{copy} differs from {original}, whose copy it should be"
                refuse(path, f"{whose}; copy it again")
    for i in range(config["num_hidden_layers"] if is_llama else 0):
        key = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
        if key in found:  # the rotation speeds that older files carry
            path, tensor = found.pop(key)
            theta, width = config["rope_theta"], config["head_dim"]
            ours = theta ** -(torch.arange(0, width, 2).float() / width)
            # files of half precision hold them to three digits
            if tensor.shape != ours.shape or not torch.allclose(tensor.float(), ours, rtol=1e-2):
                made = f"what rope_theta {theta} in config.json makes"
                refuse(path, f"{key} is not {made}; copy both again")


def weight_files(folder: Path) -> tuple[list[tuple[Path, set[str] | None]], int | None]:
    """The files that hold the tensors, each with the keys that an index says it has, and how many bytes
    of tensors an index says there are.
    """
    for name in "model.safetensors", "pytorch_model.bin":
        if (folder / name).exists():
            return [(folder / name, None)], None
        if (folder / f"{name}.index.json").exists():
            return read_index(folder / f"{name}.index.json", Path(name).suffix)
    others = "pytorch_model.bin and either's index of shards; copy the folder again"
    raise InputError(f"{folder / 'model.safetensors'} is missing, and so are {others}")


def read_index(path: Path, suffix: str) -> tuple[list[tuple[Path, set[str]]], int | None]:
    """The shards that an index lists, with their keys. It cannot reach outside its own folder."""
    again = "; copy the folder again"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        files_of_keys = list(index["weight_map"].items())
        # what a .bin's index counts has changed over time: shared tensors once, or every time
        total_size = index.get("metadata", {}).get("total_size") if suffix != ".bin" else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        refuse(path, f"not an index of shards ({error!r}){again}")
    shards: dict[str, set[str]] = {}
    for key, name in files_of_keys:
        plain = isinstance(name, str) and Path(name).name == name and name.endswith(suffix)
        if not plain or "\\" in name:
            refuse(path, f"{key} is in {name!r}, not the name of a {suffix} file here{again}")
        shards.setdefault(name, set()).add(key)
    for name in shards:
        if (path.parent / name).resolve().parent != path.parent.resolve():
            refuse(path, f"{name} is a link that leaves the folder; put the file itself there")
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
        refuse(path, f"reading a .bin takes torch 2.10, this is {torch.__version__}; update it")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        # its first sentence; torch goes on with how to read it all the same, which is not safe
        why = re.split(r"\. |\n", str(error).strip() or repr(error))[0][:120]
        why = f"not a file of tensors that can be read safely ({why}); copy it again, or convert it to "
        refuse(path, f"{why}safetensors where you trust it")
    if not isinstance(tensors, dict):
        refuse(path, f"holds a {type(tensors).__name__}, not names and tensors; copy it again")
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


def download(url: str, path: Path, say: Callable = print, pause: float = 2.0) -> None:
    """Download `url` to `path`, which gets its name when size and SHA-256 (where given) are right.

    Until then the bytes are in a .part file beside it. After a broken connection, or in a later call, it
    goes on from there. Gives up after five attempts in a row without a new byte, and at once if there
    never was one. Raises OSError, FileNotFoundError for a 404, and InputError for a wrong file.
    """
    part, failures = path.with_name(f".{path.name}.part"), 0
    size_of_part = lambda: part.stat().st_size if part.exists() else 0
    while True:
        before, total, problem = size_of_part(), None, "the connection broke off"
        try:
            total, sha256 = download_rest(url, part, before, path.name, say)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise FileNotFoundError(f"{url} does not exist") from None
            if error.code == 416 and before:  # nothing comes after what is in the .part file: anew
                part.unlink()
                continue
            if error.code < 500:
                raise
            problem = error
        except (OSError, HTTPException) as error:
            problem = error
        size = size_of_part()
        if size == total:
            break
        failures = 0 if size > before else failures + 1
        if failures == 5 or size == 0:
            raise OSError(f"{url}: {problem}, {size} bytes are kept for the next attempt")
        say(f"{path.name}: {problem} after {size} bytes; going on from there")
        time.sleep(pause * (1 + failures))
    if sha256 is not None and (found := sha256_of(part)) != sha256:
        part.unlink()
        refuse(url, f"its SHA-256 is {found}, the hub says {sha256}; try again")
    os.replace(part, path)


def download_rest(url: str, part: Path, have: int, name: str, say: Callable) -> tuple:
    """Append what comes after byte `have` to the .part file; (size, SHA-256 or None) of the whole."""
    keep = KeepHeaders()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.build_opener(keep).open(request, timeout=30) as response:
        headers = response.headers
        length = headers.get("Content-Length", "")
        if response.status == 206:
            content_range = headers.get("Content-Range")
            whole = re.fullmatch(rf"bytes {have}-\d+/(\d+)", content_range or "")
            if not whole:
                part.unlink()
                raise OSError(f"{url}: asked for bytes from {have} on, got {content_range}")
            length = whole[1]
        else:  # the server sends it all once more
            have = 0
        if not length.isdecimal():
            refuse(url, "the server does not say how large it is; try again later")
        total = int(length)
        linked = keep.headers.get("x-linked-size", length)
        if linked != length:
            part.unlink(missing_ok=True)
            refuse(url, f"the hub says {linked} bytes, its store {length}; try again later")
        say(f"{name}: {total / 1e6:.1f} MB from {url}" + (f", from byte {have} on" if have else ""))
        with part.open("ab" if have else "wb") as file:
            tenth = 10 * have // max(total, 1)
            while have < total and (chunk := response.read(min(1 << 20, total - have))):
                file.write(chunk)
                have += len(chunk)
                if 10 * have // total > tenth and total > 10_000_000:
                    tenth = 10 * have // total
                    say(f"{name}: {have / 1e6:.0f} of {total / 1e6:.0f} MB")
            file.flush()
            os.fsync(file.fileno())
    linked = keep.headers.get("x-linked-etag")
    etag = headers.get("X-Linked-ETag", linked or headers.get("ETag", "")).strip('"')
    return total, etag.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", etag) else None


def fetch_backbone(
    name: str, folder: Path, hub: str = HUB, say: Callable = print, pause: float = 2.0
) -> Path:
    """`folder` with the published model's config, tokenizer and weights; what is missing is downloaded.

    `pause` is the wait in seconds before the first new attempt. Raises InputError where the hub cannot be
    reached.
    """
    repository, tokenizer = PUBLISHED[name]

    def get(file: str) -> None:
        if not (folder / file).exists():
            download(f"{hub}/{repository}/resolve/main/{file}", folder / file, say, pause)

    try:
        folder.mkdir(parents=True, exist_ok=True)
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
