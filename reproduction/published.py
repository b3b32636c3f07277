"""The numbers that the paper prints, table by table in its order, all in percent.

published.txt has them as they are printed, typed in from the paper (Hua et al., UP5, EACL 2024); figures 6
to 10 are drawings without numbers, figure 3 shows tables 7 to 9. `cells` makes one line of each number. The
second typing that a test compares it with is tests/published.csv.
"""

from pathlib import Path
from typing import NamedTuple


def read() -> tuple[dict[int, str], dict[int, list[str]], dict[int, str]]:
    """By table: its title, its blocks of numbers, and what does not go together with the rest of the paper.

    In a block "hidden" says whose prompt or filter is used (G gender, A age, O occupation, M marital status).
    A row "G" to "M" is the AUC of that attribute, "AUC" that of what is hidden, the mean where it is several;
    "-" stands for no number.
    """
    titles, tables, doubts = {}, {}, {}
    text = (Path(__file__).parent / "published.txt").read_text(encoding="utf-8")
    for block in text.strip().split("\n\n"):
        first, _, rest = block.partition(": ")
        if first.startswith("Table "):
            table = int(first.removeprefix("Table "))
            titles[table], tables[table] = rest, []
        elif first == "Doubt":
            doubts[table] = " ".join(rest.splitlines())
        else:
            tables[table].append(block)
    return titles, tables, doubts


TITLES, TABLES, DOUBTS = read()


class Cell(NamedTuple):
    """A number of the paper."""

    table: int  # 1 to 15
    data: str  # "MovieLens" or "Insurance"
    model: str
    hidden: str  # letters of the attributes, "" for none
    metric: str  # "Hit@1", "Hit@3", "Hit@10", "AUC", or a letter: that attribute's AUC
    percent: float


def cells(table: int) -> list[Cell]:
    """The numbers of a table, column by column of what is printed."""
    found = []
    for block in TABLES[table]:
        rows = [line.split() for line in block.splitlines()]
        heads = {name: values for name, *values in rows if name in ("data", "hidden", "model")}
        hidden = heads.get("hidden", [""] * len(heads["data"]))
        for name, *values in rows[len(heads) :]:
            columns = zip(heads["data"], heads["model"], hidden, values, strict=True)
            for *place, value in columns:
                if value != "-":
                    found.append(Cell(table, *place, name, float(value)))
    return found
