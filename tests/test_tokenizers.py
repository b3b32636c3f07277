"""`tokenizer.json` beside the `tokenizers` package: the published pipelines, raised on prompts."""

import io
import json
import random
import re
from functools import cache

import pytest
import sentencepiece
from commands import command
from conftest import random_llama, random_t5

from data import direct_prompt, encode_prompt, sequential_prompt
from support.backbones import save_backbone
from support.files import InputError
from support.tokenizer_json import TokenizerJson
from support.tokens import Tokenizer, tokenizer_in

tokenizers = pytest.importorskip("tokenizers")
models, normalizers, trainers = tokenizers.models, tokenizers.normalizers, tokenizers.trainers
pre_tokenizers, processors = tokenizers.pre_tokenizers, tokenizers.processors
decoders = tokenizers.decoders

NOUNS = "movies", "movie", "watched", "watch"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
ODD = [
    *(
        "",
        " ",
        "'",
        "  lead",
        "trail  ",
        "a  b   c",
        "tab\there\n\nnew\r\n line",
        "x\x1cy \u3000z\xa0w\u200b",
    ),
    *(
        "Amélie, le fabuleux destin (2001)",
        "Ame\u0301lie ﬁ ①½² Ⅷ ٣ Ａｂｃ １２",
        "日本語 テスト",
        "🙂👍🏽 ok",
    ),
    *("IT'S i'm DON'T we'll ſ's", "User_42!!! ...\n", "naïve ÅÄÖ привет", "<s> </s> ▁_▁"),
]


def prompts(users) -> list[tuple[int, str]]:
    """For each user both prompts, about items from all over 20,000 numbers."""
    found = []
    for user in users:
        items = [1001 + (user * step) % 20_000 for step in (1, 7, 13, 7919)]
        found += [
            (user, sequential_prompt(user, items, NOUNS)),
            (user, direct_prompt(user, items, NOUNS)),
        ]
    return found


def text_to_learn_from() -> list[str]:
    asked = "Can you infer the gender of user_{}? Answer with one word: Female or Male."
    texts = [text for _, text in prompts(range(1, 20_000, 37))]
    return texts + [asked.format(user) for user in range(9, 20_000, 97)] + ODD * 9


def sentencepiece_t5() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_to_learn_from()),
        model_writer=model,
        vocab_size=600,
        hard_vocab_limit=False,
        minloglevel=2,
        **dict(bos_id=-1, eos_id=1, pad_id=0, unk_id=2),
    )
    return model.getvalue()


def t5() -> tokenizers.Tokenizer:
    """As transformers makes it of the sentencepiece model."""
    pytest.importorskip("google.protobuf")
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_t5())
    made = tokenizers.Tokenizer(
        models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=2)
    )
    made.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    spaces = dict(replacement="▁", prepend_scheme="always", split=True)
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(steps), decoders.Metaspace(**spaces)
    made.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", 1)]
    )
    made.add_special_tokens(["<pad>", "</s>", "<unk>"] + [f"<extra_id_{n}>" for n in range(7)])
    return made


def over_bytes(pre_tokenizer, normalizer=None, **options) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(**options))
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    letters = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=letters, special_tokens=special)
    made.train_from_iterator(text_to_learn_from(), trainer)
    return made


def split_first(pattern: str, **options) -> tokenizers.Tokenizer:
    steps = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return over_bytes(pre_tokenizers.Sequence(steps), **options)


def smollm2() -> tokenizers.Tokenizer:
    steps = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return over_bytes(pre_tokenizers.Sequence(steps))


def llama3() -> tokenizers.Tokenizer:
    made = split_first(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"), ignore_merges=True)
    template = processors.TemplateProcessing(
        single=["<|endoftext|>", "$A"], special_tokens=[("<|endoftext|>", 0)]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return made


def llama(spaces: str) -> tokenizers.Tokenizer:
    """Llama's and Mistral's; what marks the spaces was a normalizer, and is a pre-tokenizer today."""
    options = dict(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raised = tokenizers.Tokenizer(models.BPE(**options))
    raised.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special)
    raised.train_from_iterator([text for _, text in prompts(range(1, 20_000, 37))], trainer)
    file = json.loads(raised.to_str())
    file["added_tokens"] = file["added_tokens"][:3]
    if spaces == "normalizer":
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        steps = [{"type": "Prepend", "prepend": "▁"}, replace]
        file |= dict(normalizer={"type": "Sequence", "normalizers": steps}, pre_tokenizer=None)
    else:
        file["pre_tokenizer"] |= dict(prepend_scheme="first", split=False)
    made = tokenizers.Tokenizer.from_str(json.dumps(file))
    back = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    made.decoder = decoders.Sequence(back)
    made.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], special_tokens=[("<s>", 1)]
    )
    return made


