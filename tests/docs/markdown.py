"""The commands in a page: what it shows a reader to type, and what it says comes out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_EVENT = re.compile(r"^<!-- sandbox: (.+?) -->\s*$")


@dataclass(slots=True)
class Command:
    """One `$ …` line of a console block, with the lines under it."""

    text: str
    expected: list[str]
    first: int
    """The line, from 0, after the command."""


@dataclass(slots=True)
class Event:
    """`<!-- sandbox: … -->`: what happens meanwhile, and no reader types."""

    text: str
    line: int


@dataclass(slots=True)
class Page:
    """A page, taken apart."""

    path: Path
    lines: list[str]
    steps: list[Command | Event] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    """Blocks of shell that are not run."""
    spans: list[str] = field(default_factory=list)
    """`code` in the text."""


def read_page(path: Path) -> Page:
    """Raises AssertionError for a block that never ends, or a console block that begins with no command."""
    page = Page(path, path.read_text().split("\n"))
    kind: str | None = None
    indent = ""
    block: list[tuple[int, str]] = []
    prose: list[str] = []
    for number, line in enumerate(page.lines):
        fence = _FENCE.match(line)
        if kind is None and fence is not None:
            indent, kind, block = fence[1], fence[2], []
        elif kind is not None and line.rstrip() == f"{indent}```":
            _take(page, kind, block)
            kind = None
        elif kind is not None:
            block.append((number, line.removeprefix(indent)))
        elif (event := _EVENT.match(line)) is not None:
            page.steps.append(Event(event[1], number))
        else:
            prose.append(line)
    assert kind is None, f"{path}: a block does not end"
    page.spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", "\n".join(prose))]
    return page


def _take(page: Page, kind: str, block: list[tuple[int, str]]) -> None:
    if kind in ("sh", "bash"):
        page.scripts.append("\n".join(line for _, line in block))
    elif kind == "console":
        page.steps.extend(_commands(page.path, block))


def _commands(path: Path, block: list[tuple[int, str]]) -> Iterator[Command]:
    command: Command | None = None
    for number, line in block:
        if command is not None and command.first == number and command.text.endswith("\\"):
            command.text, command.first = command.text[:-1] + line.strip(), number + 1
        elif line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(line[2:], [], number + 1)
        else:
            assert command is not None, f"{path} line {number + 1}: a console block begins with `$ `"
            command.expected.append(line)
    if command is not None:
        yield command
