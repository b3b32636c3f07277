"""The paper's tables: numbers as printed, ours as measured, runs reused, mistakes in a line."""

import csv
import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from reproduction import claims, figures, published, report
from reproduction import plan as jobs
from reproduction import tables as reproduce
from reproduction.plan import DATA, NEEDS, Found, Job, World, find, jobs_in, jobs_of, scan
from reproduction.report import Summary, distance, summarise
from support import files
from support.files import InputError, run_command

ROOT = Path(__file__).parent.parent


# -------------------------------------------------------------------------------------------------
# The paper's numbers
# -------------------------------------------------------------------------------------------------


def test_every_published_number_is_the_papers():
    """published.csv was taken out of the paper's text by a script, not out of published.py."""
    with (Path(__file__).parent / "published.csv").open() as file:
        second = {tuple(row[:5]): row[5] for row in list(csv.reader(file))[1:]}
    cells = [cell for table in published.TABLES for cell in published.cells(table)]
    first = {(str(c.table), *c[1:5]): f"{c.percent:.2f}" for c in cells}
    assert len(first) == len(cells) == 452  # no place twice
    assert first == second


def test_a_run_finds_its_row_of_the_papers_table():
    """What is hidden has the paper's letters in the paper's order, whatever the order of --attr."""
    hidden = {cell.hidden for table in published.TABLES for cell in published.cells(table)}
    assert {"", "M", "GAO", "MO", "AMO"} < hidden
    for some in hidden:
        attrs = [report.LETTERS[letter] for letter in some]
        assert all(report.letters(names) == some for names in itertools.permutations(attrs)), some


def test_what_is_said_of_the_papers_numbers_is_true():
    at = {tuple(c[:5]): c.percent for table in published.TABLES for c in published.cells(table)}
    column = lambda table, data, model, hidden="": [
        value for key, value in at.items() if key[:4] == (table, data, model, hidden)
    ]
    ml, ins = "MovieLens", "Insurance"
    assert column(1, ml, "P5")[3:] == column(2, ml, "P5")[3:]
    assert (
        at[1, ml, "P5", "", "O"] == at[8, ml, "soft", "", "O"] != at[9, ml, "classifier", "", "O"]
    )
    assert at[1, ml, "PMF", "", "Hit@10"] == at[1, ml, "SimpleX", "", "Hit@10"]
    assert (
        at[1, ins, "P5", "", "A"] != at[2, ins, "P5", "", "A"] == at[9, ins, "classifier", "", "A"]
    )
    for model in "SASRec", "BERT4Rec":
        assert at[2, ml, model, "", "Hit@10"] > at[2, ml, "P5", "", "Hit@10"]
    assert at[2, ml, "SASRec", "", "Hit@3"] > at[2, ml, "P5", "", "Hit@3"]
    for hidden, k in ("A", 4), ("O", 5):
        assert column(3, ins, "CFP", hidden) == [*column(1, ins, "P5")[:3], column(1, ins, "P5")[k]]
        assert column(4, ins, "S-B4", hidden)[:3] == column(2, ins, "BERT4Rec")[:3]
    assert column(4, ins, "S-B4", "O")[3] == at[2, ins, "BERT4Rec", "", "O"]
    for hidden in "GAO":
        assert column(3, ml, "CFP", hidden)[3] == column(4, ml, "CFP", hidden)[3]
    assert column(5, ml, "C-PMF", "GO")[3] == column(5, ml, "C-PMF", "AO")[3]
    assert column(10, ml, "P5")[3:] == column(11, ml, "P5")[3:]
    assert at[10, ins, "P5", "", "Hit@3"] == at[10, ins, "P5", "", "Hit@10"]
    for table, bare in (12, 10), (13, 11):
        for data, hidden, k in (ml, "O", 5), (ins, "O", 5), (ins, "A", 4):
            p5 = column(bare, data, "P5")
            assert column(table, data, "CFP", hidden) == [*p5[:3], p5[k]]
    # what the release's published command for age is said to give
    assert column(4, ml, "CFP", "A") == [31.23, 51.18, 67.70, 52.91]
    for several, one in ("GO", "G"), ("AO", "A"):
        assert column(14, ml, "CFP", several)[:3] == column(12, ml, "CFP", one)[:3]
    assert column(14, ml, "CFP", "GA")[:3] == column(14, ml, "CFP", "GAO")[:3]
    for several, one in ("AO", "A"), ("AM", "M"), ("MO", "M"), ("AMO", "M"):
        assert column(15, ins, "CFP", several)[:3] == column(13, ins, "CFP", one)[:3]
    assert set(published.TITLES) == set(published.TABLES) >= set(published.DOUBTS)


# -------------------------------------------------------------------------------------------------
# Arithmetic
# -------------------------------------------------------------------------------------------------


def test_mean_deviation_and_interval_by_hand():
    found = summarise([[0.50, 0.40, 0.60], [0.54, 0.44, 0.64]])
    sd = math.sqrt(2 * 2.0**2 / 1)  # 50 and 54 are 2 away from 52; n - 1 = 1
    assert found == pytest.approx(Summary(52.0, sd, 42.0 - sd, 62.0 + sd, 2))
    one = summarise([[0.5, 0.4, 0.6]])
    assert one[:1] + one[2:5] == pytest.approx((50.0, 40.0, 60.0, 1)) and math.isnan(one.sd)
    assert summarise([]) is None
    assert report.number(found) == "52.0 [39.2, 64.8]" and report.number(None) == ""
    assert report.number(one._replace(low=math.nan)) == "50.0"


