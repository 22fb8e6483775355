"""Whether stored bytes are ciphertext is found out without the key; a product that writes plain text is noticed."""

import base64
import json
import random
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from backends import keyring
from backends.errors import NotCiphertext
from backends.keyring import DataKey
from backends.log.ciphertext import ENOUGH, _Distribution, check_ciphertext
from backends.log.format import text_files
from backends.log.format.documents import KEPT, MANIFEST, SESSION
from backends.log.format.encryption import CHUNK, SALT, TAG, Sealer, seal_fields
from backends.log.known_damage import DAMAGE, found_now, write_damage
from backends.log.reader.opening import read_manifest
from tests.encrypted import no_slots
from tests.log.conftest import DATABASE, SMALL
from tests.log.histories import backup_in, changes, silent, source
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


def filled(*, encrypt: bool = True, database: bytes = DATABASE, size: int = 300) -> SimulatedStorage:
    """A backup with changes, a kept generation, and changes after it."""
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage, SMALL).create(source(database, 1, "02" + "ab" * 32), encrypt=no_slots if encrypt else None)
    with closing(backup_in(storage, SMALL).open(silent, "one")) as writer:
        for change in changes(5, 1, size):
            writer.append(change)
            writer.maintain()
        writer.take_snapshot(source(database, 6), "a run without the plugin")
        for change in changes(5, 6, size):
            writer.append(change)
            writer.maintain()
    return storage


@pytest.mark.parametrize("size", [0, 300, 5000])
def test_encrypted_backup_is_ciphertext_with_and_without_key(size: int) -> None:
    storage = filled(size=size)
    write_damage(storage, found_now("verify", "something", read_manifest(storage).generation))
    assert {MANIFEST, SESSION, KEPT, DAMAGE} <= set(storage.names())
    looked = check_ciphertext(storage)
    assert looked.payloads >= 12
    keyring.forget()
    assert check_ciphertext(storage) == looked


def test_note_of_damage_by_a_reader_without_key_is_no_fault() -> None:
    storage = filled()
    keyring.forget()
    write_damage(storage, found_now("verify", "a record is broken in segment-00000001 (at byte 9)", 2))
    assert DAMAGE in storage.names()
    check_ciphertext(storage)


@pytest.mark.plain_unless_told
def test_plain_backup_is_noticed() -> None:
    with pytest.raises(NotCiphertext):
        check_ciphertext(filled(encrypt=False))


Stub = Callable[[bytes, bool, int], bytes]

STUBS: dict[str, Stub] = {
    "tag of zeros after": lambda payload, begins, tags: (bytes(SALT) if begins else b"") + payload + bytes(TAG * tags),
    "salt and tag after": lambda payload, begins, tags: payload + bytes(TAG * tags + (SALT if begins else 0)),
    "all before": lambda payload, begins, tags: bytes(TAG * tags + (SALT if begins else 0)) + payload,
    "random padding": lambda payload, begins, tags: (
        (random.randbytes(SALT) if begins else b"") + payload + random.randbytes(TAG * tags)
    ),
}


@pytest.mark.parametrize("stub", STUBS)
@pytest.mark.parametrize("size", [0, 300, 5000])
def test_payload_stored_unchanged_is_noticed(monkeypatch: pytest.MonkeyPatch, stub: str, size: int) -> None:
    def seal(self: Sealer, fields: bytes, payload: bytes, begins_stream: bool) -> bytes:
        stored = STUBS[stub](payload, begins_stream, max(1, -(-len(payload) // CHUNK)))
        assert len(stored) == int.from_bytes(fields[4:8], "little")
        return stored

    monkeypatch.setattr(Sealer, "seal", seal)
    monkeypatch.setattr("backends.log.writer.snapshot.SnapshotReader.pieces", lambda self: iter(()))
    with pytest.raises(NotCiphertext):
        check_ciphertext(filled(size=size))


def test_every_stream_after_the_first_stored_unchanged_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    seal, sealed = Sealer.seal, 0

    def sometimes(self: Sealer, fields: bytes, payload: bytes, begins_stream: bool) -> bytes:
        nonlocal sealed
        sealed += 1
        if sealed < 6:
            return seal(self, fields, payload, begins_stream)
        return STUBS["random padding"](payload, begins_stream, 1)

    monkeypatch.setattr(Sealer, "seal", sometimes)
    monkeypatch.setattr("backends.log.writer.snapshot.SnapshotReader.pieces", lambda self: iter(()))
    with pytest.raises(NotCiphertext):
        check_ciphertext(filled(size=300))


@pytest.mark.parametrize("where", ["in the open", "encoded but not encrypted", "beside the sealed ones"])
def test_private_fields_that_can_be_read_are_noticed(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    seal = seal_fields

    def stub(key: DataKey, name: str, public: dict[str, Any], private: dict[str, Any]) -> str:
        if where == "encoded but not encrypted":
            text = bytes(SALT) + json.dumps(private).encode() + bytes(TAG)
            return f"{key.id}:{base64.b64encode(text).decode()}"
        sealed = seal(key, name, public, private)
        public.update(private)
        return sealed

    storage = filled()
    check_ciphertext(storage)
    for name in (MANIFEST, SESSION, KEPT):
        with monkeypatch.context() as patch:
            fields = text_files.decode_document(name, storage.read_small(name))
            private: dict[str, Any] = {
                field: fields.pop(field) for field in ("node_id", "host", "pid", "trouble") if field in fields
            }
            key = fields.pop("sealed").partition(":")[0]
            public = {field: value for field, value in fields.items() if field != "lightningd-backup"}
            patch.setattr(text_files, "seal_fields", stub)
            good = storage.read_small(name)
            data = text_files.encode_document(name, public, private, None if where == "in the open" else key)
        storage.publish(name, data)
        with pytest.raises(NotCiphertext, match=name):
            check_ciphertext(storage)
        storage.publish(name, good)
    check_ciphertext(storage)


@pytest.mark.parametrize("value", ["sftp://me@home.example/backup", "/home/me/.lightning", "init (could not read x)"])
def test_path_or_address_or_details_in_a_public_field_are_noticed(value: str) -> None:
    storage = filled()
    manifest = read_manifest(storage)
    storage.publish(
        MANIFEST, text_files.encode_document(MANIFEST, {**manifest.fields(), "reason": value}, {}, manifest.key)
    )
    with pytest.raises(NotCiphertext, match="reason"):
        check_ciphertext(storage)


def test_random_bytes_stay_far_below_the_limit() -> None:
    rng = random.Random(1)
    for length in (ENOUGH, ENOUGH + 1, 5000):
        for _ in range(300):
            judged = _Distribution()
            judged.add(rng.randbytes(length))
            assert judged.chi_square() < 430
            assert judged.is_random()
