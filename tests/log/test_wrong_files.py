"""Files that are missing, half copied, from another backup, from another time or of a newer format."""

import json
from collections import Counter
from zlib import crc32

import pytest

from backends.change import Change
from backends.errors import BackupError, Damaged, FromTheFuture, NotABackup
from backends.log.format.documents import MANIFEST, SESSION
from backends.log.format.records import FORMAT, snapshot_name
from backends.log.status import TroubleKind
from tests.log.conftest import TINY
from tests.log.corruption import (
    LAST,
    Files,
    Made,
    backup_of,
    files_in,
    flipped,
    make,
    open_verdict,
    print_counts,
    read_verdict,
)
from tests.log.histories import backup_in, changes, silent, source
from tests.log.model import contents
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

SNAPSHOT = snapshot_name(1)


@pytest.fixture
def closed() -> Made:
    """A backup that was closed cleanly."""
    return make(closed=True)


@pytest.fixture
def killed() -> Made:
    """A backup whose writer was killed."""
    return make(closed=False)


def refused(files: Files, kind: type[BackupError]) -> str:
    """The message with which both reading and opening refuse these files."""
    with pytest.raises(kind) as opened:
        backup_of(files, TINY).open(silent, "writer")
    with pytest.raises(kind) as read:
        contents(backup_of(files))
    assert type(read.value) is type(opened.value) is kind
    return str(read.value)


def without(files: Files, *names: str) -> Files:
    """The files without these names."""
    return {name: data for name, data in files.items() if name not in names}


# Missing


def test_missing_manifest_is_no_backup(closed: Made) -> None:
    assert "the copy is incomplete" in refused(without(closed.files, MANIFEST), NotABackup)


def test_missing_snapshot_is_damage(closed: Made) -> None:
    assert SNAPSHOT in refused(without(closed.files, SNAPSHOT), Damaged)


def test_missing_first_segment_is_damage(closed: Made) -> None:
    assert closed.segments[0] in refused(without(closed.files, closed.segments[0]), Damaged)


def test_missing_middle_segment_is_damage(killed: Made) -> None:
    assert killed.segments[1] in refused(without(killed.files, killed.segments[1]), Damaged)


def test_missing_only_segment_is_damage(closed: Made) -> None:
    assert closed.segments[0] in refused(without(closed.files, *closed.segments), Damaged)


def test_missing_last_segment_is_damage(closed: Made) -> None:
    assert "once saved" in refused(without(closed.files, closed.last), Damaged)


def test_missing_first_segment_of_later_generation_is_damage(closed: Made) -> None:
    """A segment of the older generation that is still there must not be taken for the missing one."""
    writer = backup_of(closed.files, TINY).open(silent, "writer")
    writer.take_snapshot(source(b"a database", LAST), "test")
    *_, first = [name for name in writer.storage.names() if name.startswith("segment")]
    files = files_in(writer.storage)
    older = {closed.segments[0]: closed.files[closed.segments[0]]}
    assert first in refused({**without(files, first, SESSION), **older}, Damaged)
    assert contents(backup_of({**files, **older})).snapshot == b"a database"


def test_missing_session_marker_loses_nothing(closed: Made) -> None:
    assert read_verdict(closed, without(closed.files, SESSION)) == "same"
    backup = backup_of(without(closed.files, SESSION), TINY)
    told: list[str] = []
    backup.open(lambda level, line: told.append(line), "writer")
    assert "missing" in told[0]
    assert contents(backup) == closed.contents


def test_missing_session_marker_is_reported_as_unverified_end(closed: Made) -> None:
    """Only the session marker could show that a log was cut between two records."""
    status = backup_of(without(closed.files, SESSION)).status("")
    (trouble,) = status.troubles
    assert trouble.kind is TroubleKind.END_UNVERIFIED
    assert "the end of the log is" in trouble.sentence
    assert not status.damaged
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage).create(source(b"a database", LAST))  # no node has written to it yet
    assert not backup_in(storage).status("").troubles


def test_unreadable_session_marker_is_damage_but_takes_no_version_away(closed: Made) -> None:
    """It is damage, but every change can still be read: to look at, or from a copy without the marker."""
    for broken in (b"", flipped(closed.files[SESSION], 70, 1)):
        files = {**closed.files, SESSION: broken}
        assert SESSION in refused(files, Damaged)
        with backup_of(files).read() as generation:
            assert b"".join(generation.snapshot) == closed.contents.snapshot
            versions = list[int]()
            with pytest.raises(Damaged) as caught:
                for change in generation.changes():
                    versions.append(change.data_version)
        assert caught.value.last_good == versions[-1] == LAST
        seen = backup_of(files).status("")
        assert (seen.damaged, seen.data_version) == (True, LAST)


