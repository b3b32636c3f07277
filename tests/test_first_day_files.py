"""What happened to people with files on the first day: data sets, weights, long prompts.

For each kind: what was put in; the right behaviour; the siblings that were looked for and found.

An `age` among years that is nan, -1, 250 or text; file and line, what it is, what to do; every attribute
    column, MovieLens-100K's occupation and all ids took 'nan' for a name (timestamps, ratings, birth_year
    did not).
`._model-..` beside shards; not seen; none in runs/, among half-written files and tokenizers, which are
    named or skip what is hidden.
An index with another `total_size` or `metadata` null; read, since names and shapes are checked; an index
    that lists nothing ended in a traceback.
null, text, a truth value, 2.5, -1 for a number in config.json; absent where the public library says so,
    else file and field; tracebacks of a rope_parameters or a model_type of another type, an odd head_dim,
    a token beyond the vocabulary, buckets that divide by 0; "type" and "partial_rotary_factor" within
    rope_parameters were ignored; a T5 with bos_token_id null was refused.
Shards in a snapshot of the hub's cache; links within the repository are followed; tracebacks of a name
    with a NUL in it and of a link to itself.
`--window 2500`; the same tokens, encoded twice and not once an item; none, direct prompts drop nothing.
MovieLens in UTF-8, RecBole's files in Latin-1 or UTF-16; read as what it is, with a note, or one line that
    names the encoding; Insurance, and MovieLens in UTF-16.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ML1M, ML100K, random_llama, random_t5, tokenizer_for, write_miniature
from test_model import INDEX, edit_config, relayout
from test_weights import KINDS, small_model

import data
from data import P5Config, encode_prompt, make_corpus, sequential_example, sequential_prompt
from model import load_backbone
from support import datasets
from support.backbones import save_backbone
from support.files import InputError
from support.tokens import Tokenizer, tokenizer_in
from support.weights import read_config


def refusal(call, *args) -> str:
    """The one line with which a call refuses its input."""
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


# ----- 5: values that are none ---------------------------------------------------------------------


def write_people(folder: Path, column: str, values: list[str]) -> None:
    """A data set "mini" of one person for each value of the column, all of whom met two items."""
    rows = "".join(f"u{i}\t{value}\n" for i, value in enumerate(values))
    (folder / "mini.user").write_text(f"user_id:token\t{column}\n{rows}")
    met = "".join(f"u{i}\ti{j}\n" for i in range(len(values)) for j in (i, i + 1))
    (folder / "mini.inter").write_text(f"user_id:token\titem_id:token\n{met}")


YEARS = [str(years) for years in range(15, 75)] * 10


@pytest.mark.parametrize("kind", ["token", "float"])
@pytest.mark.parametrize("odd", ["250", "old", "18-24", "1e9", "0", "²", "-3"])
def test_an_age_that_is_no_year_among_years_is_named(tmp_path, kind, odd):
    write_people(tmp_path, f"age:{kind}", [*YEARS[:598], odd, *YEARS[:2]])
    line = refusal(datasets.load_dataset, "mini", tmp_path)
    assert line.startswith(f"{tmp_path}/mini.user:600: age is '{odd}', ") and "remove the" in line


@pytest.mark.parametrize(
    "column, values, n_classes",
    [
        ("age:token", YEARS, 7),
        ("age:float", [f"{years}.0" for years in YEARS], 7),
        ("age:token", ["1", "18", "25", "35", "45", "50", "56"] * 9, 7),  # MovieLens-1M's codes
        ("age:token", [f"{low}-{low + 4}" for low in range(0, 90, 5)], 18),  # no years at all
        ("job:token", ["none", "other", "unknown", "0", "-1"], 5),  # names, if strange ones
    ],
)
def test_ages_and_names_that_are_fine_are_read(tmp_path, column, values, n_classes):
    write_people(tmp_path, column, values)
    classes = datasets.load_dataset("mini", tmp_path).classes[column.split(":")[0]]
    assert len(classes) == n_classes


def test_a_column_of_numbers_that_nothing_reads_may_have_gaps(tmp_path):
    scaled = [f"{i / 20}" for i in range(20)] + ["1.0"]  # from 0.0 to 1.0: no years
    write_people(tmp_path, "age:float", scaled)
    assert datasets.load_dataset("mini", tmp_path).classes == {}
    write_people(tmp_path, "height:float", ["1.8", "nan", "1.7"])
    assert datasets.load_dataset("mini", tmp_path).classes == {}


@pytest.mark.parametrize(
    "missing", ["nan", "NaN", "null", "NULL", "n/a", "NA", "?", "-", " ", "\\N", ""]
)
def test_what_says_that_there_is_no_value_is_no_class_and_no_id(tmp_path, missing):
    said = f"'{missing}', which stands" if missing.strip() else "empty"
    said = said.replace("\\", "\\\\")
    write_people(tmp_path, "country:token", ["DE", missing, "FR"])
    found = datasets.load_dataset("mini", tmp_path)
    assert found.classes["country"] == ["DE", "FR"]
    assert found.attributes["country"].tolist() == [0, datasets.NO_LABEL, 1]
    write_miniature(tmp_path, "mini")
    for file, old, what in (
        ("mini.user", "u2\t30", "mini.user:3: user is"),
        ("mini.item", "i2\t", "mini.item:3: item is"),
    ):
        text = (tmp_path / file).read_text()
        (tmp_path / file).write_text(text.replace(old, missing + old[2:]))
        assert f"{what} {said}" in refusal(datasets.load_dataset, "mini", tmp_path)
        (tmp_path / file).write_text(text)
    (tmp_path / "mini.item").unlink()
    text = (tmp_path / "mini.inter").read_text()
    (tmp_path / "mini.inter").write_text(text.replace("i1\t5", f"{missing}\t5"))
    assert f"mini.inter:3: item is {said}" in refusal(datasets.load_dataset, "mini", tmp_path)
    write_miniature(tmp_path, "ml-100k")
    (tmp_path / "u.user").write_text(ML100K["u.user"].replace("other", missing))
    assert f"u.user:2: occupation is {said}" in refusal(datasets.load_ml100k, tmp_path)


def test_none_is_an_occupation(tmp_path):
    write_miniature(tmp_path, "ml-100k")
    (tmp_path / "u.user").write_text(ML100K["u.user"].replace("other", "none"))
    assert "none" in datasets.load_ml100k(tmp_path).classes["occupation"]


# ----- 12, 13: shards ------------------------------------------------------------------------------


@pytest.fixture(params=[INDEX, "pytorch_model.bin.index.json"])
def index(request, tmp_path):
    """The index of a tiny T5 in two shards."""
    save_backbone(random_t5(50), tmp_path)
    relayout(tmp_path, request.param)
    return tmp_path / request.param


def test_what_macos_leaves_beside_shards_is_not_seen(index):
    for path in list(index.parent.iterdir()):
        (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    stray = next(index.parent.glob("[!.]*00001-of*"))
    shutil.copy(stray, index.parent / f"._{stray.name.replace('00001', '00003')}")
    load_backbone(index.parent)
    shutil.copy(stray, index.parent / stray.name.replace("00001", "00003"))  # one that is seen
    assert "is not in" in refusal(load_backbone, index.parent)


@pytest.mark.parametrize(
    "more", [{"metadata": None}, {"metadata": {"total_size": 7}}, {}, {"metadata": []}]
)
def test_what_an_index_says_beside_its_map_is_not_believed(index, more):
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]} | more))
    load_backbone(index.parent)


@pytest.mark.parametrize(
    "wrong", [{}, None, [], {"a": None}, {"a": "b\0.safetensors"}, {"a": "\0.bin"}]
)
def test_an_index_that_is_none_is_refused_in_one_line(index, wrong):
    for path in index.parent.glob("*-of-*"):
        path.unlink()
    index.write_text(json.dumps({"weight_map": wrong}))
    assert str(index.parent) in refusal(load_backbone, index.parent)


# ----- 14: every field of config.json --------------------------------------------------------------

SAVED = {"t5": random_t5, "llama": random_llama}
SIZES = "vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads "
SIZES += "relative_attention_num_buckets relative_attention_max_distance"
LLAMA_SIZES = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
LLAMA_SIZES += "num_key_value_heads head_dim"
WRONG = {  # kind of field: values that none of them may have
    "size": ["4", True, 2.5, -1, 0, [4], {}, 10**30],
    "number": ["1e-6", True, -1.0, [1], {}, float("nan"), float("inf"), 10**400],
    "truth": ["true", 1, 0, 2.5, [True]],
    "text": [1, True, ["relu"], {}],
    "token": ["1", True, 1.0, -1, 50, [1, 2], [1], 10**30],
}
FIELDS = {  # model: {field: its kind}
    "t5": dict.fromkeys(SIZES.split(), "size")
    | dict.fromkeys(["layer_norm_epsilon", "dropout_rate"], "number")
    | dict.fromkeys(["tie_word_embeddings", "scale_decoder_outputs"], "truth")
    | dict.fromkeys(["feed_forward_proj", "model_type"], "text")
    | dict.fromkeys(["pad_token_id", "eos_token_id", "decoder_start_token_id"], "token"),
    "llama": dict.fromkeys(LLAMA_SIZES.split(), "size")
    | dict.fromkeys(["rms_norm_eps", "rope_theta"], "number")
    | {"tie_word_embeddings": "truth", "hidden_act": "text", "model_type": "text"}
    | dict.fromkeys(["bos_token_id", "eos_token_id"], "token"),
}
# where null stands for a field that is not there; what is computed then
NULL_IS_FINE = {"num_decoder_layers": 2, "num_key_value_heads": 4, "head_dim": 16}
NULL_IS_FINE |= {"pad_token_id": 0, "decoder_start_token_id": 0, "tie_word_embeddings": None}


@pytest.mark.parametrize("kind", FIELDS)
def test_every_field_that_is_read_is_checked(tmp_path, kind):
    save_backbone(SAVED[kind](50), tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    others = {"rope_scaling"}  # see test_what_llamas_say_of_rotations
    assert good.keys() - others <= FIELDS[kind].keys() and len(FIELDS[kind]) >= 14
    for field, what in FIELDS[kind].items():
        for value in WRONG[what]:
            (tmp_path / "config.json").write_text(json.dumps(good | {field: value}))
            line = refusal(read_config, tmp_path)
            assert line.startswith(f"{tmp_path}/config.json: ") and field in line, (field, value)
        (tmp_path / "config.json").write_text(json.dumps(good | {field: None}))
        if field in NULL_IS_FINE:
            expected = (
                good["tie_word_embeddings"] if NULL_IS_FINE[field] is None else NULL_IS_FINE[field]
            )
            assert read_config(tmp_path)[field] == expected
            load_backbone(tmp_path)
        else:
            assert re.search(rf"{field} (is|missing)", refusal(read_config, tmp_path)), field


@pytest.mark.parametrize("kind", FIELDS)
def test_null_is_absent_where_the_public_library_says_so(tmp_path, kind):
    """It refuses null elsewhere, but for token ids, where null is none: here every answer has an end."""
    transformers = pytest.importorskip("transformers")
    library = {"t5": transformers.T5Config, "llama": transformers.LlamaConfig}[kind]
    save_backbone(SAVED[kind](50), tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type", "eos_token_id", "bos_token_id"}  # and those that it makes nothing of:
    own |= {"scale_decoder_outputs", "rope_theta", "rope_scaling"} | (
        {"tie_word_embeddings"} if kind == "llama" else set()
    )
    for field in good.keys() - own:
        try:
            library(**good | {field: None})
        except Exception:  # of whatever kind: it refuses
            assert field not in NULL_IS_FINE, field
        else:
            assert field in NULL_IS_FINE, field


FINE_LLAMAS = [
    dict(rope_scaling=None, rope_parameters=None, partial_rotary_factor=None, pad_token_id=None),
    dict(rope_theta=None, rope_parameters={"rope_theta": 77, "rope_type": "default"}),
    dict(rope_scaling={"rope_type": "default"}, rope_parameters={}, pad_token_id=-1),
    dict(rope_parameters={"type": "linear", "factor": 2.0}),
]
WRONG_LLAMAS = [
    dict(rope_parameters=[1]),
    dict(rope_parameters="linear"),
    dict(rope_parameters={"rope_theta": None}),
    dict(rope_parameters={"rope_theta": "1"}),
    dict(rope_parameters={"type": "dynamic", "factor": 2.0}),
    dict(rope_scaling={"type": "linear", "factor": "2"}),
    dict(rope_scaling={"type": ["linear"], "factor": 2.0}),
    dict(rope_parameters={"partial_rotary_factor": 0.5}),
    dict(rope_scaling={"rope_type": "default", "factor": 2.0}),
    dict(rope_scaling="linear"),
    dict(hidden_size=3, head_dim=None),
    dict(head_dim=15),
]


def test_what_llamas_say_of_rotations(tmp_path):
    save_backbone(random_llama(50), tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    for changes in FINE_LLAMAS:
        (tmp_path / "config.json").write_text(json.dumps(good | changes))
        theta = (changes["rope_parameters"] or {}).get("rope_theta", 10000.0)
        assert load_backbone(tmp_path).cfg.rope_theta == theta
    for changes in WRONG_LLAMAS:
        (tmp_path / "config.json").write_text(json.dumps(good | changes))
        assert re.search("rope_|head_dim", refusal(read_config, tmp_path)), changes


def test_other_fields_of_a_t5(tmp_path):
    save_backbone(random_t5(50), tmp_path)
    edit_config(tmp_path, bos_token_id=None, rope_theta=None, rope_parameters=[1], n_positions="?")
    good = json.loads((tmp_path / "config.json").read_text())
    load_backbone(tmp_path)  # none of these is read
    for changes in (
        dict(relative_attention_num_buckets=3),
        dict(relative_attention_max_distance=16),
        dict(is_encoder_decoder=None),
    ):
        edit_config(tmp_path, **good | changes)
        assert next(iter(changes)) in refusal(read_config, tmp_path)


# ----- 15: the hub's cache -------------------------------------------------------------------------


def put_into_cache(folder: Path, cache: Path) -> Path:
    """A folder's files as the hub's client keeps them: blobs, and a snapshot of links to them."""
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0a1b2c"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.move(path, blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", f"{number:064x}"))
    return snapshot


def test_a_snapshot_of_the_hub_s_cache_loads(tmp_path, dataset):
    tokenizer, made = tokenizer_for(dataset), tmp_path / "made"
    made.mkdir()
    save_backbone(random_t5(tokenizer.vocab_size + 100), made)
    (made / "spiece.model").write_bytes(tokenizer.content)
    relayout(made, INDEX)
    snapshot = put_into_cache(made, tmp_path / "hub" / "models--google-t5--t5-small")
    assert all(path.is_symlink() for path in snapshot.iterdir())
    (tmp_path / "t5").symlink_to(snapshot)  # and by a link to the snapshot
    for folder in snapshot, tmp_path / "t5":
        load_backbone(folder)
        assert tokenizer_in(folder).fingerprint == tokenizer.fingerprint
    shard = next(snapshot.glob("model-00001*"))
    outside = shutil.copy(shard, tmp_path / "hub" / shard.name)
    for target in outside, shutil.copy(shard, tmp_path / shard.name):
        shard.unlink()
        shard.symlink_to(target)
        assert "is a link that leaves the folder" in refusal(load_backbone, snapshot)
    for target in shard.name, "../../blobs/gone":  # to itself, to nothing
        shard.unlink()
        shard.symlink_to(target)
        assert f"{shard} is missing" in refusal(load_backbone, snapshot)


def test_a_folder_called_snapshots_is_no_cache(index, tmp_path):
    folder = tmp_path / "snapshots" / "a"
    folder.mkdir(parents=True)
    for path in list(tmp_path.glob("*.*")):
        shutil.move(path, folder)
    shard = next(folder.glob("*00001-of*"))
    shutil.move(shard, tmp_path)
    shard.symlink_to(tmp_path / shard.name)
    assert "is a link that leaves the folder" in refusal(load_backbone, folder)


# ----- 17: long windows ----------------------------------------------------------------------------


def one_item_less_each_time(corpus, user, history):
    """The tokens of a sequential prompt as they used to be found."""
    recent = corpus.numbers[history[-corpus.window :]]
    while True:
        text = sequential_prompt(user + 1, recent, corpus.dataset.nouns)
        ids, is_user = encode_prompt(text, user + 1, corpus.tokenizer)
        if len(ids) <= corpus.max_tokens or len(recent) <= 1:
            return ids, is_user
        recent = recent[1:]


@pytest.mark.parametrize("kind", ["small", "small llama", *KINDS])
def test_items_are_dropped_as_one_at_a_time_would_drop_them(dataset, kind, rng):
    if kind in KINDS:  # numbers of several tokens each, not always as many
        tokenizer = Tokenizer(small_model(**KINDS[kind]))
    else:
        tokenizer = tokenizer_for(dataset, begins=kind == "small llama")
    dropped = set()
    for _ in range(150):
        cfg = P5Config(window=int(rng.integers(1, 161)), max_tokens=int(rng.integers(1, 300)))
        corpus = make_corpus(dataset, tokenizer, cfg, seed=3)
        history = rng.permutation(160)[: rng.integers(1, 161)]
        example = sequential_example(corpus, 41, history, 5)
        assert (example.input_ids, example.is_user) == one_item_less_each_time(corpus, 41, history)
        dropped.add(len(example.input_ids) < corpus.max_tokens)
    assert dropped == {True, False}


def test_a_prompt_of_any_window_is_encoded_twice_at_most(dataset, corpus, monkeypatch):
    long, n = make_corpus(dataset, corpus.tokenizer, P5Config(window=160, max_tokens=60), 3), []
    real = data.encode_prompt
    monkeypatch.setattr(data, "encode_prompt", lambda *args: n.append(1) or real(*args))
    sequential_example(long, 0, np.arange(160), 5)
    assert len(n) == 2


# ----- 18: encodings -------------------------------------------------------------------------------

AMELIE = "Amélie, le fabuleux destin (2001)"


def movies(folder: Path, name: str, encoding: str) -> datasets.Dataset:
    """MovieLens's miniature whose first film is Amélie, its files in this encoding."""
    write_miniature(folder, name)
    file, old, text = {
        "ml-1m": ("movies.dat", "Toy Story (1995)", ML1M),
        "ml-100k": ("u.item", "Film 1 (1990)", ML100K),
    }[name]
    (folder / file).write_bytes(text[file].replace(old, AMELIE).encode(encoding))
    return datasets.load_dataset(name, folder)