# family -> (its tokenizer, its ids of <s> and </s> in config.json; a T5 has no <s>)
FAMILIES = {
    "T5": (t5, None, 1),
    "Llama, Mistral": (lambda: llama("normalizer"), 1, 2),
    "Llama of today": (lambda: llama("pre_tokenizer"), 1, 2),
    "SmolLM2": (smollm2, 0, 0),
    "Qwen": (lambda: split_first(QWEN, normalizer=normalizers.NFC()), 0, 1),
    "Llama-3": (llama3, 0, 1),
}
of_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def theirs(family: str) -> tokenizers.Tokenizer:
    return FAMILIES[family][0]()


def folder_of(family: str, folder, **more) -> None:
    """A small model of the family with its tokenizer.json."""
    _, begin, end = FAMILIES[family]
    size = theirs(family).get_vocab_size()
    model = (
        random_t5(size)
        if begin is None
        else random_llama(size, bos_token_id=begin, eos_token_id=end, **more)
    )
    save_backbone(model, folder)
    (folder / "tokenizer.json").write_text(theirs(family).to_str())


def compare(family: str, folder, users) -> None:
    """Prompts of these users, word by word, beside the whole text as `tokenizers` reads it."""
    folder_of(family, folder)
    ours, other, (_, begin, end) = tokenizer_in(folder), theirs(family), FAMILIES[family]
    for user, text in prompts(users):
        ids, is_user = encode_prompt(text, user, ours)
        plain = other.encode(text, add_special_tokens=False)
        assert ids == ([*plain.ids, end] if begin is None else [begin, *plain.ids]), text
        # the user's words, and no others, are marked, by the places in the text that tokenizers gives
        names = [found.span() for found in re.finditer(rf"[Uu]ser_{user}\b", text)]
        for mine, (first, last) in zip(
            is_user[:-1] if begin is None else is_user[1:], plain.offsets
        ):
            within = any(first < end and begin < last for begin, end in names)
            assert mine == within or not text[first:last].strip()
        assert ours.decode(ids) == text
    for number in list(users)[:500]:
        word = str(1000 + number)
        assert ours.decode([*ours.word(word), ours.eos_id]) == word


@of_family
def test_prompts_have_the_ids_of_the_tokenizers_package(tmp_path, family):
    compare(family, tmp_path, [*range(1, 120), *range(4500, 20_000, 211)])


@pytest.mark.slow
@of_family
def test_prompts_of_20_000_users_and_items_have_these_ids(tmp_path, family):
    compare(family, tmp_path, range(1, 20_001))


def odd_texts() -> list[str]:
    rng = random.Random(0)
    letters = "abésSLl12½ \t\n  _,.?!'日λ🙂\xa0\u200b²"
    made = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 30))) for _ in range(2000)]
    return [text for text in ODD if "<s>" not in text] + made


@of_family
def test_any_text_has_the_ids_of_the_tokenizers_package(family):
    """Accents, runs of spaces, other scripts, probe questions: the whole text in one go."""
    other = theirs(family)
    ours = TokenizerJson(other.to_str().encode(), family)
    asked = [
        f"Can you infer the gender of user_{user}? Female or Male." for user in (1, 4603, 19_999)
    ]
    for text in odd_texts() + asked:
        ids = ours.encode(text)
        assert ids == other.encode(text, add_special_tokens=False).ids, text
        back = other.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids) == (back if ours.adds_space else back.removeprefix(" ")), text


def test_a_t5_has_the_ids_of_its_sentencepiece_model():
    """What `tokenizers` rewrites otherwise as well: a letter that has a rule, with an accent behind it."""
    ours = TokenizerJson(theirs("T5").to_str().encode(), "t5")
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_t5())
    accents = ["½\u0301 ﬁ\u0301", "e\u0301\u0301 \u0301a"]
    for text in ODD + accents:
        assert ours.encode(text) == model.encode(text), text


def test_what_a_text_says_of_added_tokens_is_spelled():
    ours = TokenizerJson(theirs("SmolLM2").to_str().encode(), "smol")
    assert 0 not in ours.encode("<|endoftext|>") and ours.decode([0]) == "<|endoftext|>"


