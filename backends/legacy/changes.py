"""One change in a legacy backup: the version that it leads to, and its statements in a form that SQLite can execute."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backends.change import VERSIONS, foreign_keys_setting, previous
from backends.legacy.errors import LegacyDamaged, Unfit
from backends.legacy.file import CHANGE, Frame, LegacyFile
from backends.system.pulse import pulse

LONGEST_PRAGMA = 64
"""Bytes; a longer change cannot be a lone `PRAGMA foreign_keys = …`."""

_BUMP = rb"UPDATE vars SET intval = intval \+ 1 WHERE name = 'data_version' AND intval = (\d{1,10})"
_LAST_BUMP = re.compile(_BUMP + rb";?\s*\Z")
_ANY_BUMP = re.compile(_BUMP)
BUMP_SIZE = 128
"""Bytes, more than the longest bump has."""

_IN_MEMORY = 4 << 20
"""Bytes. The statements of a change up to this size are all kept in memory at once."""

_BLOCK = 1 << 16

_GLUED = re.compile(r"\b(reserved_til=(?:-?\d+|NULL)|peer_id=(?:-?\d+|NULL)(?=WHERE channels\.id=))WHERE\b")
"""Places where early lightningds (v0.9.1) sent no space between a value and the word after it."""


@dataclass(frozen=True, slots=True)
class LegacyChange:
    """A change, and where its record is in the file (`offset` to `end`, bytes)."""

    data_version: int
    statements: Iterable[str]
    """Those of a large change are read while they are iterated, and can be iterated only once."""

    advances: bool
    """Whether the change ends with the bump, so that it was made at the version before its own."""

    offset: int
    end: int

    @property
    def database_stood_at(self) -> int:
        """The version that the database had committed when the change was made."""
        return previous(self.data_version) if self.advances else self.data_version


def read_change(file: LegacyFile, offset: int) -> LegacyChange:
    """The change whose record begins at `offset`. Raises Unfit when there is no change there that lightningd sends."""
    frame = file.frame(offset)
    if frame is None or frame.kind != CHANGE:
        begun = file.begun(offset)
        meant = begun.data_version if begun and begun.kind == CHANGE and begun.length > LONGEST_PRAGMA else None
        raise Unfit("there is no complete record there", meant)
    if not frame.length:
        raise Unfit("a change has no statements, as lightningd sends them when its database is PostgreSQL")
    version = frame.data_version
    # Checked before anything large is read: a damaged length does not lead to the end of a change.
    tail = file.read(max(frame.payload, frame.end - BUMP_SIZE), min(frame.length, BUMP_SIZE))
    bump = _LAST_BUMP.search(tail)
    if bump is None:
        return _lone_pragma(file, frame)
    leads_to = (int(bump[1]) + 1) % VERSIONS
    if leads_to != version:
        raise Unfit(f"a change for version {version} says that it leads to version {leads_to}", leads_to)
    return LegacyChange(version, _statements(file, frame), True, offset, frame.end)


def _lone_pragma(file: LegacyFile, frame: Frame) -> LegacyChange:
    """The change in `frame` as a lone PRAGMA, the only call without a bump that lightningd makes. Raises Unfit."""
    version = frame.data_version
    if frame.length > LONGEST_PRAGMA:
        raise Unfit(f"a change for version {version} does not end as lightningd's changes do", version)
    statements = _text(file, frame).split("\0")
    if foreign_keys_setting(statements) is None:
        raise Unfit(f"lightningd does not send changes like the one for version {version}")
    return LegacyChange(version, statements, False, frame.offset, frame.end)


def latest_bump(data: bytes) -> Iterator[int]:
    """The versions from which the bumps in `data` count up, even those of changes that were cut short."""
    return (int(bump[1]) for bump in _ANY_BUMP.finditer(data))


def mended(statement: str) -> str:
    """The statement with the space that early lightningds left out; text in quotes is not changed."""
    if _GLUED.search(statement) is None:
        return statement
    # A quote inside a literal is doubled, so every second part is still outside quotes.
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
        raise Unfit(f"the change for version {frame.data_version} is not UTF-8", frame.data_version) from None


def _streamed(file: LegacyFile, frame: Frame) -> Iterator[str]:
    """The statements of a change too large for memory, read one at a time. Raises LegacyDamaged."""

    def text(parts: list[bytes]) -> str:
        try:
            return mended(b"".join(parts).decode())
        except UnicodeDecodeError:
            raise LegacyDamaged(
                f"the change for version {frame.data_version} is not UTF-8",
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
