"""The benchmark runs, and compares equal things."""

import importlib.util

import pytest

from reproduction import benchmark
from reproduction.benchmark import ITEMS
from support.files import InputError


def test_rows_run(capsys):
    flags = "--shape tiny --repeats 1"
    benchmark.main(flags.split())
    text = capsys.readouterr().out
    ours = [line.split() for line in text.splitlines() if line.startswith("  ours ")]
    assert len(ours) == 3 and all(float(least) > 0 for _, least, *_ in ours)
    if importlib.util.find_spec("transformers") is not None:
        assert "transformers, a soft prompt as long" in text
        assert "transformers, the encoder once" in text
        apart = float(text.split("difference of a log-probability: ")[1].split()[0])
        assert 0 < apart < 1e-4


def test_without_transformers_ours_is_timed(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    flags = "--shape tiny --repeats 1"
    benchmark.main(flags.split())
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  ours ") for line in lines) == 3
    assert not any(line.startswith("  transformers") for line in lines)


def test_items_are_distinct_and_share_beginnings():
    assert len(set(ITEMS)) == len(ITEMS) == 3416
    assert ITEMS[1234 - 1001] == (112, 334, 1) and len({item[0] for item in ITEMS}) == 35


def test_a_mistake_is_said_in_one_line():
    with pytest.raises(InputError, match="--repeats: .0. is not a whole number from 1 on"):
        benchmark.main(["--repeats", "0"])
