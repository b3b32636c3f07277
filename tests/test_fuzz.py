"""Whatever is put into a file: it is read, or refused with the project's own error and in one line."""

import contextlib
import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MINIATURES, write_miniature

from support.datasets import Dataset, load_dataset
from support.files import InputError, load_tensors, save_tensors

# what a hand or a bad copy puts into a line, beside single characters
SNIPPETS = [
    "",
    "\t",
    "::",
    "|",
    ",",
    "\r",
    "\n",
    "\r\n",
    "\x00",
    "\ufeff",
    "é",
    "²",
    "٣",
    "１",
    "𝟙",
]
SNIPPETS += [
    "-1",
    "1e9",
    "1e999",
    "nan",
    "inf",
    "1_0",
    "+1",
    " 1",
    "9" * 5000,
    "0x1",
    "None",
    '"',
    "f",
]


def memory(what: str) -> int:
    """VmRSS, what the process holds, or VmHWM, the most that it held since it was reset, in bytes."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[what].split()[0])


@contextlib.contextmanager
def at_most_64_mib_more():
    """Nothing within takes more, not even for a moment; Linux counts it."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say how much memory was taken in between")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < 64 * 2**20


def test_memory_that_is_taken_and_given_back_is_noticed():
    with at_most_64_mib_more():
        np.ones(4 * 2**20)  # 32 MiB
    with pytest.raises(AssertionError), at_most_64_mib_more():
        np.ones(10 * 2**20)


def write_anew(path: Path, content: bytes) -> None:
    """As a new file: one that is written over reaches the disk at once on some systems, in milliseconds."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def mutated(text: str, rng: np.random.Generator) -> str:
    """A text of which one line has been changed in one of the ways in which files go wrong."""
    lines = text.splitlines(keepends=True)
    row = rng.integers(len(lines))
    line, kind = lines[row], rng.integers(7)
    at, snippet = rng.integers(len(line) + 1), SNIPPETS[rng.integers(len(SNIPPETS))]
    if kind == 0:
        line = line[:at] + snippet + line[at:]
    elif kind == 1:
        line = line[:at] + line[at + rng.integers(1, 4) :]
    elif kind == 2:
        line = (
            line[:at]
            + chr(rng.integers(0x110000 - 0x800)).encode("utf-8", "ignore").decode()
            + line[at:]
        )
    elif kind == 3:
        line = line + line
    elif kind == 4:
        line = lines[rng.integers(len(lines))]
    elif kind == 5:
        line = ""
    else:  # one field for another
        for separator in "::", "|", "\t", ",":
            if separator in line:
                fields = line.rstrip("\n").split(separator)
                fields[rng.integers(len(fields))] = snippet
                line = separator.join(fields) + "\n"
                break
    lines[row] = line
    return "".join(lines)


def throw_at_loader(name: str, folder, n: int, seed: int) -> tuple[int, int]:
    """(read, refused) of `n` miniatures with one changed line each."""
    rng, read, refused = np.random.default_rng(seed), 0, 0
    write_miniature(folder, name)
    texts = MINIATURES[name]
    for _ in range(n):
        file = list(texts)[rng.integers(len(texts))]
        changed = mutated(texts[file], rng)
        content = changed.encode("utf-8" if rng.random() < 0.8 else "utf-16", "surrogatepass")
        write_anew(folder / file, content)
        try:
            dataset = load_dataset(name, folder)
            assert isinstance(dataset, Dataset)
            for values in dataset.attributes.values():
                assert len(values) == len(dataset.users) == len(dataset.histories)
            assert all(0 <= h.min() and h.max() < len(dataset.titles) for h in dataset.histories)
            read += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, str(error)
            refused += 1
        finally:
            (folder / file).unlink()
            write_miniature(folder, name, [file])
    return read, refused


@pytest.mark.parametrize("name", MINIATURES)
def test_a_changed_line_is_read_or_refused(tmp_path, name):
    with at_most_64_mib_more():
        read, refused = throw_at_loader(name, tmp_path, 300, 0)
    assert read > 10 and refused > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIATURES)
def test_ten_thousand_changed_lines(tmp_path, name):
    began = time.process_time()
    with at_most_64_mib_more():
        read, refused = throw_at_loader(name, tmp_path, 10_000, 1)
    assert read > 300 and refused > 3000
    assert time.process_time() - began < 200  # none of them takes long


def broken_header(rng: np.random.Generator, good: dict, data: bytes) -> bytes:
    """A safetensors file with something wrong in its header, in its length or in its bytes."""
    header = json.loads(json.dumps(good))
    entry = header[list(header)[rng.integers(len(header))]]
    number = int([0, 1, -1, 8, 2**31, 2**63, 2**64, 10**30][rng.integers(8)])
    wrong = [number, float(number), str(number), None, True, [], [number], {}, "F32"][
        rng.integers(9)
    ]
    kind = rng.integers(6)
    if kind == 0:
        entry[list(entry)[rng.integers(len(entry))]] = wrong
    elif kind == 1 and isinstance(entry.get("shape"), list):
        entry["shape"] = [*entry["shape"], wrong]
    elif kind == 2:
        entry["data_offsets"][rng.integers(2)] = wrong
    elif kind == 3:
        header["__metadata__"] = wrong
    raw = json.dumps(header).encode()
    length = len(raw) if kind != 4 else int(rng.integers(2**40)) >> int(rng.integers(40))
    whole = bytearray(struct.pack("<Q", length) + raw + data)
    if kind == 5:
        for at in rng.integers(len(whole), size=rng.integers(1, 5)):
            whole[at] = rng.integers(256)
    if rng.random() < 0.2:
        whole = whole[: rng.integers(len(whole) + 1)]
    return bytes(whole)


def throw_at_reader(folder, n: int, seed: int) -> tuple[int, int]:
    rng, read, refused = np.random.default_rng(seed), 0, 0
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    tensors |= {"c": torch.empty(0, 3), "d": torch.tensor(1)}
    save_tensors(folder / "x", tensors)
    whole = (folder / "x").read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    good = json.loads(whole[8:end])
    for _ in range(n):
        write_anew(folder / "y", broken_header(rng, good, whole[end:]))
        try:
            found = load_tensors(folder / "y")
            assert sum(t.numel() * t.element_size() for t in found.values()) <= len(whole)
            read += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
            refused += 1
    return read, refused


def test_a_broken_safetensors_file_is_read_or_refused(tmp_path):
    with at_most_64_mib_more():
        read, refused = throw_at_reader(tmp_path, 1000, 0)
    assert read > 20 and refused > 500


@pytest.mark.slow
def test_a_hundred_thousand_broken_safetensors_files(tmp_path):
    """No other exception, no hang, and no memory beyond the file's own size by more than 64 MiB."""
    began = time.process_time()
    with at_most_64_mib_more():
        read, refused = throw_at_reader(tmp_path, 100_000, 1)
    assert read + refused == 100_000 and refused > 50_000
    assert time.process_time() - began < 600
