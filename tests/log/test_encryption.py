"""An encrypted backup: what is stored, what the key's holder reads, and what a deliberate change leads to."""

from contextlib import closing
from dataclasses import replace
from zlib import crc32

import pytest

from backends import keyring
from backends.change import Change
from backends.errors import Damaged, KeyNeeded, NotEncrypted
from backends.keyring import DataKey
from backends.log.backup import Backup
from backends.log.format.documents import MANIFEST, SESSION, Manifest
from backends.log.format.encryption import (
    CHUNK,
    FINGERPRINT,
    Opener,
    Sealer,
    Tampered,
    open_fields,
    seal_fields,
    stored_size,
)
from backends.log.format.records import (
    RECORD_HEADER_SIZE,
    FileHeader,
    FileKind,
    Flag,
    RecordHeader,
    RecordKind,
    decode_record,
    encode_record,
    header_fields,
    segment_name,
    snapshot_name,
)
from backends.log.reader.last_changes import database_before, read_end
from backends.log.reader.unpacking import Unreadable
from tests.log.histories import backup_in, changes, noise, silent, source
from tests.log.model import contents, versions
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

DATABASE = b"SQLite format 3\0" + noise(300_000).encode()
NODE = "02" + "ab" * 32


HOST = "host-name-of-the-node.example"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> SimulatedStorage:
    """The place of an encrypted backup with a snapshot and ten changes, written by two sessions."""
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage).create(source(DATABASE, 5, NODE), encrypt=lambda key: None)
    for first in (5, 10):
        with closing(backup_in(storage).open(silent, f"session-{first}")) as writer:
            for change in changes(5, first, 50):
                writer.append(change)
    return storage


def stored(storage: SimulatedStorage, name: str) -> bytes:
    with closing(storage.open(name)) as handle:
        return handle.read(0, handle.size())


def replaced(storage: SimulatedStorage, name: str, data: bytes) -> Backup:
    storage.publish(name, data)
    return backup_in(storage)


def test_encrypted_backup_gives_back_snapshot_and_changes(storage: SimulatedStorage) -> None:
    found = contents(backup_in(storage))
    assert found.snapshot == DATABASE
    assert [version for version, _ in found.changes] == list(range(6, 16))
    assert backup_in(storage).node_id() == NODE


def logged(storage: SimulatedStorage, sent: list[Change]) -> None:
    """These changes are appended by two sessions, in turns."""
    for number in range(2):
        with closing(backup_in(storage).open(silent, f"session-{number}")) as writer:
            for change in sent[number::2]:
                writer.append(change)


def test_fingerprint_of_database_is_read_from_each_last_change(storage: SimulatedStorage) -> None:
    """Also from one of several chunks, one after it, and the first of a stream; also one that is unknown."""
    sizes = [3 * CHUNK, 10, CHUNK + 1, 100, 2 * CHUNK, 0, 10]
    sent = [
        Change(change.data_version, [noise(size, seed=size), *change.statements], 0 if size == 100 else 77 + number)
        for number, (change, size) in enumerate(zip(changes(len(sizes), 15, 0), sizes, strict=True))
    ]
    logged(storage, sent)
    with backup_in(storage).read() as reader:
        found = [
            (change.header.data_version, database_before(reader, change))
            for change in read_end(reader).changes
            if change.header.data_version > 15
        ]
    assert found == [(change.data_version, change.database) for change in [*sent[::2], *sent[1::2]]]


def test_stored_records_do_not_show_the_fingerprint(storage: SimulatedStorage) -> None:
    """Not even whether two are the same: neither in the header nor in what is encrypted."""
    logged(storage, [Change(change.data_version, change.statements, 0x5EC23E75) for change in changes(8, 15, 50)])
    with backup_in(storage).read() as reader:
        last = read_end(reader).changes[-8:]
        shown = [change.header.database for change in last]
        names = [segment_name(reader.log.segments[change.segment][0]) for change in last]
        offsets = [change.offset + RECORD_HEADER_SIZE for change in last]
    beginnings = {stored(storage, name)[at : at + FINGERPRINT] for name, at in zip(names, offsets, strict=True)}
    assert shown == [0] * 8
    assert len(beginnings) == 8
    assert all((0x5EC23E75).to_bytes(4, "little") not in stored(storage, name) for name in names)


def test_changed_fingerprint_is_damage_and_no_evidence(storage: SimulatedStorage) -> None:
    """With all checksums made right: the first bytes that are encrypted, of the last record."""
    with backup_in(storage).read() as reader:
        last = read_end(reader).changes[-1]
        name = segment_name(reader.log.segments[last.segment][0])
    data = stored(storage, name)
    record = decode_record(data, last.offset)
    assert record is not None
    header, payload = record
    changed = encode_record(header, bytes([payload[0] ^ 1]) + payload[1:])[0]
    backup = replaced(storage, name, data[: last.offset] + changed + data[last.offset + len(changed) :])
    with backup.read() as reader:
        (*_, last) = read_end(reader).changes
        with pytest.raises(Damaged, match="cannot be decrypted"):
            database_before(reader, last)


def test_without_key_end_is_known_and_contents_are_not(storage: SimulatedStorage) -> None:
    keyring.forget()
    backup = backup_in(storage)
    assert backup.end().data_version == 15
    assert backup.node_id() is None
    writer = backup.last_writer()
    assert writer is not None and (writer.host, writer.pid) == ("unknown", 0)
    with backup.read() as reader, pytest.raises(KeyNeeded):
        list(reader.snapshot)
    with backup.read() as reader, pytest.raises(KeyNeeded):
        list(reader.changes())


