"""What happened to people on the first day, all twenty: TABLE says what was done, what is right, which
siblings were looked for, and which tests hold it. Those about files are in `test_first_day_files.py`.
"""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from commands import command

import support
from reproduction import baselines, tables
from support import files, flags
from support.files import InputError, lock, show
from support.runs import Run, noted, place_of
from support.screens import aligned

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).stem

# number, what was done, the right behaviour, siblings that were looked for (and found), tests
TABLE = [
    (1, "--lr 0.01", "is the prefix's rate alone", "every field that two configs share: --mixer-lr, "
     "--mixer-lam, --mixer-epochs, .. (found: all were one name in one namespace)",
     "test_train::test_the_learning_rate_of_the_prompt_is_not_that_of_p5"),
    (2, "--attr gender --attr age", "refused by name", "every flag with a value, of every command (found: "
     "all), and --seed=1 beside --seed 2; switches say the same twice",
     f"{HERE}::test_a_flag_stands_once"),
    (3, "--data-dir DIR without --data", "refused", "--toy-users with other data where it says the default "
     "(found), --retrain with --p5-steps 0 (found), tables' --data-dir (found); mixer flags for one "
     "attribute, --audit's and --user's flags were refused before",
     f"{HERE}::test_a_flag_that_would_do_nothing_is_refused"),
    (4, "--resume=RUN with --attr", "stands alone, however it is written", "flags looked for as text "
     "elsewhere: none found, looked in every use of argv", f"{HERE}::test_resume_however_it_is_written"),
    (5, "an age of nan or -1", "refused with its line", "see there",
     "test_first_day_files::test_an_age_that_is_no_year_among_years_is_named"),
    (6, "a run opened or resumed from another folder, or after a move", "opens; goes on where it was begun",
     "paths in config.json and results.json: the backbone's, the data's (MovieLens-1M was downloaded again), "
     "--base, where a prompt was taken from (found: all four); runs/ and relative flags of a resumed run",
     f"{HERE}::test_a_bad_day_from_beginning_to_end"),
    (7, "a disk without hard links or locks", "checkpoints are renamed; no locks is said once", "rights that "
     "cannot be set, folders that cannot be synced (found: both ended the run)",
     f"{HERE}::test_a_disk_that_cannot_do_everything {HERE}::test_a_bad_day_from_beginning_to_end"),
    (8, "runs/ read-only, --out elsewhere", "refused before P5 is trained", "what audits, probes, LEACE, "
     "tables and RESULTS.md write (found: all tried at the end), downloads of weights",
     f"{HERE}::test_a_folder_that_cannot_be_written_is_found_at_once"),
    (9, "a pipe that closes", "the run goes on and writes log.txt", "stderr's pipe, a terminal that is gone "
     "(EIO), no stdout at all, other commands' last words (found: all)",
     f"{HERE}::test_what_nobody_reads_is_not_written {HERE}::test_a_bad_day_from_beginning_to_end"),
    (10, "SIGTERM", "as Ctrl-C, exit code 143", "SIGHUP (found), nohup's ignored SIGHUP stays so; the jobs "
     "of the command for tables (found)",
     f"{HERE}::test_a_bad_day_from_beginning_to_end test_reproduce::test_a_killed_one_is_gone_on_with"),
    (11, "a console that is not UTF-8", "letters that it lacks as escapes; files are UTF-8", "every file "
     "that is read or written as text (found: log.txt, metrics.jsonl, all JSON that is read)",
     f"{HERE}::test_every_text_file_is_utf_8 {HERE}::test_a_bad_day_from_beginning_to_end"),
    (12, "._ files beside shards", "not seen", "see there; `--resume` removed a Mac's files (found)",
     "test_first_day_files::test_what_macos_leaves_beside_shards_is_not_seen"),
    (13, "an index with another total_size", "read", "see there",
     "test_first_day_files::test_what_an_index_says_beside_its_map_is_not_believed"),
    (14, "null in config.json", "absent or refused by name", "see there",
     "test_first_day_files::test_every_field_that_is_read_is_checked"),
    (15, "a snapshot of the hub's cache", "its links are followed", "see there",
     "test_first_day_files::test_a_snapshot_of_the_hub_s_cache_loads"),
    (16, "two threads beside a busy core", "as many threads as cores are idle when the work begins",
     "resumed runs keep their number; with OMP_NUM_THREADS nothing is changed",
     f"{HERE}::test_threads_for_idle_cores"),
    (17, "--window 2500", "encoded twice at most", "see there",
     "test_first_day_files::test_a_prompt_of_any_window_is_encoded_twice_at_most"),
    (18, "columns that run together, hints that cannot be pasted, cut-off titles", "fit", "every table "
     "(found: baselines, audit); the script's path and spaces in hints",
     f"{HERE}::test_columns_never_touch {HERE}::test_a_bad_day_from_beginning_to_end "
     "test_audit::test_no_title_of_the_picture_is_cut_off"),
    (19, "--lam 0, --prefix-len 0", "allowed", "--mixer-lam 0, the baselines' --lam 0 (found)",
     f"{HERE}::test_the_ablations_run"),
    (20, "Ctrl-C while torch is imported", "one line, exit code 130", "evaluate.py, probe.py, "
     "the modules of audit/ and reproduction/ (found: all)", f"{HERE}::test_ctrl_c_while_torch_is_imported"),
]  # fmt: skip
SMALL = "--toy-users 60 --p5-steps 4 --epochs 2 --batch-size 30 --prefix-len 2"