def test_a_leak_is_a_distance_from_one_half():
    assert distance(Summary(45, 1, 42, 48, 3)) == Summary(5, 1, 2, 8, 3)
    assert distance(Summary(52, 1, 49, 55, 3)) == Summary(2, 1, 0.0, 5, 3)
    mean = report.mean_leak([[0.45, 0.42, 0.48], [0.55, 0.49, 0.61]])
    assert mean == pytest.approx([0.55, 0.51, 0.595])


def figure(low: float, high: float, people: int = 1000, mark: str = "") -> Summary:
    return Summary((low + high) / 2, math.nan, low, high, 1, people, mark)


def test_a_claim_is_decided_by_the_comparison_that_is_hardest_for_it():
    def decided(*ends: tuple) -> tuple[str, str]:
        some = [claims.Comparison(f"{x}", figure(*x), figure(*x)) for x in ends]
        verdict, hardest = claims.verdict(some)
        return verdict, hardest.where

    assert decided((1, 5), (2, 3)) == (claims.HOLDS, "(1, 5)")
    assert decided((1, 5), (-1, 3), (-2, 9)) == (claims.OPEN, "(-2, 9)")
    assert decided((1, 5), (-9, 3), (-4, -2), (-3, -1)) == (claims.FAILS, "(-4, -2)")
    assert decided((1, 5), (0, 3))[0] == claims.OPEN  # it touches the line
    assert decided((1, 5), (math.nan, math.nan))[0] == claims.OPEN


def test_lines_and_differences_by_hand():
    assert claims.beyond(figure(60, 70), 50)[:4:2] == (15, 10)
    assert claims.beyond(figure(60, 70), 50, -1)[:4:2] == (-15, -20)
    near = claims.near_chance(distance(figure(46, 52)), 3.0)
    assert (near.mean, near.low, near.high) == (4, 1, 5)  # 49 is 1 from 50, its interval 0 to 4
    assert claims.near_chance(distance(figure(46, 52)), 7.0).low == 3  # shuffled labels get farther
    less = claims.difference(figure(47, 53), figure(36, 44, 900, report.EARLIER))
    assert (less.mean, less.low, less.high, less.people) == (10, 5, 15, 900)  # 3 and 4 make 5
    assert less.mark == report.MIXED


def test_how_many_people_would_decide():
    """2 from the line with an interval of 4 to either side: twice the distance, so four times the people."""
    assert claims.would_decide(figure(-2, 6)) == "4,000 people in place of 1,000 would decide"
    assert claims.would_decide(figure(-6, 2)) == "4,000 people in place of 1,000 would decide"
    assert "more than a million people" in claims.would_decide(figure(-4, 4))
    assert "P5 may not be above" in claims.would_decide(figure(math.nan, math.nan))


# -------------------------------------------------------------------------------------------------
# Hand-made runs
# -------------------------------------------------------------------------------------------------


def interval(value: float, width: float = 0.02) -> dict:
    return {"value": value, "interval": [value - width, value + width]}


def row(hits: tuple, aucs: dict) -> dict:
    """A row of results.json with intervals of ± 2."""
    found = {}
    for k, value in zip((1, 3, 10), hits):
        found |= {f"hit@{k}": value, f"hit@{k} interval": [value - 0.02, value + 0.02]}
    found["auc"] = aucs
    found["auc interval"] = {k: [v - 0.02, v + 0.02] for k, v in aucs.items()}
    return found


def common(seed: int, attrs: list[str]) -> dict:
    tasks = ["sequential", "direct"]
    popular = {key: value for key, value in row((0.03, 0.08, 0.2), {}).items() if "auc" not in key}
    return {
        "seed": seed,
        "tasks": tasks,
        "attrs": attrs,
        "users": 1200,
        "candidates": {task: [101, 101] for task in tasks},
        "prompt candidates": 0,
        "popularity": {task: popular for task in tasks},
        "ceiling": {attr: {"auc": [0.9, 0.88, 0.92]} for attr in attrs},
        "hardware": "hand, 1 thread",
    }


ALL = ["gender", "age", "occupation"]


def prompts_results(seed: int, shift: float) -> dict:
    """A run of train.py with three attributes; `shift` moves every Hit@k and AUC."""
    tasks = ["sequential", "direct"]
    aucs = {"gender": 0.80 + shift, "age": 0.70 + shift, "occupation": 0.60 + shift}
    hidden = {"gender": 0.55 + shift, "age": 0.52, "occupation": 0.47}
    p5, cfp = (0.22 + shift, 0.31, 0.45), (0.21 + shift, 0.30, 0.43)
    ways = [["gender"], ["age"], ["occupation"], ["gender", "age"], ALL]
    return common(seed, ALL) | {
        "seconds": 600.0 + 60 * seed,
        "before": {task: row(p5, aucs) for task in tasks},
        "floor": {task: {attr: 0.04 for attr in ALL} for task in tasks},
        "ways": [
            {"attrs": attrs, "how": how, "seconds": 1.0}
            | {task: row(cfp, aucs | {k: hidden[k] for k in attrs}) for task in tasks}
            for attrs in ways
            for how in ("mixer", "concatenation")[: 1 + (len(attrs) > 1)]
        ],
    }


