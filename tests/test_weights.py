"""Downloads from a server on this machine that breaks off, lies and redirects; published tokenizers."""

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sentencepiece
from conftest import random_llama, random_t5, tokenizer_for

from data import direct_prompt, encode_prompt, sequential_prompt
from model import load_backbone
from support import weights
from support.backbones import backbone_folder, save_backbone
from support.files import InputError
from support.tokens import Tokenizer, tokenizer_in


class Hub(BaseHTTPRequestHandler):
    """Serves `server.files` {path: bytes}; `server.faults` {path: {fault: value}} says what goes wrong.

    /repository/resolve/main/FILE redirects to /store/.., with the file's size and SHA-256 beside.
    """

    def do_GET(self):
        server, path = self.server, self.path
        server.log.append(path)
        stored = path.removeprefix("/store")
        if stored not in server.files:
            return self.send_error(404)
        content, faults = server.files[stored], server.faults.get(stored, {})
        if "status" in faults:
            return self.send_error(faults["status"])
        if path == stored:
            digest = hashlib.sha256(faults.get("true content", content)).hexdigest()
            self.send_response(302)
            self.send_header("Location", f"/store{path}")
            self.send_header("X-Linked-Size", str(faults.get("linked size", len(content))))
            self.send_header("X-Linked-ETag", f'"{digest}"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        if "no length" not in faults:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        # a broken connection ends before the file does
        self.wfile.write(content[: len(content) // 2] if "broken" in faults else content)

    def log_message(self, *args):
        pass


@pytest.fixture()
def hub(tmp_path):
    """A hub with a tiny T5 under t5-small's name and a sharded tiny Llama under open_llama_3b's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.faults, server.log = {}, {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = tmp_path / "made"
    made.mkdir()
    save_backbone(random_t5(400), made)
    (made / "spiece.model").write_bytes(small_model(bos_id=-1, eos_id=1, pad_id=0, unk_id=2))
    for file in made.iterdir():
        server.files[f"/google-t5/t5-small/resolve/main/{file.name}"] = file.read_bytes()
    yield server
    server.shutdown()


def small_model(**ids) -> bytes:
    """A sentencepiece model raised on a few sentences, with the special tokens where `ids` says."""
    text = ["User_1 has watched the movies 1001, 1002 and 2003", "which movie would user_12 like?"]
    text += [f"user_{n}, 0123456789" for n in range(4, 90)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 20),
        model_writer=model,
        vocab_size=340,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    return model.getvalue()


REPO = "/google-t5/t5-small/resolve/main"
WEIGHTS = f"{REPO}/model.safetensors"


def fetch(hub, folder, said=None):
    say = (lambda line: None) if said is None else said.append
    return weights.fetch_backbone("t5-small", folder, hub.url, say)


def test_fetch_and_load(hub, tmp_path):
    folder, said = tmp_path / "t5-small", []
    fetch(hub, folder, said)
    assert load_backbone(folder).cfg == random_t5(400).cfg
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "spiece.model",
    ]
    assert any("MB from" in line for line in said)
    n_requests = len(hub.log)
    fetch(hub, folder)  # all there: not fetched again
    assert len(hub.log) == n_requests


def test_fetch_what_has_a_tokenizer_json(hub, tmp_path):
    """The names of today's models: their tokenizer is not a sentencepiece model."""
    (made := tmp_path / "smollm2").mkdir()
    save_backbone(random_llama(400, num_key_value_heads=2, tie_word_embeddings=True), made)
    (made / "tokenizer.json").write_text("{}")
    for file in made.iterdir():
        path = f"/HuggingFaceTB/SmolLM2-135M/resolve/main/{file.name}"
        hub.files[path] = file.read_bytes()
    say = lambda line: None
    folder = tmp_path / "fetched"
    weights.fetch_backbone("HuggingFaceTB/SmolLM2-135M", folder, hub.url, say)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in made.iterdir())
    assert load_backbone(folder).cfg == load_backbone(made).cfg


def test_fetch_sharded(hub, tmp_path):
    """A repository with an index of shards and without model.safetensors."""
    hub.files.pop(WEIGHTS)
    made = tmp_path / "made"
    from test_model import relayout

    relayout(made, "pytorch_model.bin.index.json")
    for file in made.iterdir():
        hub.files[f"{REPO}/{file.name}"] = file.read_bytes()
    folder = tmp_path / "t5-small"
    fetch(hub, folder)
    assert load_backbone(folder).cfg == random_t5(400).cfg
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    hub.log.clear()
    fetch(hub, folder)  # the one that is missing and no other
    assert {path.rpartition("/")[2] for path in hub.log} == {
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model-00002-of-00002.bin",
    }


def test_index_cannot_name_a_file_elsewhere(hub, tmp_path):
    hub.files.pop(WEIGHTS)
    index = {"weight_map": {"shared.weight": "../../elsewhere.safetensors"}}
    hub.files[f"{WEIGHTS}.index.json"] = json.dumps(index).encode()
    with pytest.raises(InputError, match="elsewhere.safetensors' is not a file name"):
        fetch(hub, tmp_path / "t5-small")
    assert not list(tmp_path.glob("*.safetensors"))


# name: (what goes wrong, what the message says)
FAULTS = {
    "wrong bytes": ({"true content": b"what the hub meant"}, "its SHA-256 is"),
    "lies about the size": ({"linked size": 12}, "the hub says 12 bytes, its store"),
    "no size": ({"no length": True}, "does not say how large"),
    "broken off": ({"broken": True}, "the connection broke off after"),
    "not today": ({"status": 503}, "Service Unavailable"),
    "forbidden": ({"status": 403}, "Forbidden"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_leave_nothing_under_the_file_s_name(hub, tmp_path, fault):
    faults, expected = FAULTS[fault]
    hub.faults[WEIGHTS] = dict(faults)
    folder = tmp_path / "t5-small"
    with pytest.raises(InputError) as error:
        fetch(hub, folder)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not list(folder.glob("*model.safetensors*"))
    hub.faults.clear()
    fetch(hub, folder)  # and the next attempt is not spoilt by it
    assert (folder / "model.safetensors").read_bytes() == hub.files[WEIGHTS]


def test_offline_says_where_to_put_the_files(tmp_path):
    with pytest.raises(InputError) as error:
        nowhere = "http://127.0.0.1:9"  # the discard port: nobody listens
        weights.fetch_backbone("open_llama_3b", tmp_path / "w", nowhere, lambda line: None)
    text = str(error.value)
    assert "config.json, tokenizer.model and model.safetensors or pytorch_model.bin" in text
    assert str(tmp_path / "w") in text and "by hand" in text and "\n" not in text


@pytest.mark.parametrize("field", ["num_attention_heads", "num_key_value_heads", "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "4", True, [4]])
def test_what_is_no_size_is_refused_before_it_is_computed_with(tmp_path, field, value):
    save_backbone(random_llama(20), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(InputError, match=f"{field} is .*, not a whole number from 1 on"):
        weights.read_config(tmp_path)


def test_unknown_backbone_is_named():
    with pytest.raises(InputError, match="neither a folder nor one of tiny, tiny-llama, t5-small"):
        backbone_folder("t5-gigantic")
    with pytest.raises(
        InputError, match="of any other model, download the folder and give its path"
    ):
        backbone_folder("HuggingFaceTB/SmolLM2-1.7B")


# -------------------------------------------------------------------------------------------------
# Tokenizers of published folders
# -------------------------------------------------------------------------------------------------

KINDS = {
    "spiece.model": dict(bos_id=-1, eos_id=1, pad_id=0, unk_id=2),
    "tokenizer.model": dict(
        bos_id=1, eos_id=2, pad_id=-1, unk_id=0, byte_fallback=True, model_type="bpe"
    ),
}
NOUNS = "movies", "movie", "watched", "watch"


@pytest.fixture(params=KINDS)
def published(request, tmp_path):
    is_t5 = request.param == "spiece.model"
    save_backbone(random_t5(1000) if is_t5 else random_llama(1000), tmp_path)
    (tmp_path / request.param).write_bytes(small_model(**KINDS[request.param]))
    return tmp_path / request.param


@pytest.mark.parametrize("user", [7, 42, 6040])
def test_published_tokenizers_word_by_word_as_in_one_go(published, user):
    """The ids are sentencepiece's of the whole text; T5's end with </s>, Llama's begin with <s>."""
    tokenizer = tokenizer_in(published.parent)
    whole = sentencepiece.SentencePieceProcessor(model_proto=published.read_bytes())
    for text in sequential_prompt(user, [1001, 2], NOUNS), direct_prompt(user, [1001, 77], NOUNS):
        ids, is_user = encode_prompt(text, user, tokenizer)
        if published.name == "spiece.model":
            assert ids == [*whole.encode(text), 1]
        else:
            assert ids == [1, *whole.encode(text)]
        spans = "".join(whole.id_to_piece(i) if mine else " " for i, mine in zip(ids, is_user))
        names = set(spans.replace("▁", "").split())
        assert names <= {f"user_{user}", f"User_{user}"} and f"user_{user}" in names
        assert tokenizer.decode(ids) == whole.decode(whole.encode(text))


def test_ids_above_the_pieces_are_no_text(published):
    """A model has more ids than its tokenizer has pieces, T5's its sentinels, however many."""
    tokenizer = tokenizer_in(published.parent)
    model = sentencepiece.SentencePieceProcessor(model_proto=published.read_bytes())
    size = tokenizer.vocab_size
    assert size == model.get_piece_size() and tokenizer.decode([size, size + 99, 999]) == ""


@pytest.mark.parametrize(
    "config, field, own, other",
    [
        ("t5", "eos_token_id", 1, 7),
        ("llama", "eos_token_id", 2, 1),
        ("llama", "bos_token_id", 1, 0),
    ],
)
def test_other_ids_than_the_config_s_are_refused_with_both(tmp_path, config, field, own, other):
    model, file = (random_t5, "spiece") if config == "t5" else (random_llama, "tokenizer")
    save_backbone(model(1000, **{field: other}), tmp_path)
    (tmp_path / f"{file}.model").write_bytes(small_model(**KINDS[f"{file}.model"]))
    with pytest.raises(
        InputError, match=f"{field} is {own} in it, {other} in config.json beside it"
    ):
        tokenizer_in(tmp_path)


def test_the_model_decides_what_begins_and_ends_a_prompt(tmp_path):
    """A sentencepiece model that has <s> may stand beside a T5: prompts end with </s> all the same."""
    save_backbone(random_t5(1000), tmp_path)
    has_s = dict(bos_id=2, eos_id=1, pad_id=0, unk_id=3)
    (tmp_path / "spiece.model").write_bytes(small_model(**has_s))
    tokenizer = tokenizer_in(tmp_path)
    assert (tokenizer.before, tokenizer.after) == ([], [1])


def test_tokenizer_that_does_not_fit_or_parse_is_refused(published):
    config = json.loads((published.parent / "config.json").read_text())
    (published.parent / "config.json").write_text(json.dumps(config | {"vocab_size": 10}))
    with pytest.raises(InputError, match=f"{published.name}: .* tokens, but vocab_size"):
        tokenizer_in(published.parent)
    published.write_bytes(b"not a model")
    with pytest.raises(InputError, match=f"{published.name}: not a sentencepiece model"):
        tokenizer_in(published.parent)
    published.unlink()
    with pytest.raises(
        InputError, match="spiece.model, tokenizer.model and tokenizer.json are missing"
    ):
        tokenizer_in(published.parent)


def test_tokenizer_matches_the_reference(published):
    """`transformers` reads the same file to the same ids; <s> and </s> it adds as other files say."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("google.protobuf")
    ours = tokenizer_in(published.parent)
    is_t5 = published.name == "spiece.model"
    config = {"model_type": "t5" if is_t5 else "llama"}
    (published.parent / "config.json").write_text(json.dumps(config))
    kind = transformers.T5Tokenizer if is_t5 else transformers.LlamaTokenizer
    reference = kind.from_pretrained(published.parent, local_files_only=True)
    text = sequential_prompt(42, [1001, 2003], NOUNS)
    ids, _ = encode_prompt(text, 42, ours)
    theirs = reference(text, add_special_tokens=False)["input_ids"]
    assert theirs == (ids[:-1] if is_t5 else ids[1:])


def test_llama_kind_of_the_small_tokenizer(dataset):
    tokenizer = tokenizer_for(dataset, begins=True)
    ids, is_user = encode_prompt("Which movie user_3 would like to watch?", 3, tokenizer)
    assert ids[0] == tokenizer.model.bos_id() >= 0 and tokenizer.eos_id not in ids
    assert sum(is_user) == 3 and not is_user[0]
    assert isinstance(
        random_llama(tokenizer.vocab_size).embedding(ids_tensor(ids)).sum().item(), float
    )


def ids_tensor(ids):
    import torch

    return torch.tensor(ids)


def test_bytes_that_are_no_model():
    with pytest.raises(InputError, match="tokenizer.model: not a sentencepiece model"):
        Tokenizer(b"\x00\x01")
