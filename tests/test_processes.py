"""Two processes with half of every batch each do what one does with the whole."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from support import processes
from support.files import InputError, load_tensors

ROOT = Path(__file__).parent.parent

# Ten steps of the game on a frozen random backbone, with discriminators that see the whole batch.
TEN_STEPS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
import torch
import train
from support import datasets, processes
from conftest import random_llama, random_t5, tokenizer_for
from data import make_corpus
from mixer import Study
from support.configs import CFPConfig, P5Config
from support.expected import one_hot
from support.files import save_tensors
from support.runs import Run

processes.start(torch.device("cpu"))
out = Path(sys.argv[2])
dataset = datasets.load_toy(3, datasets.ToyConfig(users=48))
corpus = make_corpus(dataset, tokenizer_for(dataset), P5Config(), seed=3)
labels = {"gender": one_hot(dataset.labels("gender"))}
cfg = CFPConfig(batch_size=24, epochs=5, prefix_len=4, hide_from="scores", dis_depths=(1, 2))
for name, make in ("t5", random_t5), ("llama", random_llama):
    run = Run(processes.folder_of(out / name), "x", {"command": []})
    model = make(corpus.tokenizer.vocab_size)
    study = Study(corpus, model, ["sequential", "direct"], 0, run)
    cfp, game = train.train_cfp(study, labels, cfg)
    tensors = dict(cfp.state_dict()) | dict(game.members.state_dict())
    torch.manual_seed(5)
    p5 = P5Config(steps=4, warmup=1, direct_batch=8, sequential_batch=6, lr=1e-3, embedding_lr=1e-3)
    model = make(corpus.tokenizer.vocab_size)
    train.train_p5(corpus, model, p5, 0, run)
    tensors |= {"p5." + key: value for key, value in model.state_dict().items()}
    save_tensors(out / f"{name}-{processes.number()}.safetensors", tensors)
"""


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | more,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done


def torchrun(n: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]


def test_two_processes_play_the_game_of_one(tmp_path):
    (tmp_path / "ten_steps.py").write_text(TEN_STEPS)
    begins = {"one": [], "two": torchrun(2)}
    for folder in begins:
        (tmp_path / folder).mkdir()
    play = lambda folder: run([*begins[folder], "ten_steps.py", str(ROOT), folder], tmp_path)
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(play, begins):
            assert done.returncode == 0, done.stderr
    for name in "t5", "llama":
        one = load_tensors(tmp_path / "one" / f"{name}-0.safetensors")
        first, second = (load_tensors(tmp_path / "two" / f"{name}-{k}.safetensors") for k in (0, 1))
        assert one.keys() == first.keys() == second.keys() and len(one) > 30
        for key, value in one.items():
            assert torch.equal(first[key], second[key]), f"{name}: the processes differ in {key}"
            # three times as many steps of the discriminators, whose gradients begin near nothing
            within = 1e-3 if "members" in key else 1e-4
            assert (first[key] - value).abs().max() < within, f"{name}: {key}"


@pytest.mark.slow
def test_torchrun_ends_with_one_table_and_one_run(tmp_path):
    tiny = ["--toy-users", "60", "--p5-steps", "4", "--epochs", "1", "--batch-size", "20"]
    command = [*torchrun(2), str(ROOT / "train.py"), "--attr", "gender", *tiny]
    (tmp_path / "temporary").mkdir()
    done = run(command, tmp_path, TMPDIR=str(tmp_path / "temporary"))
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "temporary").glob("*/metrics.jsonl"))  # the second process's own
    assert done.stdout.count("P5 + CFP") == 3 and done.stdout.count("in all") == 1
    assert len(list((tmp_path / "runs").glob("*"))) == 2
    config = json.loads((tmp_path / "runs/toy-gender-seed0/config.json").read_text())
    assert config["processes"] == 2
    assert (tmp_path / "runs/toy-gender-seed0/results.json").exists()


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "number", lambda: 1)
    assert processes.own([1, 2, 3, 4]) == [3, 4]
    with pytest.raises(InputError, match="a batch of 5 prompts cannot be shared evenly by 2"):
        processes.own([1, 2, 3, 4, 5])


def test_one_process_changes_nothing():
    rows = torch.randn(3, 2, requires_grad=True)
    assert processes.all_rows(rows) is rows and processes.own([1, 2]) == [1, 2]
    assert processes.first_goes_on() and processes.count() == 1