def filters_results(seed: int, model: str, fair: str) -> dict:
    tasks = ["sequential", "direct"]
    rows = [{"model": "popularity", "hidden": [], "floor": {}, "seconds": 0.0}]
    rows[0] |= {task: common(seed, ALL)["popularity"][task] for task in tasks}
    bare, hiding = row((0.1, 0.2, 0.5), dict.fromkeys(ALL, 0.9)), row(
        (0.05, 0.1, 0.3), dict.fromkeys(ALL, 0.6)
    )
    for name, attrs, values in (model, [], bare), (fair, ["gender"], hiding):
        floor = dict.fromkeys(ALL, 0.05)
        rows.append({"model": name, "hidden": attrs, "floor": floor, "seconds": 1.0})
        rows[-1] |= {task: values for task in tasks}
    return common(seed, ALL) | {"seconds": 300.0, "rows": rows}


def config_of(job: Job) -> dict:
    """What finding a run reads of its config.json."""
    args = vars(jobs.parsed(job.script, job.flags))
    about = {key: args[key] for key in ("data", "seed", "backbone") if key in args}
    return {"command": [job.script, *job.flags]} | about | jobs.settings_of(job)


def write_run(folder: Path, job: Job, results: dict | None, **more) -> Path:
    """A run's folder as the job would have left it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(job) | more))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture()
def by_hand(tmp_path, monkeypatch):
    """runs/ with the prompts of two seeds, C-PMF of one and a sweep over lambda."""
    monkeypatch.chdir(tmp_path)
    w = World()
    for seed, shift in (0, 0.0), (1, 0.04):
        (job,) = jobs_in("prompts", w, seed)
        write_run(tmp_path / "runs" / f"mine-{seed}", job, prompts_results(seed, shift))
    write_run(
        tmp_path / "runs" / "pmf", jobs_in("filters", w, 0)[0], filters_results(0, "pmf", "c-pmf")
    )
    for job, auc, hit in zip(jobs_in("lambda", w, 0), (0.8, 0.7, 0.56, 0.51), (0.3, 0.3, 0.2, 0.1)):
        results = common(0, ["gender"]) | {"seconds": 120.0, "floor": {}, "before": {}, "after": {}}
        for task in results["tasks"]:
            results["before"][task] = row((0.3, 0.4, 0.5), {"gender": 0.8})
            results["after"][task] = row((hit, 0.4, 0.5), {"gender": auc})
            results["floor"][task] = {"gender": 0.04}
        write_run(tmp_path / "runs" / job.name, job, results)
    for kind, names in ("soft", ["soft prompt"]), (
        "classifier",
        ["classifier, sequential prompts"],
    ):
        left = {name: {"auc": [0.7, 0.6, 0.8]} for name in names}
        (tmp_path / "runs" / "mine-0" / f"probe-{kind}-gender.json").write_text(json.dumps(left))
    return reproduce.gather(w, 3, check=False)


def test_a_table_has_the_papers_numbers_beside_the_mean_of_ours(by_hand):
    e = by_hand
    assert e.of(3, "CFP", "G", "AUC").mean == pytest.approx(57.0)  # 55 and 59
    assert e.of(3, "CFP", "G", "AUC").sd == pytest.approx(math.sqrt(8))
    # of two attributes: 50 and the mean of 5 and 2, of 9 and 2
    assert e.of(5, "CFP", "GA", "AUC").mean == pytest.approx((53.5 + 55.5) / 2)
    # occupation is read in reverse and counts all the same: (5 + 2 + 3) / 3, (9 + 2 + 3) / 3
    assert e.of(5, "CFP", "GAO", "AUC").mean == pytest.approx((53 + 1 / 3 + 54 + 2 / 3) / 2)
    assert e.of(5, "CFP", "GO", "AUC") is None
    text = report.table_markdown(3, e)
    assert text.startswith(
        "**Table 3: one attribute hidden, matching-based models.** `python -m repro"
    )
    assert "table 3 --data toy --seeds 2`" in text.splitlines()[0]
    (cfp,) = [x for x in text.splitlines() if x.startswith("| gender | CFP |")]
    # the interval of 57 is ± 2 over people and ± 2.8 over seeds
    assert cfp.startswith(
        "| gender | CFP | 65.82 | 43.0 [41.0, 45.0] | 54.19 | 57.0 [52.2, 61.8] |"
    )
    # 43 of 45, and 23 of 25 above popularity's 20, as if these were three groups of people
    half = math.hypot(2, 0.92 * 2, 0.08 * 2) / 25 * 100
    assert cfp.endswith(f"| 50 ± 4.0 | 90.0 | 92.0 [{92 - half:.1f}, {92 + half:.1f}] |")
    # C-PMF keeps 10 of 30 above popularity, and has a floor of its own
    (pmf,) = [x for x in text.splitlines() if x.startswith("| gender | C-PMF |")]
    assert pmf.startswith(
        "| gender | C-PMF | 65.32 | 30.0 [28.0, 32.0] | 56.62 | 60.0 [58.0, 62.0] |"
    )
    assert "| 50 ± 5.0 | 90.0 | 33.3 [" in pmf
    assert "(not run, in part or whole: C-SX, C-PMF)" in text
    rows = list(csv.DictReader(io.StringIO(report.table_csv([3], e))))
    (cell,) = [r for r in rows if (r["model"], r["hidden"], r["metric"]) == ("CFP", "G", "AUC")]
    sd = math.sqrt(8)
    assert cell["low"] == f"{55 - sd:.2f}" and cell["high"] == f"{59 + sd:.2f}"
    assert [cell[k] for k in ("paper", "mean", "seeds", "floor")] == ["54.19", "57.00", "2", "4.00"]
    assert (cell["people"], cell["version"]) == ("1200", "today")
    assert any((r["model"], r["metric"], r["mean"]) == ("CFP", "Hit@1", "23.00") for r in rows)


def test_what_is_kept_above_popularity_in_words_and_with_its_interval():
    results = prompts_results(0, 0.0)
    popular = results["popularity"]["direct"]
    shown = lambda: report.table_markdown(3, evidence(results))
    line = lambda: [x for x in shown().splitlines() if x.startswith("| gender | CFP |")][0]
    popular["hit@10"] = 0.44  # between 45 before and 43 after
    assert "| -100.0 [" in line()
    popular["hit@10"] = 0.45
    assert line().endswith("| none above it before |")
    row = results["ways"][0]["direct"]
    row |= {"kept": [0.9, 0.8, 1.0], "kept above popularity": [0.7, 0.5, 0.8]}
    assert line().endswith("| 90.0 | 70.0 [50.0, 80.0] |")  # after the ceiling
    row |= {"kept above popularity": [0.7, None, None]}
    assert line().endswith("| 90.0 | 70.0 |")
    cells = list(csv.DictReader(io.StringIO(report.table_csv([3], evidence(results)))))
    (cell,) = [r for r in cells if (r["hidden"], r["metric"]) == ("G", "kept above popularity")]
    assert (cell["mean"], cell["low"], cell["paper"], cell["floor"]) == ("70.00", "", "", "")


def evidence(*every: dict) -> report.Evidence:
    rows = [row for results in every for row in report.rows_of(results)]
    runs = [(["train.py"], results, "") for results in every]
    return report.Evidence("toy", "tiny", "tiny-llama", rows, [], {}, runs)


def test_tables_of_whole_recommenders(by_hand):
    text = report.table_markdown(1, by_hand)
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert lines["| PMF"].startswith(
        "| PMF | 65.69 | 50.0 [48.0, 52.0] | 80.22 | 90.0 [88.0, 92.0] |"
    )
    assert lines["| P5"].startswith("| P5 | 67.31 | 45.0 [43.0, 47.0] | 74.71 | 82.0 [")
    assert lines["| popularity"].startswith("| popularity |  | 20.0 [")
    assert lines["| *floor; ceiling*"].count("50 ± 4.0; 90.0") == 3


def test_runs_of_today_stand_in_place_of_earlier_ones_and_a_mark_says_which_are_not():
    """Seed 0 of an earlier version, seed 1 of today's, C-PMF of an earlier one."""
    early, late = prompts_results(0, 0.1), prompts_results(1, 0.0) | {
        "tested": dict.fromkeys(ALL, 480)
    }
    marked = [
        (early, report.EARLIER),
        (late, ""),
        (filters_results(0, "pmf", "c-pmf"), report.EARLIER),
    ]
    rows = [row for results, mark in marked for row in report.rows_of(results, mark)]
    runs = [(["train.py"], results, mark) for results, mark in marked]
    e = report.Evidence("toy", "tiny", "tiny-llama", rows, [], {}, runs)
    found = e.of(3, "CFP", "G", "AUC")
    assert (found.mean, found.n, found.people, found.mark) == (pytest.approx(55), 1, 480, "")
    assert e.of(3, "CFP", "G", "Hit@10").people == 1200
    assert e.of(3, "C-PMF", "G", "AUC").mark == report.EARLIER
    text = report.table_markdown(3, e)
    assert "| gender | CFP | 65.82" in text and "| gender | C-PMF† | 65.32" in text
    assert "Attacked are 480 (gender), 480 (age)" in report.protocol(e)
    said = claims.claims_markdown([e]).splitlines()
    assert said[2].startswith(
        "| 1. P5 recommends better than the other models | **does not hold**‡ -5.0 ["
    )
    assert said[3].startswith(
        "| 2. P5's states give the attributes away | **holds** 60.0 [58.0, 62.0]"
    )
    alike = e._replace(
        runs=[(["train.py"], early, report.EARLIER)], rows=report.rows_of(early, "†")
    )
    assert "†" not in report.table_markdown(3, alike)  # the heading says it of all
    assert claims.claims_markdown([alike]).count("**†") == 4  # nobody else was run