@pytest.mark.parametrize("name, file", [("ml-1m", "movies.dat"), ("ml-100k", "u.item")])
def test_movielens_in_utf_8_is_read_as_that_and_says_so(tmp_path, name, file):
    note = f"{file} is in UTF-8, not in Latin-1, and read so"
    for encoding, notes in ("latin-1", []), ("utf-8", [note]), ("utf-8-sig", [note]):
        found = movies(tmp_path, name, encoding)
        assert AMELIE in found.titles and [n for n in found.notes if "UTF-8" in n] == notes
        if name == "ml-1m":
            assert "Café (1995)" in found.titles
    assert "is not in UTF-8" in refusal(movies, tmp_path, name, "utf-16")


def test_lines_added_in_another_encoding_are_read_each_as_what_it_is(tmp_path):
    movies(tmp_path, "ml-1m", "latin-1")
    with (tmp_path / "movies.dat").open("ab") as file:
        file.write("60::Délicatessen (1991)::Comedy\n".encode())
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write("3::60::5::99\n")
    titles = datasets.load_ml1m(tmp_path).titles
    assert {AMELIE, "Café (1995)", "Délicatessen (1991)"} <= set(titles)


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_the_encoding_that_is_expected_is_named(tmp_path, encoding):
    write_miniature(tmp_path, "mini")
    text = (tmp_path / "mini.item").read_text().replace("Second", AMELIE)
    (tmp_path / "mini.item").write_bytes(text.encode("utf-8"))
    assert AMELIE in datasets.load_dataset("mini", tmp_path).titles
    (tmp_path / "mini.item").write_bytes(text.encode(encoding))
    line = 3 if encoding in ("latin-1", "cp1252") else 1
    found = refusal(datasets.load_dataset, "mini", tmp_path)
    assert found.startswith(f"{tmp_path}/mini.item:{line}: the file is not in UTF-8")
    write_miniature(tmp_path, "insurance")
    text = (tmp_path / "Train.csv").read_text().replace("A1", "é1")
    (tmp_path / "Train.csv").write_bytes(text.encode(encoding))
    line = 2 if line == 3 else 1
    found = refusal(datasets.load_dataset, "insurance", tmp_path)
    assert found.startswith(f"{tmp_path}/Train.csv:{line}: the file is not in UTF-8")
