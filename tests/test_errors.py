"""Every `error:` line: command, input, message. A line of the code that no row reaches is a failure.

Each row of TABLE is a command, what was spoilt before it, and the whole line that it ends with, after
"error: "; "[..]" in it stands for words of Python's or the system's own. A command is given in a folder
of its own that holds what `workshop` makes: the data sets' miniatures, two published models, a finished
run, one of two attributes and an interrupted one.
"""

import ast
import contextlib
import errno
import functools
import hashlib
import importlib.util
import io
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from conftest import random_llama, random_t5, tokenizer_for, write_miniature

import cfp
import probe
import train
from audit import command as audit_command
from audit import erase
from data import train_tokenizer
from mixer import open_run
from reproduction import baselines
from reproduction import tables as reproduce
from support import datasets, files, processes, runs
from support.backbones import save_backbone
from support.files import load_tensors, run_command, save_tensors
from support.runs import STARTED

ROOT = Path(__file__).parent.parent
SCRIPTS = {"train.py": train, "evaluate.py": audit_command, "probe.py": probe, "erase.py": erase}
SCRIPTS |= {"baselines.py": baselines, "reproduce.py": reproduce}
OURS = [
    *ROOT.glob("*.py"),
    *(p for d in ("support", "audit", "reproduction") for p in (ROOT / d).glob("*.py")),
]

# -------------------------------------------------------------------------------------------------
# What can be spoilt: each returns a function of pytest's monkeypatch, which undoes it afterwards
# -------------------------------------------------------------------------------------------------


def write(path: str, content: str | bytes):
    """A file with this content, in place of what was there."""

    def spoil(patch):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def change(path: str, old: str, new: str):
    """`new` in place of the first `old` in a file."""

    def spoil(patch):
        text = Path(path).read_bytes()
        assert old.encode() in text, f"{path} has no {old}"
        Path(path).write_bytes(text.replace(old.encode(), new.encode(), 1))

    return spoil


def remove(path: str):
    return lambda patch: Path(path).unlink()


def folder(path: str):
    """A folder where a file should be."""

    def spoil(patch):
        Path(path).unlink(missing_ok=True)
        Path(path).mkdir(parents=True)

    return spoil


def edit(path: str, **values):
    """Other values in a JSON file."""

    def spoil(patch):
        Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | values))

    return spoil


def without(path: str, key: str):
    """A JSON file that lacks a key."""

    def spoil(patch):
        found = json.loads(Path(path).read_text())
        del found[key]
        Path(path).write_text(json.dumps(found))

    return spoil


def tensors(path: str, **values):
    """Other tensors in a safetensors file; None for one that is missing."""

    def spoil(patch):
        found = {key: value.clone() for key, value in load_tensors(Path(path)).items()} | values
        save_tensors(Path(path), {k: v for k, v in found.items() if v is not None})

    return spoil


def norm(of: str, path: str = "t5/model.safetensors"):
    """The last norm of the decoder of a T5 is something else."""
    return tensors(path, **{"decoder.final_layer_norm.weight": of})


def header(text: str | dict, length: int | None = None):
    """A safetensors file with this header and eight bytes of data."""
    raw = (text if isinstance(text, str) else json.dumps(text)).encode()
    size = struct.pack("<Q", len(raw) if length is None else length)
    return write("t5/model.safetensors", size + raw + bytes(8))


def entry(dtype="F32", shape=(2,), data_offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


def torch_file(content):
    """pytorch_model.bin in place of model.safetensors."""

    def spoil(patch):
        Path("t5/model.safetensors").unlink()
        torch.save(content, "t5/pytorch_model.bin")

    return spoil


def shards(weight_map: dict[str, str] | None = None, more=lambda: None):
    """t5's tensors in two files with an index, some entries of which say something else."""

    def spoil(patch):
        found = {k: v.clone() for k, v in load_tensors(Path("t5/model.safetensors")).items()}
        Path("t5/model.safetensors").unlink()
        names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        parts = sorted(found)[::2], sorted(found)[1::2]
        for name, keys in zip(names, parts):
            save_tensors(Path("t5") / name, {key: found[key] for key in keys})
        where = {key: name for name, keys in zip(names, parts) for key in keys}
        index = {"metadata": {}, "weight_map": where | (weight_map or {})}
        Path("t5/model.safetensors.index.json").write_text(json.dumps(index))
        more()

    return spoil


SHARD = "t5/model-00002-of-00002.safetensors"


def shard_outside():
    shutil.move(SHARD, "elsewhere.safetensors")
    Path(SHARD).symlink_to(Path("elsewhere.safetensors").resolve())


def attribute(of, name: str, value):
    """Something of Python or of the system is otherwise."""
    return lambda patch: patch.setattr(of, name, value)


def failing(of, name: str, error: Exception):
    """A call of the system fails."""

    def fail(*args, **more):
        raise error

    return attribute(of, name, fail)


def both(*spoils):
    return lambda patch: [spoil(patch) for spoil in spoils]


def served(content: bytes, as_published: bool = False):
    """GroupLens sends this; with `as_published` its sum is the right one."""

    def spoil(patch):
        patch.setattr(urllib.request, "urlopen", lambda *args, **more: io.BytesIO(content))
        if as_published:
            url, _, say = datasets.download_ml1m.__defaults__
            right = url, hashlib.md5(content).hexdigest(), say
            patch.setattr(datasets.download_ml1m, "__defaults__", right)

    return spoil


def hub(headers: dict | None = None, linked: str | None = None, **contents):
    """The hub sends these files, by the first word of their names, and an empty one for any other."""

    class Opener:
        def __init__(self, keep):
            self.keep = keep

        def open(self, request, timeout):
            name = request.full_url.rsplit("/", 1)[1]
            if name in ("model.safetensors", "pytorch_model.bin") and "index" in contents:
                raise urllib.error.HTTPError(request.full_url, 404, "Not Found", {}, None)
            content = contents["index"] if "index.json" in name else b"{}"
            if linked is not None:
                self.keep.headers["x-linked-size"] = linked
            response = io.BytesIO(content)
            response.status = 200
            response.headers = {"Content-Length": str(len(content))} if headers is None else headers
            return response

    return attribute(urllib.request, "build_opener", Opener)


def sentencepiece_without_end(patch):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["user item", "movie"]),
        model_writer=model,
        **dict(vocab_size=20, eos_id=-1, hard_vocab_limit=False, minloglevel=2),
    )
    Path("t5/spiece.model").write_bytes(model.getvalue())


def instead_of_spiece(content: str):
    """This tokenizer.json, and no sentencepiece model."""

    def spoil(patch):
        Path("t5/spiece.model").unlink()
        Path("t5/tokenizer.json").write_text(content)

    return spoil