def test_every_one_of_the_twenty_has_its_tests():
    assert [number for number, *_ in TABLE] == list(range(1, 21))
    for *_, tests in TABLE:
        for name in tests.split():
            module, test = name.split("::")
            assert f"def {test}(" in (ROOT / "tests" / f"{module}.py").read_text(), name


@pytest.mark.parametrize(
    "repeated", ["--seed 1 --seed 2", "--seed=1 --seed 1", "--seed 1 --seed=2"]
)
@pytest.mark.parametrize("of", ["train", "probe", "baselines"])
def test_a_flag_stands_once(of, repeated):
    parse = {
        "train": lambda words: flags.train_args(["--attr", "gender", *words]),
        "probe": lambda words: flags.probe_args(
            ["--kind", "soft", "--attr", "a", "--run", "r", *words], ["soft"]
        ),
        "baselines": lambda words: baselines.parse_args(["--model", "pmf", *words]),
    }[of]
    assert parse(["--seed", "3"]).seed == 3
    with pytest.raises(InputError, match="^--seed: given twice, and only one value would count"):
        parse(repeated.split())


def test_every_flag_of_train_stands_once(capsys):
    """Whatever takes a value; the text of --help tells which these are."""
    with pytest.raises(SystemExit):
        flags.train_args(["--help"])
    named = set(re.findall(r"(--[a-z0-9-]+) (?:\[?[A-Z{])", capsys.readouterr().out))
    assert len(named) > 30
    values = {"--device": "cpu", "--task": "direct", "--dtype": "bf16", "--discriminator": "soft"}
    values |= {"--hide-from": "scores", "--lr": "0.1", "--adversary": "both", "--batch-size": "4"}
    values |= {"--classes": "age=0,18", "--nouns": "pubs,pub,visited,visit"}
    for flag in named - {"--help"}:
        first = ["--attr", "gender"] * (flag != "--attr")
        pair = [flag, values.get(flag, "0.5" if flag.endswith(("effect", "holdout")) else "2")]
        with pytest.raises(InputError, match=f"{flag}: given twice"):
            flags.train_args([*first, *pair, *pair])


