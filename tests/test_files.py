"""The safetensors reader against every rule of the format, and writing that leaves nothing half-done."""

import json
import math
import os
import re
import stat
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from support.files import (
    DTYPES,
    InputError,
    fill,
    load_tensors,
    read_safetensors,
    save_tensors,
    write_atomically,
)


def write_raw(path, header, data=b"", length=None):
    """A safetensors file with this header (text, bytes or an object), whatever it says."""
    raw = header if isinstance(header, bytes) else None
    raw = raw or (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


EIGHT = b"\x00" * 8
GOOD = {"a": entry()}
ATTACK = {f"a{i}": entry() for i in range(20_000)}
# name: (header, data, length that it claims or None, what the message says); in brackets the reader
# that once accepted it
BROKEN = {
    "header longer than the file (openasr PR #73)": (GOOD, EIGHT, 10_000, "claims 10000 bytes"),
    "header over the limit": (GOOD, EIGHT, 2**63, "claims"),
    "not utf-8": (b'{"\xff": 1}', b"", None, "not JSON"),
    "not json": ("{nonsense}", b"", None, "not JSON"),
    "space in front": (" " + json.dumps(GOOD), EIGHT, None, "not a JSON object"),
    "a list": ("[]", b"", None, "not a JSON object"),
    "deep nesting": ("[" * 100_000, b"", None, "not JSON"),
    "a key twice (openasr PR #73)": ('{"a": 1, "a": 2}', b"", None, "stands twice"),
    "a key twice in an entry": (
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "dtype": "I32"}}',
        EIGHT,
        None,
        "stands twice",
    ),
    "no header": (b"{}", b"", 0, "not JSON"),
    "length of 64 ones": (GOOD, EIGHT, 2**64 - 1, "claims"),
    "twenty thousand names for one range": (ATTACK, EIGHT, None, "begins at byte 0"),
    "metadata is a list": (GOOD | {"__metadata__": []}, EIGHT, None, "not text to text"),
    "metadata not text": (GOOD | {"__metadata__": {"x": 1}}, EIGHT, None, "not text to text"),
    "unknown type (imp #1603)": ({"a": entry(dtype="F31")}, EIGHT, None, "a has dtype 'F31'"),
    "type is a list": ({"a": entry(dtype=["F32"])}, EIGHT, None, "a has dtype"),
    "no shape": (
        {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
        EIGHT,
        None,
        "a is not described",
    ),
    "negative shape": ({"a": entry(shape=(-2,))}, EIGHT, None, "a has shape [-2]"),
    "fraction in shape": ({"a": entry(shape=(2.0,))}, EIGHT, None, "a has shape [2.0]"),
    "true in shape": ({"a": entry(shape=(True, 2))}, EIGHT, None, "a has shape [True, 2]"),
    "shape overflows": ({"a": entry(shape=(2**62, 2**62))}, EIGHT, None, "a has ["),
    "shape larger than range (MLX #3363)": (
        {"a": entry(shape=(4,))},
        EIGHT,
        None,
        "a has [4] of F32",
    ),
    "negative start (go-huggingface PR #57)": ({"a": entry(-8, 0)}, EIGHT, None, "a has shape"),
    "end before start": ({"a": entry(8, 0)}, EIGHT, None, "a has [2] of F32"),
    "three offsets": (
        {"a": entry() | {"data_offsets": [0, 4, 8]}},
        EIGHT,
        None,
        "a has [2] of F32",
    ),
    "hole": ({"a": entry(0, 8), "b": entry(16, 24)}, EIGHT * 3, None, "b begins at byte 16"),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, EIGHT * 2, None, "b begins at byte 4"),
    "two names for one range (lattice #752)": (
        {"a": entry(), "b": entry()},
        EIGHT,
        None,
        "b begins at byte 0",
    ),
    "does not begin at 0": ({"a": entry(8, 16)}, EIGHT * 2, None, "a begins at byte 8"),
    "bytes left over": (GOOD, EIGHT * 2, None, "its header describes"),
    "bytes missing": (GOOD, EIGHT[:-1], None, "its header describes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_safetensors_are_refused(tmp_path, case):
    header, data, length, expected = BROKEN[case]
    path = write_raw(tmp_path / "x.safetensors", header, data, length)
    with pytest.raises(InputError) as error:
        load_tensors(path)
    assert expected in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 7])
def test_file_without_room_for_a_header(tmp_path, size):
    (tmp_path / "x").write_bytes(b"\x00" * size)
    with pytest.raises(InputError, match="under 8 bytes"):
        load_tensors(tmp_path / "x")


