"""Files of the node that are stored in its backup: read back whole or not at all, and left alone by the log."""

import base64
import errno
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends import keyring
from backends.errors import BackupError, Damaged, FromTheFuture, KeyNeeded, NotEncrypted
from backends.keyring import DataKey
from backends.log.attachments import publish_attachment, read_attached, read_attachment
from backends.log.format.attachments import MAX_DOCUMENT, AttachedFile, Attachment
from backends.log.format.documents import MANIFEST
from backends.log.reader.opening import read_manifest
from backends.storage.base import Storage
from tests.log import forge
from tests.log.histories import Node, backup_in, source
from tests.storage.faulty import FaultyStorage, Operation
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

EMERGENCY, SECRET = Attachment.EMERGENCY, Attachment.SECRET
CONTENT = bytes(range(256)) * 3


@pytest.fixture
def storage() -> SimulatedStorage:
    made = SimulatedStorage(SimulatedDisk())
    backup_in(made).create(source())
    return made


@pytest.fixture(autouse=True)
def no_key_is_known_afterwards() -> Iterator[None]:
    """Keys are those of the whole process."""
    yield
    keyring.forget()


def test_stored_file_is_read_back_and_replaced_by_the_next(storage: Storage) -> None:
    assert read_attachment(storage, EMERGENCY) is None
    for content in (CONTENT, b"x", bytes(EMERGENCY.limit)):
        publish_attachment(storage, EMERGENCY, content)
        assert read_attachment(storage, EMERGENCY) == content
        attached = read_attached(storage, EMERGENCY)
        assert attached is not None
        assert attached.size == len(content)
        assert attached.time > 1_700_000_000
    assert read_attachment(storage, SECRET) is None


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "it is empty"), (bytes(EMERGENCY.limit + 1), "no more than 1048576")]
)
def test_empty_or_too_large_file_is_refused_and_the_stored_one_stays(
    storage: Storage, content: bytes, why: str
) -> None:
    publish_attachment(storage, EMERGENCY, CONTENT)
    with pytest.raises(BackupError, match=why):
        publish_attachment(storage, EMERGENCY, content)
    assert read_attachment(storage, EMERGENCY) == CONTENT


@pytest.mark.plain_unless_told
def test_secret_is_never_stored_in_a_backup_that_is_not_encrypted(storage: SimulatedStorage) -> None:
    before = storage.names()
    with pytest.raises(NotEncrypted, match="whoever reads the backup could spend all"):
        publish_attachment(storage, SECRET, b"\x07" * 32)
    assert storage.names() == before


@pytest.mark.parametrize("which", list(Attachment))
def test_no_file_is_stored_readable_in_a_backup_whose_manifest_names_a_key(which: Attachment) -> None:
    storage = SimulatedStorage(SimulatedDisk())
    storage.make()
    storage.publish(MANIFEST, forge.manifest(key="00" * 8))
    with pytest.raises(BackupError):  # no such key is known here
        publish_attachment(storage, which, b"\x07" * 32)
    assert storage.names() == [MANIFEST]


@pytest.mark.plain_unless_told
def test_readable_file_in_an_encrypted_backup_is_damage(storage: Storage) -> None:
    """Whoever can write to the destination could otherwise give the node a file of his own."""
    publish_attachment(storage, EMERGENCY, CONTENT)
    manifest = read_manifest(storage)
    key = DataKey.new(manifest.backup_id)
    keyring.add(key)
    storage.publish(MANIFEST, replace(manifest, key=key.id).encode())
    with pytest.raises(Damaged, match="not encrypted"):
        read_attachment(storage, EMERGENCY)


def test_sealed_file_without_its_key_is_known_to_be_there_and_cannot_be_read(storage: Storage) -> None:
    storage.publish(
        SECRET.value,
        forge.document('{"lightningd-backup": 1, "size": 32, "time": 1, "sealed": "0011223344556677:AAAA"}'),
    )
    with pytest.raises(KeyNeeded, match="hsm_secret is stored encrypted"):
        read_attachment(storage, SECRET)


@pytest.mark.parametrize("which", list(Attachment))
def test_both_files_in_an_encrypted_backup_are_read_with_its_key_only(which: Attachment) -> None:
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage).create(source(), encrypt=lambda key: None)
    content = random.Random(2).randbytes(which.limit)
    publish_attachment(storage, which, content)
    data = storage.read_small(which.value, MAX_DOCUMENT)
    assert read_attachment(storage, which) == content
    assert base64.b64encode(content)[:40] not in data
    assert content[:20] not in data
    keyring.forget()
    attached = AttachedFile.decode(which, data)
    assert (attached.content, attached.size, attached.sealed) == (None, len(content), True)
    with pytest.raises(KeyNeeded):
        read_attachment(storage, which)
    with pytest.raises(KeyNeeded):
        publish_attachment(storage, which, content)
    assert storage.read_small(which.value, MAX_DOCUMENT) == data