@pytest.mark.parametrize(
    "parse, given, message",
    [
        (flags.train_args, "--attr gender --data-dir d", "--data-dir d: the toy world has no files"),
        (baselines.parse_args, "--model pmf --data-dir d", "--data-dir d: the toy world has no files"),
        (tables.parse_args, "all --data-dir d", "--data-dir d: the toy world has no files"),
        (flags.train_args, "--attr age --data x --toy-users 1200", "--data x: --toy-users is for toy"),
        (baselines.parse_args, "--model pmf --data x --toy-users 1200", "--toy-users is for toy"),
    ],
)  # fmt: skip
def test_a_flag_that_would_do_nothing_is_refused(parse, given, message):
    with pytest.raises(InputError, match=message):
        flags.check_toy_flags(parse(given.split()))


@pytest.mark.parametrize(
    "given", ["--resume=R --attr age", "--attr age --resume R", "--resume R --seed 1"]
)
def test_resume_however_it_is_written(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    config = {"command": ["train.py", "--attr", "gender"], "working folder": ".."}
    (tmp_path / "R").mkdir()
    (tmp_path / "R" / "config.json").write_text(json.dumps(config))
    for alone in ["--resume", "R"], ["--resume=R"]:
        assert flags.command_to_resume(alone, "train.py") == (["--attr", "gender"], Path("R"))
    with pytest.raises(InputError, match="--resume RUN stands alone"):
        flags.command_to_resume(given.split(), "train.py")
    for other in (
        ["--attr", "resume"],
        ["--attr", "age", "--help", "--resume", "R"],
        ["--out", "--resum"],
    ):
        assert flags.command_to_resume(other, "train.py") == (other, None)


def test_paths_in_a_run_move_with_it(tmp_path, monkeypatch):
    inside, outside = tmp_path / "project", tmp_path / "elsewhere"
    for folder in inside / "runs" / "a", inside / "runs" / "p5", outside / "t5":
        folder.mkdir(parents=True)
    monkeypatch.chdir(inside)
    run = Path("runs/a")
    assert noted(Path("runs/p5"), run) == "../p5"
    assert noted(Path("../elsewhere/t5"), run) == str(outside / "t5")  # does not move with it
    assert noted(Path("runs/p5"), outside) == str(inside / "runs" / "p5")
    assert place_of("../p5", run) == Path("runs/p5")
    assert place_of(str(outside / "t5"), run) == outside / "t5"
    monkeypatch.chdir(outside)
    inside.rename(tmp_path / "moved")
    assert place_of("../p5", tmp_path / "moved/runs/a") == tmp_path / "moved/runs/p5"


# ----- 7: in place of the C library's link and flock those of a disk that has neither ----------------

SHIM = """
#include <errno.h>
int link(const char *a, const char *b) { errno = EPERM; return -1; }
int linkat(int a, const char *b, int c, const char *d, int e) { errno = EPERM; return -1; }
int flock(int fd, int operation) { errno = ENOLCK; return -1; }
int chmod(const char *a, unsigned mode) { errno = EPERM; return -1; }
"""


def poor_disk(folder: Path) -> dict[str, str]:
    """The environment in which a process finds every disk without hard links, locks and rights."""
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("takes a C compiler and the dynamic linker of Linux")
    (folder / "poor.c").write_text(SHIM)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", folder / "poor.so", folder / "poor.c"], check=True
    )
    return os.environ | {"LD_PRELOAD": str(folder / "poor.so")}