def test_all_of_a_figure_is_in_its_file_and_its_picture(by_hand, tmp_path):
    e = by_hand
    points = figures.figure_points("8", e)
    sequential = [(p.x, p.values["AUC"][0]) for p in points if p.task == "sequential"]
    default = jobs.settings_of(jobs_in("prompts", World(), 0)[0])["cfp"]["lam"]
    assert sorted(sequential[1:]) == sorted(
        [(0.1, 0.8), (1, 0.7), (default, 0.55), (10, 0.56), (100, 0.51)]
    )
    assert math.isnan(sequential[0][0])  # P5 without a prompt
    rows = list(csv.DictReader(io.StringIO(figures.figure_csv(["8"], e))))
    assert any(
        (r["x"], r["metric"], r["value"], r["low"]) == ("0.1", "AUC", "80.00", "78.00")
        for r in rows
    )
    pytest.importorskip("matplotlib")
    for name in "3", "8", "trade-off":
        figures.draw(name, e, tmp_path / f"{name}.png")
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content[:4] == b"\x89PNG" and figures.drawn_from(name, e).encode() in content
    assert (
        figures.is_shown("8", e) and not figures.is_shown("6", e) and not figures.is_shown("10", e)
    )
    with pytest.raises(AssertionError, match="figure 10 has no points"):
        figures.draw("10", e, tmp_path / "10.png")


