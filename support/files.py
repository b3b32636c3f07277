"""Reading and writing files so that nothing is lost and nothing is let in.

Tensors live in the safetensors format (https://github.com/huggingface/safetensors): a length, a
JSON header, the bytes. There is no pickle in anything that this project reads or writes.
"""

import errno
import hashlib
import importlib.util
import io
import itertools
import json
import math
import os
import signal
import struct
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Callable, Iterable, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from support import idle_cores


class InputError(ValueError):
    """Something a user can mend: the message says what is wrong, where, and what to do, in one line."""


def refuse(where: object, why: str) -> NoReturn:
    """Raises InputError for what stands at a place: a file, a line of it, an address, a flag."""
    raise InputError(f"{where}: {why}") from None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another request to end, with how the work goes on later, if it can."""

    def __init__(self, how_to_go_on: str = "", number: int = signal.SIGINT):
        super().__init__(how_to_go_on)
        self.exit_code = 128 + number  # as shells have it


def on_request_to_end(handler: Callable) -> dict[int, Callable]:
    """Have `handler(number, frame)` called on Ctrl-C, on SIGTERM (a cluster's time limit, `timeout`) and when
    the terminal closes; what is ignored (nohup) stays so. Only the main thread can say so.

    Returns who was called before, by the signal's number.
    """
    before = {}
    for name in "SIGINT", "SIGTERM", "SIGHUP":  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before


def end_here(number: int, *_) -> NoReturn:
    raise Interrupted(number=number)


def show(text: str = "", end: str = "\n", on: IO | None = None) -> None:
    """Print text on the screen, or on another stream.

    Once a reader such as `head` has closed the pipe, or the terminal is gone, there is nobody to see it: from
    then on nothing is written, and the work goes on.
    """
    stream = on or sys.stdout
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def use_threads(n: int) -> None:
    """Compute with so many threads, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(n)


# the system's error numbers for a disk that is full or must not be written to
DISK = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM


def run_command(main: Callable[[], object]) -> None:
    """Run a script's `main`; if the user has something to mend, print one line and exit with code 2.

    Ctrl-C prints one line and exits with code 130, SIGTERM with 143.
    """
    on_request_to_end(end_here)
    # two threads that wait for each other beside somebody's busy core take six times as long as one
    use_threads(min(torch.get_num_threads(), idle_cores()))
    if hasattr(sys.stdout, "reconfigure"):  # letters that the console lacks, as escapes
        sys.stdout.reconfigure(errors="backslashreplace")

    def stop(line: str, code: int = 2) -> NoReturn:
        show(line, on=sys.stderr)
        sys.exit(code)

    try:
        main()
        show(end="")  # what is left may find its pipe closed
    except InputError as error:
        stop(f"error: {error}")
    except KeyboardInterrupt as error:
        how = f"; {error}" if str(error) else ""
        stop(f"\ninterrupted{how}", getattr(error, "exit_code", 130))
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" {error.filename}" if error.filename else ""
        stop(f"error: cannot write{where}: {error.strerror}; make room or choose another folder")
    except (MemoryError, RuntimeError) as error:
        says_so = "can't allocate memory" in str(error)  # torch of the CPU's
        if not says_so and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        why = "free some, or choose a smaller --backbone or --batch-size"
        stop(f"error: there is no more memory; {why}")


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8}
DTYPES |= {"U8": torch.uint8, "BOOL": torch.bool}
MAX_HEADER = 100_000_000  # bytes; the format's own limit


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; see `read_safetensors`."""
    return read_safetensors(path)[0]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file; the tensors are views of a memory map of it.

    Everything is checked before it is used: the header's length, its JSON (no key twice), each
    tensor's type, shape and range, and that the tensors tile the file without hole or overlap.
    Raises InputError naming the file and the key.
    """
    path = Path(path)

    def refuse(why: str, remedy: str = "not a whole safetensors file, copy it again"):
        raise InputError(f"{path}: {why}; {remedy}") from None

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
        refuse(error.strerror or str(error), "copy the file there or name another folder")
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
        are_lists = isinstance(shape, list) and isinstance(offsets, list)
        numbers = [*shape, *offsets] if are_lists else [-1]
        if len(numbers) > 64 or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            refuse(f"{key} has shape {str(shape)[:80]} and data_offsets {str(offsets)[:80]}")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            refuse(f"{key} has dtype {dtype!r}, known are {', '.join(DTYPES)}")
        size_of_all = math.prod(shape) * DTYPES[dtype].itemsize
        if len(offsets) != 2 or offsets[1] - offsets[0] != size_of_all:
            refuse(f"{key} has {shape} of {dtype} but data_offsets {offsets}")
        entries.append((*offsets, key, DTYPES[dtype], shape))
    end = 0
    for first, last, key, *_ in sorted(entries):
        if first != end:
            refuse(f"{key} begins at byte {first}, the tensor before it ends at {end}")
        end = last
    if 8 + length + end != size:
        refuse(f"it has {size} bytes, its header describes {8 + length + end}")
    nothing = np.empty(0, dtype=np.uint8)
    data = np.memmap(path, dtype=np.uint8, mode="c", offset=8 + length) if end else nothing
    view = lambda first, last, dtype: torch.from_numpy(data[first:last]).view(dtype)
    return {key: view(a, b, dtype).reshape(shape) for a, b, key, dtype, shape in entries}, metadata