def test_document_of_one_file_under_the_name_of_the_other_is_damaged() -> None:
    encrypted = SimulatedStorage(SimulatedDisk())
    backup_in(encrypted).create(source(), encrypt=lambda key: None)
    publish_attachment(encrypted, SECRET, b"\x07" * 32)
    encrypted.publish(EMERGENCY.value, encrypted.read_small(SECRET.value))
    with pytest.raises(Damaged):
        read_attachment(encrypted, EMERGENCY)


def test_any_changed_byte_of_a_stored_file_is_noticed(storage: Storage) -> None:
    publish_attachment(storage, EMERGENCY, CONTENT)
    data = storage.read_small(EMERGENCY.value)
    for at in range(len(data)):
        storage.publish(EMERGENCY.value, data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(Damaged):
            read_attachment(storage, EMERGENCY)
    for end in range(0, len(data), 7):
        storage.publish(EMERGENCY.value, data[:end])
        with pytest.raises(Damaged):
            read_attachment(storage, EMERGENCY)


FIELDS: dict[str, object] = {"lightningd-backup": 1, "size": 3, "time": 1_700_000_000, "content": "YWJj"}


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 2},
        {"size": -1},
        {"size": 1 << 40},
        {"size": "3"},
        {"size": True},
        {"content": None},
        {"content": 3},
        {"content": "YWJ"},
        {"content": "YWJj!"},
        {"content": "YW Jj"},
        {"content": "\u00fc\u00fc"},
        {"content": "", "size": 0},
    ],
)
@pytest.mark.plain_unless_told
def test_stored_file_with_impossible_fields_is_damaged(storage: Storage, changed: dict[str, object]) -> None:
    storage.publish(EMERGENCY.value, forge.document(json.dumps(FIELDS)))
    assert read_attachment(storage, EMERGENCY) == b"abc"
    storage.publish(EMERGENCY.value, forge.document(json.dumps({**FIELDS, **changed})))
    with pytest.raises(Damaged):
        read_attachment(storage, EMERGENCY)


def test_stored_file_of_a_later_release_or_of_endless_size_is_refused(storage: Storage) -> None:
    storage.publish(EMERGENCY.value, forge.document(json.dumps({**FIELDS, "lightningd-backup": 9})))
    with pytest.raises(FromTheFuture):
        read_attachment(storage, EMERGENCY)
    storage.publish(EMERGENCY.value, bytes(MAX_DOCUMENT + 1))
    with pytest.raises(OSError, match="too many"):
        read_attachment(storage, EMERGENCY)


def test_largest_file_fits_a_document_even_encrypted() -> None:
    in_base64 = (EMERGENCY.limit + 2) // 3 * 4
    assert (in_base64 + 1000 + 2) // 3 * 4 < MAX_DOCUMENT


def test_compaction_snapshot_and_new_writer_leave_the_stored_file_alone(tmp_path: Path) -> None:
    node = Node(SimulatedStorage(SimulatedDisk()), tmp_path)
    node.create()
    node.open("one")
    node.append(node.history.first())
    publish_attachment(node.storage, EMERGENCY, CONTENT)
    stored = node.storage.read_small(EMERGENCY.value)
    for number in range(3):
        node.note()
        node.compact()
        node.snapshot()
        node.writer.maintain()
        node.close()
        node.open(f"session-{number}")
        assert node.storage.read_small(EMERGENCY.value) == stored
    assert read_attachment(node.storage, EMERGENCY) == CONTENT


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_names"])
def test_failure_or_power_cut_while_a_file_is_stored_leaves_the_old_one_or_the_new(
    storage: SimulatedStorage, operation: Operation
) -> None:
    publish_attachment(storage, EMERGENCY, b"old")
    faulty = FaultyStorage(storage)
    faulty.fail(operation, errno.ENOSPC)
    with pytest.raises(OSError, match="a fault made for a test"):
        publish_attachment(faulty, EMERGENCY, CONTENT)
    found = set()
    for seed in range(20):
        after = SimulatedStorage(storage.disk.crash(random.Random(seed)))
        found.add(read_attachment(after, EMERGENCY))
    assert found <= ({b"old", CONTENT} if operation == "sync_names" else {b"old"})
    publish_attachment(faulty, EMERGENCY, CONTENT)
    assert read_attachment(storage, EMERGENCY) == CONTENT
