"""The file `tokenizer.json` of a published model: from text to token ids and back.

A normalizer rewrites the text, a pre-tokenizer cuts it into pieces, a model cuts each piece into tokens: T5's
Unigram, BPE with single bytes for unknown letters (Llama, Mistral), or BPE over bytes (SmolLM2, Qwen,
Llama-3). What is not implemented is refused by its name. Added tokens, such as <s>, are not looked for in a
text: whatever stands there is spelled.
"""

import base64
import json
import math
import re
import unicodedata
from functools import cache, partial
from itertools import groupby
from typing import Callable

import numpy as np

from support.files import refuse

WHITE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # re's \s has four more
# GPT-2's way of cutting, which a ByteLevel pre-tokenizer means unless it says use_regex: false
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
VISIBLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
HIDDEN = {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in VISIBLE)}
# byte -> the letter that BPE over bytes writes for it: itself where it can be seen, else one from U+0100 on
LETTERS = [HIDDEN.get(b, chr(b)) for b in range(256)]
BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}
DEEP = RecursionError, re.error  # of a file that is no tokenizer's


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
    sets = r"(\[(?:\\.|[^\]])*\])|(\\p\{\w+\}|\\s)"  # what stands in no set becomes one
    plain = re.sub(sets, lambda m: m[1] or f"[{m[2]}]", pattern.replace(r"\S", r"[^\s]"))
    plain = re.sub(r"\\p\{(\w+)\}", lambda m: category(m[1]), plain).replace(r"\s", WHITE)
    found = re.compile(f"({plain})")
    others = set(re.findall(r"\\(\w)", pattern)) - set("psSrnt")
    if others or found.groups > 1 or re.search(r"\[[^\]]*\\S", pattern):
        raise NotImplementedError(f"the pattern {pattern}")
    return found


def apply_rules(units: dict[int, int], texts: bytes, text: str) -> str:
    """At each place the longest string that sentencepiece has a rule for gives way to the rule's text.

    `units` are a double array (Aoe 1989) of the strings, by place; each of the `texts` ends with a zero byte.
    """
    jump = lambda unit: (unit >> 10) << ((unit & 1 << 9) >> 6)
    data, out, at = text.encode(), b"", 0
    while at < len(data):
        node, new, end = jump(units.get(0, 0)), data[at : at + 1], at + 1
        for place in range(at, len(data)):
            node ^= data[place]
            unit = units.get(node, 0)
            if unit & 0x800000FF != data[place]:
                break
            node ^= jump(unit)
            if unit >> 8 & 1:  # a string ends here; the next unit says where its text begins
                new = texts[units.get(node, 0) & 0x7FFFFFFF :].split(b"\0", 1)[0]
                end = place + 1
        out, at = out + new, end
    return out.decode(errors="replace")


def mark_spaces(mark: str, scheme: str, split: bool, pieces: list[str]) -> list[str]:
    """Metaspace: a mark for each space and in front of a piece; with `split` each mark begins one."""
    marked = []
    for n, piece in enumerate(pieces):
        piece = piece.replace(" ", mark)
        if scheme == "always" or (scheme == "first" and n == 0):
            piece = mark + piece.removeprefix(mark)
        marked += re.split(f"(?={re.escape(mark)})", piece) if split else [piece]
    return marked


def spell_bytes(space_in_front: bool, cuts: bool, pieces: list[str]) -> list[str]:
    """ByteLevel: a letter for each byte of the pieces, which GPT-2's pattern has cut into words."""
    if space_in_front:
        pieces = [" " + piece.removeprefix(" ") for piece in pieces]
    if cuts:
        pieces = [word for piece in pieces for word in compiled(WORDS).split(piece)]
    return ["".join(LETTERS[byte] for byte in piece.encode()) for piece in pieces]


def parts_of(spec: dict | None, name: str) -> list[dict]:
    """What a file wants done one after the other; a Sequence has a list of it, called `name`."""
    match spec:
        case None:
            return []
        case {"type": "Sequence"}:
            return [one for part in spec[name] for one in parts_of(part, name)]
    return [spec]