def test_missing_segment_made_in_advance_loses_nothing(killed: Made) -> None:
    ahead = killed.segments[-1]
    assert ahead != killed.last
    assert read_verdict(killed, without(killed.files, ahead)) == "same"


def test_backup_half_copied_file_by_file_is_never_read_shorter(closed: Made) -> None:
    """In whatever order the files of a closed backup were copied, and wherever the copying ended."""
    counts: Counter[str] = Counter()
    for order in (list(closed.files), list(reversed(closed.files))):
        for number, name in enumerate(order):
            before = {done: closed.files[done] for done in order[:number]}
            for size in range(0, len(closed.files[name]), 7):
                files = {**before, name: closed.files[name][:size]}
                counts[read_verdict(closed, files)] += 1
                if size % 5 == 0:
                    open_verdict(closed, files)
    print_counts(counts)
    assert set(counts) <= {"damaged", "notabackup", "same"}


def test_backup_half_copied_into_preallocated_files_is_damage(closed: Made) -> None:
    """As after an interrupted copy that had allocated its files."""
    for name, data in closed.files.items():
        for size in range(0, len(data) - 1, 13):
            files = {**closed.files, name: data[:size] + bytes(len(data) - size)}
            assert read_verdict(closed, files) == "damaged"


def test_cut_snapshot_is_found_without_reading_all_of_it(closed: Made) -> None:
    """By a start and by `status`, which read only a snapshot's ends: else the node would run without a usable one."""
    data = closed.files[SNAPSHOT]
    for size in range(len(data)):
        for left in (data[:size], data[:size] + bytes(len(data) - size)):
            files = {**closed.files, SNAPSHOT: left}
            if left != data:
                assert SNAPSHOT in refused(files, Damaged)
                assert backup_of(files).status("").damaged
    assert "not copied completely" in refused({**closed.files, SNAPSHOT: data[:100]}, Damaged)
    assert not backup_of({**closed.files, SNAPSHOT: data + b"x"}).status("").damaged


# Mixed


def test_segment_of_another_backup_is_refused_as_mixed(closed: Made) -> None:
    other = make(closed=True)
    sentence = refused({**closed.files, closed.last: other.files[closed.last]}, NotABackup)
    assert "two backups were mixed" in sentence
    assert read_verdict(closed, {**closed.files, SNAPSHOT: other.files[SNAPSHOT]}) == "notabackup"
    assert read_verdict(closed, {**closed.files, MANIFEST: other.files[MANIFEST]}) == "notabackup"


def test_session_marker_of_another_backup_is_damage(closed: Made) -> None:
    writer = backup_of(make(closed=True).files, TINY).open(silent, "writer")
    writer.append(changes(1, LAST)[0])
    writer.close()
    refused({**closed.files, SESSION: files_in(writer.storage)[SESSION]}, Damaged)


def test_swapped_segments_are_damage(closed: Made) -> None:
    first, last = closed.segments
    files = {**closed.files, first: closed.files[last], last: closed.files[first]}
    assert "another file" in refused(files, Damaged)


def test_doubled_segment_is_damage(closed: Made) -> None:
    assert "another file" in refused({**closed.files, "segment-00000003": closed.files[closed.last]}, Damaged)


def test_older_copy_of_a_segment_is_damage(closed: Made) -> None:
    writer = backup_of(closed.files, TINY).open(silent, "writer")
    for change in changes(4, LAST):
        writer.append(change)
    writer.close()
    later = files_in(writer.storage)
    for name in closed.segments:
        if later[name] != closed.files[name]:
            refused({**later, name: closed.files[name]}, Damaged)


def test_segments_of_two_diverged_copies_are_damage(closed: Made) -> None:
    """Two copies of one backup, both continued: their records do not chain."""
    histories = []
    for seed in (1, 2):
        writer = backup_of(closed.files, TINY).open(silent, f"writer {seed}")
        for _ in range(20):
            for change in changes(3, LAST):
                writer.append(Change(change.data_version, [f"SELECT {seed}", *change.statements]))
            writer.maintain()
        writer.close()
        histories.append(files_in(writer.storage))
    one, two = histories
    assert sorted(one) == sorted(two)
    for name in one:
        if name.startswith("segment") and one[name] != two[name]:
            with pytest.raises(Damaged, match="does not follow"):
                contents(backup_of({**one, name: two[name]}))