@of_family
def test_other_ids_in_config_json_are_refused_with_both(tmp_path, family):
    folder_of(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    _, begin, end = FAMILIES[family]
    own = json.loads(theirs(family).to_str())["post_processor"]
    field, now = ("eos_token_id", end) if begin is None else ("bos_token_id", begin)
    (tmp_path / "config.json").write_text(json.dumps(config | {field: 5}))
    if own is None:  # the file says nothing of it: the config's are taken
        assert tokenizer_in(tmp_path).before == [5]
        return
    with pytest.raises(InputError, match=f"{field} is {now} in it, 5 in config.json beside it"):
        tokenizer_in(tmp_path)


def without(**changes):
    """A SmolLM2's file with other values at its places, given as part__part=value."""

    def spoil(file):
        for place, value in changes.items():
            *parts, last = place.split("__")
            inner = file
            for part in parts:
                inner = inner[part]
            inner[last] = value

    return spoil


OTHERS = {
    "normalizer": (without(normalizer={"type": "Lowercase"}), 'normalizer {"type": "Lowercase"}'),
    "pre-tokenizer": (
        without(pre_tokenizer={"type": "Whitespace"}),
        'pre_tokenizer {"type": "Whitespace"}',
    ),
    "behaviour": (
        without(
            pre_tokenizer={"type": "Split", "behavior": "MergedWithNext", "pattern": {"Regex": "a"}}
        ),
        "MergedWithNext",
    ),
    "pattern": (
        without(normalizer={"type": "Replace", "pattern": {"Regex": r"\w+"}, "content": ""}),
        r"the pattern \w+ is not implemented",
    ),
    "category": (
        without(normalizer={"type": "Replace", "pattern": {"Regex": r"\p{Han}"}, "content": ""}),
        r"\p{Han} in a pattern is not implemented",
    ),
    "post-processor": (without(post_processor={"type": "BertProcessing"}), "BertProcessing"),
    "model": (without(model__type="WordPiece"), '"type": "WordPiece"'),
    "suffix": (without(model__end_of_word_suffix="</w>"), '"end_of_word_suffix": "</w>"'),
    "no model": (lambda file: file.pop("model"), "not the file of a tokenizer (KeyError: 'model')"),
    "merges": (without(model__merges=[["a", "xyz"]]), "a merge makes axyz, which is no token"),
    "no bytes": (
        lambda file: file["model"]["vocab"].pop("Ġ"),
        "it has no token for unknown letters",
    ),
}


def test_a_byte_that_a_vocabulary_lacks_matters_in_a_text_that_has_it():
    """SmolLM2's own file lacks 21 of 256."""
    file = json.loads(theirs("SmolLM2").to_str())
    file["model"] |= {"merges": [], "vocab": dict(file["model"]["vocab"])}
    for letter in "Ą", "ñ":  # the bytes 0x04 and 0xf1
        file["model"]["vocab"].pop(letter)
    tokenizer = TokenizerJson(json.dumps(file).encode(), "somewhere/tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("user_1 é")) == "user_1 é"
    with pytest.raises(InputError, match="has no token for the byte 0x4 of a text"):
        tokenizer.encode("a\x04b")


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_implemented_is_refused_by_its_name(what):
    spoil, expected = OTHERS[what]
    file = json.loads(theirs("SmolLM2").to_str())
    if what == "no bytes":
        file["model"]["merges"] = []
    spoil(file)
    with pytest.raises(InputError) as error:
        Tokenizer(json.dumps(file).encode(), "somewhere/tokenizer.json")
    text = str(error.value)
    assert text.startswith("somewhere/tokenizer.json: ") and expected in text and "\n" not in text


def test_a_folder_of_smollm2_s_kind_runs_from_beginning_to_end(tmp_path):
    """Grouped heads, tied embeddings, a tokenizer over bytes whose <s> is its </s>; opened again at once."""
    (folder := tmp_path / "smollm2").mkdir()
    folder_of("SmolLM2", folder, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=1e5)
    small = "--toy-users 60 --p5-steps 6 --epochs 1 --batch-size 20 --prefix-len 4"
    done = command(tmp_path, f"--attr gender --backbone smollm2 {small}")
    assert done.returncode == 0, done.stderr
    assert "User_1 has already watched the following movies 10" in done.stdout
    (p5,) = (tmp_path / "runs").glob("p5-*")
    assert (p5 / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    once_more = command(tmp_path, f"--attr gender --backbone smollm2 {small} --out again")
    assert f"reusing {p5.relative_to(tmp_path)}" in once_more.stdout


@of_family
def test_a_broken_file_is_read_or_refused(family):
    """One value of the file is another: no other error, and no end that never comes."""
    (_, begin, end), rng, refused = FAMILIES[family], random.Random(1), 0
    config = {"model_type": "t5" if begin is None else "llama", "pad_token_id": 0}
    config |= {"bos_token_id": begin, "eos_token_id": end}
    whole = json.loads(theirs(family).to_str())
    other = [
        None,
        0,
        -1,
        1e999,
        "",
        "a",
        [],
        [0],
        ["a", "b"],
        {},
        {"type": "Sequence"},
        True,
        float("nan"),
    ]
    for _ in range(100):
        file = json.loads(json.dumps(whole))
        inner = file
        while True:
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            key = rng.choice(list(keys))
            if not isinstance(inner[key], (dict, list)) or not inner[key] or rng.random() < 0.2:
                break
            inner = inner[key]
        inner[key] = rng.choice(other)
        try:
            read = Tokenizer(json.dumps(file).encode(), "tokenizer.json", config)
            read.decode([*read.word("user_42"), *read.word("1001,", is_first=True)])
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            refused += 1
    assert 10 < refused < 90
