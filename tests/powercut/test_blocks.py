"""What a disk may hold after a cut is worked out correctly: otherwise no campaign proves anything."""

import json
import random
import struct
from pathlib import Path

import pytest

from tests.powercut.blocks import ALL_LUCK, NO_LUCK, SECTOR, BlockLog, DiskAtCut, Luck, some_luck

SIZE = 64 * SECTOR


class Written:
    """A log in the recorder's format, written by hand."""

    def __init__(self, directory: Path) -> None:
        self.path, self.start = directory / "log", directory / "start"
        self.start.write_bytes(bytes(SIZE))
        self._directory, self._entries = directory, 0

    def write(self, offset: int, content: bytes, disk: int = 0) -> int:
        return self._add(b"W", disk, content, offset)

    def flush(self, disk: int = 0) -> int:
        return self._add(b"F", disk, b"", 0)

    def mark(self, **what: int) -> int:
        return self._add(b"M", 0, json.dumps(what).encode(), 0)

    def _add(self, kind: bytes, disk: int, content: bytes, offset: int) -> int:
        with self.path.open("ab") as file:
            file.write(struct.pack("<cBHIQ", kind, disk, 0, len(content), offset) + content)
        self._entries += 1
        return self._entries

    def disk(self, number: int = 0) -> DiskAtCut:
        return DiskAtCut(BlockLog(self.path), number, self.start, self._directory / f"at-{number}")

    def after(self, disk: DiskAtCut, position: int, luck: Luck = NO_LUCK, seed: int = 0) -> bytes:
        disk.write(position, self._directory / "cut", luck, random.Random(seed))
        return (self._directory / "cut").read_bytes()


@pytest.fixture
def log(tmp_path: Path) -> Written:
    return Written(tmp_path)


def sectors(*letters: bytes) -> bytes:
    return b"".join(letter * SECTOR for letter in letters)


def test_write_without_flush_is_lost_and_write_before_flush_is_kept(log: Written) -> None:
    log.write(0, sectors(b"a"))
    log.flush()
    end = log.write(SECTOR, sectors(b"b"))
    assert log.after(log.disk(), end)[: 2 * SECTOR] == sectors(b"a", b"\0")


def test_flush_after_cut_or_of_another_disk_saves_nothing(log: Written) -> None:
    written = log.write(0, sectors(b"a"))
    log.flush(disk=1)
    other = log.mark(answered=1)
    log.flush()
    disk = log.disk()
    assert log.after(disk, written) == log.after(disk, other) == bytes(SIZE)


def test_cut_at_earlier_moment_can_be_asked_for_after_a_later_one(log: Written) -> None:
    log.write(0, sectors(b"a"))
    early = log.flush()
    log.write(0, sectors(b"b"))
    late = log.flush()
    disk = log.disk()
    assert [log.after(disk, at)[:1] for at in (late, early, late)] == [b"b", b"a", b"b"]


def test_marks_in_log_come_with_the_position_after_them(log: Written) -> None:
    log.write(0, sectors(b"a"))
    at = log.mark(committed=7)
    log.flush()
    assert list(BlockLog(log.path).marks()) == [(at, {"committed": 7})]


def test_log_with_bytes_that_are_no_entry_is_an_error(log: Written) -> None:
    log.write(0, sectors(b"a"))
    with log.path.open("ab") as file:
        file.write(b"?" * 16)
    with pytest.raises(ValueError, match="no entry"):
        BlockLog(log.path)


@pytest.mark.parametrize("luck", [ALL_LUCK, Luck(1.0, torn=True)])
def test_disk_with_all_luck_keeps_every_unflushed_write_in_order(log: Written, luck: Luck) -> None:
    log.write(0, sectors(b"a", b"b"))
    end = log.write(SECTOR, sectors(b"c"))
    assert log.after(log.disk(), end, luck)[: 2 * SECTOR] == sectors(b"a", b"c")


def test_torn_write_keeps_or_loses_whole_sectors(log: Written) -> None:
    end = log.write(0, sectors(*[b"x"] * 32))
    seen = set()
    for seed in range(20):
        found = log.after(log.disk(), end, Luck(0.5, torn=True), seed)
        parts = [found[start : start + SECTOR] for start in range(0, SIZE, SECTOR)]
        assert {*parts} <= {sectors(b"x"), sectors(b"\0")}
        assert parts[32:] == [sectors(b"\0")] * 32
        seen.add(found)
    assert len(seen) == 20


def test_cut_anywhere_in_random_log_is_what_a_disk_would_hold(log: Written) -> None:
    """Compared with the simplest way to work it out: every write before the last flush, applied in turn."""
    chance = random.Random(5)
    states, flushed, now = [bytes(SIZE)], bytearray(SIZE), bytearray(SIZE)
    for _ in range(300):
        if chance.random() < 0.3:
            log.flush()
            flushed = bytearray(now)
        else:
            at, content = chance.randrange(63) * SECTOR, sectors(bytes([chance.randrange(256)]))
            log.write(at, content)
            now[at : at + SECTOR] = content
        states.append(bytes(flushed))
    disk = log.disk()
    for position in [*range(0, 301, 7), *chance.sample(range(301), 20)]:
        assert log.after(disk, position) == states[position]


def test_random_luck_includes_nothing_and_all_and_every_mixture() -> None:
    chance = random.Random(1)
    lucks = {some_luck(chance) for _ in range(200)}
    assert {NO_LUCK, ALL_LUCK, Luck(0.3, torn=True)} <= lucks