def test_what_a_table_and_a_figure_leave(by_hand, tmp_path):
    """A table its text and numbers, a figure numbers and picture; one without points nothing."""
    pytest.importorskip("matplotlib")
    wanted = ["table 3", "table 7", "table 8", "figure 3", "figure 6", "figure 8", "figure 10"]
    (tmp_path / "out").mkdir()
    written = reproduce.write_out(wanted, by_hand, tmp_path / "out")
    names = {
        "figure": ("3", "6", "8"),
        "table": ("3", "7", "8"),
    }  # figure 6 has the defaults' point
    endings = {"figure": (".csv", ".png"), "table": (".csv", ".md")}
    expected = {f"{k}-{n}{end}" for k in names for n in names[k] for end in endings[k]}
    assert {path.name for path in written} == expected
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    text = (tmp_path / "out" / "table-3.md").read_text()
    assert "An embedded world in place of real people" in text and "1,200 people" in text
    assert "In the paper: CFP's age and occupation columns on Insurance" in text
    soft = (tmp_path / "out" / "table-8.md").read_text()
    assert "| soft prompt | 70.84 | 70.0 [60.0, 80.0] | 64.60 |  | 56.50 |  |" in soft
    assert "| *floor; ceiling* |  | 90.0 |" in soft
    assert (
        "(not run, in part or whole: with, without)"
        in (tmp_path / "out" / "table-7.md").read_text()
    )


def test_claims_follow_the_rows(by_hand):
    found = {words: claims.cell(rule, by_hand) for words, rule in claims.CLAIMS.items()}
    said = list(found.values())
    # PMF's Hit@10 of 50 ± 2 is above P5's 45 ± 2
    half = math.hypot(2, 2)
    numbers = f"-5.0 [{-5 - half:.1f}, {-5 + half:.1f}]"
    assert said[0] == f"**does not hold** {numbers} Hit@10 beside PMF, direct"
    # occupation is read least, with 60 and 64
    assert said[1].startswith("**holds** 62.0 [57.2, 66.8] occupation, direct")
    # gender is left at 55 and 59: the interval goes from 2.2 to 11.8 from 50, and the line is at 5
    assert said[2].startswith("**not decided** 57.0 [52.2, 61.8] gender, direct; ")
    assert said[2].endswith(
        f"{float(f'{1200 * (4.828 / 2) ** 2:.2g}'):,.0f} people in place of 1,200 would decide"
    )
    assert said[3].startswith("**not decided** 92.0 [")
    # C-PMF was not run for several attributes, so what there is is the mixer's AUC: no more than a part
    assert said[4].startswith("**not decided**, in part not run, 54.5 [")
    assert "AUC, gender, age, direct; " in said[4]


def test_claims_are_decided_by_what_is_kept_above_popularity():
    ours = prompts_results(0, 0.0)

    def said(*above) -> str:
        for row in ours["ways"]:
            for task in "sequential", "direct":
                kept = {"kept": [0.99, 0.98, 1.0], "kept above popularity": list(above)}
                row[task] = row[task] | kept
        return claims.cell(claims.keeps, evidence(ours))

    assert said(0.95, 0.92, 0.98).startswith("**holds** 95.0 [92.0, 98.0] gender, direct")
    assert said(0.65, 0.5, 0.75).startswith("**does not hold** 65.0")  # with 99% of Hit@10
    assert said(0.85, 0.7, 0.95).endswith("people in place of 1,200 would decide")
    assert (
        said(0.85, None, None)
        == "**not decided** 85.0 gender, direct; P5 may not be above popularity"
    )
    assert said(None, None, None) == claims.NOTHING


def test_results_are_the_same_bytes_each_time(by_hand, tmp_path):
    written = reproduce.main(["results"])
    text = (tmp_path / reproduce.RESULTS).read_text()
    assert len(written) > 3 + files.can_draw() and all(path.exists() for path in written)
    assert any(path.suffix == ".png" for path in written) == files.can_draw()
    again = reproduce.main(["results"])
    assert (
        (tmp_path / reproduce.RESULTS).read_text()
        == text
        == reproduce.all_results()[0][reproduce.RESULTS]
    )
    assert not any(path.suffix == ".png" for path in again)  # none is stale
    runs = (tmp_path / reproduce.HERE / "numbers" / "toy-runs.csv").read_text()
    command = '"train.py --data toy --attr gender,age,occupation --backbone tiny"'
    assert f'{command},0,10.00,"hand, 1 thread",today\n{command},1,11.00,' in runs
    assert "## toy world\n" in text and "**Table 3:" in text
    assert "**Table 10:" not in text and "figure-10.png" not in text  # no run, no table
    assert str(tmp_path) not in text


