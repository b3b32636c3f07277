"""From words to token ids: sentencepiece models of T5's kind and of Llama's, published or made here."""

import hashlib
import io
from pathlib import Path

import sentencepiece

from support.files import refuse
from support.weights import read_config


def train_pieces(sentence: str, n_users: int, n_items: int, begins: bool) -> bytes:
    """A sentencepiece model for the small backbones in which every user and item number is one piece.

    It knows the words of one `sentence`, about user 1 and the items 1001 and 1002, and learns from it; any
    other text falls back to bytes, so nothing is unknown. With `begins` it has a token <s> for the
    beginning of a text, as Llama's kind has.
    """
    text = sentence.replace("_1", "").replace("1001", "").replace("1002", "")
    words = {word.strip(",.?") for word in text.split()} - {""}
    pieces = [*sorted(f"▁{word}" for word in words), "_", ",", ".", "?"]
    pieces += [f"▁{1001 + i}" for i in range(n_items)] + [str(u + 1) for u in range(n_users)]
    model, marks = io.BytesIO(), dict(pad_id=0, eos_id=1, unk_id=2, bos_id=3 if begins else -1)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([sentence]),
        model_writer=model,
        model_type="bpe",
        vocab_size=len(pieces) + 4 + 256 + 64,  # pad, </s>, <unk>, <s>; bytes; room for letters
        hard_vocab_limit=False,
        user_defined_symbols=pieces,
        byte_fallback=True,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
        **marks,
    )
    return model.getvalue()


class Tokenizer:
    """A sentencepiece model of T5's kind or of Llama's, word by word.

    No piece of these models crosses a space, so a text's pieces are those of its words one after
    the other: words are encoded once and remembered, and a word's positions are known. T5's kind ends
    a prompt with </s>, and its model has `n_sentinels` tokens more, which nothing here uses; Llama's,
    which has a token <s>, begins it with that. Raises InputError, naming `source`, for bytes that are no
    sentencepiece model.
    """

    def __init__(self, proto: bytes, source: str = "tokenizer", n_sentinels: int = 0):
        self.proto, self.n_sentinels = proto, n_sentinels
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError:
            refuse(source, "not a sentencepiece model; copy it again")
        self.vocab_size = self.model.get_piece_size() + n_sentinels
        self.eos_id, bos_id = self.model.eos_id(), self.model.bos_id()
        if self.eos_id < 0:
            refuse(source, "has no end token </s>, which ends every answer; take another")
        self.before = [] if bos_id < 0 else [bos_id]
        self.after = [self.eos_id] if bos_id < 0 else []
        self.pad_id = max(self.model.pad_id(), 0)  # Llama's has none; nobody looks at padding
        self.cache: dict[str, tuple[int, ...]] = {}

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with any byte of the model."""
        return hashlib.sha256(self.proto).hexdigest()[:12]

    def word(self, word: str) -> tuple[int, ...]:
        """Token ids of a word."""
        if word not in self.cache:
            self.cache[word] = tuple(self.model.encode(word))
        return self.cache[word]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without the marks of its beginning, its end and its padding."""
        marks = {self.pad_id, self.eos_id, *self.before}
        return self.model.decode([i for i in ids if i not in marks and i < len(self.model)])


def tokenizer_in(folder: Path) -> Tokenizer:
    """The tokenizer of a published folder: T5's `spiece.model` with 100 sentinels, or `tokenizer.model`.

    Raises InputError where there is neither, or where it has more tokens than the model beside it.
    """
    vocab_size = read_config(folder)["vocab_size"]
    for name, n_sentinels in ("spiece.model", 100), ("tokenizer.model", 0):
        path = folder / name
        if path.is_file():
            tokenizer = Tokenizer(path.read_bytes(), str(path), n_sentinels)
            if tokenizer.vocab_size > vocab_size:
                says = f"but vocab_size in {folder / 'config.json'} is {vocab_size}"
                refuse(path, f"{tokenizer.vocab_size} tokens, {says}; copy both again")
            return tokenizer
    refuse(folder, "spiece.model or tokenizer.model is missing; copy it there")
