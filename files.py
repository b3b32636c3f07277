"""Reading and writing files so that nothing is lost and nothing is let in.

Tensors live in the safetensors format (https://github.com/huggingface/safetensors): a length, a
JSON header, the bytes. There is no pickle in anything that this project reads or writes.
"""

import itertools
import json
import math
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Callable, Iterable

import numpy as np
import torch
from torch import Tensor


class InputError(ValueError):
    """Something a user can mend: the message says what is wrong, where, and what to do, in one line."""


def run_command(main: Callable[[], object]) -> None:
    """What a script does: `main`, or where the user has something to mend one line and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8}
DTYPES |= {"U8": torch.uint8, "BOOL": torch.bool}
MAX_HEADER = 100_000_000  # bytes; the format's own limit


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as views of a memory map of it (copy before writing to one).

    Everything is checked before it is used: the header's length, its JSON (no key twice), each
    tensor's type, shape and range, and that the tensors tile the file without hole or overlap.
    Raises InputError naming the file and the key.
    """
    path = Path(path)

    def refuse(why: str):
        raise InputError(f"{path}: {why}; not a whole safetensors file, copy it again") from None

    def no_key_twice(pairs):
        if len(dict(pairs)) != len(pairs):
            refuse("a key stands twice in the header")
        return dict(pairs)

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else refuse("under 8 bytes")
            if length > min(MAX_HEADER, size - 8):
                refuse(f"its header claims {length} bytes")
            raw = file.read(length)
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=no_key_twice)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        refuse(f"its header is not JSON ({error})")
    if not raw.startswith(b"{") or not isinstance(header, dict):
        refuse("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse("__metadata__ is not text to text")
    entries = []
    for key, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            refuse(f"{key} is not described by dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = (
            [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
        )
        if len(numbers) > 64 or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            refuse(f"{key} has shape {str(shape)[:80]} and data_offsets {str(offsets)[:80]}")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            refuse(f"{key} has dtype {dtype!r}, known are {', '.join(DTYPES)}")
        if (
            len(offsets) != 2
            or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize
        ):
            refuse(f"{key} has {shape} of {dtype} but data_offsets {offsets}")
        entries.append((*offsets, key, DTYPES[dtype], shape))
    end = 0
    for first, last, key, *_ in sorted(entries):
        if first != end:
            refuse(f"{key} begins at byte {first}, the tensor before it ends at {end}")
        end = last
    if 8 + length + end != size:
        refuse(f"it has {size} bytes, its header describes {8 + length + end}")
    tensors = {}
    data = np.memmap(path, dtype=np.uint8, mode="c", offset=8 + length) if end else None
    for first, last, key, dtype, shape in entries:
        if first == last:
            tensors[key] = torch.empty(shape, dtype=dtype)
        else:
            tensors[key] = torch.from_numpy(data[first:last]).view(dtype).reshape(shape)
    return tensors


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as a safetensors file, largest element type first so that all are aligned."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    keys = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    header, end = {}, 0
    for key in keys:
        size = tensors[key].numel() * tensors[key].element_size()
        header[key] = {
            "dtype": names[tensors[key].dtype],
            "shape": list(tensors[key].shape),
            "data_offsets": [end, end + size],
        }
        end += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # data begins at a multiple of 8 bytes
    as_bytes = lambda tensor: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    blobs = (memoryview(as_bytes(tensors[key]).numpy()) for key in keys)  # one copy at a time
    write_atomically(path, itertools.chain([struct.pack("<Q", len(raw)) + raw], blobs))


def write_atomically(path: Path, content: bytes | Iterable) -> None:
    """Give `path` this content, or leave it as it was: a temporary file beside it, then a rename.

    `content` is bytes, or pieces of them one after the other.
    """
    path = Path(path)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