# a space is a letter of its own there
OVER_PRINTABLE_BYTES = json.dumps(
    {
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        "post_processor": None,
        "added_tokens": [],
        "model": {
            "type": "BPE",
            "vocab": {
                token: n
                for n, token in enumerate(["<pad>", "</s>", "Ġ", *map(chr, range(33, 127))])
            },
            "merges": [],
        },
    }
)


def another_tokenizer(patch):
    """Beside the backbone of the finished and of the interrupted run, whose weights stay."""
    (path,) = Path("runs").glob("p5-*/*.model")
    before = path.read_bytes()
    path.write_bytes(train_tokenizer(59, 96, ("movie", "movies", "watched", "watch")))
    assert path.read_bytes() != before


def few_interactions(each: int, people: int = 12, items: int = 7):
    """A data set "few" of people with as many interactions each; three people are from one town."""

    def spoil(patch):
        users = "".join(f"u{i}\t{'FM'[i % 2]}\ttown {i // 3}\n" for i in range(people))
        Path("few.user").write_text("user_id:token\tgender:token\ttown:token\n" + users)
        met = "".join(f"u{i}\ti{(i + j) % items}\n" for i in range(people) for j in range(each))
        Path("few.inter").write_text("user_id:token\titem_id:token\n" + met)

    return spoil


def ctrl_c(in_stage: str):
    """Ctrl-C is pressed at the first step of a stage, or before one where it is None."""

    def spoil(patch):
        if in_stage == "":
            patch.setattr(train, "describe", lambda *args: signal.raise_signal(signal.SIGINT))
            return
        real = runs.Run.progress

        def progress(self, stage, *args, **more):
            real(self, stage, *args, **more)
            if stage.startswith(in_stage):
                signal.raise_signal(signal.SIGINT)

        patch.setattr(runs.Run, "progress", progress)

    return spoil


def sigterm_while_reading(patch):
    """SIGTERM before there is a run that could go on."""
    patch.setattr(datasets, "load_toy", lambda *args: signal.raise_signal(signal.SIGTERM))


def in_place_of_runs(patch):
    """A file where the folder of runs should be."""
    shutil.rmtree("runs")
    Path("runs").write_text("")


def collapsed(patch):
    """Discriminators that are sure of the wrong class."""
    real = cfp.discriminator_loss
    patch.setattr(cfp, "discriminator_loss", lambda *args: 100 * real(*args))


def held(path: str):
    """Another run holds this folder."""

    def spoil(patch):
        patch.setattr(held, "file", files.lock(Path(path)), raising=False)

    return spoil


def processes_at_work(n: int):
    """This is the second of several processes, which are not there."""
    return both(
        attribute(processes, "count", lambda: n),
        attribute(processes, "number", lambda: 1),
        attribute(processes, "folder_of", lambda out: out),
    )


def free(size: int):
    """So many bytes are free."""
    return attribute(files, "free_memory", lambda device: size)


def checkpoint(content: bytes | None):
    """Both checkpoints of the interrupted run are this, or where it is None a file of one tensor."""

    def spoil(patch):
        for name in "checkpoint.safetensors", "checkpoint-before.safetensors":
            path = Path("half") / name
            path.write_bytes(content or b"")
            if content is None:
                save_tensors(path, {"a": torch.ones(1)})

    return spoil


def prompt_without_a_tensor(patch):
    path = Path("run/cfp-gender.safetensors")
    found, belongs_to = files.read_safetensors(path)
    found = {key: value.clone() for key, value in found.items()}
    del found[min(found)]
    save_tensors(path, found, belongs_to)


def user_5_met_one_item(patch):
    def opened(*args):
        run = open_run(*args)
        run.corpus.split.test[run.corpus.dataset.users.index("5")] = -1
        return run

    patch.setattr(audit_command, "open_run", opened)


def loss_is_no_number(patch):
    real = train.target_loss
    patch.setattr(train, "target_loss", lambda *args: real(*args) * torch.nan)


def without_the_audit(patch):
    """evaluate.py as it begins, in a copy of the project that lacks the folder it hands over to."""
    patch.setattr(importlib.util, "find_spec", lambda name: None)
    patch.setattr(audit_command, "main", functools.partial(runs.run_module, "audit.command"))


class Evil:
    """A pickle that would write a file, and does where it is read by pickle itself."""

    def __reduce__(self):
        return open, ("canary", "w")


# -------------------------------------------------------------------------------------------------
# The table
# -------------------------------------------------------------------------------------------------

SMALL_MODELS = "google/flan-t5-small, HuggingFaceTB/SmolLM2-135M or Qwen/Qwen2.5-0.5B"
TOY = "train.py --attr gender --toy-users 60"
T5 = f"{TOY} --backbone t5 --p5-steps 0"
LLAMA = f"{TOY} --backbone llama --p5-steps 0"
SMALL = "--toy-users 60 --p5-steps 2 --epochs 1 --batch-size 30 --prefix-len 2"
ML_1M = "train.py --attr gender --data ml-1m --data-dir ml-1m"
INSURANCE = "train.py --attr gender --data insurance --data-dir insurance"
MINI = "train.py --attr gender --data mini --data-dir mini"
GROUPLENS = "train.py --attr gender --data ml-1m"
HUB = f"{TOY} --backbone t5-small"
INDEX = "t5/model.safetensors.index.json"
ROTARY = "model.layers.0.self_attn.rotary_emb.inv_freq"
GB = 10**9  # bytes that are free where a row asks for more

