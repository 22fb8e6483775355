"""The commands in a page: what it shows a reader to type, and what it says comes out.

A console block is for the sandbox, unless `<!-- machine -->` is above it. That one, a block of sh, and lines that
are indented by four are for a machine.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_EVENT = re.compile(r"^<!-- sandbox: (.+?) -->\s*$")
_MACHINE = re.compile(r"^ *<!-- machine -->\s*$")
_INDENTED = " " * 4


@dataclass(slots=True)
class Command:
    """One `$ …` line of a console block, with the lines under it."""

    text: str
    expected: list[str]
    first: int
    """The line, from 0, after the command."""


@dataclass(slots=True)
class Event:
    """`<!-- sandbox: … -->`: something that happens meanwhile, and that no reader types."""

    text: str
    line: int


@dataclass(slots=True)
class Block:
    """What is run on a machine: the commands of a console block, or all of a script as one command."""

    commands: list[Command]
    script: bool


@dataclass(slots=True)
class Page:
    """A page, taken apart."""

    path: Path
    lines: list[str]
    steps: list[Command | Event] = field(default_factory=list)
    """For the sandbox."""
    blocks: list[Block] = field(default_factory=list)
    """For a machine."""
    spans: list[str] = field(default_factory=list)
    """`code` in the text."""


def read_page(path: Path) -> Page:
    """Raises AssertionError for a block that never ends, or a console block that begins with no command."""
    page = Page(path, path.read_text().split("\n"))
    kind: str | None = None
    indent = ""
    block: list[tuple[int, str]] = []
    prose: list[str] = [""]
    machine = False
    for number, line in enumerate([*page.lines, ""]):
        fence = _FENCE.match(line)
        if kind == "indented" and not line.startswith(_INDENTED):
            _take(page, "sh", block, True)
            kind = None
        if kind is None and fence is not None:
            indent, kind, block = fence[1], fence[2], []
        elif kind is None and line.startswith(_INDENTED) and not prose[-1]:
            indent, kind, block = _INDENTED, "indented", [(number, line.strip())]
        elif kind is not None and line.rstrip() == f"{indent}```":
            _take(page, kind, block, machine)
            kind, machine = None, False
        elif kind is not None:
            block.append((number, line.removeprefix(indent)))
        elif (event := _EVENT.match(line)) is not None:
            page.steps.append(Event(event[1], number))
        elif _MACHINE.match(line):
            machine = True
        else:
            prose.append(line)
    assert kind is None, f"{path}: a block does not end"
    page.spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", "\n".join(prose))]
    return page


def _take(page: Page, kind: str, block: list[tuple[int, str]], machine: bool) -> None:
    if kind in ("sh", "bash"):
        text = "\n".join(line for _, line in block)
        page.blocks.append(Block([Command(text, [], block[-1][0] + 1)], script=True))
    elif kind == "console" and machine:
        page.blocks.append(Block(list(_commands(page.path, block)), script=False))
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
