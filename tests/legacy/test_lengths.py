"""Legacy backups: record lengths that are wrong, a restore to a version, and a file that is still being written."""

import struct

import pytest

from backends.errors import BackupError
from backends.legacy import LegacyBackup, LegacyDamaged, rebuild_legacy
from tests.legacy.conftest import Bench
from tests.legacy.refusals import history, refused
from tests.legacy.written import Written, written

LENGTHS = [0, 1, 1 << 16, 1 << 29, (1 << 30) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("number", [0, 2, 4])
def test_legacy_record_with_hostile_length_is_damage(bench: Bench, length: int, number: int) -> None:
    _, calls = history()
    file = written(calls)
    data, at = bytearray(file.data()), file.starts[number]
    data[at : at + 4] = struct.pack(">I", length)
    refused(bench, bytes(data), number or None)


def test_legacy_record_length_that_swallows_later_changes_is_damage(bench: Bench) -> None:
    _, calls = history(6)
    file = written(calls)
    data, at = bytearray(file.data()), file.starts[2]
    for end in (*file.starts[4:], len(data)):
        data[at : at + 4] = struct.pack(">I", end - at - 9)
        refused(bench, bytes(data), 2)


def test_legacy_restore_to_version_gives_the_database_of_then(bench: Bench) -> None:
    life, calls = history()
    calls += [life.foreign_keys(on=False), life.note(), life.foreign_keys(on=True), life.note()]
    file = written(calls)
    for version in range(1, 8):
        own = bench.node(*(call for call in calls if call.data_version <= version))
        assert bench.restore(file, to_version=version).holds_what(own)
    with pytest.raises(BackupError, match="does not hold version 8"):
        bench.restore(file, to_version=8)
    with pytest.raises(BackupError, match="goes back to version 7"):
        bench.restore(Written().snapshot(7, bench.node(*calls)), to_version=6)


def test_legacy_restore_to_version_ignores_damage_after_it(bench: Bench) -> None:
    _, calls = history()
    data = written(calls).data()[:-1]
    assert bench.restore(data, to_version=4).holds_what(bench.node(*calls[:4]))
    with pytest.raises(LegacyDamaged):
        bench.restore(data, to_version=5)


def test_legacy_backup_that_a_node_still_writes_is_refused(bench: Bench) -> None:
    life, calls = history()
    path = bench.file(written(calls))
    with LegacyBackup(path) as backup:
        path.write_bytes(written([*calls, life.note()]).data())
        with pytest.raises(BackupError, match="a node with the older plugin is running"):
            rebuild_legacy(backup, bench.path("restored.sqlite3"))
