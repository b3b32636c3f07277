"""A run that is killed, interrupted or out of disk goes on as if nothing had happened."""

import copy
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from conftest import random_t5
from deaths import Death, live, live_to_the_end

import train
from cfp import CFP, step
from mixer import Mixer, load_mixer, load_prompt
from model import T5, load_backbone
from reproduction.baselines import FAIR
from support import checks, files, training
from support.backbones import save_backbone
from support.checks import enough_for_run
from support.configs import CFPConfig, MixerConfig, T5Config
from support.files import InputError, Interrupted, save_tensors
from support.runs import Run
from support.training import BEFORE, FILE, Checkpoint, forget, pack, unpack

ROOT = Path(__file__).parent.parent
TINY = "--attr gender,age --toy-users 60 --p5-steps 4 --epochs 2 --batch-size 30 --prefix-len 2 "
TINY += "--mixer-epochs 1 --mixer-hidden 8 --from-scratch --out run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, seconds) of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    code, seconds = live(folder, TINY)
    assert code == 0, (folder / "out.txt").read_text()
    return folder, seconds


def what_is_left(folder: Path) -> dict[str, bytes]:
    """Every tensor file of a run and of its backbone; and results.json without clock and paths."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}
    found |= {"negatives": (folder / "run" / "negatives.npy").read_bytes()}
    results = json.loads((folder / "run" / "results.json").read_text())
    kept = {k: v for k, v in results.items() if "seconds" not in k}
    for several in "ways", "rows":
        kept[several] = [one | {"seconds": None} for one in results.get(several, ())]
    return found | {"results": json.dumps(kept).encode()}


N_STEPS = 3 + 4 + 4 + 2 + 4  # P5 (ends before its fourth), two prompts, mixer, prompt from scratch


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, whole):
    """In each kind of training, and once with the checkpoint half written."""
    expected = what_is_left(whole[0])
    assert "P5: validation stopped rising, 3 steps" in (whole[0] / "run" / "log.txt").read_text()
    # backbone; prompts and discriminators; mixer; from scratch; negatives and results
    assert len(expected) == 1 + 4 + 1 + 1 + 2
    for n, death in enumerate([("after", 3), ("within", 7), ("after", 13), ("after", 16)]):
        live_to_the_end(tmp_path / str(n), TINY, death)
        assert what_is_left(tmp_path / str(n)) == expected, death
        assert not list((tmp_path / str(n) / "run").glob("unfinished*"))
        assert "going on after step" in (tmp_path / str(n) / "run" / "log.txt").read_text()


N_ROWS = 2 * (1 + 2 + 3)  # of two tasks: without a prompt, each prompt, each way to hide both


def test_what_was_measured_of_several_attributes_is_not_measured_again(tmp_path, whole):
    expected = what_is_left(whole[0])
    ways = json.loads(expected["results"])["ways"]
    assert 2 * (1 + len(ways)) == N_ROWS
    assert len({way["direct"]["sum"] for way in ways}) == len(ways)  # no two are the same
    for n in 2, 8, N_ROWS:
        live_to_the_end(tmp_path / str(n), TINY, ("measuring", n))
        assert what_is_left(tmp_path / str(n)) == expected
        said = (tmp_path / str(n) / "run" / "log.txt").read_text()
        again = [k for k in range(1, len(ways) + 1) if said.count(f"measuring {k} of") > 1]
        assert again == ([] if n == 2 else [n // 2 - 1])  # the one it was at


TINY_BASELINE = "baselines.py --model {} --toy-users 60 --epochs 2 --check 1 --fair-epochs 2 "
TINY_BASELINE += "--fair-batch-size 30 --out run"
N_BASELINE_STEPS = 2 + 2 * 2  # epochs of the recommender, batches of its game


def test_a_killed_baseline_goes_on_as_if_nothing_had_happened(tmp_path):
    flags = TINY_BASELINE.format("s-sas")
    assert live(tmp_path / "whole", flags)[0] == 0, (tmp_path / "whole" / "out.txt").read_text()
    expected = what_is_left(tmp_path / "whole")
    assert len(expected) == 4  # the recommender and its fair version
    for n, death in enumerate([("after", 1), ("after", 2), ("within", 5)]):
        live_to_the_end(tmp_path / str(n), flags, death)
        assert what_is_left(tmp_path / str(n)) == expected, death


def test_what_was_measured_of_a_baseline_is_not_measured_again(tmp_path):
    """Filters of two attributes have three rows, after popularity's and PMF's."""
    flags = TINY_BASELINE.format("c-pmf") + " --attr gender,age"
    assert live(tmp_path / "whole", flags)[0] == 0, (tmp_path / "whole" / "out.txt").read_text()
    expected = what_is_left(tmp_path / "whole")
    for n in 2, 4:
        live_to_the_end(tmp_path / str(n), flags, ("measuring", n))
        assert what_is_left(tmp_path / str(n)) == expected
        said = (tmp_path / str(n) / "run" / "log.txt").read_text()
        assert [said.count(f"C-PMF: measuring {k} of 3") for k in (1, 2, 3)] == [1, n // 2, 1]
        rows = json.loads((tmp_path / str(n) / "run" / "results.json").read_text())["rows"]
        assert rows[2]["seconds"] == rows[3]["seconds"] == rows[4]["seconds"]  # of one game


@pytest.mark.slow
def test_whatever_the_step_and_whatever_the_moment(tmp_path, whole):
    """Killed after every step, within the writing of checkpoints, and at five random moments."""
    expected, seconds = what_is_left(whole[0]), whole[1]
    rng = np.random.default_rng(0)
    deaths = [("after", n + 1) for n in range(N_STEPS)]
    deaths += [("within", n + 1) for n in range(1, N_STEPS, 3)]
    deaths += [("at", seconds * share) for share in rng.uniform(0.02, 0.9, 5)]
    assert die_and_go_on(tmp_path, TINY, deaths, expected) == N_STEPS + 6 + 5


@pytest.mark.slow
@pytest.mark.parametrize("model", FAIR)
def test_whatever_the_step_of_a_baseline(tmp_path, model):
    """The recommender's training and its fair version's game, killed after and within every checkpoint."""
    flags = TINY_BASELINE.format(model)
    code, seconds = live(tmp_path / "whole", flags)
    assert code == 0, (tmp_path / "whole" / "out.txt").read_text()
    expected = what_is_left(tmp_path / "whole")
    deaths = [(how, n + 1) for n in range(N_BASELINE_STEPS) for how in ("after", "within")]
    deaths += [("at", seconds * share) for share in np.random.default_rng(0).uniform(0.1, 0.9, 3)]
    survived = die_and_go_on(tmp_path, flags, deaths, expected)
    assert survived == 2 * N_BASELINE_STEPS + 3


def die_and_go_on(folder: Path, flags: str, deaths: list[Death], expected: dict) -> int:
    """How many deaths a run was brought back from, to leave each time what is expected."""

    def one(n: int) -> None:
        live_to_the_end(folder / str(n), flags, deaths[n])
        assert what_is_left(folder / str(n)) == expected, deaths[n]

    with ThreadPoolExecutor(2) as pool:
        return len(list(pool.map(one, range(len(deaths)))))


def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(tmp_path):
    words = [sys.executable, str(ROOT / "train.py")]
    flags = "--attr gender --toy-users 60 --epochs 1 --batch-size 30 --prefix-len 2 --p5-steps 20"
    began = subprocess.Popen(
        [*words, *flags.split(), "--out", "run"],
        **dict(cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    )
    while not began.stdout.readline().startswith("P5   "):
        pass
    began.send_signal(signal.SIGINT)
    _, error = began.communicate(timeout=60)
    assert began.returncode == 130
    assert error.strip() == f"interrupted; python {ROOT}/train.py --resume run goes on with it"
    resumed = command(tmp_path, "--resume run", briefly=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "P5: going on after step" in resumed.stdout
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if "checkpoint" in p.name) == []
    once_more = command(tmp_path, "--resume run")
    assert once_more.returncode == 2 and "this run is finished" in once_more.stderr


# -------------------------------------------------------------------------------------------------
# The pieces
# -------------------------------------------------------------------------------------------------


def test_what_is_packed_comes_back():
    tensors = {}
    value = {
        "text": "a",
        3: [1, 2.5, None, True, (torch.arange(3), "b")],
        "rng": np.random.default_rng(0).bit_generator.state,
        "empty": {},
    }
    again = unpack(json.loads(json.dumps(pack(value, tensors))), tensors)
    assert torch.equal(again[3][4][0], torch.arange(3)) and again[3][4][1] == "b"
    assert again[3][:4] == [1, 2.5, None, True] and isinstance(again[3][4], tuple)
    assert (again["text"], again["rng"], again["empty"]) == ("a", value["rng"], {})


def stepping(run: Run, seed: int = 0) -> tuple[Checkpoint, torch.nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    kept = Checkpoint(run, "stage", dict(model=model, optimizer=optimizer))
    kept.wait = 0.0
    return kept, model, optimizer


def walk(kept, model, optimizer, steps: int, first: int = 0) -> None:
    for number in range(first + 1, steps + 1):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        kept.keep(number, 9, number=number)
        kept.wait = 0.0


def test_a_loop_goes_on_with_weights_moments_and_random_numbers(tmp_path):
    kept, model, optimizer = stepping(Run(tmp_path / "a", "a", {"command": ["train.py"]}))
    walk(kept, model, optimizer, 5)
    run = Run(tmp_path / "b", "b", {"command": ["train.py"]})
    walk(*stepping(run), 3)
    kept, again, optimizer = stepping(run, seed=7)
    now = kept.restore({"number": 0})
    assert now == {"number": 3}
    walk(kept, again, optimizer, 5, now["number"])
    for one, other in zip(model.parameters(), again.parameters()):
        assert torch.equal(one, other)


def test_another_stage_begins_at_its_beginning(tmp_path):
    run = Run(tmp_path / "a", "a", {"command": ["train.py"]})
    walk(*stepping(run), 2)
    other = Checkpoint(run, "other", {})
    assert other.restore({"number": 0}) == {"number": 0}


def test_a_spoilt_checkpoint_falls_back_on_the_one_before(tmp_path):
    run = Run(tmp_path / "a", "a", {"command": ["train.py"]})
    walk(*stepping(run), 3)
    whole = (run.folder / FILE).read_bytes()
    (run.folder / FILE).write_bytes(whole[:-1])
    assert stepping(run)[0].restore({}) == {"number": 2}
    assert "trying the one before" in (run.folder / "log.txt").read_text()
    (run.folder / BEFORE).write_bytes(b"")
    with pytest.raises(InputError, match="under 8 bytes"):
        stepping(run)[0].restore({})
    forget(run)
    assert stepping(run)[0].restore({"number": 0}) == {"number": 0}


@pytest.mark.parametrize("what", ["seed", "data fingerprint", "backbone", "tokenizer"])
def test_a_checkpoint_of_something_else_is_refused_with_both_values(tmp_path, what):
    """It is carried from one run's folder into another's that differs in this alone."""
    runs = []
    for name in "mine", "theirs":
        value = {what: name} if what in ("seed", "data fingerprint") else {}
        runs.append(Run(tmp_path / name, name, {"command": ["train.py"], "depths": (1, 3)} | value))
        runs[-1].frozen = {"backbone": "b", "tokenizer": "t"} | ({} if value else {what: name})
    walk(*stepping(runs[0]), 1)
    content = (runs[0].folder / FILE).read_bytes()
    (runs[1].folder / FILE).write_bytes(content)
    with pytest.raises(InputError, match=f'{FILE}: its {what} was "mine" and is now "theirs"'):
        stepping(runs[1])[0].restore({})
    runs[1].config, runs[1].frozen = runs[0].config, runs[0].frozen
    assert stepping(runs[1])[0].restore({}) == {"number": 1}


@pytest.mark.parametrize("what", ["backbone", "tokenizer"])
def test_a_prompt_belongs_to_one_backbone_and_one_tokenizer(tmp_path, what):
    shape = T5Config(vocab_size=9)
    cfg, theirs, mine = CFPConfig(prefix_len=2), {"backbone": "b", "tokenizer": "t"}, {what: "mine"}
    model, mixer = T5(shape), MixerConfig(hidden=8)
    save_tensors(tmp_path / "cfp-age.safetensors", CFP(cfg, shape).state_dict(), theirs)
    save_tensors(tmp_path / "mixer.safetensors", Mixer(mixer, shape).state_dict(), theirs)
    load_prompt(tmp_path, "age", cfg, model, theirs)
    load_mixer(tmp_path, mixer, model, theirs)
    refused = f'safetensors: its {what} was "{what[0]}" and is now "mine"; it belongs to another'
    with pytest.raises(InputError, match=f"cfp-age.{refused}"):
        load_prompt(tmp_path, "age", cfg, model, theirs | mine)
    with pytest.raises(InputError, match=f"mixer.{refused}"):
        load_mixer(tmp_path, mixer, model, theirs | mine)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    run = Run(tmp_path / "a", "a", {"command": ["train.py"]})
    kept, model, optimizer = stepping(run)
    walk(kept, model, optimizer, 1)
    before = {p.name: p.read_bytes() for p in run.folder.glob("*.safetensors")}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match=f"cannot write .*{FILE}.next: File too large"):
            walk(kept, model, optimizer, 2, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run.folder / FILE).read_bytes() == before[FILE]
    assert stepping(run)[0].restore({}) == {"number": 1}
    assert not [p.name for p in run.folder.iterdir() if p.name.startswith(f".{FILE}")]


def test_a_full_disk_ends_a_command_in_one_line(tmp_path):
    flags = TINY.replace("--p5-steps 4", "--p5-steps 1")
    limited = "ulimit -f 20; exec " + " ".join([sys.executable, str(ROOT / "train.py"), flags])
    done = subprocess.run(
        ["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "File too large" in done.stderr
    assert not list(tmp_path.glob("runs/p5*/*"))  # no half of a backbone


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    config = {"command": ["train.py"], "seed": 0}
    run = Run(tmp_path / "a", "a", config)
    with pytest.raises(InputError, match="is in use by a run that is still going"):
        Run.resume(tmp_path / "a", config)
    run.lock.close()
    Run.resume(tmp_path / "a", config)


def test_a_run_is_resumed_as_it_was_or_not_at_all(tmp_path):
    config = {"command": ["train.py"], "seed": 0, "torch": "2", "cfp": {"depths": (1, 3)}}
    Run(tmp_path / "a", "a", config).lock.close()
    with pytest.raises(InputError, match='torch was "2" and is now "3"; make it as it was'):
        Run.resume(tmp_path / "a", config | {"torch": "3"})
    with pytest.raises(InputError, match="--resume .*nowhere.*No such file"):
        Run.resume(tmp_path / "nowhere", {})
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json is no JSON"):
        Run.resume(tmp_path / "a", {})


def test_half_written_files_of_a_killed_run_go_away(tmp_path):
    run = Run(tmp_path / "a", "a", {"command": ["train.py"]})
    run.lock.close()
    (run.folder / f".{FILE}.x1y2").write_bytes(b"half")
    run = Run.resume(run.folder, {"command": ["train.py"]})
    assert not list(run.folder.glob(".checkpoint*")) and (run.folder / ".lock").exists()


def test_ctrl_c_within_a_step_waits_for_its_end(tmp_path):
    run = Run(tmp_path / "a", "a", {"command": ["train.py"]})
    kept, model, optimizer = stepping(run)
    kept.restore({})
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    with pytest.raises(Interrupted, match="--resume .*a goes on with it"):
        walk(kept, model, optimizer, 1)
    assert (run.folder / FILE).exists()
    run.in_training = False
    with pytest.raises(Interrupted):  # between two trainings there is nothing to wait for
        run.interrupt(signal.SIGTERM)
    assert training.EVERY == 60.0


# -------------------------------------------------------------------------------------------------
# Numbers and memory
# -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_before_anything_moves():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.25)
    for _ in range(3):
        step(optimizer, model(torch.ones(2)).sum())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        InputError, match="in step 4 at learning rate 0.25: the loss is nan, .*smaller"
    ):
        step(optimizer, model(torch.full((2,), torch.nan)).sum())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_an_absurd_rate_ends_in_one_line(tmp_path, monkeypatch):
    """Discriminators that a far too large rate has ruined are not taken for a prompt that hides well."""
    monkeypatch.chdir(tmp_path)
    flags = "--attr gender --toy-users 60 --p5-steps 2 --epochs 40 --batch-size 30 --dis-lr 1000"
    with pytest.raises(InputError, match="they have collapsed|went astray") as error:
        train.main(flags.split())
    assert "learning rate" in str(error.value) and "smaller" in str(error.value)


def test_too_little_memory_is_said_before_the_work(monkeypatch):
    cpu = torch.device("cpu")
    assert files.free_memory(cpu) is None or files.free_memory(cpu) > 10_000_000
    files.enough_memory("this", 1000, cpu, "..")
    monkeypatch.setattr(files, "free_memory", lambda device: 10**9)
    files.enough_memory("this", 10**9, cpu, "..")
    with pytest.raises(InputError, match="this takes 1,200 MB and 1,000 MB are free; take less"):
        files.enough_memory("this", 1_200_000_000, cpu, "take less")
    monkeypatch.setattr(files, "free_memory", lambda device: None)
    files.enough_memory("this", 10**15, cpu, "..")


def test_weights_that_stay_in_their_file_take_no_memory(tmp_path, monkeypatch):
    """Only a type or a place that is not the file's makes copies."""
    save_backbone(random_t5(9), tmp_path)  # T5() alone has no numbers yet
    monkeypatch.setattr(files, "free_memory", lambda device: 1000)
    load_backbone(tmp_path)
    with pytest.raises(InputError, match="M weights from .* as torch.bfloat16 takes"):
        load_backbone(tmp_path, torch.bfloat16)


