"""What reached the disks, in its order, and what a disk may hold after a power cut at any moment of that.

A flush promises that every write before it is on the medium. Of the writes since the last flush, each sector may or may
not have reached the medium, independently of the others.
"""

import json
import mmap
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD = struct.Struct("<ccHIQ")  # as `struct entry` in recorder.c

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Write:
    """`length` bytes written at this offset of a disk; `at` is where they are in the log."""

    disk: int
    offset: int
    length: int
    at: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything written to this disk before is on its medium."""

    disk: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What the test noted at this moment."""

    what: dict[str, Any]


Entry = Write | Flush | Mark


class BlockLog:
    """The record of one run. A *position* is the number of entries before a cut."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.entries = list(self._read())

    def _read(self) -> Iterator[Entry]:
        place = 0
        while place < len(self._data):
            kind, disk, _, length, offset = _HEAD.unpack_from(self._data, place)
            place += _HEAD.size
            match kind:
                case b"W":
                    yield Write(disk[0], offset, length, place)
                case b"F":
                    yield Flush(disk[0])
                case b"M":
                    yield Mark(json.loads(self._data[place : place + length]))
                case _:
                    raise ValueError(f"{kind!r} at byte {place - _HEAD.size} of the log is no entry")
            place += length

    def content(self, write: Write) -> bytes:
        """The bytes that were written."""
        return self._data[write.at : write.at + write.length]

    def marks(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each mark, with the position just after it."""
        for number, entry in enumerate(self.entries):
            if isinstance(entry, Mark):
                yield number + 1, entry.what


@dataclass(frozen=True, slots=True)
class Luck:
    """How much of what was not flushed still reaches the medium.

    `odds` is the share of the writes that do; with `torn`, of their sectors.
    """

    odds: float
    torn: bool = False

    def __str__(self) -> str:
        return f"{self.odds:.0%}{' of the sectors' if self.torn else ''}"

    def kept(self, length: int, chance: random.Random) -> list[tuple[int, int]]:
        """The parts of one write that arrive: start and end, in bytes from its beginning."""
        if not self.torn:
            return [(0, length)] if chance.random() < self.odds else []
        starts = range(0, length, SECTOR)
        return [(start, min(start + SECTOR, length)) for start in starts if chance.random() < self.odds]


NO_LUCK = Luck(0.0)
"""The disk holds what was flushed and nothing else."""

ALL_LUCK = Luck(1.0)
"""The disk holds everything that was written, as in a machine that did not lose its power."""


def some_luck(chance: random.Random) -> Luck:
    """Luck at random: nothing, everything, or a mixture."""
    return Luck(chance.choice((0.0, 0.05, 0.3, 0.7, 0.95, 1.0)), torn=chance.random() < 0.5)


class DiskAtCut:
    """What one disk of a record may hold after a cut; cheapest when the positions asked for only grow.

    `start` is what the disk held before the record; `image` is a file of its own, brought forward from cut to cut.
    """

    def __init__(self, log: BlockLog, disk: int, start: Path, image: Path) -> None:
        self._log, self._disk = log, disk
        self._start, self._image = start, image
        self._begin()

    def _begin(self) -> None:
        copy_sparsely(self._start, self._image)
        self._applied = 0

    def write(self, position: int, target: Path, luck: Luck, chance: random.Random) -> None:
        """Write into `target` what the disk may hold when the power fails at `position`."""
        if position < self._applied:
            self._begin()
        flushed = self._flushed(position)
        with self._image.open("r+b") as file:
            for write in self._writes(self._applied, flushed):
                file.seek(write.offset)
                file.write(self._log.content(write))
        self._applied = flushed
        copy_sparsely(self._image, target)
        with target.open("r+b") as file:
            for write in self._writes(flushed, position):
                content = self._log.content(write)
                for start, end in luck.kept(write.length, chance):
                    file.seek(write.offset + start)
                    file.write(content[start:end])

    def _flushed(self, position: int) -> int:
        """The position just after the last flush before that one."""
        for number in range(position - 1, self._applied - 1, -1):
            if self._log.entries[number] == Flush(self._disk):
                return number + 1
        return self._applied

    def _writes(self, begin: int, end: int) -> Iterator[Write]:
        for entry in self._log.entries[begin:end]:
            if isinstance(entry, Write) and entry.disk == self._disk:
                yield entry


def copy_sparsely(source: Path, target: Path) -> None:
    """Copy an image, which is mostly holes, and keep the holes."""
    if shutil.which("cp") is None:
        shutil.copyfile(source, target)
    else:
        subprocess.run(["cp", "--sparse=always", source, target], check=True)
