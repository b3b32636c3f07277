"""From words to token ids: the tokenizers of T5's kind and of Llama's, published or made here."""

import hashlib
import io
from pathlib import Path

import sentencepiece

from support.files import refuse
from support.tokenizer_json import TokenizerJson
from support.weights import T5_KINDS, read_config


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
    """A sentencepiece model or a `tokenizer.json`, given as its bytes, word by word.

    A word is encoded as it stands within a text, once, and remembered; its tokens' positions in a prompt are
    known, and it has the same ones in every prompt. A whole text of single spaces gives these tokens
    too, but for one case: where two ways of cutting a word are equally likely, sentencepiece's unigram search
    decides by how the sum of all words before it is rounded (T5's user_4603 is 460|3 or 46|03).

    A T5 ends a prompt with </s>, a Llama begins it with <s>; `config`, as `read_config` gives it, says which
    of them the model is, and its ids. Without it they are the sentencepiece model's, which is a Llama's
    if it has <s>. Raises InputError, naming `source`, for bytes that are no tokenizer, and for other ids in
    the tokenizer than in `config`.
    """

    def __init__(self, content: bytes, source: str = "tokenizer.model", config: dict | None = None):
        self.content, self.file = content, Path(source).name
        try:
            is_json = self.file.endswith(".json")
            read = TokenizerJson if is_json else sentencepiece.SentencePieceProcessor
            self.model = read(content, source) if is_json else read(model_proto=content)
        except RuntimeError:
            refuse(source, "not a sentencepiece model; copy it again")
        own = {"bos_token_id": self.model.bos_id(), "eos_token_id": self.model.eos_id()}
        if config is None:
            is_t5, ids = own["bos_token_id"] < 0, own | {"pad_token_id": self.model.pad_id()}
        else:
            is_t5, ids = config["model_type"] in T5_KINDS, config
        for name in ["eos_token_id"] if is_t5 else own:
            if 0 <= own[name] != ids[name]:
                says = f"{name} is {own[name]} in it, {ids[name]} in config.json beside it"
                refuse(source, f"{says}; copy both again")
        lacks_end = not is_json and own["eos_token_id"] < 0
        if lacks_end or ids["eos_token_id"] >= self.model.get_piece_size():
            refuse(source, "has no end token </s>, which ends every answer; take another")
        self.vocab_size, self.eos_id = self.model.get_piece_size(), ids["eos_token_id"]
        self.pad_id = ids["pad_token_id"] if is_t5 else 0  # nobody looks at a Llama's padding
        self.before = [] if is_t5 else [ids["bos_token_id"]]
        self.after = [self.eos_id] if is_t5 else []
        # not words of any text
        self.marks = {self.eos_id, *self.before} | ({self.pad_id} if is_t5 else set())
        # in front of a text, as T5 and Llama do
        self.adds_space = not is_json or self.model.adds_space
        self.cache: dict[str, tuple[int, ...]] = {}

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with any byte of the file."""
        return hashlib.sha256(self.content).hexdigest()[:12]

    def word(self, word: str, is_first: bool = False) -> tuple[int, ...]:
        """Token ids of a word that a space precedes, or that a text begins with."""
        text = word if is_first or self.adds_space else f" {word}"
        if text not in self.cache:
            self.cache[text] = tuple(self.model.encode(text))
        return self.cache[text]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without the marks of its beginning, its end and its padding.

        Ids that the tokenizer does not have (a model has some more, T5's its sentinels) are no text.
        """
        return self.model.decode([i for i in ids if i not in self.marks and i < self.vocab_size])


def tokenizer_in(folder: Path) -> Tokenizer:
    """The tokenizer of a published folder: a sentencepiece model, or where there is none `tokenizer.json`.

    Raises InputError where there is neither, or where it has more tokens than the model beside it.
    """
    config = read_config(folder)
    for name in "spiece.model", "tokenizer.model", "tokenizer.json":
        if (path := folder / name).is_file():
            tokenizer = Tokenizer(path.read_bytes(), str(path), config)
            if tokenizer.vocab_size > config["vocab_size"]:
                says = f"but vocab_size in {folder / 'config.json'} is {config['vocab_size']}"
                refuse(path, f"{tokenizer.vocab_size} tokens, {says}; copy both again")
            return tokenizer
    refuse(folder, "spiece.model, tokenizer.model and tokenizer.json are missing; copy one there")
