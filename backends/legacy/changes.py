"""One change of an older backup: what it says of the version, and its statements as SQLite can execute them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backends.change import VERSIONS, foreign_keys_setting, previous
from backends.legacy.errors import LegacyDamaged, Unfit
from backends.legacy.file import CHANGE, Frame, LegacyFile
from backends.system.pulse import pulse

LONGEST_PRAGMA = 64
"""Bytes; a longer change is no lone `PRAGMA foreign_keys = …`."""

_BUMP = rb"UPDATE vars SET intval = intval \+ 1 WHERE name = 'data_version' AND intval = (\d{1,10})"
_LAST_BUMP = re.compile(_BUMP + rb";?\s*\Z")
_ANY_BUMP = re.compile(_BUMP)
BUMP_SIZE = 128
"""Bytes that hold the bump, with room to spare."""

_IN_MEMORY = 4 << 20
"""Bytes of a change up to which all of its statements are kept at once."""

_BLOCK = 1 << 16

_GLUED = re.compile(r"\b(reserved_til=(?:-?\d+|NULL)|peer_id=(?:-?\d+|NULL)(?=WHERE channels\.id=))WHERE\b")
"""Where early lightningds (v0.9.1) sent no blank between a value and what follows it."""


@dataclass(frozen=True, slots=True)
class LegacyChange:
    """A change, and where its record lies."""

    data_version: int
    statements: Iterable[str]
    """Of a large change they are read while they are iterated, once."""

    advances: bool
    offset: int
    end: int

    @property
    def database_stood_at(self) -> int:
        """The version that the database had committed when the change was made."""
        return previous(self.data_version) if self.advances else self.data_version


def read_change(file: LegacyFile, offset: int) -> LegacyChange:
    """The change whose record begins at `offset`. Raises Unfit when what lies there is none that lightningd sends."""
    frame = file.frame(offset)
    if frame is None or frame.kind != CHANGE:
        begun = file.begun(offset)
        meant = begun.data_version if begun and begun.kind == CHANGE and begun.length > LONGEST_PRAGMA else None
        raise Unfit("no whole record lies there", meant)
    if not frame.length:
        raise Unfit("a change has no statements: so lightningd sends them when its database is PostgreSQL")
    version = frame.data_version
    # A length that was damaged ends no change, so this comes before anything large is read.
    tail = file.read(max(frame.payload, frame.end - BUMP_SIZE), min(frame.length, BUMP_SIZE))
    bump = _LAST_BUMP.search(tail)
    if bump is None:
        return _lone_pragma(file, frame)
    leads_to = (int(bump[1]) + 1) % VERSIONS
    if leads_to != version:
        raise Unfit(f"a change for version {version} says that it leads to {leads_to}", leads_to)
    return LegacyChange(version, _statements(file, frame), True, offset, frame.end)


def _lone_pragma(file: LegacyFile, frame: Frame) -> LegacyChange:
    """The only call without a bump that lightningd makes."""
    version = frame.data_version
    if frame.length > LONGEST_PRAGMA:
        raise Unfit(f"a change for version {version} does not end as all of lightningd's do", version)
    statements = _text(file, frame).split("\0")
    if foreign_keys_setting(statements) is None:
        raise Unfit(f"a change for version {version} is none that lightningd sends")
    return LegacyChange(version, statements, False, frame.offset, frame.end)


def latest_bump(data: bytes) -> Iterator[int]:
    """The versions from which any bumps in `data`, whole or not, lead on."""
    return (int(bump[1]) for bump in _ANY_BUMP.finditer(data))


def mended(statement: str) -> str:
    """The statement with the blank that lightningd once left out; what stands in quotes is left alone."""
    if _GLUED.search(statement) is None:
        return statement
    # A quote inside a literal is doubled, so that the parts between quotes alternate all the same.
    parts = statement.split("'")
    parts[::2] = [_GLUED.sub(r"\1 WHERE", part) for part in parts[::2]]
    return "'".join(parts)


def _statements(file: LegacyFile, frame: Frame) -> Iterable[str]:
    if frame.length > _IN_MEMORY:
        return _streamed(file, frame)
    text = _text(file, frame)
    statements = text.split("\0")
    return statements if _GLUED.search(text) is None else [mended(statement) for statement in statements]


def _text(file: LegacyFile, frame: Frame) -> str:
    try:
        return file.read(frame.payload, frame.length).decode()
    except UnicodeDecodeError:
        raise Unfit(f"the change for version {frame.data_version} is no text", frame.data_version) from None


def _streamed(file: LegacyFile, frame: Frame) -> Iterator[str]:
    """The statements of a change too large for the memory, one at a time."""

    def text(parts: list[bytes]) -> str:
        try:
            return mended(b"".join(parts).decode())
        except UnicodeDecodeError:
            raise LegacyDamaged(
                f"the change for version {frame.data_version} is no text",
                file.path,
                frame.offset,
                previous(frame.data_version),
            ) from None

    begun: list[bytes] = []
    for offset in range(frame.payload, frame.end, _BLOCK):
        pulse.signs += 1
        first, *others = file.read(offset, min(_BLOCK, frame.end - offset)).split(b"\0")
        begun.append(first)
        for other in others:
            yield text(begun)
            begun = [other]
    yield text(begun)