def test_a_disk_that_cannot_do_everything(tmp_path):
    """Two checkpoints one after the other and the folder's lock, by the code that writes them."""
    code = """
        import os, sys, torch
        from pathlib import Path
        from support.runs import Run
        from support.training import Checkpoint
        for call in (lambda: os.link("a", "b")), (lambda: os.chmod(".", 0o755)):
            try:
                call()
                sys.exit("this disk can do it")
            except PermissionError:
                pass
        run = Run(Path("run"), "run", {"command": ["train.py"]})
        kept = Checkpoint(run, "P5", dict(model=torch.nn.Linear(2, 1)))
        for step in range(1, 4):
            kept.wait = 0.0
            kept.keep(step, 9, number=step)
        print(sorted(path.name for path in run.folder.glob("*.safetensors")))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=poor_disk(tmp_path) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "['checkpoint-before.safetensors', 'checkpoint.safetensors']" in done.stdout, done.stderr
    assert done.stderr.count("this disk has no locks: No locks available") == 1


def test_locks_where_there_are_none(tmp_path, monkeypatch, capsys):
    import fcntl

    lock(tmp_path).close()
    for number in files.NO_LOCKS:
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(number, "no")))
        lock(tmp_path).close()
        assert "this disk has no locks: no; begin nothing else" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    """runs/ on a read-only mount, and a finished run whose audit, probe or LEACE could not be written."""
    mount = "mount -t tmpfs none runs && mount -o remount,ro runs && exec "
    train = f"{sys.executable} {ROOT}/train.py --attr gender {SMALL} --out new"
    (tmp_path / "runs").mkdir()
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, mount + "true"], cwd=tmp_path).returncode
    ):
        pytest.skip("this system lets nobody mount")
    done = subprocess.run([*inside, mount + train], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "P5   " not in done.stdout
    said = "error: cannot write into runs: Read-only file system; choose another folder\n"
    assert done.stderr == said
    for module in "audit/command.py", "audit/erase.py", "probe.py", "reproduction/tables.py":
        text = (ROOT / module).read_text()  # tried before anything is measured
        assert 0 < text.index("try_folder(", text.index("def main")) < text.rindex("write_")


def test_what_nobody_reads_is_not_written():
    """A pipe whose reader has gone, and a terminal that was closed."""
    for opened in os.pipe, os.openpty:
        reader, writer = opened()
        os.close(reader)
        with open(writer, "w") as stream:
            for _ in range(3):
                show("a line", on=stream)
    full = io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True)
    with full, pytest.raises(OSError, match="No space left"):  # that is no reader who has gone
        show("a line", on=full)


def test_no_screen_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    run = Run(tmp_path / "a", "a", {"command": ["train.py"]})
    run.say("a line")
    run.progress("P5", 1, 1)
    assert "a line\nP5  " in (tmp_path / "a" / "log.txt").read_text()


def test_a_console_of_few_letters(monkeypatch, tmp_path):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    before = files.on_request_to_end(signal.default_int_handler)
    files.run_command(lambda: show("Amélie, Łódź"))
    for number, handler in before.items():
        signal.signal(number, handler)
    assert console.buffer.getvalue().decode("cp1252").split() == ["Amélie,", "\\u0141ód\\u017a"]


def test_every_text_file_is_utf_8():
    """Whatever opens text says so, or the console's letters would decide."""
    folders = ROOT, *(ROOT / name for name in ("support", "audit", "reproduction", "lab"))
    for path in (path for folder in folders for path in folder.glob("*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"\b(open|read_text|write_text)\(", line) and "os.open(" not in line:
                # what is not text, numbers of the system, and the lock, in which nothing is written
                known = (
                    "encoding",
                    '"rb"',
                    '"wb"',
                    "**text",
                    "/proc",
                    "request",
                    '.lock").open',
                    "self.open",
                    "def open",
                    "run.open",
                )
                assert any(word in line for word in known), f"{path.name}: {line}"


# ----- 6, 7, 9, 10, 11, 18 at once --------------------------------------------------------------------


def foreign(folder: Path) -> None:
    """A small data set whose classes and titles have letters that few consoles know."""
    folder.mkdir()
    people = "".join(f"u{i}\t{('żeński', 'мужской')[i % 2]}\n" for i in range(60))
    (folder / "kino.user").write_text(f"user_id:token\tgender:token\n{people}", encoding="utf-8")
    titles = "".join(f"i{j}\tŁódź {j}\n" for j in range(30))
    (folder / "kino.item").write_text(
        f"item_id:token\tmovie_title:token\n{titles}", encoding="utf-8"
    )
    met = "".join(f"u{i}\ti{(i + j) % 30}\n" for i in range(60) for j in range(6))
    (folder / "kino.inter").write_text(f"user_id:token\titem_id:token\n{met}", encoding="utf-8")


def test_a_bad_day_from_beginning_to_end(tmp_path):
    """Begun by a relative path with a reader that leaves and a poor console, ended by SIGTERM; goes on as it
    was said, from another folder, on a disk without hard links and locks; moved as a whole, and opened.
    """
    project, elsewhere = tmp_path / "my project", tmp_path / "elsewhere"
    project.mkdir(), elsewhere.mkdir()
    foreign(project / "kino")
    script = os.path.relpath(ROOT / "train.py", project)
    words = "--attr gender --data kino --data-dir kino --p5-steps 4 --batch-size 30 --prefix-len 2 "
    words += "--epochs 20"
    began = subprocess.Popen(
        [sys.executable, script, *words.split(), "--out", "a run"],
        **dict(cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
        env=os.environ | {"PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"},
    )
    began.stdout.readline()
    began.stdout.close()  # as `head -1` does
    log = project / "a run" / "log.txt"
    while "CFP gender" not in log.read_text(encoding="utf-8"):
        assert began.poll() is None, began.stderr.read()
        time.sleep(0.05)
    began.send_signal(signal.SIGTERM)
    said = began.stderr.read().decode().strip()
    assert began.wait(60) == 143
    assert said == f"interrupted; python {script} --resume 'a run' goes on with it"
    text = log.read_text(encoding="utf-8")
    assert "żeński" in text and "CFP gender" in text
    (backbone,) = (project / "runs").iterdir()

    how = shlex.split(said.split("; ")[1].removesuffix(" goes on with it"))
    how[1:3] = [str(ROOT / "train.py"), "--resume"]
    done = subprocess.run(
        [sys.executable, *how[1:3], str(project / "a run")],
        **dict(cwd=elsewhere, capture_output=True, text=True, encoding="utf-8"),
        env=poor_disk(tmp_path) | {"LC_ALL": "C", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("this disk has no locks") == 1
    assert f"going on in {project}, where it was begun" in done.stdout
    assert not list(elsewhere.iterdir()) and list((project / "runs").iterdir()) == [backbone]
    assert "\\u017ce" in done.stdout and "going on after step" in done.stdout

    project.rename(tmp_path / "moved")
    (tmp_path / "moved" / "a run").rename(tmp_path / "moved" / "run")
    results = json.loads((tmp_path / "moved" / "run" / "results.json").read_text())
    assert results["p5 folder"] == f"../runs/{backbone.name}"
    done = command(elsewhere, "--run ../moved/run --user u7", "evaluate.py")
    assert done.returncode == 0 and "Łódź" in done.stdout, done.stderr


CONSOLES = [  # what says which letters it has, which these are, and what is left of "Amélie ★"
    ({"PYTHONIOENCODING": "ascii"}, "ascii", "Am\\xe9lie \\u2605"),
    ({"PYTHONUTF8": "0", "LC_ALL": "C"}, "ascii", "Am\\xe9lie \\u2605"),
    ({"PYTHONIOENCODING": "cp1252"}, "cp1252", "Amélie \\u2605"),
]


def test_a_title_that_the_console_cannot_show_is_marked(tmp_path):
    """From beginning to end; what is read and written is in UTF-8 all the same."""
    foreign(tmp_path / "kino")
    items = tmp_path / "kino" / "kino.item"
    titles = items.read_text(encoding="utf-8").replace("Łódź", "Amélie ★")
    items.write_text(titles, encoding="utf-8")

    def said(words: str, console: dict, encoding: str) -> str:
        script, *words = words.split()
        letters = "PYTHONIOENCODING", "PYTHONUTF8", "LC_ALL", "LC_CTYPE", "LANG"
        env = {name: value for name, value in os.environ.items() if name not in letters}
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *words],
            **dict(cwd=tmp_path, capture_output=True, env=env | console | {"OMP_NUM_THREADS": "1"}),
        )
        assert done.returncode == 0, done.stderr.decode(encoding)
        return done.stdout.decode(encoding)

    small = "--p5-steps 4 --epochs 1 --batch-size 30 --prefix-len 2 --out run"
    begin = f"train.py --attr gender --data kino --data-dir kino {small}"
    assert "\\u017ce\\u0144ski" in said(begin, *CONSOLES[1][:2])
    assert "żeński" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    for console, encoding, marked in CONSOLES:
        assert marked in said("evaluate.py --run run --user u7", console, encoding)


def test_columns_never_touch():
    wide = "100.0 [100.0, 100.0]"
    head, row = aligned([["", "Hit@10", "AUC"], ["P5", wide, "51.8"]])
    assert row.strip() == f"P5  {wide}  51.8" and head.index("AUC") == row.index("51.8")


def test_threads_for_idle_cores(monkeypatch):
    """On two cores that were watched for ten seconds, of which this process had eight."""
    monkeypatch.setattr(support, "CORES", {0, 1})
    monkeypatch.setattr(support, "BEGAN", (0.0, 100.0, 1.0))
    for others, threads in (0.0, 2), (3.0, 2), (9.0, 1), (10.0, 1), (19.0, 1):
        monkeypatch.setattr(support, "seconds_at_work", lambda: (10.0, 108.0 + others, 9.0))
        assert support.idle_cores() == threads, others
    monkeypatch.setattr(support, "seconds_at_work", lambda: None)
    assert support.idle_cores() == 2
    monkeypatch.setattr(support, "BEGAN", None)  # imported, not a command
    assert support.idle_cores() == 2


def test_what_is_at_work_is_known_where_the_system_tells():
    if not Path("/proc/stat").exists():
        assert support.seconds_at_work() is None
        return
    before, end = support.seconds_at_work(), time.process_time() + 0.3
    while time.process_time() < end:  # however little of a core there is for us
        pass
    clock, busy, own = (b - a for a, b in zip(before, support.seconds_at_work()))
    assert clock > 0.25 and own >= 0.3 and busy <= (clock + 0.1) * len(support.CORES)


@pytest.mark.parametrize(
    "ablation", ["--lam 0", "--prefix-len 0", "--prefix-len 0 --lam 0 --backbone tiny-llama"]
)
def test_the_ablations_run(tmp_path, ablation):
    small = SMALL.replace("--prefix-len 2", "") if "prefix" in ablation else SMALL
    words = f"--attr gender {small} {ablation} --task direct --out run"
    done = command(tmp_path, words, briefly=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    if "prefix" in ablation:  # nothing in front changes nothing
        assert results["after"]["direct"]["auc"] == results["before"]["direct"]["auc"]


@pytest.mark.parametrize("words", ["train.py", "-m audit.erase"])
def test_ctrl_c_while_torch_is_imported(words):
    """As soon as torch is being read, whose libraries the process has then in its memory."""
    began = subprocess.Popen(
        [sys.executable, *words.split()],
        **dict(cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    )
    maps, end = Path(f"/proc/{began.pid}/maps"), time.monotonic() + 30
    while maps.exists() and "libtorch" not in maps.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    began.send_signal(signal.SIGINT)
    assert began.wait(30) == 130
    assert began.stderr.read() == "\ninterrupted\n"


def test_a_library_leaves_ctrl_c_alone():
    code = "import signal; import support, torch; print(signal.getsignal(signal.SIGINT))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "default_int_handler" in done.stdout
    assert torch.get_num_threads() >= 1
