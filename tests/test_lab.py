"""The course lab: solutions pass, mistakes are named, hand-ins compute and do no more, texts are true."""

import importlib.util
import inspect
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cfp
import train
from lab import check, contest, exercises, pictures, run
from lab.handin import read_hand_in, value_of
from lab.run import EXERCISES, SOLUTIONS, in_place, is_written
from model import Prefix
from support.files import InputError

ROOT = Path(__file__).parent.parent
LAB = ROOT / "lab"
TINY = "--toy-users 60 --p5-steps 6 --epochs 1 --batch-size 20 --prefix-len 4"


def mine(**functions) -> SimpleNamespace:
    """The project's functions, but for these."""
    return SimpleNamespace(**SOLUTIONS | functions)


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_passes(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # exercise 3 finds no run there
    assert len(check.CHECKS[number](mine())) > 20


@pytest.mark.parametrize("name", SOLUTIONS)
def test_what_is_given_is_the_projects(name):
    """Same arguments in the same order; and what an exercise has of its solution is word for word there."""
    blank, solved = getattr(exercises, name), SOLUTIONS[name]
    assert not is_written(blank) and is_written(solved)
    ours = inspect.signature(solved)
    if name == "auc":  # in the project it also weighs users, for intervals
        ours = ours.replace(parameters=[*ours.parameters.values()][:2])
    assert [*inspect.signature(blank).parameters] == [*ours.parameters]
    given = inspect.getsource(blank).split('"""')[2]
    theirs = re.sub(r"\s*#.*", "", inspect.getsource(solved))
    for line in given.split("raise NotImplementedError")[0].strip().splitlines():
        assert line.strip() in theirs


def test_the_checks_are_for_every_exercise():
    assert [*check.CHECKS] == [*EXERCISES] == [*range(1, 8)]


# ---- wrong answers, and what each must be told -----------------------------------------------------


def auc_where(positive_wins):
    def auc(scores, positive):
        return positive_wins(scores[positive][:, None], scores[~positive]).mean()

    return auc


def mean_of(states, weight):
    return (states * weight.unsqueeze(-1)).sum(1) / weight.sum(1, keepdim=True)


def first_mention(states, mask):
    begun = mask.int().cumsum(1) > 0
    gaps = (begun & ~mask).int().cumsum(1)
    return mean_of(states, (mask & (gaps == 0)).float())


def parts_by_row(fold_of, fold, whose=None):
    return SOLUTIONS["parts_of"](fold_of, fold)


def parts_with(change):
    return lambda *given: change(*SOLUTIONS["parts_of"](*given))


def dis_loss_of(nll):
    """A wrong Eq. 3, from the members' logits (m, r, b, c) and labels."""
    return lambda C, u_emb, y: nll(torch.stack(C(torch.stack(u_emb))), y)


def eq_4(sign=-1, cap=True):
    def adversarial_loss(rec, losses, lams, caps):
        capped = [x.clamp(max=c) if cap else x for x, c in zip(losses, caps)]
        return rec + sign * sum(lam * x.mean() for lam, x in zip(lams, capped))

    return adversarial_loss


def cap_on_the_mean(rec, losses, lams, caps):
    return rec - sum(lam * x.mean().clamp(max=c) for lam, x, c in zip(lams, losses, caps))


def step_with(backward, old=True, sign=1, clip=True):
    def step(optimizer, loss, max_norm=1.0):
        (group,) = optimizer.param_groups
        if old:
            optimizer.zero_grad()
        backward(sign * loss, group["params"])
        if clip:
            torch.nn.utils.clip_grad_norm_(group["params"], max_norm)
        optimizer.step()

    return step


to_own = lambda loss, params: loss.backward(inputs=params)
to_all = lambda loss, params: loss.backward()


def algorithm_with(*changes):
    """The project's Algorithm 1 with some of its text changed."""
    text = inspect.getsource(train.algorithm_1)
    for old, new in changes:
        assert text.count(old), old
        text = text.replace(old, new)
    names = dict(vars(train))
    exec(text, names)
    return names["algorithm_1"]


def a_graph_in_phase_3(*_):
    return algorithm_with(
        ("with torch.no_grad():", "if True:"),
        (
            "u_emb = u_emb_of(model, prefix_of(attrs), batch, game.read) ",
            "_, u_emb = forward(model, prefix_of(attrs), batch, game.read) ",
        ),
    )


def verdict_with(auc=lambda row, own: row["auc"]["gender"], ends=None, floor=1.0, below=True):
    def verdict(results, attr, task):
        row, chance = results["after"][task], floor * results["floor"][task][attr]
        value = auc(row, results["co-trained auc"][task][attr])
        low, high = ends(row, value) if ends else row["auc interval"][attr]
        if low > 0.5 + chance or (below and high < 0.5 - chance):
            return "readable"
        return "undecided" if (abs(value - 0.5) if below else value - 0.5) > chance else "at chance"

    return verdict


def concatenated(order=lambda parts: parts, axis=-2):
    def concatenate(prefixes):
        stacks = [[x for x in parts if x is not None] for parts in zip(*prefixes)]
        return Prefix(*(torch.cat(order(x), axis) if x else None for x in stacks))

    return concatenate


PHASE_2 = "rec_loss, _ = forward(model, prefix_of(attrs), batch, game.read)"
WRONG = {
    "ties won": (1, "equal scores count as won", dict(auc=auc_where(lambda p, n: p >= n))),
    "ties lost": (1, "equal scores count as lost", dict(auc=auc_where(lambda p, n: p > n))),
    "reversed": (
        1,
        "the other way round",
        dict(auc=lambda s, p: 1 - float(SOLUTIONS["auc"](s, p)[0])),
    ),
    "accuracy": (1, "another value", dict(auc=lambda s, p: ((s > 0.5) == p).mean())),
    "padding": (2, "over the padding", dict(mean_user_state=lambda x, mask: x.mean(1))),
    "sum": (
        2,
        "a sum, not a mean",
        dict(mean_user_state=lambda x, m: (x * m.unsqueeze(-1)).sum(1)),
    ),
    "length": (
        2,
        "length of the text",
        dict(mean_user_state=lambda x, m: (x * m.unsqueeze(-1)).mean(1)),
    ),
    "first mention": (2, "only the first mention", dict(mean_user_state=first_mention)),
    "sorted": (3, "draw at random", dict(make_folds=lambda y, rng, n=5: np.arange(len(y)) % n)),
    "uneven": (
        3,
        "not spread evenly",
        dict(make_folds=lambda y, rng, n=5: rng.permutation(np.arange(len(y)) % n)),
    ),
    "by row": (3, "folds by row instead of by user", dict(parts_of=parts_by_row)),
    "in both": (
        3,
        "tested on who was trained on",
        dict(parts_of=parts_with(lambda a, b, c: [np.concatenate([a, c]), b, c])),
    ),
    "decides": (3, "who decides between", dict(parts_of=parts_with(lambda a, b, c: [a, c, c]))),
    "softmax": (
        4,
        "a softmax too many",
        dict(
            discriminator_loss=dis_loss_of(
                lambda x, y: -(x.softmax(-1).log_softmax(-1) * y).sum(-1).mean(0).sum(1) / y.sum()
            )
        ),
    ),
    "all rows": (
        4,
        "those of zeros do not count",
        dict(
            discriminator_loss=dis_loss_of(
                lambda x, y: -(x.log_softmax(-1) * y).sum(-1).mean(0).mean(1)
            )
        ),
    ),
    "sign": (4, "the sign: this prefix helps", dict(adversarial_loss=eq_4(sign=1))),
    "no cap": (4, "no cap", dict(adversarial_loss=eq_4(cap=False))),
    "cap on the mean": (4, "the cap is on the mean", dict(adversarial_loss=cap_on_the_mean)),
    "detach": (4, "a detach too few", dict(step=step_with(to_all))),
    "old gradient": (4, "an old gradient", dict(step=step_with(to_own, old=False))),
    "ascends": (4, "ascends", dict(step=step_with(to_own, sign=-1))),
    "no clipping": (4, "not scaled down", dict(step=step_with(to_own, clip=False))),
    "R": (
        5,
        "every R-th batch",
        dict(algorithm_1=algorithm_with(("batch_num % cfg.every == 0", "True"))),
    ),
    "graph": (5, "a detach too few", dict(algorithm_1=a_graph_in_phase_3())),
    "dis sign": (
        5,
        "the sign: discriminators",
        dict(algorithm_1=algorithm_with(("dis_loss.sum()", "-dis_loss.sum()"))),
    ),
    "wrong player": (
        5,
        "the wrong player",
        dict(algorithm_1=algorithm_with(("step(dis_optimizer", "step(prefix_optimizer"))),
    ),
    "phase 2": (
        5,
        "rec_loss alone",
        dict(
            algorithm_1=algorithm_with(
                ("step(prefix_optimizer, rec_loss)", "step(prefix_optimizer, loss)")
            )
        ),
    ),
    "T": (
        5,
        "another step is due",
        dict(algorithm_1=algorithm_with(("range(cfg.inner_steps)", "range(1)"))),
    ),
    "stale": (
        5,
        "`forward` is called in every step",
        dict(algorithm_1=algorithm_with((PHASE_2, "pass"))),
    ),
    "co-trained": (
        6,
        "the co-trained discriminator is believed",
        dict(verdict=verdict_with(lambda row, own: own, lambda row, value: [value, value])),
    ),
    "below one half": (
        6,
        "below one half nothing is hidden",
        dict(verdict=verdict_with(below=False)),
    ),
    "a point": (
        6,
        "the interval is not looked at",
        dict(verdict=verdict_with(ends=lambda row, value: [value, value])),
    ),
    "no floor": (6, "the floor is not looked at", dict(verdict=verdict_with(floor=0.0))),
    "heads": (
        7,
        "another value",
        dict(concatenate=concatenated(lambda parts: [x[..., :3, :] for x in parts], -3)),
    ),
    "order": (7, "the order is another", dict(concatenate=concatenated(lambda parts: parts[::-1]))),
    "one": (7, "one prompt only", dict(concatenate=lambda prefixes: prefixes[0])),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_typical_mistake_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    number, sentence, functions = WRONG[name]
    with pytest.raises(check.Wrong) as error:
        check.CHECKS[number](mine(**functions))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert "expected" in str(error.value) or " (on " in str(error.value)


def test_the_empty_exercises_fail_with_a_line_each(capsys):
    with pytest.raises(SystemExit) as ended:
        check.main(["all"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and len(lines) == 8 and lines[-1] == "[.......] 0 of 7"
    for number, line in enumerate(lines[:-1], 1):
        assert line.startswith(f"exercise {number}, not yet: not written yet: ")
        assert all(name in line for name in EXERCISES[number])


def test_solutions_written_into_the_file_pass(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, function in SOLUTIONS.items():
        monkeypatch.setattr(exercises, name, function)
    with pytest.raises(SystemExit) as ended:
        check.main(["all"])
    assert ended.value.code == 0 and "[#######] 7 of 7" in capsys.readouterr().out


def test_what_a_students_function_raises_is_one_line(capsys, monkeypatch):
    def auc(scores, positive):
        return scores[positive] > scores[~positive, None, None, None] @ np.ones(7)

    monkeypatch.setattr(exercises, "auc", auc)
    with pytest.raises(SystemExit) as ended:
        check.main(["1"])
    assert ended.value.code == 1 and "ValueError" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("asked", ([], ["8"], ["1", "2"], ["everything"]))
def test_an_exercise_that_is_not_there(asked):
    with pytest.raises(InputError, match="takes an exercise's number"):
        check.main(asked)


def test_the_students_functions_are_called_in_a_real_run(small_run, monkeypatch):
    """All that a run of one attribute has use for, and the results are the same to the last digit."""
    monkeypatch.chdir(small_run)
    called = set()

    def counted(name):
        def function(*given, **more):
            called.add(name)
            return SOLUTIONS[name](*given, **more)

        return function

    monkeypatch.setattr(run, "is_written", lambda function: True)
    monkeypatch.setattr(run, "exercises", lambda: {name: counted(name) for name in SOLUTIONS})
    ours = run.main(f"--out runs/mine {TINY}".split())
    theirs = json.loads(Path("runs/lab/results.json").read_text())
    assert called == {*SOLUTIONS} - {"concatenate"}  # which is for several attributes
    for key in "before", "after", "floor", "co-trained auc", "ceiling":
        assert ours[key] == theirs[key]
    assert cfp.step is SOLUTIONS["step"]
    with in_place({"concatenate": len}):
        assert train.concatenate is len
    assert train.concatenate is SOLUTIONS["concatenate"]


# ---- the contest ----------------------------------------------------------------------------------

GOOD = re.search(r"```python\n(.*?)```", (LAB / "README.md").read_text(), re.S)[1]
CHEATS = {
    "reads labels": "from support.datasets import load_toy\n" + GOOD,
    "reads a file": GOOD.replace("    #", "    open('runs/lab/results.json').read()\n    #", 1),
    "touches the attackers": "import probe\nprobe.attack = lambda *a: {'auc': [0.5, 0.5, 0.5]}\n"
    + GOOD,
    "walks the frames": GOOD + "\nx = adversary.__globals__\n",
    "walks a class": GOOD.replace(
        "return", "y = ().__class__.__base__.__subclasses__()\n    return"
    ),
    "another module's module": GOOD.replace("return", "y = torch.sys.modules['probe']\n    return"),
    "loads weights": GOOD.replace("return", "y = torch.load('runs/lab/cfp.pt')\n    return"),
    "writes through numpy": GOOD.replace("return", "states[0].numpy().tofile('x')\n    return"),
    "imports inside": GOOD.replace("return", "import os\n    return"),
    "runs text": GOOD.replace("return", "exec('import os')\n    return"),
    "asks by name": GOOD.replace("return", "y = getattr(torch, 'lo' + 'ad')\n    return"),
}
GIVEN = torch.tensor([0.5, 0.6]), [torch.randn(8, 4), torch.randn(8, 4)], torch.ones(8, 2) / 2


def handed_in(tmp_path, text) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


def test_the_handouts_example_is_eq_4(tmp_path):
    path = handed_in(tmp_path, GOOD)
    value = value_of(read_hand_in(path), path, *GIVEN)
    expected = cfp.adversarial_loss(torch.tensor(0.0), [GIVEN[0]], [2.0], [1.15 * np.log(2)])
    assert torch.allclose(value, expected)


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_gets_one_line_and_no_result(cheat, tmp_path):
    path = handed_in(tmp_path, CHEATS[cheat])
    with pytest.raises(InputError) as error:
        value_of(read_hand_in(path), path, *GIVEN)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    "returned, what",
    [
        ("0.5", "0.5"),
        ("dis_losses", "scalar"),
        ("dis_losses.sum() / 0", "inf"),
        ("1 / 0", "raised"),
    ],
)
def test_what_is_nothing_to_descend(returned, what, tmp_path):
    path = handed_in(
        tmp_path,
        f"import torch\ndef adversary(dis_losses, states, labels):\n    return {returned}\n",
    )
    with pytest.raises(InputError, match=what):
        value_of(read_hand_in(path), path, *GIVEN)


def test_files_that_are_no_hand_in(tmp_path):
    for text, what in (
        ("def adversary(:", "SyntaxError"),
        ("x = 1", "no function"),
        ("y = x", "NameError"),
    ):
        with pytest.raises(InputError, match=what):
            read_hand_in(handed_in(tmp_path, text))
    with pytest.raises(InputError, match="FileNotFoundError"):
        read_hand_in(tmp_path / "nowhere.py")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A folder in which `lab.run` has made a small world."""
    folder = tmp_path_factory.mktemp("lab") / "here"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        run.main(f"--out runs/lab {TINY}".split())
    return folder


def test_a_hand_in_from_the_file_to_the_table(small_run, monkeypatch, capfd):
    """Trained in another process; the handout's example comes near the run's own prompt."""
    monkeypatch.chdir(small_run)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("mine.py").write_text(GOOD)
    contest.main(["mine.py"])
    shown = capfd.readouterr().out
    line = json.loads(Path("runs/lab/contest/mine/line.json").read_text())
    results = json.loads(Path("runs/lab/results.json").read_text())
    assert line["name"] == "mine" and set(line["tasks"]) == {"sequential", "direct"}
    for task, row in line["tasks"].items():
        assert abs(row["auc"][0] - results["after"][task]["auc"]["gender"]) < 0.2
        assert row["floor"] == results["floor"][task]["gender"]
        assert f"{100 * row['auc'][0]:.1f}" in shown
    Path("loop.py").write_text(
        GOOD.replace("    return", "    while True:\n        pass\n    return")
    )
    monkeypatch.setattr(contest, "LIMIT", 3.0)
    with pytest.raises(InputError, match="training took longer"):
        contest.main(["loop.py"])
    Path("raises.py").write_text(GOOD.replace("return", "return labels @ labels"))
    monkeypatch.setattr(contest, "LIMIT", 300.0)
    with pytest.raises(SystemExit) as ended:
        contest.main(["raises.py"])
    said = capfd.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(said) == 1 and "adversary raised" in said[0]
    assert not any(
        Path(f"runs/lab/contest/{name}/line.json").exists() for name in ("loop", "raises")
    )


def test_exercise_3_attacks_the_run_that_is_there(small_run, monkeypatch):
    monkeypatch.chdir(small_run)
    assert re.search(r"AUC of \d+\.\d \[.*off shuffled labels with \d", check.check_3(mine()))


def line(name, auc, seed=0, kept=0.9) -> dict:
    row = {"auc": [auc, auc - 0.05, auc + 0.05], "floor": 0.07, "kept": [kept, 0.8, 1.0]}
    row["kept above popularity"] = [kept, None, None]
    return {"name": name, "seed": seed, "seconds": 61.0, "tasks": {"sequential": row}}


def test_the_table_begins_with_who_leaves_least(tmp_path, capsys):
    """On either side of one half."""
    paths = [tmp_path / f"{name}.json" for name in "abc"]
    for path, auc in zip(paths, (0.7, 0.55, 0.25)):
        path.write_text(json.dumps(line(path.stem, auc)))
    contest.main(["--table", *map(str, paths)])
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("|")]
    assert [row[2] for row in rows[2:5]] == ["b", "a", "c"] and "50 +- 7.0" in rows[-1]
    assert "| b | 1:01 | 55.0 [50.0, 60.0] | 90.0 | 90.0 |" in rows


def test_lines_that_do_not_go_together(tmp_path):
    paths = [tmp_path / f"{name}.json" for name in "ab"]
    for seed, path in enumerate(paths):
        path.write_text(json.dumps(line(path.stem, 0.6, seed)))
    with pytest.raises(InputError, match=r"worlds \[0, 1\]"):
        contest.main(["--table", *map(str, paths)])
    for text in "[]", "{}", "no":
        paths[0].write_text(text)
        with pytest.raises(InputError, match="no line of the contest"):
            contest.main(["--table", str(paths[0])])
    for asked in [], ["a.py", "--table", "b"], ["a.py", "--plot", "b"]:
        with pytest.raises(InputError, match="takes a hand-in"):
            contest.main(asked)


def test_a_run_that_is_not_the_contests(small_run, monkeypatch):
    monkeypatch.chdir(small_run)
    Path("mine.py").write_text(GOOD)
    with pytest.raises(InputError, match="--run runs/nowhere"):
        contest.main(["mine.py", "--run", "runs/nowhere"])
    shutil.copytree("runs/lab", "runs/both")
    config = Path("runs/both/config.json")
    config.write_text(config.read_text().replace('"adversary": "game"', '"adversary": "both"'))
    with pytest.raises(InputError, match="one attribute with --adversary game"):
        contest.main(["mine.py", "--run", "runs/both"])


def test_exercises_in_the_making(monkeypatch):
    def broken(name):
        raise SyntaxError("invalid syntax", ("exercises.py", 7, 1, "def"))

    monkeypatch.setattr(run.importlib, "import_module", broken)
    with pytest.raises(InputError, match="lab/exercises.py, line 7: SyntaxError"):
        run.exercises()


# ---- pictures and texts --------------------------------------------------------------------------

PICTURES = {"run.png": "lab", "contest.png": "contest"}


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_of_this_code_and_these_records(name):
    """`python -m lab.pictures` draws run.png, `python -m lab.contest --table .. --plot` the other."""
    content, figures = (LAB / "pictures" / name).read_bytes(), check.recorded(PICTURES[name])
    assert content[:4] == b"\x89PNG" and len(content) < 100_000
    assert b"Comment\0" + pictures.drawn_from(figures).encode() in content


def test_pictures_are_drawn(small_run, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(small_run)
    pictures.main([])
    contest_lines = check.recorded("contest")
    pictures.draw_contest(contest_lines, tmp_path / "contest.png")
    for path in Path("runs/lab/run.png"), tmp_path / "contest.png":
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_picture_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        pictures.draw_contest([line("a", 0.6)], tmp_path / "a.png")


TEXTS = {name: (LAB / name).read_text(encoding="utf-8") for name in ("README.md", "TEACHING.md")}


def figures_of(value) -> set[str]:
    """Every number of a record as the texts would print it: in percent, and in minutes."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return set().union(*map(figures_of, parts))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {f"{100 * value:.1f}", f"{100 * value:.0f}", f"{value / 60:.1f}", str(value)}
    return set()


@pytest.mark.parametrize("name", TEXTS)
def test_every_figure_in_the_texts_is_a_recorded_one(name):
    known = set().union(*(figures_of(check.recorded(p.stem)) for p in LAB.glob("recorded/*.json")))
    text = re.sub(r"```.*?```|\]\(http[^)]*\)|section \d\.\d", "", TEXTS[name], flags=re.S)
    assert {*re.findall(r"\d+\.\d+", text)} <= known


def test_the_timetable_adds_up():
    rows = re.findall(r"^\| (\d+) \| (.+) \| (\d+) \|$", TEXTS["README.md"], re.M)
    assert sum(int(minutes) for minutes, *_ in rows) == 90
    assert sum(int(waiting) for *_, waiting in rows) <= 12
    for minutes, what, waiting in rows:
        if number := re.search(r"Exercise (\d)", what):
            head = re.search(rf"## Exercise {number[1]}: .*\n\n\*(.*)", TEXTS["README.md"])[1]
            assert f" {minutes} minutes" in head
            assert int(waiting) == int((re.search(r"(\d+) of them waiting", head) or [0, 0])[1])


def test_the_texts_name_what_there_is():
    """Commands, files and functions; a fold with the solution for each exercise."""
    for name, text in TEXTS.items():
        for path, function in re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text):
            path = next(p for p in (ROOT / path, LAB / path) if p.exists())
            assert not function or re.search(rf"^(def|class) {function}\b", path.read_text(), re.M)
        for module in re.findall(r"python -m lab\.(\w+)", text):
            assert (LAB / f"{module}.py").exists()
        for link in re.findall(r"\]\(([\w/]+\.\w+)\)", text):
            assert (LAB / link).exists(), link
    parts = re.split(r"^## Exercise \d", TEXTS["README.md"], flags=re.M)[1:]
    assert len(parts) == 7
    for (number, names), part in zip(EXERCISES.items(), parts):
        question, solution = part.split("<details><summary>Solution</summary>")
        assert "**Before you run anything:**" in question and f"lab.check {number}`" in question
        assert all(f"`{function}`" in question for function in names)
        assert all(function in solution for function in names)


def test_a_label_that_is_held_out_is_not_in_a_hand_ins_process(small_run, monkeypatch, tmp_path):
    """What histories tell of everybody, and no attribute left in the data."""
    monkeypatch.chdir(small_run)
    path, seen = handed_in(tmp_path, GOOD), {}

    def look(study, player, prefix_of, game, stage):
        seen["attributes"], seen["labels"] = study.corpus.dataset.attributes, game.labels["gender"]

    monkeypatch.setattr(contest, "algorithm_1", look)
    contest.train_against(path, Path("runs/lab"), tmp_path)
    assert seen["attributes"] == {} and ((0 < seen["labels"]) & (seen["labels"] < 1)).all()
