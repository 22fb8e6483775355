"""Whether one file of a backup is what was once written there, read by itself: checksums, chain, digests.

Nothing is unpacked here and nothing is written. A segment's end can be lost in a way that leaves a shorter segment in
good order; only its neighbours show that (backends/members/compare.py).
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

from backends.errors import BackupError, Damaged, DamagedSlot, FromTheFuture, NotEncrypted
from backends.log.format.attachments import ATTACHMENTS, MAX_DOCUMENT, AttachedFile, Attachment
from backends.log.format.documents import KEPT, MANIFEST, SESSION, Base, Kept, Manifest, Session
from backends.log.format.encryption import Tampered
from backends.log.format.history import HISTORY, History
from backends.log.format.keys import KEYS, KeysDocument
from backends.log.format.records import (
    FileHeader,
    FileKind,
    RecordKind,
    segment_index,
    snapshot_generation,
)
from backends.log.format.torn import End, Tail
from backends.log.known_damage import DAMAGE, KnownDamage
from backends.log.reader.authentic import Authenticator
from backends.log.reader.records import Chain, Record, RecordReader, StoredPayload
from backends.storage.base import Storage


def _slots_in(data: bytes) -> None:
    """Raises Damaged if any part of the key slots is, although the others may be usable."""
    try:
        keys = KeysDocument.decode(data)
    except DamagedSlot:
        raise Damaged("none of its key slots can be read", KEYS, 0) from None
    if keys.lost or not keys.intact:
        raise Damaged("some of its text has changed", KEYS, 0)


_DECODE: dict[str, Callable[[bytes], object]] = {
    MANIFEST: Manifest.decode,
    SESSION: Session.decode,
    KEPT: Kept.decode,
    HISTORY: History.decode,
    DAMAGE: KnownDamage.decode,
    KEYS: _slots_in,
    **{each.value: partial(AttachedFile.decode, each) for each in Attachment},
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file: a clause, and where (bytes from its start)."""

    what: str
    offset: int


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a segment, or of a part of a snapshot, all of which are good."""

    before: Chain | None
    """What the first record follows; None if there is no record."""
    last: Chain | None
    """The last record; None if there is none."""
    digest: bytes
    """The same for two files with the same records, and only for these."""
    tail: Tail
    """How they end: cleanly, or in a torn record."""
    ends_snapshot: bool
    """Whether the last record is the one that ends a snapshot."""
    base_checksum: int | None
    """The checksum of the record at the base that was asked about, as this file has it; None if it does not say."""


def fault_in(storage: Storage, name: str, backup_id: bytes) -> Fault | None:
    """What is wrong with this shared file, read by itself; None if nothing is.

    A torn end is no fault: the segment may be one that is being written. Raises OSError, FromTheFuture.
    """
    found = document_in(storage, name) if name in _DECODE else records_in(storage, name, backup_id)
    return found if isinstance(found, Fault) else None


def read_document(storage: Storage, name: str) -> bytes:
    """The bytes of a document, good or not. Raises OSError."""
    return storage.read_small(name, MAX_DOCUMENT) if name in ATTACHMENTS else storage.read_small(name)


def document_in(storage: Storage, name: str) -> bytes | Fault:
    """The bytes of a document, or what is wrong with it. Raises OSError, FromTheFuture."""
    data = read_document(storage, name)
    try:
        _DECODE[name](data)
    except FromTheFuture:
        raise
    except Damaged as error:
        return Fault(error.what, error.offset)
    except NotEncrypted:
        return Fault("it is not encrypted, although this backup is", 0)
    except BackupError as error:
        return Fault(str(error), 0)
    return data


def records_in(
    storage: Storage, name: str, backup_id: bytes, base: Base | None = None, manifest: Manifest | None = None
) -> Records | Fault:
    """The records of a segment or of a part of a snapshot, or what is wrong with it. Raises OSError, FromTheFuture.

    If `manifest` is given, the file must be encrypted as that says; if the key is known, a segment's records must have
    been written by its holder. (Those of a snapshot are checked when it is unpacked, as they make one database.)
    """
    digest, before, last, mark = sha256(), None, None, None
    with closing(storage.open(name)) as handle:
        try:
            file = replace(_header_of(name, backup_id), key=None if manifest is None else manifest.key)
            reader = RecordReader(handle, name, file, None, None, any_key=manifest is None)
            authenticator = Authenticator(file) if file.kind == FileKind.SEGMENT else None
            for record in reader.records():
                header = record.header
                if authenticator is not None:
                    authenticator.check(record)
                before = before or Chain(header.sequence - 1, header.previous)
                if base is not None and header.sequence == base.sequence + 1:
                    mark = header.previous
                elif base is not None and header.sequence == base.sequence:
                    mark = header.checksum
                _add(digest.update, record)
                last = record
            tail = reader.tail()
        except FromTheFuture:
            raise
        except Damaged as error:
            return Fault(error.what, error.offset)
        except Tampered as error:
            return Fault(f"a record cannot be decrypted ({error})", 0 if last is None else last.offset)
        except BackupError as error:  # the header of another backup
            return Fault(str(error), 0)
    ends = last is not None and last.header.kind == RecordKind.END
    chain = None if last is None else Chain(last.header.sequence, last.header.checksum)
    return Records(before, chain, digest.digest(), tail, ends, mark)


def whole_snapshot_part(found: Records) -> bool:
    """Whether a part of a snapshot may end like this: it is never written to again, so no power cut tears it."""
    return found.last is not None and found.tail.end is End.CLEAN


def _add(update: Callable[[bytes], None], record: Record) -> None:
    payload = record.payload
    update(record.header.checksum.to_bytes(4, "little"))
    if isinstance(payload, StoredPayload):
        for block in payload.blocks():
            update(block)
    else:
        update(payload)


def _header_of(name: str, backup_id: bytes) -> FileHeader:
    index = segment_index(name)
    if index is not None:
        return FileHeader(FileKind.SEGMENT, backup_id, index)
    part = name.partition(".")[2]
    return FileHeader(FileKind.SNAPSHOT, backup_id, snapshot_generation(name) or 0, int(part or 0))
