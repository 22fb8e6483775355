"""No byte that is stored or sent depends on the word size or the byte order of the machine: boards have 32 bits."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

OF_THE_KERNEL = {"_FLOCK"}
"""Layouts that the running kernel prescribes. A 32-bit Python asks it with 64-bit offsets, too: one holds for all."""

_WITH_A_FORMAT = {"Struct", "pack", "pack_into", "unpack", "unpack_from", "iter_unpack", "calcsize"}


def formats(source: str) -> Iterator[str]:
    """The format of each use of `struct`: as far as it is written there, or the name that holds it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="struct"), attr=name), args=[first, *_]) if (
                name in _WITH_A_FORMAT
            ):
                begins = first.values[0] if isinstance(first, ast.JoinedStr) else first
                yield str(begins.value) if isinstance(begins, ast.Constant) else ast.unparse(begins)


def test_every_layout_has_a_byte_order_and_so_no_sizes_of_this_machine() -> None:
    sources = [path for folder in ("backends", "plugin", "backup_cli") for path in (ROOT / folder).rglob("*.py")]
    found = {(path.name, form) for path in sources for form in formats(path.read_text())}
    assert len(found) > 20
    assert {each for each in found if each[1][0] not in "<>" and each[1] not in OF_THE_KERNEL} == set()


def test_a_layout_of_this_machine_is_recognised() -> None:
    assert list(formats("struct.pack('QL', 1, 2); struct.Struct(f'<{n}Q'); struct.unpack(_FLOCK, x)")) == [
        "QL",
        "<",
        "_FLOCK",
    ]