def test_records_alone_give_the_results(by_hand, tmp_path):
    """Runs that are gone, or were made elsewhere, still count by what they said; their paths are not kept."""
    config = tmp_path / "runs" / "mine-0" / "config.json"
    found = json.loads(config.read_text())
    found["command"] += ["--out", str(tmp_path)]
    config.write_text(json.dumps(found | {"data dir": str(tmp_path)}))
    reproduce.main(["results"])
    text = (tmp_path / reproduce.RESULTS).read_text()
    records = sorted((tmp_path / reproduce.RECORDS).glob("*/*.json"))
    assert all(str(tmp_path) not in path.read_text() for path in records)
    prompts, *_ = jobs_in("prompts", World(), 0)
    assert {path.name for path in records if path.parent.name == prompts.name} == {
        *("config.json", "results.json"),
        *("probe-soft-gender.json", "probe-classifier-gender.json"),
    }
    shutil.rmtree(tmp_path / "runs")
    reproduce.main(["results"])
    assert (tmp_path / reproduce.RESULTS).read_text() == text
    # one that is run again stands in place of its record, and only that
    again = prompts_results(0, 0.1)
    write_run(tmp_path / "runs" / "anew", prompts, again)
    reproduce.main(["results"])
    kept = json.loads((tmp_path / reproduce.RECORDS / prompts.name / "results.json").read_text())
    assert kept == json.loads((tmp_path / "runs" / "anew" / "results.json").read_text())
    changed = (tmp_path / reproduce.RESULTS).read_text()
    assert changed != text


def test_the_results_of_the_repository_are_what_its_records_say(monkeypatch):
    monkeypatch.chdir(ROOT)
    worlds = jobs.worlds(reproduce.RECORDS)
    ours = {
        found.folder
        for w in worlds
        for _, found in jobs.finished_jobs(w, jobs.ANY_SEEDS, False, reproduce.RECORDS)
    }
    others = {found.folder for found in scan(reproduce.RECORDS)} - ours
    assert not others, "run with other settings than the present defaults"
    texts, pictures = reproduce.all_results()
    for path, text in texts.items():
        assert path.read_text() == text, f"{path} is stale: python -m reproduction.tables results"
    for path, about in pictures.items():
        drawn = path.read_bytes()
        assert figures.drawn_from(*about).encode() in drawn, f"{path} is stale: as above"
        assert len(drawn) < 100_000
    there = {
        path for folder in ("numbers", "pictures") for path in (reproduce.HERE / folder).glob("*")
    }
    assert there == {*texts, *pictures} - {reproduce.RESULTS}
    # what a reader was promised
    lines = texts[reproduce.RESULTS].splitlines()
    assert len(lines) <= 400
    assert max(line.count(" | ") + 1 for line in lines if line.startswith("|")) <= 10
    sections = {
        part.split("\n")[0].strip("†"): part for part in texts[reproduce.RESULTS].split("\n## ")
    }
    tables = {data: "**Table 6" in sections[data] for data in ("Insurance", "MovieLens-1M")}
    assert tables == {"Insurance": True, "MovieLens-1M": False}


def test_no_runs_no_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no finished run"):
        reproduce.main(["results"])
    assert not (tmp_path / reproduce.RESULTS).exists()
    e = reproduce.gather(World(), 2, check=False)
    assert "(not run, in part or whole: S-SAS, S-B4, CFP)" in report.table_markdown(4, e)
    assert report.protocol(e).endswith("(the paper's T5-Base).")
    assert {claims.cell(rule, e) for rule in claims.CLAIMS.values()} == {"not run"}


# -------------------------------------------------------------------------------------------------
# The plan
# -------------------------------------------------------------------------------------------------


def test_every_table_and_figure_has_its_runs():
    assert {f"table {n}" for n in range(1, 16)} | {f"figure {n}" for n in figures.FIGURES} == set(
        NEEDS
    )
    for data in DATA:
        w = World(data, None if data == "toy" else Path("somewhere"))
        every = jobs_of(jobs.everything(w), w, 2)
        names = [job.name for job in every]
        assert len(set(names)) == len(names)
        for job in every:
            assert not job.on or names.index(job.on) < names.index(job.name)
            if not job.leaves:
                assert jobs.parsed(job.script, job.flags).data == data and jobs.settings_of(job)
    wide = jobs_of(["table 4"], World(), 3)
    assert {job.seed for job in wide} == {0, 1, 2}
    assert {job.seed for job in jobs_of(["figure trade-off"], World(), 3)} == {0}
    lengths = [
        job.setting for job in jobs_of(["figure 6"], World(), 1) if job.group == "prefix length"
    ]
    assert lengths == [5, 10, 15, 30]
    lams = [job.setting for job in jobs_of(["figure 8"], World(), 1) if job.group == "lambda"]
    assert lams == [0.1, 1, 10, 100]


def test_the_plan_says_what_is_there_and_what_is_to_do(by_hand):
    planned = jobs.look(jobs_of(["table 4", "figure 6", "figure 8"], World(), 3), check=False)
    known = {job.name: found for job, found in planned}
    assert known["toy-gender+age+occupation-seed0"].finished
    assert known["toy-s-sas-gender-seed0"] is None
    text = reproduce.show_plan(planned, "table 4 on toy")
    assert "is in runs/mine-0" in text
    # the prompts of seed 2 are to do, those of 0 and 1 are there; nothing of figure 6 is
    assert text.endswith("\n23 to do, one after the other")