def fill(module: nn.Module, path: Path, tensors: dict[str, Tensor]) -> None:
    """Give a module the tensors of a file. Raises InputError naming the first key that does not fit."""
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(shapes.keys() | found.keys()):
        if shapes.get(key) != found.get(key):
            shape, right = (of.get(key, "not there") for of in (found, shapes))
            why = f"{key} is {shape}, should be {right}"
            refuse(path, f"{why}; it is of another run, or of an older version")
    module.load_state_dict(tensors)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict | None = None) -> None:
    """Write tensors as a safetensors file, largest element type first so that all are aligned."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for key, tensor in ordered:
        shape, offsets = list(tensor.shape), [end, end + tensor.nbytes]
        header[key] = {"dtype": names[tensor.dtype], "shape": shape, "data_offsets": offsets}
        end += tensor.nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # data begins at a multiple of 8 bytes
    as_bytes = lambda tensor: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    full = (tensor for _, tensor in ordered if tensor.numel())
    blobs = (memoryview(as_bytes(tensor).numpy()) for tensor in full)  # one copy at a time
    write_atomically(path, itertools.chain([struct.pack("<Q", len(raw)) + raw], blobs))


def write_atomically(path: Path, content: bytes | Iterable) -> None:
    """Give `path` this content, or leave it as it was: a temporary file beside it, then a rename.

    `content` is bytes, or pieces of them one after the other. Raises InputError where the disk does
    not take them.
    """
    path, temporary = Path(path), None
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(fd, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # a disk of another kind may have no such rights
            os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
        with suppress(OSError):  # not everywhere can a folder be opened, or synced
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)  # so that the new name survives a power cut
            os.close(folder)
    except OSError as error:
        left = "what was there before still is; make room or choose another folder"
        refuse(f"cannot write {path}", f"{error.strerror}; {left}")
    finally:
        if temporary is not None:  # where it has got its name, there is nothing left to remove
            Path(temporary).unlink(missing_ok=True)


def try_folder(folder: Path, flag: str = "") -> None:
    """Make a folder, and a file in it, before the work begins whose result goes there.

    Raises InputError where that cannot be; `flag` is what names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        refuse(f"cannot write into {flag}{folder}", f"{error.strerror}; choose another folder")


def enough_memory(what: str, needed: int, device: torch.device, remedy: str) -> None:
    """Raises InputError where `what` takes more bytes than the device has free, if that is known."""
    free = free_memory(device)
    if free is not None and needed > free:
        sizes = f"{needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free"
        raise InputError(f"{what} takes {sizes}; {remedy}")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device can still give; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def read_object(path: Path, where: str, remedy: str) -> dict:
    """The object in a JSON file. Raises InputError where there is none; `where` is what led to the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        refuse(where, f"{path}: {error.strerror}; {remedy}")
    except (ValueError, RecursionError) as error:
        refuse(where, f"{path} is no JSON ({error}); {remedy}")
    if not isinstance(found, dict):
        refuse(where, f"{path} is no JSON object; {remedy}")
    return found


def can_draw() -> bool:
    """Whether matplotlib is there, which is imported only where a picture is asked for."""
    return importlib.util.find_spec("matplotlib") is not None


def picture_mark(numbers: str, code: Path) -> str:
    """Sixteen hex digits that change with the numbers in a picture and with the file that draws it."""
    return hashlib.sha256((numbers + code.read_text(encoding="utf-8")).encode()).hexdigest()[:16]


def save_picture(figure, path: Path, dpi: int, mark: str) -> None:
    """Write a matplotlib figure as PNG with this `picture_mark`, by which a test knows it as stale."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Comment": mark})
    write_atomically(path, content.getvalue())


def sha256_of(*paths: Path) -> str:
    """SHA-256 of the bytes of files, one after the other, in hex."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


# the system's error numbers for a disk that has no locks at all, as some network disks
NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL


def lock(folder: Path) -> IO:
    """Hold a folder for this process, until the file that is returned is closed or the process ends.

    Raises InputError where another process holds it. Where the disk has no locks, that cannot be known, and
    is said.
    """
    file = (folder / ".lock").open("w")
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in NO_LOCKS:
            why = f"{error.strerror}; begin nothing else in this folder meanwhile"
            show(f"{folder}: this disk has no locks: {why}", on=sys.stderr)
            return file
        file.close()
        why = "is in use by a run that is still going; wait for it or choose another folder"
        raise InputError(f"{folder} {why}") from None
    return file
