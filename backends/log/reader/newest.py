"""The newest version of which a damaged backup shows any trace, even behind the damage.

Nothing is restored from such a trace. But a database older than that must not replace the backup without consent.
"""

from contextlib import closing, suppress

from backends.errors import BackupError, Damaged
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    MAX_FILE,
    RECORD_HEADER_SIZE,
    RecordHeader,
    RecordKind,
    decode_record_header,
    segment_index,
)
from backends.log.format.torn import next_record
from backends.log.reader.opening import read_manifest, read_session
from backends.storage.base import ReadHandle, Storage


def newest_saved(storage: Storage, reached: int) -> int:
    """The newest version with a trace in this backup; `reached`, the version that a reader reached, if there is none.

    An intact record header is a trace, whether or not its payload can be read. OSError from the storage.
    """
    sequence, version = -1, reached
    with suppress(BackupError):
        base = read_manifest(storage).base
        sequence, version = base.sequence, base.data_version
    with suppress(Damaged):
        session = read_session(storage)
        if session is not None and session.sequence > sequence:
            sequence, version = session.sequence, session.data_version
    for name in storage.names():
        if segment_index(name) is None:
            continue
        with closing(storage.open(name)) as handle:
            last = _last_record(handle)
        if last is not None and last.sequence > sequence:
            sequence, version = last.sequence, last.data_version
    return version


def _last_record(handle: ReadHandle) -> RecordHeader | None:
    """The header of the last change in this file, by sequence; None if there is none."""
    newest: RecordHeader | None = None
    offset, size = FILE_HEADER_SIZE, min(handle.size(), 2 * MAX_FILE)  # a sparse file, or a server, may claim 2^63
    while offset < size:
        header = decode_record_header(handle.read(offset, RECORD_HEADER_SIZE))
        if header is None:
            found = next_record(handle, offset, size)
            if found is None:
                break
            offset = found
            continue
        if header.kind == RecordKind.CHANGE and (newest is None or header.sequence > newest.sequence):
            newest = header
        offset += RECORD_HEADER_SIZE + header.length
    return newest