def test_other_settings_data_or_seed_are_other_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (job,), (other,) = (jobs_in("prompts", World(), seed) for seed in (0, 1))
    write_run(tmp_path / "runs" / "here", job, None)
    assert find(job, scan(), {}, check=False).folder == Path("runs/here")
    assert not find(job, scan(), {}, check=False).finished
    assert find(other, scan(), {}, check=False) is None
    short = jobs_in("prefix length", World(), 0)[0]
    assert find(short, scan(), {}, check=False) is None
    # nor is one whose data have changed, or which cannot go on with this torch
    (tmp_path / "runs" / "here" / "results.json").write_text("{}")
    assert find(job, scan(), {}) is None
    world = jobs.data_of("toy", None, 0, 1200, "gender")
    config = json.loads((tmp_path / "runs" / "here" / "config.json").read_text())
    config["data fingerprint"] = world
    (tmp_path / "runs" / "here" / "config.json").write_text(json.dumps(config))
    assert find(job, scan(), {}).finished
    (tmp_path / "runs" / "here" / "results.json").unlink()
    assert find(job, scan(), {}) is None


def test_a_readers_own_run_is_recognised(tmp_path, monkeypatch):
    """The same flags in another order, in a folder of another name; not where the defaults were others."""
    monkeypatch.chdir(tmp_path)
    job = jobs_in("lambda", World(), 0)[1]  # lambda 1
    folder = write_run(tmp_path / "runs" / "by-hand", job, {})
    config = json.loads((folder / "config.json").read_text())
    config["command"] = "train.py --lam 1.0 --attr gender --out r".split()
    (folder / "config.json").write_text(json.dumps(config))
    (found,) = scan()
    assert find(job, [found], {}, check=False).folder == Path("runs/by-hand")
    assert jobs.is_of(found, job)
    (folder / "config.json").write_text(json.dumps(config | {"label holdout": 0}))
    assert not jobs.is_of(scan()[0], job) and jobs.is_of(scan()[0], job, any_version=True)


# -------------------------------------------------------------------------------------------------
# Running
# -------------------------------------------------------------------------------------------------

# In place of train.py: leaves what a run leaves, dies half-way or has something to complain of.
STAND_IN = """
import json, pathlib, sys, time
flag = "--resume" if "--resume" in sys.argv else "--out"
folder = pathlib.Path(sys.argv[sys.argv.index(flag) + 1])
what = json.loads((pathlib.Path(__file__).parent / "what.json").read_text())[folder.name]
with (pathlib.Path(__file__).parent / "log").open("a") as log:
    log.write(f"{flag} {folder.name}\\n")
(folder / "config.json").write_text(json.dumps(what["config"]))
if what["does"] == "complains":
    sys.exit("error: no luck today")
if what["does"] == "dies" and flag == "--out":
    time.sleep(60)
(folder / "results.json").write_text(json.dumps({"seconds": 1.0}))
"""


@pytest.fixture()
def stand_in(tmp_path, monkeypatch):
    """A function that has runs of lambda 0.1, 1, 10, 100 end as told; and the log of what was started."""
    monkeypatch.chdir(tmp_path)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "train.py").write_text(STAND_IN)
    monkeypatch.setitem(reproduce.STARTED, "train.py", [str(scripts / "train.py")])
    some = jobs_in("lambda", World(device="cpu"), 0)
    more = {"torch": torch.__version__, "device": "cpu"}
    more["data fingerprint"] = jobs.data_of("toy", None, 0, 1200, "gender")

    def prepare(*does: str) -> list[tuple[Job, Found | None]]:
        what = {}
        for job, doing in zip(some, does):
            what[job.name] = {"does": doing, "config": config_of(job) | more}
        (scripts / "what.json").write_text(json.dumps(what))
        return jobs.look(some[: len(does)])

    return prepare, scripts / "log"


def test_what_is_there_is_not_run_again(stand_in, capsys):
    prepare, log = stand_in
    assert reproduce.carry_out(prepare("works", "works", "works")) == {}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "run 1 of 3 begins: toy-gender-lam0.1-seed0"
    assert said[1].startswith("  done: toy-gender-lam0.1-seed0 in ")
    assert [line.split(" begins")[0] for line in said[2::2]] == ["run 2 of 3", "run 3 of 3"]
    assert sum("  done: " in line for line in said) == 3 and len(log.read_text().split()) == 6
    again = prepare("works", "works", "works")
    assert all(found.finished for _, found in again)
    assert reproduce.carry_out(again) == {} and len(log.read_text().split()) == 6


def in_another_process(tmp_path: Path) -> subprocess.Popen:
    """The first of the stand-in's runs, begun by a process that can be killed."""
    command = "from reproduction.tables import *; from reproduction.plan import *; w = World(device='cpu');"
    command += f"STARTED['train.py'] = [{str(tmp_path / 'scripts' / 'train.py')!r}];"
    command += "run_command(lambda: carry_out(look(jobs_in('lambda', w, 0)[:1])))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", command], env=environment, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_killed_one_is_gone_on_with(stand_in, tmp_path, number):
    prepare, log = stand_in
    prepare("dies")
    begun = in_another_process(tmp_path)
    while not (tmp_path / "runs" / "toy-gender-lam0.1-seed0" / "config.json").exists():
        assert begun.poll() is None, begun.stderr.read()
        time.sleep(0.05)
    begun.send_signal(number)  # passed on, and waited for
    assert begun.wait(timeout=20) == 128 + number
    assert not (tmp_path / "runs" / "toy-gender-lam0.1-seed0" / "results.json").exists()
    ((job, found),) = left = prepare("dies")
    assert found is not None and not found.finished
    assert reproduce.carry_out(left) == {}
    assert log.read_text().split() == ["--out", job.name, "--resume", job.name]