def step(kind: str, spec: dict) -> Callable[[list[str]], list[str]]:
    """What a part of a normalizer or of a pre_tokenizer makes of the pieces of a text, none of them empty."""
    each = lambda change: lambda pieces: [*map(change, pieces)]
    cut = lambda method: lambda pieces: [new for piece in pieces for new in method(piece)]
    match kind, spec:
        case "normalizer", {"type": "NFC" | "NFKC" as form}:
            return each(partial(unicodedata.normalize, form))
        case "normalizer", {"type": "Prepend", "prepend": str(start)}:
            return each(lambda text: start + text)
        case "normalizer", {"type": "Replace", "pattern": {"String": old}, "content": str(new)}:
            return each(partial(re.compile(re.escape(old)).sub, lambda _: new))
        case "normalizer", {"type": "Replace", "pattern": {"Regex": old}, "content": str(new)}:
            return each(partial(compiled(old).sub, lambda _: new))
        case "normalizer", {"type": "Strip", "strip_left": left, "strip_right": right}:
            ends = [rf"\A[{WHITE}]+"] * left + [rf"[{WHITE}]+\Z"] * right
            return each(partial(re.compile("|".join(ends)).sub, ""))
        case "normalizer", {"type": "Precompiled", "precompiled_charsmap": str(text)}:
            rules = base64.b64decode(text)  # the array's size in bytes, its units of 32 bits, texts
            end = 4 + int.from_bytes(rules[:4], "little")
            units = dict(enumerate(np.frombuffer(rules[4:end], "<u4").tolist()))
            return each(partial(apply_rules, units, rules[end:]))
        case "pre_tokenizer", {"type": "WhitespaceSplit"}:
            return cut(compiled(r"\S+").findall)
        case "pre_tokenizer", {"type": "Digits", "individual_digits": bool(alone)}:
            return cut(compiled(r"\p{N}" if alone else r"\p{N}+").split)
        case "pre_tokenizer", {"type": "Split", "behavior": "Isolated", "invert": False, **more}:
            return cut(compiled(more["pattern"]["Regex"]).split)
        case "pre_tokenizer", {"type": "Metaspace", "replacement": str(mark)}:
            older = "always" if spec.get("add_prefix_space", True) else "never"
            scheme, split = spec.get("prepend_scheme", older), spec.get("split", True)
            return partial(mark_spaces, mark, scheme, split)
        case "pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": bool(space)}:
            return partial(spell_bytes, space, spec.get("use_regex", True))
    raise NotImplementedError(f"{kind} {json.dumps(spec)[:120]}")


def template(spec: dict) -> tuple[int, int]:
    """The tokens that a part of a post_processor puts before a text and after it, -1 for none."""
    match spec:
        case {"type": "ByteLevel"}:  # which is about places in the text alone
            return -1, -1
        case {"type": "TemplateProcessing", "single": parts, "special_tokens": tokens}:
            # None for the text itself
            names = [part.get("SpecialToken", {}).get("id") for part in parts]
            ids = [tokens[name]["ids"][0] if name else -1 for name in names]
            return ids[0], ids[-1]
    raise NotImplementedError(f"post_processor {json.dumps(spec)[:120]}")


def cut_by_score(scores: dict[str, float], longest: int, unknown: float, piece: str) -> list[str]:
    """Unigram (Kudo 2018): by Viterbi, the tokens whose scores, log-probabilities, have the highest sum.

    A token has at most `longest` letters; a letter that is no token counts as one of score `unknown`.
    """
    best = [(0.0, [])]  # up to each place the highest sum, and its tokens
    for end in range(1, len(piece) + 1):
        ways = []
        for begin in range(max(end - longest, 0), end):
            token, (total, before) = piece[begin:end], best[begin]
            total += scores.get(token, unknown if len(token) == 1 else -math.inf)
            ways.append((total, [*before, token]))
        best.append(max(ways, key=lambda way: way[0]))
    return best[-1][1]


def merge(ranks: dict[tuple[str, str], int], parts: list[str]) -> list[str]:
    """BPE (Sennrich et al. 2016): again and again, of all neighbours, the pair that was learnt first."""
    while True:
        found = [ranks.get(pair, math.inf) for pair in zip(parts, parts[1:])]
        if (lowest := min(found, default=math.inf)) == math.inf:
            return parts
        at = found.index(lowest)
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]