def test_memory_of_a_game_is_that_of_what_it_trains(dataset, monkeypatch):
    """A mixer's four matrices are as wide as all keys and values of a token; T5-base has 36,864."""
    base = T5Config(
        100, d_model=768, d_kv=64, d_ff=8, num_heads=12, num_layers=12, num_decoder_layers=12
    )
    width, cpu = 2 * 12 * 768 * 2, torch.device("cpu")
    asked = {}
    note = lambda what, n, device, flag: asked.update({flag: n})
    monkeypatch.setattr(checks, "enough_memory", note)
    make_cfp = lambda: CFP(CFPConfig(prefix_len=5), base)
    make_mixer = lambda: Mixer(MixerConfig(hidden=256), base)
    players = {"a prompt": (make_cfp, "--prefix-len"), "the mixer": (make_mixer, "--mixer-hidden")}
    enough_for_run(dataset, players, cpu)
    prompt = sum(param.numel() for param in make_cfp().parameters())
    assert asked == {
        "choose a smaller data set": 24 * len(dataset.users) * len(dataset.titles),
        "choose a smaller --prefix-len": 16 * prompt,
        "choose a smaller --mixer-hidden": 16 * (4 * width * 256 + width),
    }


def test_a_run_within_a_run_gives_ctrl_c_back(tmp_path):
    outer = Run(tmp_path / "outer", "outer", {})
    inner = Run(tmp_path / "inner", "inner", {})
    assert signal.getsignal(signal.SIGINT) == inner.interrupt
    inner.finish({})
    assert signal.getsignal(signal.SIGINT) == outer.interrupt
