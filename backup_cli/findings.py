"""What `check-config` finds: a line each, with what to type."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Protected, but something should be better."""
    PROBLEM = "problem"
    """Not protected, or the node will not start."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, and what there is to say about it."""

    level: Level
    about: str
    text: str


def ok(about: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(Level.OK, about, text)


def warning(about: str, text: str) -> Finding:
    """Something should be better."""
    return Finding(Level.WARNING, about, text)


def problem(about: str, text: str) -> Finding:
    """Something must be done."""
    return Finding(Level.PROBLEM, about, text)
