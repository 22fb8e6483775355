"""The segments of one writer: which one takes a record, and what becomes of the next one in a takeover."""

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from backends.errors import Fenced
from backends.log.format.records import FileHeader, FileKind, segment_name
from backends.log.writer.options import LogOptions
from backends.log.writer.segment import create_segment
from backends.log.writer.segments import Segments
from tests.log.histories import noise
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


def segments(
    storage: SimulatedStorage, options: LogOptions, check: Callable[[], None] = lambda: None, held: bytes = b""
) -> Segments:
    """The segments of a writer whose segment 1 already contains these bytes."""
    file = FileHeader(FileKind.SEGMENT, b"i" * 16, 1)
    current = create_segment(storage, file, options, [held])
    slow = threading.Lock()
    return Segments(storage, file, current, slow, options, check, lambda: Fenced("fenced"))


@pytest.fixture
def storage() -> SimulatedStorage:
    storage = SimulatedStorage(SimulatedDisk())
    storage.make()
    return storage


def full_content(small: LogOptions) -> bytes:
    return noise(small.segment_size).encode()


def test_full_segment_takes_a_record_while_there_is_no_next_one(storage: SimulatedStorage, small: LogOptions) -> None:
    """The commit path creates no file as long as that can wait for the maintenance thread."""
    tested = segments(storage, small, held=full_content(small))
    before = storage.names()
    assert tested.current.full
    assert tested.for_record(100).index == 1
    assert storage.names() == before


def test_full_segment_is_left_for_the_one_made_in_advance(storage: SimulatedStorage, small: LogOptions) -> None:
    tested = segments(storage, small, held=full_content(small))
    left = tested.current.end
    tested.maintain()
    assert tested.for_record(100).index == 2
    assert tested.bytes_since(1) == left + tested.current.end


def test_record_that_does_not_fit_makes_next_segment_at_once(storage: SimulatedStorage, small: LogOptions) -> None:
    tested = segments(storage, replace(small, max_file=16 << 10), held=full_content(small))
    assert tested.for_record(12 << 10).index == 2
    assert segment_name(2) in storage.names()


class Handle:
    """The handle of a segment that another writer has taken over."""

    def is_fenced(self) -> bool:
        return True


def test_next_segment_is_not_made_when_current_one_is_fenced(storage: SimulatedStorage, small: LogOptions) -> None:
    """A writer that was held up may have rewritten its own marker, which then does not show the takeover."""
    tested = segments(storage, small)
    tested.current.handle = Handle()  # type: ignore[assignment]
    with pytest.raises(Fenced, match="fenced"):
        tested.prepare()


def test_session_marker_is_checked_again_once_next_segment_has_its_name(
    storage: SimulatedStorage, small: LogOptions
) -> None:
    """A writer that takes over writes its marker, then seals the segments it sees: it has not seen this one."""

    def check() -> None:
        if segment_name(2) in storage.names():
            raise Fenced("taken over meanwhile")

    tested = segments(storage, small, check)
    with pytest.raises(Fenced, match="meanwhile"):
        tested.prepare()


def test_maintenance_never_sees_the_old_segment_as_current_without_a_next_one(
    storage: SimulatedStorage, small: LogOptions
) -> None:
    """It would create the segment again that is being written by now. Checked between any two lines of the change."""
    tested = segments(storage, small, held=full_content(small))
    tested.maintain()
    seen: list[tuple[int, bool]] = []

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code is Segments.go_on.__code__:
            seen.append((tested.current.index, tested._next is None))
            return look
        return None

    sys.settrace(look)
    try:
        tested.for_record(100)
    finally:
        sys.settrace(None)
    assert len(set(seen)) > 1
    assert (1, True) not in seen