class TokenizerJson:
    """The tokens of a `tokenizer.json`, whose bytes are `content`; used as a sentencepiece model is.

    Raises InputError, naming `source`, for what is no such file, or asks for what is not implemented.
    """

    def __init__(self, content: bytes, source: str):
        self.source = source
        try:
            self.read(json.loads(content.decode()))
        except NotImplementedError as error:
            remedy = "take spiece.model or tokenizer.model, or another"
            refuse(source, f"{error} is not implemented; {remedy}")
        except (ValueError, LookupError, TypeError, AttributeError, *DEEP) as error:
            why = f"{type(error).__name__}: {error}".replace("\n", " ")[:120]
            refuse(source, f"not the file of a tokenizer ({why}); copy it again")

    def read(self, file: dict) -> None:
        lists = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
        specs = [(k, spec) for k, name in lists.items() for spec in parts_of(file[k], name)]
        self.steps = [step(kind, spec) for kind, spec in specs]
        self.over_bytes = "ByteLevel" in json.dumps(file["pre_tokenizer"])
        around = map(template, parts_of(file["post_processor"], "processors"))
        self.before, self.after = map(max, zip((-1, -1), *around))
        added = {token["id"]: token["content"] for token in file["added_tokens"]}
        model = file["model"]
        kind = model.get("type", "BPE" if "merges" in model else "Unigram")  # old files do not say
        marks = "dropout", "continuing_subword_prefix", "end_of_word_suffix"
        if kind not in ("BPE", "Unigram") or any(model.get(mark) for mark in marks):
            options = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
            raise NotImplementedError(f"model {json.dumps(options)[:200]}")
        if kind == "Unigram":
            self.ids = {token: n for n, (token, _) in enumerate(model["vocab"])}
            self.unknown = model["vocab"][model["unk_id"]][0]
            scores = {k: float(s) for k, s in model["vocab"] if k not in added.values()}
            # what is unknown costs 10 more than the rarest token, as sentencepiece has it
            longest, unknown = max(1, *map(len, scores)), min(scores.values()) - 10.0
            self.cut = partial(cut_by_score, scores, longest, unknown)
        else:
            pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
            self.ids, ranks = dict(model["vocab"]), {pair: rank for rank, pair in enumerate(pairs)}
            self.unknown = model.get("unk_token")
            spelled = lambda piece: [s for letter in piece for s in self.spell(letter)]
            self.cut = lambda piece: merge(ranks, spelled(piece))
            if lost := {first + second for first, second in pairs} - self.ids.keys():
                raise ValueError(f"a merge makes {min(lost)}, which is no token")
        self.fuses = model.get("fuse_unk", kind == "Unigram")
        self.takes_whole, self.byte_fallback = map(model.get, ("ignore_merges", "byte_fallback"))
        # published ones lack bytes that hardly occur: SmolLM2's has 235
        has_bytes = self.over_bytes and self.ids.keys() >= {*LETTERS[32:127]}
        if self.unknown not in self.ids and not has_bytes:
            raise ValueError("it has no token for unknown letters")
        self.tokens = {n: token for token, n in self.ids.items()} | added
        self.n_tokens = 1 + max(self.tokens)
        self.adds_space = self.pieces("a")[0][0] != "a"

    def spell(self, part: str) -> list[str]:
        """The tokens of a part of a piece: itself; of a letter that is none its bytes, or the unknown one."""
        in_bytes = [f"<0x{byte:02X}>" for byte in part.encode()] if self.byte_fallback else []
        for way in [part], in_bytes, [self.unknown]:
            if way and all(token in self.ids for token in way):
                return way
        refuse(self.source, f"has no token for the byte {BYTES[part]:#x} of a text; take another")

    def pieces(self, text: str) -> list[str]:
        """What a text is cut into before each piece is cut into tokens."""
        pieces = [text]
        for change in self.steps:
            pieces = change([*filter(None, pieces)])
        return [*filter(None, pieces)]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without what begins or ends a prompt."""
        ids = []
        for piece in self.pieces(text):
            parts = [piece] if self.takes_whole and piece in self.ids else self.cut(piece)
            for token, same in groupby(token for part in parts for token in self.spell(part)):
                many = 1 if self.fuses and token == self.unknown else len([*same])
                ids += [self.ids[token]] * many
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without the space that a first word begins with."""
        data = b""
        for token in [self.tokens[i] for i in ids if i in self.tokens]:
            if self.over_bytes and BYTES.keys() >= set(token):
                data += bytes(BYTES[letter] for letter in token)
            elif re.fullmatch("<0x[0-9A-F]{2}>", token):
                data += bytes([int(token[3:5], 16)])
            else:
                data += token.replace("▁", " ").encode()
        return data.decode(errors="replace").removeprefix(" ")

    def get_piece_size(self) -> int:
        return self.n_tokens

    def bos_id(self) -> int:
        return self.before

    def eos_id(self) -> int:
        return self.after