def test_a_header_over_the_limit_is_not_even_read(tmp_path):
    """The file is large enough for it; the reader takes no memory for what it does not believe."""
    with (tmp_path / "x").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(100_000_100)  # sparse
    tracemalloc.start()
    with pytest.raises(InputError, match="claims 100000001 bytes"):
        load_tensors(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_what_the_format_allows_is_read(tmp_path):
    """Spaces after the header, metadata, empty tensors (modelaudit PR #1607 refused them), ones without
    axes, no tensors at all."""
    header = {"__metadata__": {"format": "pt"}, "e": entry(4, 4, (0, 3)), "s": entry(0, 4, ())}
    data = np.float32(2.5).tobytes()
    tensors = load_tensors(write_raw(tmp_path / "x", json.dumps(header) + "   ", data))
    assert tensors["e"].shape == (0, 3) and tensors["s"].shape == () and tensors["s"] == 2.5
    assert load_tensors(write_raw(tmp_path / "y", "{}")) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_saved_tensors_come_back_bit_for_bit(tmp_path, dtype):
    g = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randint(-9, 9, (3, 5), generator=g).to(dtype),
        "odd": torch.arange(7, dtype=torch.uint8),
        "turned": torch.randint(-9, 9, (4, 3), generator=g).to(dtype).T,
        "empty": torch.empty(0, 2, dtype=dtype),
        "one": torch.tensor(3).to(dtype),
        "flags": torch.tensor([True, False]),
    }
    save_tensors(tmp_path / "x", tensors)
    again = load_tensors(tmp_path / "x")
    assert again.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert again[key].dtype == tensor.dtype and torch.equal(again[key], tensor), key


@pytest.mark.parametrize("seed", range(20))
def test_any_tensors_come_back(tmp_path, seed):
    """Random numbers of random tensors of random types and shapes, and slices of what was read."""
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(0, 4, size=rng.integers(4))) for _ in range(rng.integers(6))]
    types = rng.choice(list(DTYPES), size=len(shapes))
    numbers = [torch.from_numpy(rng.integers(0, 2, size=shape)) for shape in shapes]
    tensors = {f"t{i}": x.to(DTYPES[t]) for i, (x, t) in enumerate(zip(numbers, types))}
    save_tensors(tmp_path / "x", tensors, {"seed": str(seed)})
    again, metadata = read_safetensors(tmp_path / "x")
    assert again.keys() == tensors.keys() and metadata == {"seed": str(seed)}
    for key, tensor in tensors.items():
        assert again[key].dtype == tensor.dtype and torch.equal(again[key], tensor)
        if tensor.dim():
            assert torch.equal(again[key][1:], tensor[1:])


def test_reader_agrees_with_the_reference_library(tmp_path):
    reference = pytest.importorskip("safetensors.torch")
    tensors = {"w": torch.randn(4, 3), "h": torch.randn(5).bfloat16(), "n": torch.arange(3)}
    reference.save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    save_tensors(tmp_path / "ours", tensors)
    for path in tmp_path / "theirs", tmp_path / "ours":
        for read in load_tensors, reference.load_file:
            assert all(torch.equal(read(path)[key], tensors[key]) for key in tensors)


def test_any_changed_byte_of_a_header_is_read_or_refused(tmp_path):
    """Never another exception, whatever byte is put where."""
    save_tensors(tmp_path / "x", {"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.int32)})
    whole, rng = (tmp_path / "x").read_bytes(), np.random.default_rng(0)
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    refused = 0
    for _ in range(400):
        changed = bytearray(whole)
        for position in rng.integers(header_end, size=rng.integers(1, 4)):
            changed[position] = rng.integers(256)
        (tmp_path / "y").write_bytes(changed)
        try:
            tensors = load_tensors(tmp_path / "y")
            assert sum(math.prod(t.shape) * t.element_size() for t in tensors.values()) == 32
        except InputError:
            refused += 1
    assert refused > 200


def test_loading_copies_nothing(tmp_path):
    """Two readers see the same bytes of the file: the tensors are views of a memory map."""
    save_tensors(tmp_path / "x", {"a": torch.zeros(1 << 20)})
    tensor = load_tensors(tmp_path / "x")["a"]
    with (tmp_path / "x").open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(7).tobytes())
    assert tensor[-1] == 7
    tensor[0] = 5.0  # a private page: the file stays as it is
    assert load_tensors(tmp_path / "x")["a"][0] == 0


def test_failed_write_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_bytes(b"before")

    def pieces():
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(
        InputError, match="cannot write .*x: No space left on device; what was there"
    ):
        write_atomically(tmp_path / "x", pieces())
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done, real_sync, real_replace = [], os.fsync, os.replace

    def sync(fd):
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        if done == ["file"]:
            assert os.fstat(fd).st_size == 5 and not (tmp_path / "x").exists()
        real_sync(fd)

    def replace(source, target):
        assert Path(source).parent == Path(target).parent == tmp_path
        done.append("name")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "x", b"hello")
    assert done == ["file", "name", "folder"]
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644  # others may read it


def test_what_does_not_fit_a_module_is_named(tmp_path):
    module, path = torch.nn.Linear(2, 3), tmp_path / "x"
    right = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    fill(module, path, right)
    assert torch.equal(module.weight, right["weight"])
    for wrong, expected in [
        ({"weight": right["weight"]}, "bias is not there, should be (3,)"),
        (right | {"bias": torch.ones(2)}, "bias is (2,), should be (3,)"),
        (right | {"more": torch.ones(2)}, "more is (2,), should be not there"),
    ]:
        with pytest.raises(
            InputError, match=re.escape(f"{path}: {expected}; it is of another run")
        ):
            fill(module, path, wrong)
