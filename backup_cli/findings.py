"""A finding of `check-config`: one line, with what to type."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """The node is protected, but something should be better."""
    PROBLEM = "problem"
    """The node is not protected, or will not start."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was checked (`about`), and the result."""

    level: Level
    about: str
    text: str


def ok(about: str, text: str) -> Finding:
    """A finding that needs nothing to be done."""
    return Finding(Level.OK, about, text)


def warning(about: str, text: str) -> Finding:
    """A finding about something that should be better."""
    return Finding(Level.WARNING, about, text)


def problem(about: str, text: str) -> Finding:
    """A finding about something that must be fixed."""
    return Finding(Level.PROBLEM, about, text)
