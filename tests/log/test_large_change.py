"""A change that is larger than the memory for it is read in pieces, and believed no more than a small one."""

from pathlib import Path

import pytest

from backends.errors import Damaged
from backends.log.backend import LogBackend
from backends.log.reading import StoredPayload
from backends.storage.local import LocalStorage, _Reader
from tests.log.histories import changes, noise, silent, source

STATEMENTS = [noise(1 << 16, seed) for seed in range(64)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A backup with a change of 4 MiB that hardly compresses, and a small one after it."""
    backend = LogBackend(LocalStorage(tmp_path / "b"))
    backend.create(source())
    backend.open(silent, "one")
    large, small = changes(2)
    large.statements = [*STATEMENTS, *large.statements]
    backend.append(large)
    backend.append(small)
    backend.close()
    return tmp_path / "b"


def read(place: Path) -> list[list[str]]:
    with LogBackend(LocalStorage(place)).read() as generation:
        list(generation.snapshot)
        return [list(change.statements) for change in generation.changes()]


def test_it_is_never_in_memory_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_read, lengths = _Reader.read, list[int]()

    def watched(reader: _Reader, offset: int, length: int) -> bytes:
        lengths.append(length)
        return really_read(reader, offset, length)

    monkeypatch.setattr(_Reader, "read", watched)
    found = read(place)
    assert found[0][: len(STATEMENTS)] == STATEMENTS
    assert len(found) == 2
    backend = LogBackend(LocalStorage(place))
    backend.open(silent, "two")  # which writes the segment again
    backend.close()
    assert read(place) == found
    assert max(lengths) <= 1 << 20


def test_a_changed_byte_in_it_is_damage(place: Path) -> None:
    segment = place / "segment-00000001"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(Damaged, match="segment-00000001"):
        read(place)


def test_a_byte_that_changes_after_it_was_checked_is_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unpacked was read a second time."""
    monkeypatch.setattr(StoredPayload, "is_good", lambda _: True)
    test_a_changed_byte_in_it_is_damage(place)
