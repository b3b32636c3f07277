"""From a text to the pieces that a tokenizer cuts into tokens, as a `tokenizer.json` describes it.

A normalizer rewrites the text, a pre-tokenizer cuts it; both are read as lists of functions, one step after
the other. There are those of T5, Llama, Mistral, SmolLM2, Qwen and Llama-3; others raise NotImplementedError
with their name.
"""

import base64
import json
import re
import unicodedata
from functools import cache, partial
from typing import Callable

import numpy as np

WHITE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # re's \s has four more
# GPT-2's way of cutting, which a ByteLevel pre-tokenizer means unless it says use_regex: false
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
VISIBLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
HIDDEN = {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in VISIBLE)}
# byte -> the letter that BPE over bytes writes for it: itself where it can be seen, else one from U+0100 on
LETTERS = [HIDDEN.get(b, chr(b)) for b in range(256)]
BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


@cache
def category(name: str) -> str:
    r"""A Unicode category, or all that begin with a letter, as ranges for `re`, which knows no \p{L}."""
    points = [p for p in range(0x110000) if unicodedata.category(chr(p)).startswith(name)]
    if not points:
        raise NotImplementedError(rf"\p{{{name}}} in a pattern")
    runs = np.split(points, np.flatnonzero(np.diff(points) > 1) + 1)
    return "".join(rf"\U{run[0]:08x}-\U{run[-1]:08x}" for run in runs)


@cache
def compiled(pattern: str) -> re.Pattern:
    r"""A pattern of these files for `re`, as its one group: \p{L}, \p{N}, \s and \S are written out."""

    def written_out(part: re.Match) -> str:
        if part[0] == r"\S":
            return f"[^{WHITE}]"
        text = re.sub(r"\\p\{(\w+)\}", lambda name: category(name[1]), part[0])
        text = text.replace(r"\s", WHITE)
        return text if part[0].startswith("[") else f"[{text}]"

    plain = re.sub(r"\[(?:\\.|[^\]])*\]|\\p\{\w+\}|\\[sS]", written_out, pattern)
    found = re.compile(f"({plain})")
    others = set(re.findall(r"\\(\w)", pattern)) - set("psSrnt")
    if others or found.groups > 1 or re.search(r"\[[^\]]*\\S", pattern):
        raise NotImplementedError(f"the pattern {pattern}")
    return found


def pattern_of(spec: dict) -> re.Pattern:
    return compiled(spec["Regex"]) if "Regex" in spec else re.compile(re.escape(spec["String"]))


def normalizer(spec: dict | None) -> list[Callable[[str], str]]:
    """What is done to a text first, one step after the other."""
    match spec:
        case None:
            return []
        case {"type": "Sequence", "normalizers": parts}:
            return [step for part in parts for step in normalizer(part)]
        case {"type": "NFC" | "NFKC" as form}:
            return [partial(unicodedata.normalize, form)]
        case {"type": "Prepend", "prepend": str(start)}:
            return [lambda text: text and start + text]
        case {"type": "Replace", "pattern": pattern, "content": str(new)}:
            return [partial(pattern_of(pattern).sub, lambda _: new)]
        case {"type": "Strip", "strip_left": left, "strip_right": right}:
            ends = [rf"\A[{WHITE}]+"] * left + [rf"[{WHITE}]+\Z"] * right
            return [partial(re.compile(end).sub, "") for end in ends]
        case {"type": "Precompiled", "precompiled_charsmap": str(rules)}:
            return [partial(rewrite, *read_rules(base64.b64decode(rules)))]
    raise NotImplementedError(f"normalizer {json.dumps(spec)[:120]}")


def read_rules(rules: bytes) -> tuple[dict[int, int], bytes]:
    """sentencepiece's rules of rewriting: a double array (Aoe 1989) of strings, and what they become.

    That is the array's size in bytes, its units of 32 bits, and texts that end with a zero byte.
    """
    end = 4 + int.from_bytes(rules[:4], "little")
    return dict(enumerate(np.frombuffer(rules[4:end], "<u4").tolist())), rules[end:]


def rewrite(units: dict[int, int], texts: bytes, text: str) -> str:
    """At each place the longest string that has a rule gives way to the rule's text."""
    jump = lambda unit: (unit >> 10) << ((unit & 1 << 9) >> 6)
    data, out, at = text.encode(), b"", 0
    while at < len(data):
        node, new, end = jump(units.get(0, 0)), data[at : at + 1], at + 1
        for length, byte in enumerate(data[at:], 1):
            node ^= byte
            unit = units.get(node, 0)
            if unit & 0x800000FF != byte:
                break
            node ^= jump(unit)
            if unit >> 8 & 1:  # a string ends here; the next unit says where its text begins
                begin, end = units.get(node, 0) & 0x7FFFFFFF, at + length
                new = texts[begin:].split(b"\0", 1)[0]
        out, at = out + new, end
    return out.decode(errors="replace")


def mark_spaces(mark: str, scheme: str, split: bool, pieces: list[str]) -> list[str]:
    """Metaspace: a mark for each space and in front of a piece; with `split` each mark begins one."""
    pieces = [piece.replace(" ", mark) for piece in pieces]
    for n, piece in enumerate(pieces):
        if scheme == "always" or (scheme == "first" and n == 0):
            pieces[n] = piece if piece.startswith(mark) else mark + piece
    return (
        [word for p in pieces for word in re.split(f"(?={re.escape(mark)})", p)]
        if split
        else pieces
    )


def spell_bytes(space_in_front: bool, cuts: bool, pieces: list[str]) -> list[str]:
    """ByteLevel: a letter for each byte of the pieces, which GPT-2's pattern has cut into words."""
    if space_in_front:
        pieces = [piece if piece.startswith(" ") else f" {piece}" for piece in pieces]
    if cuts:
        pieces = [word for piece in pieces for word in compiled(WORDS).split(piece)]
    return ["".join(LETTERS[byte] for byte in piece.encode()) for piece in pieces]


def pre_tokenizer(spec: dict | None) -> list[Callable[[list[str]], list[str]]]:
    """How a text is cut into pieces, one step after the other; what is empty is left out in the end."""
    at_each = lambda method: [lambda pieces: [part for piece in pieces for part in method(piece)]]
    match spec:
        case None:
            return []
        case {"type": "Sequence", "pretokenizers": parts}:
            return [step for part in parts for step in pre_tokenizer(part)]
        case {"type": "WhitespaceSplit"}:
            return at_each(compiled(r"\S+").findall)
        case {"type": "Digits", "individual_digits": bool(alone)}:
            return at_each(compiled(r"\p{N}" if alone else r"\p{N}+").split)
        case {
            "type": "Split",
            "behavior": "Isolated",
            "invert": False,
            "pattern": {"Regex": pattern},
        }:
            return at_each(compiled(pattern).split)
        case {"type": "Metaspace", "replacement": str(mark)}:
            older = "always" if spec.get("add_prefix_space", True) else "never"
            scheme, split = spec.get("prepend_scheme", older), spec.get("split", True)
            return [partial(mark_spaces, mark, scheme, split)]
        case {"type": "ByteLevel", "add_prefix_space": bool(space)}:
            return [partial(spell_bytes, space, spec.get("use_regex", True))]
    raise NotImplementedError(f"pre_tokenizer {json.dumps(spec)[:120]}")
