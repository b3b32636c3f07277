"""Imports point one way, the README's map is true, and nothing but four packages is needed."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ORDER = ["recommenders", "files", "processes", "toy", "runs", "checkpoints", "datasets", "data"]
ORDER += ["weights", "model", "answers", "cfp", "mixer", "attack", "expected", "ranks", "p5"]
ORDER += ["flags", "baseline_flags", "surfaces", "audit", "person", "evaluate", "probe", "train"]
ORDER += ["baselines", "erase", "published", "report", "figures", "claims", "jobs", "budget"]
ORDER += ["reproduce", "benchmark"]
ALLOWED = {"torch", "sentencepiece", "numpy"}
OPTIONAL = {"audit": {"matplotlib"}, "figures": {"matplotlib"}, "benchmark": {"transformers"}}


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def imports(path: Path) -> set[str]:
    return set().union(*map(imported, ast.walk(ast.parse(path.read_text()))))


def test_every_module_has_its_place():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(ORDER)


def test_the_readme_gives_the_order_and_a_word_on_each():
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"`{', '.join(ORDER)}`" in text
    assert [name for name in ORDER if f"`{name}.py` " not in text] == []


def test_imports_point_one_way():
    for place, name in enumerate(ORDER):
        ours = imports(ROOT / f"{name}.py") & set(ORDER)
        assert ours <= set(ORDER[:place]), f"{name} imports {ours - set(ORDER[:place])}"


def test_model_and_data_do_not_know_each_other():
    assert not imports(ROOT / "model.py") & {"data", "datasets", "toy"}
    assert not {"model", "cfp"} & (imports(ROOT / "data.py") | imports(ROOT / "datasets.py"))


def test_nothing_else_is_imported():
    import sys

    for name in ORDER:
        outside = imports(ROOT / f"{name}.py") - set(ORDER) - set(sys.stdlib_module_names)
        more = OPTIONAL.get(name, set())  # imported inside functions, where there is a use for it
        assert outside <= ALLOWED | more, f"{name} imports {outside - ALLOWED}"
        first = [n for n in ast.parse((ROOT / f"{name}.py").read_text()).body]
        for node in [n for n in first if isinstance(n, (ast.Import, ast.ImportFrom))]:
            assert not imported(node) & {
                "matplotlib",
                "transformers",
            }, f"{name} needs {imported(node)}"
    wanted = [
        re.split(r"[<>=]", line)[0] for line in (ROOT / "requirements.txt").open() if line[0] != "#"
    ]
    assert sorted(wanted) == ["numpy", "pytest", "sentencepiece", "torch"]


def definitions(path: Path) -> dict[str, str]:
    """Source text of every function, class and method (as Class.method) of a module, and constants."""
    text, found = path.read_text(), {}

    def visit(nodes, prefix=""):
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[prefix + node.name] = ast.get_source_segment(text, node)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{node.name}.")
            elif isinstance(node, ast.Assign):
                found[node.targets[0].id] = ast.get_source_segment(text, node)

    visit(ast.parse(text).body)
    return found


def test_paper_map_is_true():
    """Each row of the README's map names a place that exists and cites what it implements."""
    rows = re.findall(
        r"^\| ([^|]+) \| `(\w+)\.py::([\w.]+)` \|", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) >= 12
    for source, module, name in rows:
        places = definitions(ROOT / f"{module}.py")
        assert name in places, f"README names {module}.py::{name}, which is not there"
        for mark in re.findall(
            r"Eq\. \d|Algorithm 1|appendix [A-C](?:\.\d)?|section \d(?:\.\d)?", source
        ):
            assert mark.lower() in places[name].lower(), f"{module}.py::{name} does not cite {mark}"


def test_no_pickle():
    """None is written, and one is read in one place, where nothing in it can run."""
    loads = []
    for name in ORDER:
        text = (ROOT / f"{name}.py").read_text()
        assert "torch.save" not in text and "allow_pickle=True" not in text
        loads += re.findall(r"torch\.load\(.*|pickle\.load.*", text)
    assert len(loads) == 1 and "weights_only=True" in loads[0]


def test_departures_are_tagged_the_same_way_everywhere():
    text = "".join((ROOT / f"{name}.py").read_text() for name in ORDER)
    assert text.count("# Differs from the paper:") >= 4 and text.count("# Paper silent:") >= 4
