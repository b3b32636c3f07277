"""The file `tokenizer.json` of a published model: from text to token ids and back.

It describes how a text is cut into pieces (`pieces.py`), and a model that cuts each piece into tokens: T5's
Unigram, BPE with single bytes for unknown letters (Llama, Mistral), or BPE over bytes (SmolLM2, Qwen,
Llama-3). What is not implemented is refused by its name. Added tokens, such as <s>, are not looked for in a
text: whatever stands there is spelled.
"""

import json
import math
import re
from functools import partial
from itertools import groupby

from support.files import refuse
from support.pieces import BYTES, LETTERS, normalizer, pre_tokenizer

PRINTABLE = {LETTERS[byte] for byte in range(32, 127)}
DEEP = RecursionError, re.error  # of a file that is no tokenizer's


def cut_by_score(scores: dict[str, float], longest: int, unknown: float, piece: str) -> list[str]:
    """Unigram (Kudo 2018): by Viterbi, the tokens whose scores, log-probabilities, have the highest sum.

    A token has at most `longest` letters; a letter that is no token counts as one of score `unknown`.
    """
    # up to each place the highest sum, and where its last token begins
    best = [(0.0, 0)] + [(-math.inf, 0)] * len(piece)
    for begin in range(len(piece)):
        for end in range(begin + 1, min(begin + longest, len(piece)) + 1):
            score = scores.get(piece[begin:end], unknown if end == begin + 1 else -math.inf)
            if (total := best[begin][0] + score) > best[end][0]:
                best[end] = total, begin
    tokens, end = [], len(piece)
    while end:
        begin = best[end][1]
        tokens.append(piece[begin:end])
        end = begin
    return tokens[::-1]


def merge(ranks: dict[tuple[str, str], int], parts: list[str]) -> list[str]:
    """BPE (Sennrich et al. 2016): again and again, of all neighbours, the pair that was learnt first."""
    while True:
        found = [ranks.get(pair, math.inf) for pair in zip(parts, parts[1:])]
        if (lowest := min(found, default=math.inf)) == math.inf:
            return parts
        at = found.index(lowest)
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]


def template(spec: dict | None) -> tuple[int, int]:
    """The tokens that a post-processor puts before a text and after it, -1 for none."""
    match spec:
        case None | {"type": "ByteLevel"}:  # the latter is about places in the text alone
            return -1, -1
        case {"type": "Sequence", "processors": parts}:
            return tuple(map(max, zip((-1, -1), *map(template, parts))))
        case {"type": "TemplateProcessing", "single": parts, "special_tokens": tokens}:
            # None for the text itself
            names = [part.get("SpecialToken", {}).get("id") for part in parts]
            ids = [tokens[name]["ids"][0] if name else -1 for name in names]
            return ids[0], ids[-1]
    raise NotImplementedError(f"post_processor {json.dumps(spec)[:120]}")


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
        model, cuts = file["model"], file["pre_tokenizer"]
        self.normalizer, self.pre_tokenizer = normalizer(file["normalizer"]), pre_tokenizer(cuts)
        self.over_bytes = "ByteLevel" in json.dumps(cuts)
        self.before, self.after = template(file["post_processor"])
        kind = model.get("type", "BPE" if "merges" in model else "Unigram")  # old files do not say
        marks = "dropout", "continuing_subword_prefix", "end_of_word_suffix"
        if kind not in ("BPE", "Unigram") or any(model.get(mark) for mark in marks):
            options = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
            raise NotImplementedError(f"model {json.dumps(options)[:200]}")
        if kind == "Unigram":
            tokens = [token for token, _ in model["vocab"]]
            self.ids = {token: n for n, token in enumerate(tokens)}
            added = {token["content"] for token in file["added_tokens"]}
            scores = {token: float(s) for token, s in model["vocab"] if token not in added}
            # what is unknown costs 10 more than the rarest token, as sentencepiece has it
            others = max(map(len, tokens)), min(scores.values()) - 10.0
            self.cut = partial(cut_by_score, scores, *others)
            self.unknown, self.fuses, self.takes_whole = tokens[model["unk_id"]], True, False
        else:
            pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
            self.ids, ranks = dict(model["vocab"]), {pair: rank for rank, pair in enumerate(pairs)}
            spelled = lambda piece: [s for letter in piece for s in self.spell(letter)]
            self.cut = lambda piece: merge(ranks, spelled(piece))
            self.unknown, self.fuses = model.get("unk_token"), model.get("fuse_unk")
            self.takes_whole = model.get("ignore_merges")
            if lost := {first + second for first, second in pairs} - self.ids.keys():
                raise ValueError(f"a merge makes {min(lost)}, which is no token")
        self.byte_fallback = bool(model.get("byte_fallback"))
        # published ones lack bytes that hardly occur: SmolLM2's has 235
        has_bytes = self.over_bytes and self.ids.keys() >= PRINTABLE
        if self.unknown not in self.ids and not has_bytes:
            raise ValueError("it has no token for unknown letters")
        self.tokens = {n: token for token, n in self.ids.items()}
        self.tokens |= {added["id"]: added["content"] for added in file["added_tokens"]}
        self.n_tokens = 1 + max(self.tokens)
        self.adds_space = self.pieces("a")[0][0] != "a"

    def spell(self, letter: str) -> list[str]:
        """The tokens of a single letter: itself, its bytes, or the unknown one."""
        in_bytes = [f"<0x{byte:02X}>" for byte in letter.encode()] if self.byte_fallback else []
        for way in [letter], in_bytes, [self.unknown]:
            if way and all(token in self.ids for token in way):
                return way
        refuse(self.source, f"has no token for the byte {BYTES[letter]:#x} of a text; take another")

    def pieces(self, text: str) -> list[str]:
        """What a text is cut into before each piece is cut into tokens."""
        for rewrite in self.normalizer:
            text = rewrite(text)
        pieces = [text]
        for cut in self.pre_tokenizer:
            pieces = cut([piece for piece in pieces if piece])
        return [piece for piece in pieces if piece]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without what begins or ends a prompt."""
        ids = []
        for piece in self.pieces(text):
            parts = [piece] if self.takes_whole and piece in self.ids else self.cut(piece)
            spelled = [[part] if part in self.ids else self.spell(part) for part in parts]
            for token, same in groupby(token for tokens in spelled for token in tokens):
                many = 1 if self.fuses and token == self.unknown else len([*same])
                ids += [self.ids[token]] * many
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without the space that a first word begins with."""
        tokens, data = [self.tokens[i] for i in ids if i in self.tokens], b""
        for token in tokens:
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