def test_snapshot_of_a_diverged_copy_is_damage(closed: Made) -> None:
    """The snapshot has the right number, but comes from a copy of the backup that was continued separately."""
    files = []
    for version in (LAST, LAST + 1):
        writer = backup_of(closed.files, TINY).open(silent, "writer")
        writer.take_snapshot(source(b"a database", version), "test")
        files.append(files_in(writer.storage))
    mixed = {**files[0], snapshot_name(2): files[1][snapshot_name(2)]}
    with pytest.raises(Damaged, match="different times"):
        contents(backup_of(mixed))


def test_copy_made_while_new_generation_began_is_damage(killed: Made) -> None:
    """It has the old manifest and snapshot, and the segment made in advance, written since: no file is missing."""
    writer = backup_of(killed.files, TINY).open(silent, "writer")
    writer.maintain()
    writer.take_snapshot(source(b"the same version with other content", LAST), "test")
    writer.append(changes(1, LAST)[0])
    ahead = killed.segments[-1]
    assert ahead != killed.last
    later = files_in(writer.storage)[ahead]
    assert read_verdict(killed, {**killed.files, ahead: later}) == "damaged"


def test_older_copy_of_the_manifest_is_damage(closed: Made) -> None:
    writer = backup_of(closed.files, TINY).open(silent, "writer")
    writer.take_snapshot(source(b"a database", LAST), "test")
    writer.close()
    assert "old copy of itself" in refused({**files_in(writer.storage), MANIFEST: closed.files[MANIFEST]}, Damaged)


def test_old_copy_put_over_newer_backup_is_refused_and_removes_nothing(closed: Made) -> None:
    """A start must not remove the newer generation, which is whole, in favour of one that does not fit its log."""
    writer = backup_of(closed.files, TINY).open(silent, "writer")
    writer.take_snapshot(source(b"a database", LAST), "test")
    writer.append(changes(1, LAST)[0])
    writer.close()
    newer = files_in(writer.storage)
    for files in ({**newer, **closed.files}, {**newer, **without(closed.files, SESSION)}):
        backup = backup_of(files, TINY)
        with pytest.raises(Damaged, match=r"does not follow|old copy of itself"):
            backup.open(silent, "writer")
        assert files_in(backup.storage) == files
    assert contents(backup_of(newer)).snapshot == b"a database"


def test_files_with_unknown_names_are_ignored(closed: Made) -> None:
    unknown = {
        "torn-segment-00000001-1700000000": b"x", "manifest.tmp": b"x", "segment-1": b"x", "segment-0000000x": b"x",
        "snapshot-00000009.tmp": b"x", "segment-00000007.tmp": b"x", "README": b"x", "segment-": b"", "snapshot-": b"",
    }  # fmt: skip
    assert read_verdict(closed, {**closed.files, **unknown}) == "same"
    assert open_verdict(closed, {**closed.files, **without(unknown, "torn-segment-00000001-1700000000")}) == "same"


def test_bytes_after_end_of_snapshot_are_ignored(closed: Made) -> None:
    assert read_verdict(closed, {**closed.files, SNAPSHOT: closed.files[SNAPSHOT] + b"x" * 600}) == "same"


# Of a newer format


def document_of(version: object, data: bytes) -> bytes:
    """A manifest or session of another format."""
    line = json.dumps({**json.loads(data.partition(b"\n")[0]), "lightningd-backup": version}).encode()
    return line + b"\n%08x\n" % crc32(line)


@pytest.mark.parametrize("name", [MANIFEST, SESSION])
def test_manifest_or_session_of_newer_format_is_refused(closed: Made, name: str) -> None:
    sentence = refused({**closed.files, name: document_of(FORMAT + 1, closed.files[name])}, FromTheFuture)
    assert "newer" in sentence
    assert "upgrade" in sentence


def test_manifest_of_newer_format_with_unknown_fields_is_refused(closed: Made) -> None:
    line = b'{"lightningd-backup": 2, "a key": [{"nested": null}]}'
    refused({**closed.files, MANIFEST: line + b"\n%08x\n" % crc32(line)}, FromTheFuture)


def test_segment_or_snapshot_of_newer_format_is_refused(closed: Made) -> None:
    for name in (closed.last, SNAPSHOT):
        data = bytearray(closed.files[name])
        data[8:10] = (FORMAT + 1).to_bytes(2, "little")
        data[60:64] = crc32(data[:60]).to_bytes(4, "little")
        with pytest.raises(FromTheFuture):
            contents(backup_of({**closed.files, name: bytes(data)}))
        if name == closed.last:
            refused({**closed.files, name: bytes(data)}, FromTheFuture)
