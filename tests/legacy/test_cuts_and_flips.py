"""Small legacy backups, cut at every byte and with every byte changed."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupError, NotABackup
from backends.legacy import LegacyDamaged, is_legacy_backup
from tests.fake_lightningd import Call, History, contents
from tests.legacy.conftest import Bench
from tests.legacy.written import HEADER_SIZE, Written, written
from tests.log.histories import CAMPAIGN


def calls_with_pragmas() -> list[Call]:
    life = History()
    calls = [life.first(), life.note("one"), life.foreign_keys(on=False), life.note("two"), life.foreign_keys(on=True)]
    return [*calls, life.note("three"), life.note("four")]


def whole_records(file: Written, length: int) -> int:
    ends = [*file.starts[1:], HEADER_SIZE + len(file.records)]
    return sum(end <= length for end in ends)


def test_cut_at_any_byte_of_acknowledged_legacy_backup_is_damage(bench: Bench) -> None:
    calls = calls_with_pragmas()
    file = written(calls)
    data = file.data()
    for length in range(len(data)):
        path = bench.file(data[:length])
        if length < HEADER_SIZE:
            assert is_legacy_backup(path) == (length >= 4)
            with pytest.raises((LegacyDamaged, NotABackup)):
                bench.restore(data[:length])
            continue
        with pytest.raises(LegacyDamaged) as caught:
            bench.restore(data[:length])
        whole = whole_records(file, length)
        assert caught.value.last_good == (calls[whole - 1].data_version if whole else None)


def test_cut_in_resent_change_names_version_before_both_as_last_good(bench: Bench) -> None:
    """The change that it replaces was never committed, so the last good version is the one before both."""
    calls = calls_with_pragmas()
    for changes_after in (0, 1):
        file = written(calls).starts_with(calls[-1])
        second = file.starts[-1]
        life = History(calls[-1].data_version)
        file.change(*life.notes(changes_after))
        end = file.starts[-1] if changes_after else HEADER_SIZE + len(file.records)
        for length in range(second + 9, end, 7):
            with pytest.raises(LegacyDamaged) as caught:
                bench.restore(file.data()[:length])
            assert caught.value.last_good == calls[-1].data_version - 1


def test_cut_in_unacknowledged_change_loses_nothing_acknowledged(bench: Bench) -> None:
    calls = calls_with_pragmas()
    life = History(calls[-1].data_version)
    again, further = calls[-1], life.note("five")
    own = contents(bench.node(*calls))
    for begun in (again, further):
        file = written(calls).change(begun, dies_before_header=True)
        for length in range(file.starts[-1], HEADER_SIZE + len(file.records)):
            restored = bench.restore(file.data()[:length])
            assert contents(restored.database) == own, length
            assert (restored.torn is None) == (length == file.starts[-1])


def outcome(bench: Bench, data: bytes) -> object:
    """The restored content, or None for a refusal; any other outcome is a bug."""
    try:
        return contents(bench.restore(data).database)
    except BackupError as error:
        assert error.exit_code == 3 or isinstance(error, NotABackup), error
        assert len(str(error)) < 900
        return None


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_flip_in_legacy_header_changes_nothing_or_is_refused(bench: Bench, bit: int) -> None:
    """In the file's header or a record's header: everything that is not SQL."""
    calls = calls_with_pragmas()
    file = written(calls).starts_with(calls[-1])
    own, data = contents(bench.node(*calls)), file.data()
    places = [*range(36), *(start + byte for start in file.starts for byte in range(9))]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        assert outcome(bench, bytes(flipped)) in (None, own), place


@pytest.mark.parametrize("bit", [0, 6])
def test_flip_in_legacy_sql_is_refused_or_restored_without_traceback(bench: Bench, bit: int) -> None:
    calls = calls_with_pragmas()
    data = written(calls[:4]).data()
    for place in range(HEADER_SIZE + 600, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        outcome(bench, bytes(flipped))


def test_flip_in_legacy_version_bump_is_refused(bench: Bench) -> None:
    calls = calls_with_pragmas()
    data = written(calls).data()
    own = contents(bench.node(*calls))
    begin = 0
    while (begin := data.find(b"UPDATE vars SET intval = intval + 1", begin)) >= 0:
        for place in range(begin, data.index(b"intval = ", begin + 40) + 10):
            flipped = bytearray(data)
            flipped[place] ^= 2
            assert outcome(bench, bytes(flipped)) in (None, own), place
        begin += 1


PLACES = st.integers(0, 1 << 12)
DEEDS = st.lists(st.tuples(st.sampled_from(["overwrite", "insert", "remove", "repeat"]), PLACES, PLACES), max_size=4)


@settings(deadline=None, max_examples=150 * CAMPAIGN)
@given(deeds=DEEDS, junk=st.binary(max_size=40))
def test_legacy_backup_with_random_damage_gives_no_traceback(deeds: list[tuple[str, int, int]], junk: bytes) -> None:
    data = written(calls_with_pragmas()).data()
    for deed, at, other in deeds:
        begin, end = sorted((at % (len(data) + 1), other % (len(data) + 1)))
        data = {
            "overwrite": data[:begin] + junk + data[begin + len(junk) :],
            "insert": data[:begin] + junk + data[begin:],
            "remove": data[:begin] + data[end:],
            "repeat": data[:end] + data[begin:],
        }[deed]
    with TemporaryDirectory() as directory:
        outcome(Bench(Path(directory)), data)