# fmt: off
TABLE = [
    # flags that mean nothing
    (f"{TOY} --epochs 0", None,
     "argument --epochs: '0' is not a whole number from 1 on, of nine digits at most; "
     "--help lists the flags"),
    (f"{TOY} --seed 12345678901", None,
     "argument --seed: '12345678901' is not a whole number from 0 on, of nine digits at most; "
     "--help lists the flags"),
    ("evaluate.py --run run --audit --seed -1", None,
     "argument --seed: '-1' is not a whole number from 0 on, of nine digits at most; "
     "--help lists the flags"),
    (f"{TOY} --label-holdout 1", None,
     "argument --label-holdout: '1' is not a share from 0 to 0.9; --help lists the flags"),
    (f"{TOY} --lam -1", None,
     "argument --lam: '-1' is not a number from 0 on; --help lists the flags"),
    (f"{TOY} --lambda 1", None,
     "unrecognized arguments: --lambda 1; --help lists the flags"),
    ("probe.py --kind reading --attr gender --run run", None,
     "argument --kind: invalid choice: 'reading' (choose from [..]); --help lists the flags"),
    ("evaluate.py --audit", None,
     "the following arguments are required: --run; --help lists the flags"),
    ("erase.py --attr gender --run run --seed -1", None,
     "argument --seed: '-1' is not a whole number from 0 on, of nine digits at most; "
     "--help lists the flags"),
    (f"{TOY} --device tpu", None,
     "--device tpu: not to be had here; choose cpu or auto"),
    ("train.py --attr gender,", None,
     "--attr 'gender,': an attribute is missing before or after a comma"),
    ("train.py --attr age,gender,age", None,
     "--attr age,gender,age: age is named twice"),
    ("train.py --attr size", None,
     "--attr size: toy has no such attribute; choose from gender, age, occupation"),
    ("train.py --attr size --toy-twins 9", None,
     "--attr size: toy has no such attribute; choose from gender, age, occupation"),
    ("train.py --attr gender --toy-users 4", None,
     "--attr gender: fewer than two classes of toy have the 5 users that an attack in five folds needs; "
     "choose another attribute"),
    (f"{TOY} --toy-twins 61", None,
     "--toy-twins 61: there are 60 people to copy; choose fewer or more --toy-users"),
    # flags that do not go together
    ("train.py --attr gender --data ml-1m --data-dir ml-1m --toy-twins 9", None,
     "--data ml-1m: --toy-twins is for toy; leave it out"),
    (f"{TOY} --p5-steps 0", None,
     "--p5-steps 0: --backbone tiny knows nothing before training; 1 at least"),
    (f"{TOY} --prompt-candidates 200", None,
     "--prompt-candidates 200: there are 100 at most"),
    (f"{TOY} --label-holdout 0.9", None,
     "--label-holdout: of --attr gender 6 labels are left, 5 at least of each of two classes are needed; "
     "hold fewer out, or take more users"),
    (f"{TOY} --paper-schedule --batch-size 8", None,
     "--batch-size 8: some batches would have no label at all; 16 users at least, or --label-holdout 0"),
    (f"{TOY} --adversary game --hsic 3", None,
     "--hsic: counts with --adversary dependence or both; add one, or leave it out"),
    (f"{TOY} --adversary dependence --dis-steps 3", None,
     "--dis-steps: is of the game, and --adversary dependence plays none; leave one out"),
    (f"{TOY} --adversary both --paper-schedule", None,
     "--adversary both: --paper-schedule is the game alone; leave one out"),
    ("train.py --attr gender,age --mixer-hidden 30", None,
     "--mixer-hidden 30 is no multiple of 8, its heads; choose one"),
    (f"{TOY} --mixer-epochs 3", None,
     "--mixer-epochs: there is a mixer for several attributes only, --attr gender,age"),
    ("evaluate.py --run run --audit --top 5", None,
     "--top belongs to --user; leave it out"),
    ("evaluate.py --run two --audit", None,
     "--audit: two hides gender, age; name the one to read with --attr"),
    ("evaluate.py --run run --audit --hide none", None,
     "--hide none: an audit compares a prompt with none; name what to hide"),
    ("evaluate.py --run run --audit --plot", attribute(importlib.util, "find_spec", lambda name: None),
     "--plot needs matplotlib, which is not installed: pip install matplotlib"),
    ("evaluate.py --run run --audit", without_the_audit,
     "the folder audit/ is missing, which this command needs; copy it there"),
    ("baselines.py --model all --attr gender,age", None,
     "--model all --attr gender,age: its rows are about one attribute; name one"),
    ("baselines.py --model pmf --data ml-1m --data-dir ml-1m --toy-users 60", None,
     "--data ml-1m: --toy-users is for toy; leave it out"),
    ("baselines.py --model pmf --prefix-len 3", None,
     "--prefix-len: --model pmf does not go by it; leave it out, or choose --model s-sas, s-b4, all"),
    ("baselines.py --model bert4rec --d 7", None,
     "--d 7: no multiple of 2, BERT4Rec's heads; choose one"),
    ("baselines.py --model c-pmf --batch-size 1", None,
     "--batch-size 1: the filters' BatchNorm compares users; 2 at least"),
    # the folder of a new run
    (f"{TOY} --attr age", None,
     "--attr: given twice, and only one value would count; leave one out"),
    (f"{TOY} --data-dir file", None,
     "--data-dir file: the toy world has no files; name their data set with --data"),
    (f"{T5} --retrain", None,
     "--retrain: nothing is trained with --p5-steps 0; leave one of the two out"),
    (f"{TOY} --task direct --p5-sequential-batch 2", None,
     "--p5-sequential-batch: P5 is trained for --task direct alone; leave one out"),
    (f"{T5} --p5-parts 2", None,
     "--p5-parts: nothing is trained with --p5-steps 0; leave one of the two out"),
    (f"{TOY} --out run", None,
     "--out run is not empty; choose a new folder or remove it"),
    (f"{TOY} --out file", write("file", ""),
     "cannot write into --out file: File exists; choose another folder"),
    (TOY, in_place_of_runs,
     "cannot write into runs/toy-gender-seed0: Not a directory; choose another folder with --out"),
    (f"{TOY} --out new", in_place_of_runs,
     "cannot write into runs: File exists; choose another folder"),
    (f"{TOY} --out new", folder("new/.lock"),
     "cannot write into new: Is a directory; choose another folder"),
    (f"{TOY} --out new", failing(os, "fsync", OSError(errno.ENOSPC, "No space left")),
     "cannot write new/config.json: No space left; what was there before still is; make room or choose "
     "another folder"),
    (f"{TOY} --out new", failing(tempfile, "mkstemp", OSError(errno.EROFS, "Read-only")),
     "cannot write new/config.json: Read-only; what was there before still is; make room or choose "
     "another folder"),
    (f"{TOY} --out new", failing(runs.Run, "say", OSError(errno.ENOSPC, "No space left")),
     "cannot write: No space left; make room or choose another folder"),
    # going on with a run
    (f"{TOY} --resume half", None,
     "--resume RUN stands alone: the run goes on with the flags it was begun with"),
    ("baselines.py --resume half", None,
     "--resume half: this run is one of train.py; python train.py --resume .."),
    ("train.py --resume run", None,
     "--resume run: this run is finished; see its results.json"),
    ("train.py --resume=half --attr gender", None,
     "--resume RUN stands alone: the run goes on with the flags it was begun with"),
    ("train.py --resume half", edit("half/config.json", **{"working folder": "../gone"}),
     "--resume half: it was begun in gone, which is gone; bring it back, or begin anew"),
    ("train.py --resume nowhere", None,
     "--resume nowhere: nowhere/config.json: No such file or directory; name a run's folder, or begin "
     "anew"),
    ("train.py --resume half", write("half/config.json", "{"),
     "--resume half: half/config.json is no JSON ([..]); name a run's folder, or begin anew"),
    ("train.py --resume half", write("half/config.json", "[]"),
     "--resume half: half/config.json is no JSON object; name a run's folder, or begin anew"),
    ("train.py --resume half", edit("half/config.json", command=[]),
     "--resume half: its config.json names no command; name a run's folder, or begin anew"),
    ("train.py --resume half", write("half/unfinished.json", "{"),
     "--resume half: half/unfinished.json is no JSON ([..]); remove it, or begin anew"),
    ("train.py --resume half", held("half"),
     "half is in use by a run that is still going; wait for it or choose another folder"),
    ("train.py --resume half", edit("half/config.json", torch="1.0"),
     '--resume half: its torch was "1.0" and is now "[..]"; make it as it was or begin anew'),
    ("train.py --resume half", another_tokenizer,
     '--resume half: its tokenizer was "[..]" and is now "[..]"; begin anew'),
    ("train.py --resume half", without("half/unfinished.json", "p5 tokenizer"),
     '--resume half: its tokenizer was null and is now "[..]"; begin anew'),
    ("train.py --resume half", checkpoint(b"short"),
     "half/checkpoint-before.safetensors: under 8 bytes; not a whole safetensors file, copy it again; "
     "or remove it, and this training begins anew"),
    ("train.py --resume half", checkpoint(None),
     "half/checkpoint-before.safetensors: not a checkpoint (KeyError('state')), copy it again; or "
     "remove it, and this training begins anew"),
    (f"train.py --attr gender {SMALL} --out new", ctrl_c(""),
     "interrupted; python train.py --resume new goes on with it"),
    (f"train.py --attr gender {SMALL} --out new --seed 1", ctrl_c("P5"),
     "interrupted; python train.py --resume new goes on with it"),
    # a finished run
    ("evaluate.py --run nowhere --audit", None,
     "--run nowhere: nowhere/config.json: No such file or directory; name the folder of a finished run"),
    ("evaluate.py --run run --audit", write("run/results.json", "{"),
     "--run run: run/results.json is no JSON ([..]); name the folder of a finished run"),
    ("evaluate.py --run run --audit", write("run/results.json", "[]"),
     "--run run: run/results.json is no JSON object; name the folder of a finished run"),
    ("evaluate.py --run run --audit", without("run/results.json", "p5 tokenizer"),
     "--run run: was made by an older version, or not by train.py; run train.py again"),
    ("evaluate.py --run run --audit", edit("run/config.json", toy={"size": 3}),
     "--run run: config.json is of another version ([..]); run train.py again"),
    ("evaluate.py --run run --audit", edit("run/config.json", **{"data fingerprint": "abc"}),
     "--run run: its data were abc, toy is now [..]; run train.py again"),
    ("evaluate.py --run run --audit", edit("run/results.json", **{"p5 folder": "gone"}),
     "--run run: its backbone run/gone is missing; run train.py again"),
    ("evaluate.py --run run --audit", another_tokenizer,
     '--run run: its tokenizer was "[..]" and is now "[..]"; run train.py again, or bring back what was '
     "in runs/p5-toy-[..]"),
    ("evaluate.py --run run --audit", tensors("run/cfp-gender.safetensors"),
     'run/cfp-gender.safetensors: its backbone was null and is now "[..]"; it belongs to another; run '
     "train.py again"),
    ("evaluate.py --run run --audit", prompt_without_a_tensor,
     "run/cfp-gender.safetensors: decoder.hidden.0.bias is not there, should be (64,); it is of another "
     "run, or of an older version"),
    ("evaluate.py --run run --audit --attr size", None,
     "--attr size: toy has no such attribute; choose from gender, age, occupation"),
    ("probe.py --kind soft --run run --attr gender --hide size", None,
     "--hide size: toy has no attribute 'size'; its are gender, age, occupation"),
    ("probe.py --kind soft --run run --attr gender --hide age", None,
     "--hide age: this run has no prompt for age, only for gender; train one: train.py --attr gender,age"),
    ("evaluate.py --run run --user 1 --task sequential", edit("run/config.json", tasks=["direct"]),
     "--task sequential: P5 of run is for direct alone; leave it out"),
    ("evaluate.py --run run --user 99", None,
     "--user 99: toy has no such user; its 60 are 1, 2, 3, .. 60"),
    ("evaluate.py --run run --user 5", user_5_met_one_item,
     "--user 5: has a single interaction, on which the recommender was trained, so there is nothing to "
     "be recommended after; choose another"),
    ("baselines.py --model pmf --base nowhere", None,
     "--base nowhere: nowhere/config.json: No such file or directory; name a run's folder"),
    ("baselines.py --model pmf --base run", None,
     "--base run: has no PMF of these data, seed and settings; name another or leave it out"),
    # data
    ("train.py --attr gender --data ml-100k", None,
     "--data ml-100k needs --data-dir, the folder with its files"),
    ("train.py --attr gender --data ml-100k --data-dir nowhere", None,
     "nowhere/u.user is missing; put it there or correct --data-dir"),
    ("train.py --attr gender --data films --data-dir mini", None,
     "--data films: neither toy, ml-1m, ml-100k, insurance nor a file mini/films.inter; correct one of "
     "the two"),
    ("train.py --attr gender --data ../mini --data-dir mini", None,
     "--data ../mini: neither toy, ml-1m, ml-100k, insurance nor a file mini/../mini.inter; correct one "
     "of the two"),
    (ML_1M, remove("ml-1m/users.dat"),
     "ml-1m/users.dat is missing; put it there or correct --data-dir"),
    (MINI, write("mini/mini.user", b"user_id:token\xff"),
     "mini/mini.user:1: the file is not in UTF-8, in which it is read; save it so"),
    (ML_1M, change("ml-1m/ratings.dat", "1::20::3::500", "1::20::3"),
     "ml-1m/ratings.dat:3: 3 columns where UserID::MovieID::Rating::Timestamp has 4; mend the line or "
     "copy the file again"),
    (ML_1M, change("ml-1m/ratings.dat", "::900", "::soon"),
     "ml-1m/ratings.dat:1: timestamp is 'soon', not a whole number in 0..9007199254740992; mend it or "
     "remove the line"),
    (ML_1M, change("ml-1m/ratings.dat", "3::30::2::1", "9::30::2::1"),
     "ml-1m/ratings.dat:8: user '9' is unknown, known are 1, 2, 3; mend it"),
    (ML_1M, change("ml-1m/users.dat", "3::M", "2::M"),
     "ml-1m/users.dat:3: user '2' stands in the file twice; remove one"),
    (ML_1M, change("ml-1m/users.dat", "1::F", "1::M"),
     "--attr gender: all 3 users of ml-1m are in one class (M), so nothing can leak; choose another "
     "attribute"),
    (ML_1M, write("ml-1m/ratings.dat", ""),
     "ml-1m/ratings.dat: no interactions in it; copy it again"),
    (INSURANCE, change("insurance/Train.csv", "sex,", "gender,"),
     "insurance/Train.csv:1: the header is not "
     "'ID,join_date,sex,marital_status,birth_year,branch_code,occupation_code,occupation_category_code,<"
     "one column a product>'; copy it again"),
    (INSURANCE, change("insurance/Train.csv", ",1,0,1,0", ",1,0,1"),
     "insurance/Train.csv:3: 11 columns where the header has 12; mend the line or copy the file again"),
    (MINI, change("mini/mini.user", "age:token", "age:int"),
     "mini/mini.user:1: the header must name each column once as field:type, field without / \\ and "
     "comma, type one of float, float_seq, token, token_seq, with user_id among them"),
    (MINI, change("mini/mini.user", "\tFR", ""),
     "mini/mini.user:3: 3 columns where the header has 4; mend the line or copy the file again"),
    (MINI, change("mini/mini.user", "u2\t", "\t"),
     "mini/mini.user:3: user is empty; fill it or remove the user"),
    (MINI, change("mini/mini.user", "u2\t", "NaN\t"),
     "mini/mini.user:3: user is 'NaN', which stands for no value; fill it or remove the user"),
    (MINI, write("mini/mini.user", "user_id:token\tgender:token\n"
                 + "".join(f"u{i}\tname {i}\n" for i in range(60))),
     "--attr gender: mini has 60 classes, 50 at most are attacked; cut numbers as in --classes "
     "gender=0,10,20, merge rare classes in the file, or choose another"),
    ("train.py --attr town --data few --data-dir .", few_interactions(4),
     "--attr town: few has 4 classes, 4 of them of fewer than the 5 people that an attack needs; cut numbers "
     "as in --classes town=0,10,20, merge rare classes in the file, or choose another"),
    (f"{MINI} --classes age=18,0", None,
     "argument --classes: 'age=18,0' is not like age=0,18,25,35,50, ascending; --help lists the flags"),
    (f"{MINI} --classes height=0,18", None,
     "--classes height: mini/mini.user has no such column; correct one of the two"),
    (f"{MINI} --classes age=25,30", None,
     "mini/mini.user:2: age is '24', not a number from 25 on; mend it or --classes"),
    (f"{TOY} --classes age=0,18", None,
     "--data toy: --classes cuts columns of RecBole's files, NAME.user; leave it out"),
    (f"{MINI} --nouns restaurants,visited", None,
     "argument --nouns: 'restaurants,visited' is not like restaurants,restaurant,visited,visit; --help lists "
     "the flags"),
    (MINI, write("mini/mini.user", "user_id:token\tage:token\n"
                 + "".join(f"u{i}\t{250 if i == 7 else 20 + i}\n" for i in range(12))),
     "mini/mini.user:9: age is '250', not a whole number in 1..120; mend it or remove the line"),
    (MINI, change("mini/mini.inter", "\t30\n", "\tnan\n"),
     "mini/mini.inter:2: timestamp is 'nan', not a number; mend it"),
    ("train.py --attr gender --data few --data-dir .", few_interactions(1),
     "--attr gender: of the 0 users of few with a test item and a label held out, for which 2 interactions "
     "are needed, fewer than two classes have the 5 that an attack in five folds needs; take more users or "
     "longer histories"),
    ("train.py --attr gender --data few --data-dir .", few_interactions(3, people=30),
     "few: no user has four interactions, two of them for training, so no sequential prompt has an "
     "answer to learn from; take other data"),
    ("baselines.py --model sasrec --data few --data-dir .", few_interactions(3, people=30),
     "few: nobody has two training items, so SASRec cannot learn what follows; choose another --model"),
    # downloads
    (GROUPLENS, failing(urllib.request, "urlopen", urllib.error.URLError("no route")),
     "cannot download https://files.grouplens.org/datasets/movielens/ml-1m.zip (<urlopen error no "
     "route>); put users.dat, movies.dat, ratings.dat into data/ml-1m by hand, or name their folder "
     "with --data-dir"),
    (GROUPLENS, served(b"hello"),
     "https://files.grouplens.org/datasets/movielens/ml-1m.zip has MD5 "
     "5d41402abc4b2a76b9719d911017c592, MovieLens-1M has c4d9eecfca2ab87c1945afe126590906; try again, "
     "or put users.dat, movies.dat, ratings.dat into data/ml-1m by hand, or name their folder with "
     "--data-dir"),
    (GROUPLENS, served(b"hello", as_published=True),
     "https://files.grouplens.org/datasets/movielens/ml-1m.zip: not the zip of MovieLens-1M (File is "
     "not a zip file); put users.dat, movies.dat, ratings.dat into data/ml-1m by hand, or name their "
     "folder with --data-dir"),
    (HUB, failing(urllib.request, "build_opener", OSError("no route")),
     "t5-small cannot be had from https://huggingface.co/google-t5/t5-small (no route); put config.json, "
     "spiece.model and model.safetensors or pytorch_model.bin (or their index and shards) into "
     "weights/t5-small by hand"),
    (HUB, hub(index=b'{"weight_map": {"a": "../a.safetensors"}}'),
     "weights/t5-small/model.safetensors.index.json: '../a.safetensors' is not a file name; remove it"),
    (HUB, hub({}),
     "https://huggingface.co/google-t5/t5-small/resolve/main/config.json: the server does not say how "
     "large it is; try again later"),
    (HUB, hub(linked="12"),
     "https://huggingface.co/google-t5/t5-small/resolve/main/config.json: the hub says 12 bytes, its "
     "store 2; try again later"),
    (HUB, hub({"Content-Length": "2", "ETag": "0" * 64}),
     "https://huggingface.co/google-t5/t5-small/resolve/main/config.json: its SHA-256 is "
     "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a, the hub says "
     "0000000000000000000000000000000000000000000000000000000000000000; try again"),
    # a folder with published weights
    (f"{TOY} --backbone t5-huge", None,
     "--backbone t5-huge: neither a folder nor one of tiny, tiny-llama, t5-small, t5-base, t5-large, "
     "google/flan-t5-small, google/flan-t5-base, google/mt5-small, google/umt5-small, "
     "HuggingFaceTB/SmolLM2-135M, HuggingFaceTB/SmolLM2-360M, Qwen/Qwen2.5-0.5B, Qwen/Qwen3-0.6B-Base, "
     "open_llama_3b, open_llama_3b_v2; of any other model, download the folder and give its path"),
    (T5, remove("t5/config.json"),
     "t5/config.json is missing: is t5 the folder of a model?"),
    (T5, folder("t5/config.json"),
     "the model in t5: t5/config.json: Is a directory; copy it there again"),
    (T5, write("t5/config.json", "{"),
     "the model in t5: t5/config.json is no JSON ([..]); copy it there again"),
    (T5, edit("t5/config.json", model_type="bert"),
     "t5/config.json: model_type is 'bert'; t5, mt5, umt5, llama, mistral, qwen2, qwen3 are implemented, "
     f"small ones are {SMALL_MODELS}"),
    (T5, edit("t5/config.json", feed_forward_proj="gated-silu"),
     "t5/config.json: feed_forward_proj is 'gated-silu'; implemented is 'relu' or 'gated-gelu'; models that "
     f"work are {SMALL_MODELS}"),
    (LLAMA, edit("llama/config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0}),
     'llama/config.json: rope_scaling is {"rope_type": "yarn", "factor": 4.0}; implemented are default, '
     f"linear, llama3; models that work are {SMALL_MODELS}"),
    (LLAMA, edit("llama/config.json", model_type="mistral", sliding_window=64),
     "llama/config.json: sliding_window is 64; implemented is 1024 or more, or null"),
    (T5, without("t5/config.json", "d_kv"),
     "t5/config.json: d_kv missing; copy it again"),
    (T5, edit("t5/config.json", num_layers=-1),
     "t5/config.json: num_layers is -1, not a whole number from 1 on, 999999 at most; mend it"),
    (LLAMA, edit("llama/config.json", num_key_value_heads=3),
     "llama/config.json: num_attention_heads 4 is no multiple of num_key_value_heads 3, or head_dim 16 of "
     "2; copy it again"),
    (LLAMA, edit("llama/config.json", eos_token_id=[2, 3]),
     "llama/config.json: eos_token_id is [2, 3], not a whole number from 0 on, [..] at most; mend it"),
    (T5, remove("t5/spiece.model"),
     "t5: spiece.model, tokenizer.model and tokenizer.json are missing; copy one there"),
    (T5, instead_of_spiece("{"),
     "t5/tokenizer.json: not the file of a tokenizer (JSONDecodeError: [..]); copy it again"),
    (T5, instead_of_spiece('{"model": {}, "normalizer": {"type": "Lowercase"}, "pre_tokenizer": null}'),
     't5/tokenizer.json: normalizer {"type": "Lowercase"} is not implemented; take spiece.model or '
     "tokenizer.model, or another"),
    (f"{T5} --nouns cafés,café,visited,visit", instead_of_spiece(OVER_PRINTABLE_BYTES),
     "t5/tokenizer.json: has no token for the byte 0xc3 of a text; take another"),
    (LLAMA, edit("llama/config.json", bos_token_id=0),
     "llama/tokenizer.model: bos_token_id is 3 in it, 0 in config.json beside it; copy both again"),
    (T5, write("t5/spiece.model", "hello"),
     "t5/spiece.model: not a sentencepiece model; copy it again"),
    (T5, sentencepiece_without_end,
     "t5/spiece.model: has no end token </s>, which ends every answer; take another"),
    (T5, edit("t5/config.json", vocab_size=100),
     "t5/spiece.model: [..] tokens, but vocab_size in t5/config.json is 100; copy both again"),
    (T5, remove("t5/model.safetensors"),
     "t5/model.safetensors is missing, and so are pytorch_model.bin and either's index of shards; copy "
     "the folder again"),
    (T5, folder("t5/model.safetensors"),
     "t5/model.safetensors: Is a directory; copy the file there or name another folder"),
    (T5, norm(None),
     "t5/model.safetensors: decoder.final_layer_norm.weight is missing (1 such keys); see t5/config.json"),
    (T5, tensors("t5/model.safetensors", x=torch.ones(2)),
     "t5/model.safetensors: x does not belong here (1 such keys); see t5/config.json"),
    (T5, norm(torch.ones(3)),
     "t5/model.safetensors: decoder.final_layer_norm.weight has shape (3,), t5/config.json makes it "
     "(64,); copy both again"),
    (T5, norm(torch.ones(64).char()),
     "t5/model.safetensors: decoder.final_layer_norm.weight is torch.int8; quantised weights are not "
     "implemented, take others"),
    (T5, norm(torch.full((64,), torch.nan)),
     "t5/model.safetensors: decoder.final_layer_norm.weight holds NaN or infinite weights; copy the "
     "file again"),
    (T5, tensors("t5/model.safetensors", **{"lm_head.weight": torch.ones(2)}),
     "t5/model.safetensors: lm_head.weight differs from shared.weight, whose copy it should be; copy it "
     "again"),
    (LLAMA, tensors("llama/model.safetensors", **{ROTARY: torch.ones(8)}),
     "llama/model.safetensors: model.layers.0.self_attn.rotary_emb.inv_freq is not what rope_theta "
     "10000.0 in config.json makes; copy both again"),
    # safetensors
    (T5, write("t5/model.safetensors", "short"),
     "t5/model.safetensors: under 8 bytes; not a whole safetensors file, copy it again"),
    (T5, header({"a": entry()}, length=10_000),
     "t5/model.safetensors: its header claims 10000 bytes; not a whole safetensors file, copy it again"),
    (T5, header("{nonsense}"),
     "t5/model.safetensors: its header is not JSON ([..]); not a whole safetensors file, copy it again"),
    (T5, header("[]"),
     "t5/model.safetensors: its header is not a JSON object; not a whole safetensors file, copy it again"),
    (T5, header('{"a": 1, "a": 2}'),
     "t5/model.safetensors: a key stands twice in the header; not a whole safetensors file, copy it "
     "again"),
    (T5, header({"__metadata__": {"a": 1}}),
     "t5/model.safetensors: __metadata__ is not text to text; not a whole safetensors file, copy it "
     "again"),
    (T5, header({"a": {"dtype": "F32"}}),
     "t5/model.safetensors: a is not described by dtype, shape and data_offsets; not a whole "
     "safetensors file, copy it again"),
    (T5, header({"a": entry(shape=(-2,))}),
     "t5/model.safetensors: a has shape [-2] and data_offsets [0, 8]; not a whole safetensors file, "
     "copy it again"),
    (T5, header({"a": entry(dtype="F31")}),
     "t5/model.safetensors: a has dtype 'F31', known are F64, F32, F16, BF16, I64, I32, I16, I8, U8, "
     "BOOL; not a whole safetensors file, copy it again"),
    (T5, header({"a": entry(shape=(4,))}),
     "t5/model.safetensors: a has [4] of F32 but data_offsets [0, 8]; not a whole safetensors file, "
     "copy it again"),
    (T5, header({"a": entry(shape=(1,), data_offsets=(4, 8))}),
     "t5/model.safetensors: a begins at byte 4, the tensor before it ends at 0; not a whole safetensors "
     "file, copy it again"),
    (T5, header({"a": entry(shape=(1,), data_offsets=(0, 4))}),
     "t5/model.safetensors: it has 77 bytes, its header describes 73; not a whole safetensors file, "
     "copy it again"),
    # shards
    (T5, shards({"a": "../x.safetensors"}),
     "t5/model.safetensors.index.json: a is in '../x.safetensors', not the name of a .safetensors file "
     "here; copy the folder again"),
    (T5, shards({"a": SHARD[3:]}),
     "t5/model-00002-of-00002.safetensors: a is in the file or in the index, not in both; copy both"),
    (T5, shards(more=shard_outside),
     "t5/model.safetensors.index.json: model-00002-of-00002.safetensors is a link that leaves the "
     "folder; put the file itself there"),
    (T5, shards(more=lambda: Path(SHARD).unlink()),
     "t5/model-00002-of-00002.safetensors is missing, model.safetensors.index.json lists it; copy the "
     "folder again"),
    (T5, shards(more=lambda: shutil.copy(SHARD, SHARD.replace("00002-", "00003-"))),
     "t5/model-00003-of-00002.safetensors is not in model.safetensors.index.json; copy the folder again"),
    (T5, both(remove("t5/model.safetensors"), write(INDEX, "[]")),
     "t5/model.safetensors.index.json: not an index of shards ([..]); copy the folder again"),
    # pickles
    (T5, torch_file([1, 2]),
     "t5/pytorch_model.bin: holds a list, not names and tensors; copy it again"),
    (T5, torch_file({"a": 1}),
     "t5/pytorch_model.bin: 'a' is not a name with a dense tensor; copy it again"),
    (T5, torch_file({"a": Evil()}),
     "t5/pytorch_model.bin: not a file of tensors that can be read safely ([..]); copy it again, or "
     "convert it to safetensors where you trust it"),
    (T5, both(torch_file({}), write("t5/pytorch_model.bin", pickle.dumps(Evil()))),
     "t5/pytorch_model.bin: not a file of tensors that can be read safely ([..]); copy it again, or "
     "convert it to safetensors where you trust it"),
    (T5, both(torch_file({}), attribute(torch, "__version__", "2.9.1+cpu")),
     "t5/pytorch_model.bin: reading a .bin takes torch 2.10, this is 2.9.1+cpu; update it"),
    # memory
    (f"{TOY} --backbone t5", free(2_000_000),
     "training 1.2 M weights takes 24 MB and 2 MB are free; --p5-steps 0 takes them as they are, or "
     "choose a smaller --backbone"),
    (f"{T5} --dtype bf16", free(2_000_000),
     "loading 1.2 M weights from t5 as torch.bfloat16 takes 2 MB and 2 MB are free; choose a smaller "
     "--backbone"),
    ("train.py --attr gender --toy-users 900000", free(GB),
     "a toy world of 900000 users takes 7,200 MB and 1,000 MB are free; choose a smaller --toy-users"),
    (f"{TOY} --prefix-len 900000", free(GB),
     "training the 115.2 M weights of a prompt takes 1,844 MB and 1,000 MB are free; choose a smaller "
     "--prefix-len"),
    ("train.py --attr gender,age --toy-users 60 --mixer-hidden 80000", free(GB),
     "training the 163.8 M weights of the mixer takes 2,621 MB and 1,000 MB are free; choose a smaller "
     "--mixer-hidden"),
    ("baselines.py --model pmf --toy-users 60 --d 900000", free(GB),
     "training the 198.0 M weights of PMF takes 3,960 MB and 1,000 MB are free; choose a smaller --d"),
    ("train.py --attr gender --data few --data-dir .",
     both(few_interactions(3, 2000, 2000), free(50_000_000)),
     "measuring 2000 users and 2000 items takes 96 MB and 50 MB are free; choose a smaller data set"),
    # several processes
    (f"train.py --attr gender {SMALL} --seed 1", processes_at_work(3),
     "a batch of 64 prompts cannot be shared evenly by 3 processes; choose another --batch-size or "
     "--nproc-per-node"),
    ("train.py --resume half", processes_at_work(2),
     "--resume goes on in one process and torchrun begins several; begin anew"),
    # a soft probing prompt as the discriminator
    ("train.py --attr gender,age --discriminator soft", None,
     "--discriminator soft: hides one attribute; leave out the other attributes"),
    ("train.py --attr gender --discriminator soft --hide-from scores", None,
     "--discriminator soft reads its own prompts; leave out --hide-from scores"),
    # tables, figures, timings
    ("evaluate.py --run base --audit",
     both(write("base/config.json", '{"recommenders": {}}'), write("base/results.json", "{}")),
     "--run base: is a run of baselines.py, whose attacks are in its results.json; name one of train.py"),
    ("erase.py --run run --attr gender", attribute(erase, "T5", int),
     "--run run: a decoder-only model reads its prompt again in every layer; the states at the user's "
     "tokens cannot be erased from outside"),
    ("reproduce.py results --data ml-1m", None,
     "results --data: changes nothing here; leave it out"),
    ("reproduce.py table 16", None,
     "table 16: there is table 1 to 15, figure 3, 6 to 10, trade-off, all, results"),
    ("reproduce.py figure 4", None,
     "figure 4: there is table 1 to 15, figure 3, 6 to 10, trade-off, all, results"),
    ("reproduce.py table 6 --data ml-1m", None,
     "table 6 is not about ml-1m; the paper has it for Insurance"),
    ("reproduce.py table 4 --t5 tiny-llama", None,
     "--t5 tiny-llama: is a Llama; choose another"),
    ("reproduce.py figure 8", attribute(files, "can_draw", lambda: False),
     "figures need matplotlib, which is not installed: pip install matplotlib"),
    ("reproduce.py results", None,
     "results: there is no finished run in runs/ yet; python -m reproduction.tables all"),
    ("reproduce.py table 1 --seeds 1",
     attribute(reproduce, "carry_out", lambda *args: {"toy-c-pmf-seed0": "error: no luck today"}),
     "1 of 4 failed and are left out; toy-c-pmf-seed0: error: no luck today"),
    (TOY, sigterm_while_reading, "interrupted"),
    ("reproduce.py table 1 --seeds 1", failing(reproduce, "carry_out", KeyboardInterrupt()),
     "interrupted; the same command goes on with what is not finished"),
    (f"{TOY} --out new", failing(train, "describe", MemoryError()),
     "there is no more memory; free some, or choose a smaller --backbone or --batch-size"),
    (f"{TOY} --out new", attribute(train, "describe", lambda *args: torch.empty(2**58)),
     "there is no more memory; free some, or choose a smaller --backbone or --batch-size"),
    # numbers that go astray
    (f"train.py --attr gender {SMALL} --seed 1", loss_is_no_number,
     "training went astray in step 1 at learning rate 0.002 and 2e-05: the loss is nan, the length of "
     "its gradient nan; try a smaller rate (--help lists them)"),
    (f"train.py --attr gender {SMALL.replace('--epochs 1', '--epochs 40')} --device cpu", collapsed,
     "CFP gender, batch 1: the discriminators' loss is 72.8 after their 1 steps at learning rate 0.005, a "
     "blind guess has 0.693: they have collapsed; try a smaller one"),
]
# fmt: on


def test_the_pickles_of_the_table_would_run(tmp_path, monkeypatch):
    """Where nothing forbids it; in the table the same ones leave no canary."""
    monkeypatch.chdir(tmp_path)
    for read in lambda: pickle.loads(pickle.dumps(Evil())), lambda: torch.load(
        "x", weights_only=False
    ):
        torch.save({"a": Evil()}, "x")
        read()
        assert Path("canary").exists()
        Path("canary").unlink()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """What a command of the table finds beside it."""
    place = tmp_path_factory.mktemp("workshop")
    for name in "ml-1m", "insurance", "mini":
        (place / name).mkdir()
        write_miniature(place / name, name)
    world = datasets.load_toy(0, datasets.ToyConfig(users=60))
    for name, random, file in ("t5", random_t5, "spiece"), ("llama", random_llama, "tokenizer"):
        (place / name).mkdir()
        tokenizer = tokenizer_for(world, begins=name == "llama")
        more = {"d_ff": 2048} if name == "t5" else {"bos_token_id": 3, "eos_token_id": 1}
        save_backbone(random(tokenizer.vocab_size + 100, **more), place / name)
        (place / name / f"{file}.model").write_bytes(tokenizer.content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        # what is measured takes most of the time of a run
        for name in "before_and_after", "combinations":
            patch.setattr(train, name, lambda *args: {})
        for name in "table", "combinations_table", "example":
            patch.setattr(train, name, lambda *args: "")
        assert ends(f"train.py --attr gender {SMALL} --out run", None)[0] == 0
        two = f"train.py --attr gender,age {SMALL} --mixer-epochs 1 --mixer-hidden 8 --out two"
        assert ends(two, None)[0] == 0
        half = f"train.py --attr gender {SMALL} --out half"
        assert ends(half, ctrl_c("CFP"))[0] == 130
    return place


def ends(command: str, spoil) -> tuple[int, str, set[tuple[str, int]]]:
    """(exit code, the last line on stderr, where it came from) of a command, given in this process.

    Where it came from: the lines of our files that the error went through.
    """
    script, *argv = shlex.split(command)
    said, went_through, code = io.StringIO(), set(), 0
    before = files.on_request_to_end(signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        if spoil is not None:
            spoil(patch)
        patch.setattr(sys, "argv", [script, *argv])
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                run_command(SCRIPTS[script].main)
        except SystemExit as stop:
            code, error, line = stop.code, stop, said.getvalue().strip()
            while error is not None:  # the last line is what an error says that led to it
                no_words = isinstance(error, KeyboardInterrupt)
                if error is stop or no_words or (str(error) and str(error) in line):
                    for frame in traceback.extract_tb(error.__traceback__):
                        if Path(frame.filename) in OURS:
                            went_through.add((place_of(frame.filename), frame.lineno))
                error = error.__cause__ or error.__context__
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code, (said.getvalue().strip().splitlines() or [""])[-1], went_through


@pytest.fixture(scope="module")
def outcome(workshop, tmp_path_factory):
    """outcome(row) is what `ends` returns for a row of the table, in a fresh copy of the workshop."""

    @functools.cache
    def of(row: int):
        command, spoil, _ = TABLE[row]
        place = tmp_path_factory.mktemp("row")
        for made in workshop.iterdir():
            if made.name == "runs" or made.name in command.split():
                shutil.copytree(made, place / made.name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            found = ends(command, spoil)
        assert not (place / "canary").exists()
        shutil.rmtree(place)
        return found

    return of


def names(row: int) -> str:
    return f"{row}: {TABLE[row][0]}"


@pytest.mark.parametrize("row", range(len(TABLE)), ids=names)
def test_a_command_and_an_input_give_this_message(outcome, row):
    message = TABLE[row][2]
    code, line, _ = outcome(row)
    if message.startswith("interrupted"):
        assert code in (130, 143) and line == message
        return
    whole = ".*".join(map(re.escape, message.split("[..]")))
    assert code == 2 and re.fullmatch(rf"error: {whole}", line), line


def place_of(path: str | Path) -> str:
    return str(Path(path).relative_to(ROOT))


def places_that_say_something() -> list[tuple[str, range, str]]:
    """(file, lines, code) of all that ends a command with words: raised errors and what prints them."""
    ours, found = {"InputError", "Interrupted", "ArgumentTypeError"}, []
    called = lambda node: getattr(node.func, "id", getattr(node.func, "attr", ""))
    for path in sorted(OURS):
        tree, raised = ast.parse(path.read_text()), []
        for node in ast.walk(tree):
            # `refuse` of a function raises what it is given
            says = isinstance(node, ast.Call) and called(node) == "refuse"
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                says = called(node.exc) in ours
                raised += [node.exc] if says else []
            if isinstance(node, ast.ExceptHandler):
                says = "stop(" in ast.unparse(node)
            if says:
                lines = range(node.lineno, node.end_lineno + 1)
                found.append((place_of(path), lines, ast.unparse(node)))
        made = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and called(n) in ours]
        assert set(made) == set(raised), f"{path.name}: an error is made and not raised there"
    return found


def test_every_error_of_the_code_is_in_the_table(outcome):
    reached = set().union(*(outcome(row)[2] for row in range(len(TABLE))))
    places = places_that_say_something()
    assert len(places) == 163, "the search finds other places than before"
    missing = [
        f"{name}:{lines[0]} {code}"
        for name, lines, code in places
        if not any((name, line) in reached for line in lines)
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    "command",
    [
        "evaluate.py --run nowhere --audit",
        "evaluate.py --audit",
        "baselines.py --model bert4rec --d 7",
    ],
)
def test_as_a_process_it_is_one_line_and_exit_code_2(tmp_path, command):
    script, *argv = command.split()
    process = [sys.executable, *STARTED[script], *argv]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        process, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=120
    )
    (message,) = [message for given, _, message in TABLE if given == command]
    assert (done.returncode, done.stderr, done.stdout) == (2, f"error: {message}\n", "")
    assert not list(tmp_path.iterdir())
