"""Damage to the records of one file: what counts as torn, what as corrupt, and what the error says."""

from contextlib import closing, suppress
from itertools import pairwise

import pytest

from backends.errors import Damaged
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    SECTOR,
    RecordHeader,
    RecordKind,
    encode_record,
)
from backends.log.format.torn import End, classify
from tests.log.conftest import TINY
from tests.log.corruption import (
    BASE,
    LAST,
    Files,
    Made,
    append_and_read_back,
    backup_of,
    files_in,
    flipped,
    make,
    open_verdict,
    read_verdict,
    record_bounds,
    version_at,
    zeroed,
)
from tests.log.histories import noise, silent
from tests.log.model import contents, contents_and_tear

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")


@pytest.fixture
def closed() -> Made:
    """A backup that was closed cleanly."""
    return make(closed=True)


@pytest.fixture
def killed() -> Made:
    """A backup whose writer was killed."""
    return make(closed=False)


def damage(files: Files) -> Damaged:
    """The error of reading these files; opening them must fail with the same file and last good version."""
    with pytest.raises(Damaged) as read:
        contents(backup_of(files))
    with pytest.raises(Damaged) as opened:
        backup_of(files, TINY).open(silent, "writer")
    assert (opened.value.file, opened.value.last_good) == (read.value.file, read.value.last_good)
    return read.value


def last_record(made: Made) -> tuple[int, int]:
    """Where the last record begins and ends."""
    start, stop = record_bounds(made.files[made.last])[-2:]
    assert start % SECTOR <= SECTOR - RECORD_HEADER_SIZE, "its header should be within one sector"
    return start, stop


@pytest.mark.parametrize("number", range(4))
def test_flip_in_payload_of_middle_record_is_damage(killed: Made, number: int) -> None:
    data = killed.files[killed.last]
    bounds, before = record_bounds(data), killed.files[killed.segments[0]]
    offset = bounds[number]
    found = damage({**killed.files, killed.last: flipped(data, offset + RECORD_HEADER_SIZE, 1)})
    assert (found.file, found.offset) == (killed.last, offset)
    good = version_at(data, bounds[number - 1]) if number else version_at(before, record_bounds(before)[-2])
    assert found.last_good == good
    assert "complete records follow" in found.what
    assert str(found.last_good) in str(found)


@pytest.mark.parametrize("at", [0, 5, RECORD_HEADER_SIZE - 1])
def test_flip_in_header_of_middle_record_is_damage(killed: Made, at: int) -> None:
    data = killed.files[killed.last]
    offset = record_bounds(data)[3]
    found = damage({**killed.files, killed.last: flipped(data, offset + at, 0x80)})
    assert (found.file, found.offset) == (killed.last, offset)


@pytest.mark.parametrize("at", [0, 5, RECORD_HEADER_SIZE - 1, RECORD_HEADER_SIZE, RECORD_HEADER_SIZE + 500])
def test_flip_in_last_record_is_damage_and_not_torn(killed: Made, at: int) -> None:
    start, _ = last_record(killed)
    found = damage({**killed.files, killed.last: flipped(killed.files[killed.last], start + at, 4)})
    assert (found.offset, found.last_good) == (start, LAST - 1)


def test_flip_in_first_record_after_the_snapshot_names_its_version(closed: Made) -> None:
    first = closed.segments[0]
    broken = {**closed.files, first: flipped(closed.files[first], 64 + RECORD_HEADER_SIZE, 4)}
    with pytest.raises(Damaged) as caught:
        contents(backup_of(broken))
    assert caught.value.last_good == BASE