def test_without_key_nothing_is_written(storage: SimulatedStorage) -> None:
    keyring.forget()
    before = {name: stored(storage, name) for name in storage.names()}
    with pytest.raises(KeyNeeded):
        backup_in(storage).open(silent, "another")
    assert {name: stored(storage, name) for name in storage.names() if name != "lock"} == before


def test_every_flipped_byte_of_a_record_is_damage_even_with_new_checksums(storage: SimulatedStorage) -> None:
    name = segment_name(1)
    data = stored(storage, name)
    found = decode_record(data, 64)
    assert found is not None
    header, payload = found
    for at in range(0, len(payload), 7):
        changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        forged, _ = encode_record(header, changed)
        backup = replaced(storage, name, data[:64] + forged + bytes(1000))
        with backup.read() as reader, pytest.raises((Damaged, Unreadable), match="decrypted"):
            list(reader.changes())
    for field in ("time", "data_version", "size", "database"):
        changed_header = RecordHeader(**{**header._asdict(), field: getattr(header, field) + 1})
        forged, _ = encode_record(changed_header, payload)
        backup = replaced(storage, name, data[:64] + forged + bytes(1000))
        with backup.read() as reader, pytest.raises(Damaged):
            list(reader.changes())


def test_plain_manifest_of_encrypted_backup_is_refused(storage: SimulatedStorage) -> None:
    manifest = Manifest.decode(stored(storage, MANIFEST))
    assert manifest.key is not None
    key = keyring.find(manifest.key)
    assert key is not None
    keyring.add(key, demanded=True)
    plain = SimulatedStorage(SimulatedDisk())
    backup_in(plain).create(source(DATABASE, 5, NODE))
    theirs = Manifest.decode(stored(plain, MANIFEST))
    forged = Manifest(manifest.backup_id, 9, theirs.base, 1, theirs.created, "init", NODE)
    with pytest.raises(NotEncrypted):
        replaced(storage, MANIFEST, forged.encode()).look()


def test_changed_public_field_of_manifest_is_damage(storage: SimulatedStorage) -> None:
    line, _, _ = stored(storage, MANIFEST).partition(b"\n")
    changed = line.replace(b'"generation": 1', b'"generation": 2')
    assert changed != line
    with pytest.raises(Damaged, match="does not have its key"):
        replaced(storage, MANIFEST, changed + b"\n%08x\n" % crc32(changed)).look()


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, 3 * CHUNK + 1])
def test_record_of_several_chunks_is_given_back(size: int) -> None:
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage).create(source(), encrypt=lambda key: None)
    with closing(backup_in(storage).open(silent, "session")) as writer:
        for change in changes(2, 0, size):
            writer.append(change)
    assert versions(backup_in(storage)) == [1, 2]


def test_stored_bytes_show_nothing_of_node_or_statements(storage: SimulatedStorage) -> None:
    assert {MANIFEST, SESSION, segment_name(1), snapshot_name(1)} <= set(storage.names())
    everything = b"".join(stored(storage, name) for name in storage.names())
    for secret in (NODE.encode(), HOST.encode(), b"SQLite", b"UPDATE", b"data_version'", DATABASE[:40]):
        assert secret not in everything


@pytest.mark.parametrize("database", [b"", DATABASE], ids=["empty", "whole"])
def test_without_key_ends_of_snapshot_are_checked(database: bytes) -> None:
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage).create(source(database, 0 if not database else 5), encrypt=lambda key: None)
    name = snapshot_name(1)
    whole = stored(storage, name)
    keyring.forget()
    with backup_in(storage).read() as reader:
        reader.snapshot.check_ends()
    with replaced(storage, name, whole + b"after the end").read() as reader:
        reader.snapshot.check_ends()
    for cut in (len(whole) - 1, len(whole) - 90, 64):
        with replaced(storage, name, whole[:cut]).read() as reader, pytest.raises(Damaged):
            reader.snapshot.check_ends()


@pytest.mark.parametrize("moved", ["another backup", "another kind of file", "a file of another number"])
def test_record_opens_only_in_its_own_file_of_its_own_backup(moved: str) -> None:
    """Bound by the encryption itself, whatever the checksums and sequence numbers around it say."""
    key, own = DataKey.new(bytes(16)), FileHeader(FileKind.SEGMENT, bytes(16), 1)
    there = {
        "another backup": replace(own, backup_id=bytes([1] * 16)),
        "another kind of file": replace(own, kind=FileKind.SNAPSHOT),
        "a file of another number": replace(own, number=2),
    }[moved]
    for size in (100, CHUNK + 1):
        length = stored_size(size, True)
        header = RecordHeader(b"magic", RecordKind.CHANGE, Flag.FRAME, length, size, 7, 1, 0, 0, 0, 0)
        sealed = Sealer(key, own).seal(header_fields(header), bytes(size), True)
        assert Opener(key, own).open(header, sealed, begins_stream=True) == bytes(size)
        with pytest.raises(Tampered):
            Opener(key, there).open(header, sealed, begins_stream=True)


def test_sealed_fields_open_only_in_the_document_of_that_name() -> None:
    key, public = DataKey.new(bytes(16)), {"version": 1}
    sealed = seal_fields(key, "session", public, {"host": HOST})
    assert open_fields(key, "session", public, sealed) == {"host": HOST}
    with pytest.raises(Tampered):
        open_fields(key, "members", public, sealed)
