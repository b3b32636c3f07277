"""The two processes that run the tests lose none, whatever becomes of one of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import CORES

ROOT = Path(__file__).parent.parent
SUITE = {
    "pyproject.toml": '[tool.pytest.ini_options]\ntestpaths = ["tests"]\n',
    "tests/conftest.py": "from two_at_once import pytest_runtestloop\n",
    "tests/torch.py": "set_num_threads = print\n",  # takes two seconds to load
    "tests/test_first.py": """
import os, sys, time, warnings, pytest

def test_passes():
    while "-k" not in sys.argv and not os.path.exists("second"):
        time.sleep(0.01)  # until the other one has come to its file
    open("first", "a").write(f"{os.getpid()} ")

def test_fails():
    open("first", "a").write(f"{os.getpid()} ")
    warnings.warn("look at this")
    assert "as it is" == "as it should be"

@pytest.mark.skip
def test_skipped():
    pass
""",
    "tests/test_second.py": """
import os

def test_passes():
    open("second", "a").write(str(os.getpid()))
""",
}
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="there is one core")


def run(folder: Path, *flags: str, **more: str) -> subprocess.CompletedProcess:
    """Pytest on this suite and what is added to it."""
    (folder / "tests").mkdir()
    for name, text in (SUITE | more).items():
        (folder / name).write_text(text)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags]
    places = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests", ROOT)))}
    given = dict(cwd=folder, env=places, capture_output=True, text=True, timeout=300)
    return subprocess.run(words, **given)


def test_everything_is_told_and_a_file_stays_in_one_process(tmp_path):
    """What is collected otherwise each time, and so by one of the two alone, is missed."""
    here_only = "import pathlib\n\nif not pathlib.Path('been').exists():\n"
    here_only += "    pathlib.Path('been').write_text('')\n\n    def test_once():\n        pass\n"
    here_only += "\ndef test_always():\n    pass\n"
    done = run(tmp_path, **{"tests/test_x.py": here_only})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 3 passed, 1 skipped, 1 warning in" in done.stdout
    assert "'as it is' == 'as it should be'" in done.stdout and "look at this" in done.stdout
    assert "not run: tests/test_x.py::test_once" in done.stdout
    first, second = ((tmp_path / name).read_text().split() for name in ("first", "second"))
    assert first[0] == first[1] != second[0]


def test_a_process_that_dies_is_no_success(tmp_path):
    dies = "import os\n\ndef test_dies():\n    os.kill(os.getpid(), 9)\n"
    done = run(
        tmp_path, "--deselect", "tests/test_first.py::test_fails", **{"tests/test_x.py": dies}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a process that ran tests ended with -9" in done.stdout
    assert " failed" not in done.stdout.splitlines()[-1]  # no test says so


def test_the_first_failure_can_be_the_last(tmp_path):
    done = run(tmp_path, "-x")
    assert done.returncode == 1 and "stopping after 1 failures" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]  # it was to come
    assert done.stderr == ""


def test_whoever_asks_for_something_has_one_process(tmp_path):
    done = run(tmp_path, "-k", "passes")
    assert done.returncode == 0 and "2 passed" in done.stdout
    assert (tmp_path / "first").read_text().split() == [(tmp_path / "second").read_text()]
