"""Random backups with valid checksums, and random bytes: a reader returns what is there or says what is wrong."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import BackupError
from backends.log.format.documents import Manifest, Session
from backends.storage.base import Storage
from tests.log.corruption import Files, backup_of
from tests.log.forge import FIELDS, Forged, backup, document, manifest, packed, segment, snapshot, zstd_block
from tests.log.histories import CAMPAIGN, backup_in, silent
from tests.log.model import contents

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

quick = settings(
    max_examples=150 * CAMPAIGN, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NUMBERS = st.sampled_from([0, 1, 2, 3, 255, 256, (1 << 16), (1 << 30), (1 << 32) - 1]) | st.integers(0, (1 << 32) - 1)
BLOCKS = st.binary(max_size=200).map(zstd_block)
FORGED = st.builds(
    Forged,
    payload=BLOCKS | st.binary(max_size=100),
    kind=st.sampled_from([1, 1, 1, 2, 3, 4]) | st.integers(0, 255),
    flags=st.sampled_from([1, 4, 5, 7]) | st.integers(0, 255),
    length=st.none() | st.none() | st.none() | NUMBERS,
    size=st.none() | NUMBERS,
    data_version=st.none() | NUMBERS,
    sequence=st.none() | st.none() | NUMBERS,
    previous=st.none() | st.none() | NUMBERS,
)
RECORDS = st.lists(st.binary(max_size=60).map(packed) | FORGED, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


def try_all(files: Files) -> None:
    """Read, open for writing, read again: each step succeeds or fails with a BackupError, and nothing else."""
    storage: Storage = backup_of(files).storage
    try:
        before = contents(backup_in(storage))
    except BackupError:
        before = None
    try:
        writer = backup_in(storage).open(silent, "victim")
    except BackupError:
        return
    writer.maintain()
    writer.close()
    if before is not None:
        assert contents(backup_in(storage)) == before


@quick
@given(forged=RECORDS, rest=st.just(b"") | st.just(bytes(600)) | st.binary(max_size=600))
def test_random_records_in_segment_are_read_or_named_as_damage(forged: list[Forged], rest: bytes) -> None:
    try_all(backup(segment=segment(*forged, rest=rest)))


@quick
@given(first=RECORDS, second=RECORDS, sequence=st.integers(0, 8), base=st.integers(0, 8))
def test_random_records_in_two_segments_are_read_or_named_as_damage(
    first: list[Forged], second: list[Forged], sequence: int, base: int
) -> None:
    files = backup(manifest=manifest(sequence=base), segment=segment(*first))
    files["segment-00000002"] = segment(*second, index=2, sequence=sequence)
    try_all(files)


@quick
@given(forged=RECORDS)
def test_random_records_in_snapshot_are_read_or_named_as_damage(forged: list[Forged]) -> None:
    try_all(backup(snapshot=snapshot(*forged)))


@quick
@given(data=st.binary(max_size=1500), name=st.sampled_from(["manifest", "session", "segment", "snapshot"]))
def test_random_bytes_as_any_file_are_read_or_named_as_damage(data: bytes, name: str) -> None:
    try_all(backup(**{name: data}))


@quick
@given(fields=st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON | NUMBERS, max_size=3))
def test_random_fields_in_manifest_are_read_or_named_as_damage(fields: dict[str, object]) -> None:
    try_all(backup(manifest=manifest(**fields)))


@quick
@given(value=JSON, name=st.sampled_from(["manifest", "session"]))
def test_random_json_as_manifest_or_session_is_read_or_named_as_damage(value: object, name: str) -> None:
    try_all(backup(**{name: document(json.dumps(value))}))


TEXT = st.none() | st.text(max_size=1000)
SMALL = st.integers(0, (1 << 32) - 1)


@quick
@given(
    session=st.builds(
        Session, *[st.text(max_size=40)] * 2, st.text(max_size=200), *[SMALL] * 5, st.booleans(), TEXT, TEXT
    )
)
def test_session_is_read_back_as_written(session: Session) -> None:
    found = Session.decode(session.encode())
    assert (found.sequence, found.data_version, found.closed) == (
        session.sequence,
        session.data_version,
        session.closed,
    )
    assert Session.decode(found.encode()) == found


@quick
@given(reason=st.text(max_size=3000))
def test_manifest_is_read_back_as_written(reason: str) -> None:
    plain = Manifest.decode(manifest())
    given_reason = Manifest(plain.backup_id, 1, plain.base, 1, 0, reason, None)
    found = Manifest.decode(given_reason.encode())
    assert found.base == plain.base
    assert Manifest.decode(found.encode()) == found