def sectors(start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of a record that fall in each sector."""
    cuts = [start, *range((start // SECTOR + 1) * SECTOR, stop, SECTOR), stop]
    return list(pairwise(cuts))


def test_zeros_in_one_sector_of_last_record_is_torn(killed: Made) -> None:
    shares = sectors(*last_record(killed))
    assert len(shares) >= 3
    for share in shares:
        files = {**killed.files, killed.last: zeroed(killed.files[killed.last], *share)}
        found, torn = contents_and_tear(backup_of(files))
        assert found == killed.states[-2]
        assert torn is not None
        assert "never acknowledged" in torn
        assert open_verdict(killed, files) == "torn"


def test_zeros_in_one_sector_of_last_record_of_closed_session_is_damage(closed: Made) -> None:
    for share in sectors(*last_record(closed)):
        found = damage({**closed.files, closed.last: zeroed(closed.files[closed.last], *share)})
        assert "once saved" in found.what
        assert found.last_good == LAST - 1


def test_zeros_in_part_of_a_sector_of_last_record_is_damage(killed: Made) -> None:
    start, stop = last_record(killed)
    data = killed.files[killed.last]
    for part in (
        (start, start + RECORD_HEADER_SIZE),  # the header, but not what is in its sector after it
        (start + 1, start + SECTOR),
        (start + RECORD_HEADER_SIZE, start + RECORD_HEADER_SIZE + 30),
        (stop - 3, stop),
    ):
        assert damage({**killed.files, killed.last: zeroed(data, *part)}).offset == start


def test_zeros_in_one_sector_of_middle_record_is_damage(killed: Made) -> None:
    name = killed.segments[0]
    start, stop = record_bounds(killed.files[name])[-2:]
    for share in sectors(start, stop):
        files = {**killed.files, name: zeroed(killed.files[name], *share)}
        with pytest.raises(Damaged) as caught:
            contents(backup_of(files))
        assert (caught.value.file, caught.value.offset) == (name, start)
        assert open_verdict(killed, files) == "found by readers"


def test_torn_record_is_put_aside_when_opened(killed: Made) -> None:
    start, stop = last_record(killed)
    data = killed.files[killed.last][: stop - 100]
    backup = backup_of({**killed.files, killed.last: data}, TINY)
    told: list[str] = []
    writer = backup.open(lambda level, line: told.append(line), "writer")
    (aside,) = [name for name in files_in(backup.storage) if name.startswith("torn-")]
    assert backup.storage.read_small(aside) == data[start:]
    assert len(told) == 1
    assert aside in told[0]
    append_and_read_back(writer)
    writer.close()


def test_torn_record_with_something_after_it_is_damage(killed: Made) -> None:
    start, stop = last_record(killed)
    share = sectors(start, stop)[1]
    data = zeroed(killed.files[killed.last], *share)
    assert read_verdict(killed, {**killed.files, killed.last: data}) == "torn"
    assert damage({**killed.files, killed.last: flipped(data, stop + 10, 1)}).offset == start


def test_torn_record_in_segment_before_another_is_damage(killed: Made) -> None:
    first, last = killed.segments[:2]
    start, stop = record_bounds(killed.files[first])[-2:]
    cut = {**killed.files, first: killed.files[first][: stop - 10]}
    with pytest.raises(Damaged) as caught:
        contents(backup_of(cut))
    assert (caught.value.file, caught.value.offset) == (first, start)
    found = damage({**cut, last: killed.files[last][:70]})
    assert (found.file, found.offset) == (first, start)


def test_records_missing_or_swapped_or_doubled_are_damage(closed: Made) -> None:
    data = closed.files[closed.last]
    bounds = record_bounds(data)
    records = [data[start:stop] for start, stop in pairwise(bounds)]
    for wrong in (
        [*records[:2], *records[3:]],
        [*records[:2], records[3], records[2], *records[4:]],
        [*records[:2], records[2], *records[2:]],
    ):
        found = damage({**closed.files, closed.last: data[:64] + b"".join(wrong)})
        assert "does not follow" in found.what
    files = {**closed.files, closed.last: data[:64] + b"".join(records[1:])}
    assert read_verdict(closed, files) == "damaged"
    assert open_verdict(closed, files) == "found by readers"


def test_text_that_looks_like_record_header_is_not_taken_for_a_record(closed: Made) -> None:
    """A peer may choose text that the node stores, but every real header contains zero bytes, and SQL text cannot."""
    real = closed.files[closed.last][FILE_HEADER_SIZE:][:RECORD_HEADER_SIZE]
    for inside, end in ((text_like_a_record(), End.TORN), (real, End.DAMAGED)):
        # A record whose first sector never reached the disk, with this text in a later one.
        files = {"segment": bytes(SECTOR) + noise(100).encode() + inside + noise(300).encode()}
        with closing(backup_of(files).storage.open("segment")) as handle:
            assert classify(handle, FILE_HEADER_SIZE).end is end


def text_like_a_record() -> bytes:
    """A record header with a valid checksum that is also UTF-8 text."""
    for time in range(0x21212121, 0x7F7F7F7F):
        fields = (
            RECORD_MAGIC,
            RecordKind.CHANGE,
            1,
            *(0x21212121,) * 3,
            0x2121212121212121,
            time,
            *(0x21212121,) * 2,
            0,
        )
        record, _ = encode_record(RecordHeader(*fields), b"some payload")
        header = b"\xc2" + record[:RECORD_HEADER_SIZE]
        with suppress(UnicodeDecodeError):
            if "\0" not in header.decode():
                return header
    raise AssertionError
