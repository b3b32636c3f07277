"""Fields of config dataclasses that are flags as well, and what the values of flags may be."""

import argparse
import dataclasses
import math
from contextlib import suppress
from typing import Any, Callable


def number(read: Callable[[str], float], fits: Callable[[float], bool], what: str) -> Callable:
    """The type of a flag: `read` makes a number of the text, and it has to fit, to be `what` it should be."""

    def kind(text: str) -> float:
        with suppress(ValueError):
            if fits(value := read(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a {what}")

    return kind


def at_least(low: int) -> Callable:
    """The type of a flag whose value is a whole number from `low` on, of what torch's seeds can hold."""
    read = lambda text: int(text) if text.isdecimal() and len(text) < 10 else -1
    what = f"whole number from {low} on, of nine digits at most"
    return number(read, lambda value: value >= low, what)


def between(low: float, high: float, what: str) -> Callable:
    """The type of a flag whose value is a number from `low` to `high`."""
    return number(float, lambda value: low <= value <= high, f"{what} from {low:g} to {high:g}")


count = at_least(0)
rate = number(float, lambda value: 0 < value < math.inf, "number above 0")
weight = number(float, lambda value: 0 <= value < math.inf, "number from 0 on")


def flag(default: Any, text: str, kind=at_least(1), spelled: str = "", choices=()) -> Any:
    """A field of a config dataclass that is a flag too, called like the field, or as `spelled`.

    `text` is its help, `kind` reads its value, a whole number from 1 on; one with `choices` is text.
    """
    of_value = dict(choices=choices) if choices else dict(type=kind)
    return dataclasses.field(default=default, metadata=dict(help=text, spelled=spelled) | of_value)


def add_flags(group, config: type, prefix: str = "") -> None:
    """Give an argument group the flags of a config dataclass; what is not given leaves no trace."""
    for field in dataclasses.fields(config):
        if field.metadata:
            more = dict(field.metadata)
            name = more.pop("spelled") or prefix + field.name.replace("_", "-")
            more |= {} if "choices" in more else {"metavar": field.name.upper()}
            dest = f"{config.__name__}.{field.name}"  # two configs may have a field of one name
            group.add_argument(f"--{name}", dest=dest, default=argparse.SUPPRESS, **more)


def flags_given(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """Field -> value of the flags of a config dataclass that stood on the command line."""
    start = f"{config.__name__}."
    return {name[len(start) :]: v for name, v in vars(args).items() if name.startswith(start)}
