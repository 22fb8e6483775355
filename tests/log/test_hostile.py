"""Records from an attacker's disk: reading them fails with a clear error, soon, and without much memory."""

import random

import pytest

from backends.errors import BackupError, Damaged
from backends.log.format.records import MAX_SEQUENCE, RecordKind
from backends.log.reader.snapshot import PIECE
from tests.log.bounded_reading import MEMORY, read, refused, within
from tests.log.corruption import backup_of
from tests.log.forge import (
    ADVANCES,
    FRAME,
    Forged,
    backup,
    finished,
    manifest,
    packed,
    segment,
    snapshot,
    zeros,
    zstd_block,
)
from tests.log.histories import silent
from tests.log.model import contents

pytestmark = pytest.mark.usefixtures("readers_do_not_wait", "time_limit")


def test_forged_backup_without_faults_is_read() -> None:
    assert read(backup()) == [1, 2]
    assert contents(backup_of(backup())).changes[1] == (2, ("SELECT 2", "SELECT 3"))
    assert refused(backup(manifest=b"")).exit_code == 3


# Numbers in records


@pytest.mark.parametrize("length", [20, (1 << 30) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_record_with_wrong_or_huge_length_is_damage(length: int) -> None:
    for files in (
        backup(segment=segment(packed(length=length), packed())),
        backup(snapshot=snapshot(Forged(b"x", RecordKind.PIECE, length=length, data_version=0), packed())),
    ):
        assert isinstance(refused(files), Damaged)


def test_record_length_no_file_can_hold_is_damage_and_not_torn() -> None:
    """The header's own checksum is valid: a writer never began such a record, so it is not torn."""
    assert read(backup(segment=segment(packed(), packed(length=1 << 20), rest=b"x" * 1000))) == [1]
    assert "claims" in str(refused(backup(segment=segment(packed(), packed(length=1 << 31), rest=b"x" * 1000))))


@pytest.mark.parametrize("size", [0, 7, 9, 1 << 16, 1 << 24, 1 << 30, (1 << 30) + 1, (1 << 32) - 1])
def test_record_with_wrong_unpacked_size_is_damage(size: int) -> None:
    assert isinstance(refused(backup(segment=segment(packed(size=size)))), Damaged)
    piece = Forged(zstd_block(b"8 bytes."), RecordKind.PIECE, FRAME, size=size, data_version=0)
    assert isinstance(refused(backup(snapshot=snapshot(piece))), Damaged)


@pytest.mark.parametrize("sequence", [0, 1, 3, 1 << 32, (1 << 64) - 1])
def test_record_with_wrong_sequence_number_is_damage(sequence: int) -> None:
    assert isinstance(refused(backup(segment=segment(packed(), packed(sequence=sequence)))), Damaged)
    if sequence != 1:
        assert isinstance(refused(backup(segment=segment(packed(sequence=sequence), packed()))), Damaged)


def test_record_with_wrong_previous_checksum_is_damage() -> None:
    assert isinstance(refused(backup(segment=segment(packed(previous=1), packed()))), Damaged)
    assert isinstance(refused(backup(segment=segment(packed(), packed(previous=1)))), Damaged)


def test_log_near_highest_sequence_number_is_not_appended_to() -> None:
    """Nothing is appended where the next sequence number could not be written or read back."""
    for last in (MAX_SEQUENCE, (1 << 63) - 1):
        log = segment(packed(), packed(), sequence=last)
        assert isinstance(refused(backup(manifest=manifest(sequence=last), segment=log)), Damaged)
    for last in (MAX_SEQUENCE // 2, MAX_SEQUENCE - 2):
        files = backup(manifest=manifest(sequence=last), segment=segment(packed(), packed(), sequence=last))
        with pytest.raises(Damaged, match="more than any node makes"):
            backup_of(files).open(silent, "victim")
    overflowing = backup_of(backup(segment=segment(packed(), sequence=(1 << 64) - 2)))
    with pytest.raises(BackupError):
        contents(overflowing)
    with pytest.raises(Damaged):
        overflowing.open(silent, "victim")


# Kinds


@pytest.mark.parametrize("kind", [0, 3, 4, 5, 17, 255])
def test_record_kind_foreign_to_segments_is_damage(kind: int) -> None:
    assert isinstance(refused(backup(segment=segment(packed(), Forged(b"x", kind), packed()))), Damaged)


@pytest.mark.parametrize("kind", [0, 1, 2, 5, 255])
def test_record_kind_foreign_to_snapshots_is_damage(kind: int) -> None:
    assert isinstance(refused(backup(snapshot=snapshot(Forged(b"x", kind, data_version=0)))), Damaged)


def test_snapshot_of_nothing_but_a_wrong_end_record_is_damage() -> None:
    for end in (b"", bytes(40), b"\xff" * 40, b"\xff" * 8 + bytes(32)):
        assert isinstance(refused(backup(snapshot=snapshot(Forged(end, RecordKind.END, 0, data_version=0)))), Damaged)


def test_compressed_stream_without_beginning_is_refused() -> None:
    assert "no beginning" in str(refused(backup(segment=segment(Forged(b"x", flags=ADVANCES)))))


@pytest.mark.parametrize("payload", [b"", b"\x28\xb5\x2f\xfd", b"not zstd at all", b"\x50\x2a\x4d\x18\xff\xff\xff\xff"])
def test_payload_that_is_no_zstd_stream_is_damage(payload: bytes) -> None:
    for size in (1, 1 << 20):
        record = Forged(payload, flags=FRAME | ADVANCES, size=size)
        assert isinstance(refused(backup(segment=segment(record))), Damaged)


def test_compressed_stream_that_ends_inside_record_is_damage() -> None:
    for whole in (finished(b"SELECT 1"), finished(b"SELECT 1") + zstd_block(b"SELECT 2")):
        for size in (8, 16):
            assert isinstance(refused(backup(segment=segment(Forged(whole, flags=FRAME, size=size)))), Damaged)


@pytest.mark.parametrize("window_log", [24, 27, 30])
def test_compressed_stream_that_wants_large_window_is_refused(window_log: int) -> None:
    record = Forged(zstd_block(b"x" * 100, window_log), flags=FRAME, size=100)
    assert "unpacked" in str(refused(backup(segment=segment(record))))


def test_compression_bomb_that_claims_to_be_small_is_damage() -> None:
    bomb = zeros(256 << 20)
    assert len(bomb) < 32 << 10
    for size in (0, 8, 1 << 16, (1 << 16) + 1, 1 << 20):
        assert isinstance(refused(backup(segment=segment(Forged(bomb, flags=FRAME, size=size)))), Damaged)
    for size in (8, PIECE):
        piece = Forged(bomb, RecordKind.PIECE, FRAME, size=size, data_version=0)
        assert isinstance(refused(backup(snapshot=snapshot(piece))), Damaged)


def test_compression_bomb_that_claims_more_than_any_change_is_damage() -> None:
    bomb = segment(Forged(zeros(1 << 26), flags=1, size=1 << 31))
    assert "more than any change has" in str(refused(backup(segment=bomb)))
    piece = Forged(zeros(PIECE + 1), RecordKind.PIECE, FRAME, size=PIECE + 1, data_version=0)
    assert isinstance(refused(backup(snapshot=snapshot(piece))), Damaged)


def test_compression_bomb_of_allowed_size_is_read_within_memory_limit() -> None:
    """As large as a change may be: it takes space in the temporary directory, and no memory."""
    size = 32 << 20
    files = backup(segment=segment(Forged(zeros(size), flags=FRAME | ADVANCES, size=size)))
    with within(MEMORY), backup_of(files).read() as generation:
        (change,) = generation.changes()
        assert len(change.statements) == size + 1
        for number, statement in enumerate(change.statements):
            assert statement == ""
            if number == 1 << 17:
                break


def test_many_compression_bombs_take_no_more_memory_than_one() -> None:
    bomb = zeros(16 << 20)
    files = backup(segment=segment(*(Forged(bomb, flags=FRAME | ADVANCES, size=16 << 20) for _ in range(20))))
    with within(MEMORY), backup_of(files).read() as generation:
        assert sum(len(change.statements) for change in generation.changes()) == 20 * ((16 << 20) + 1)


def test_compressed_stream_of_empty_blocks_is_damage() -> None:
    """Megabytes of blocks that unpack to nothing."""
    stream = zstd_block(b"x")[:-4] + b"\x00\x00\x00" * (1 << 20)
    for size in (1, 1 << 20):
        assert isinstance(refused(backup(segment=segment(Forged(stream, flags=FRAME, size=size)))), Damaged)


def test_statement_that_is_not_utf8_is_damage() -> None:
    for text in (b"\xff", b"SELECT '\xc3", b"\xed\xa0\x80", b"x" * (1 << 17) + b"\xc3", b"\xff" * (1 << 17)):
        assert isinstance(refused(backup(segment=segment(packed(text)))), Damaged)


# Where a log ends


def test_segment_full_of_record_beginnings_is_damage() -> None:
    for begin in (b"\xb5R\x01\x01", b"\xb5R"):
        assert isinstance(refused(backup(segment=segment(packed(), rest=begin * (1 << 17)))), Damaged)


def test_noise_after_last_record_is_damage() -> None:
    for seed in range(20):
        noise = random.Random(seed).randbytes(2000)
        assert isinstance(refused(backup(segment=segment(packed(), rest=noise))), Damaged)
