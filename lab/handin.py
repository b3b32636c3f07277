"""What a hand-in of the contest may do: compute with tensors.

It is read before it is run, and runs with the names below alone, in a process that is not told any label of
the people who are tested; another process then attacks what came of it. So it can neither read those labels
nor touch the attackers.
"""

import ast
import builtins
import math
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Callable

import torch

from support.files import InputError, refuse

BUILTINS = "abs dict enumerate float int len list max min pow range sum tuple zip ValueError"
# what reads or writes files, runs text as code, or leads to other modules or the code around
CLOSED = "load|save|file|import|hub|compile|script|library|dump|numpy|format|storage"
CLOSED = re.compile(CLOSED + "|^(_|gi_|cr_|ag_|tb_|f_|co_)", re.IGNORECASE)
FORBIDDEN = ast.ClassDef, ast.AsyncFunctionDef, ast.Match, ast.Global, ast.ImportFrom
IMPORTS = "import torch", "import math", "import torch.nn.functional as F"


def open_names(module: ModuleType, **inside: SimpleNamespace) -> SimpleNamespace:
    """A module's functions and constants that do no more than compute, and `inside` of it others."""
    names = {name: getattr(module, name) for name in dir(module) if not CLOSED.search(name)}
    functions = {name: v for name, v in names.items() if not isinstance(v, ModuleType)}
    return SimpleNamespace(**functions | inside)


FUNCTIONAL, LINALG = open_names(torch.nn.functional), open_names(torch.linalg)
TORCH = open_names(torch, nn=SimpleNamespace(functional=FUNCTIONAL), linalg=LINALG)


def read_hand_in(path: Path) -> Callable[..., torch.Tensor]:
    """The function `adversary` of a file. Raises InputError, with the line, for what it may not do."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if taken := forbidden(node):
                why = f"has {taken}; a hand-in may {', '.join(IMPORTS)} and compute with them"
                refuse(f"{path}, line {node.lineno}", why)
        tree.body = [node for node in tree.body if not isinstance(node, ast.Import)]
        names = {"torch": TORCH, "math": open_names(math), "F": FUNCTIONAL}
        names["__builtins__"] = {name: getattr(builtins, name) for name in BUILTINS.split()}
        exec(compile(tree, str(path), "exec"), names)
        return names["adversary"]
    except InputError:
        raise
    except KeyError:
        refuse(path, "has no function adversary; the handout, lab/README.md, shows one")
    except Exception as error:  # no such file, no text, no Python, or what it does when it begins
        refuse(path, f"{type(error).__name__}: {error}".split("\n")[0] + "; mend it first")


def forbidden(node: ast.AST) -> str:
    """What of this a hand-in may not have, as its author wrote it; nothing where it may."""
    if isinstance(node, ast.Attribute) and CLOSED.search(node.attr):
        return f".{node.attr}"
    if isinstance(node, ast.Name) and node.id.startswith("__"):
        return node.id
    text = ast.unparse(node).split("\n")[0] if isinstance(node, (*FORBIDDEN, ast.Import)) else ""
    return "" if text in IMPORTS else text


def value_of(adversary: Callable, path: Path, *given) -> torch.Tensor:
    """What a hand-in makes of a batch. Raises InputError where that is nothing to descend."""
    try:
        value = adversary(*given)
    except Exception as error:  # whatever it can raise
        raised = f"adversary raised {type(error).__name__}: {error}".split("\n")[0]
        refuse(path, f"{raised}; mend it")
    if not isinstance(value, torch.Tensor) or value.dim() or not value.isfinite():
        gave = repr(value).split("\n")[0][:60]
        refuse(path, f"adversary gave {gave}; a scalar tensor, and finite, is wanted")
    return value