def test_one_that_fails_stops_only_what_needs_it(stand_in):
    prepare, log = stand_in
    planned = prepare("works", "complains", "works")
    needs = planned[2][0]._replace(name="needs it", on="toy-gender-lam1-seed0")
    failed = reproduce.carry_out([*planned, (needs, None)])
    complained = {"toy-gender-lam1-seed0": "error: no luck today"}
    assert failed == complained | {"needs it": "needs toy-gender-lam1-seed0"}
    assert prepare("works", "works", "works")[2][1].finished


# The command with miniatures in place of its runs: everything happens and nothing is learnt.
MINIATURES = """
from reproduction import plan, tables

SMALL = {
    "train.py": {
        "--toy-users": "60", "--p5-steps": "6", "--epochs": "1", "--batch-size": "20",
        "--prefix-len": "4", "--mixer-epochs": "1", "--label-holdout": "0",
    },  # of 60 people too few have an occupation to hold any out
    "baselines.py": {
        "--toy-users": "60", "--epochs": "1", "--fair-epochs": "1", "--label-holdout": "0",
    },
}
jobs_in = plan.jobs_in


def miniature(job):
    # a run refuses what it has no use for
    refused = [] if "," in job.flags[job.flags.index("--attr") + 1] else ["--mixer-epochs"]
    refused += ["--epochs", "--fair-epochs"] if "lookup" in job.flags else []  # learns nothing
    left = {k: v for k, v in SMALL[job.script].items() if k not in (*job.flags, *refused)}
    return job._replace(flags=(*job.flags, *(x for pair in left.items() for x in pair)))


plan.jobs_in = lambda *about: [job if job.leaves else miniature(job) for job in jobs_in(*about)]
tables.run_command(tables.main)
"""


@pytest.mark.slow
def test_a_miniature_of_everything(tmp_path):
    """Ended after its first runs and begun again: every table and figure is there, nothing ran twice."""
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-c", MINIATURES, "all", "--seeds", "1"]
    here = dict(cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True)
    first = subprocess.Popen(command, stdout=subprocess.PIPE, **here)
    done = 0
    while done < 2:
        line = first.stdout.readline()
        assert line, "it ended early"
        done += line.startswith("  done: ")
    first.terminate()
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/results.json")}
    assert len(finished) >= 2
    again = subprocess.run(command, capture_output=True, timeout=3600, **here)
    assert again.returncode == 0, again.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("runs/toy-*/config.json")]
    commands = [tuple(f for f in c["command"] if "runs/" not in f) for c in configs]
    assert len(set(commands)) == len(commands)
    out = tmp_path / "runs" / "reproduce" / "toy"
    for name in jobs.everything(World()):
        path = out / name.replace(" ", "-")
        for ending in (".csv", ".png" if name.startswith("figure") else ".md"):
            assert path.with_suffix(ending).stat().st_size > 100, path
        assert name.startswith("figure") or "not run" not in path.with_suffix(".md").read_text()
    third = subprocess.run(command, capture_output=True, timeout=600, **here)
    assert third.returncode == 0 and "0 to do" in third.stdout
    # miniatures are no results
    command = [sys.executable, "-m", "reproduction.tables", "results"]
    results = subprocess.run(command, capture_output=True, **here)
    assert results.returncode == 2 and "no finished run" in results.stderr


# -------------------------------------------------------------------------------------------------
# Mistakes
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("table 16", "table 16: there is table 1 to 15"),
        ("table", "table: there is table 1 to 15"),
        (
            "figure 4",
            "figure 4: there is table 1 to 15, figure 3, 6 to 10, trade-off, all, results",
        ),
        ("picture 3", "picture 3: there is table"),
        ("table 5 --data insurance --data-dir .", "table 5 is not about insurance"),
        ("table 6 --data ml-1m", "table 6 is not about ml-1m"),
        ("figure 7", "figure 7 is not about toy; the paper has it for Insurance"),
        ("table 3 --data insurance", "--data insurance needs --data-dir"),
        (
            "table 3 --data ml-100k --data-dir nowhere",
            "nowhere/u.user is missing; put it there or correct --data-dir",
        ),
        ("table 4 --t5 tiny-llama", "--t5 tiny-llama: is a Llama; choose another"),
        ("table 12 --llama tiny", "--llama tiny: is no Llama; choose another"),
        ("all --device tpu", "--device tpu: not to be had here"),
        ("results --data ml-1m", "results --data: changes nothing here; leave it out"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run_command(lambda: reproduce.main(arguments.split()))
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_without_matplotlib_a_figure_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "can_draw", lambda: False)
    with pytest.raises(InputError, match="matplotlib, which is not installed"):
        reproduce.main(["figure", "8", "--dry-run"])
