"""Whether the records of an encrypted segment were written by the holder of the key. Nothing is unpacked.

Checksums and chain show what a disk has changed; whoever holds the destination can make them match. Somebody who
appends to one member records of their own must not make it pass for the newest.
"""

from contextlib import closing

from backends import keyring
from backends.errors import Damaged
from backends.log.format.codec import StreamError
from backends.log.format.encryption import Opener, Tampered
from backends.log.format.records import FileHeader, Flag, segment_name
from backends.log.reader.records import Record, RecordReader, StoredPayload
from backends.storage.base import Storage


class Authenticator:
    """Checks the records of one segment, all of which must pass through it in order. Without the key of the file, or if
    that is not encrypted, nothing is known and nothing is wrong."""

    def __init__(self, file: FileHeader) -> None:
        key = None if file.key is None else keyring.find(file.key)
        self._opener = None if key is None else Opener(key, file)

    def check(self, record: Record) -> None:
        """Raise Tampered unless the holder of the key has written this record, into this place."""
        if self._opener is None:
            return
        begins = bool(record.header.flags & Flag.FRAME)
        if not isinstance(record.payload, StoredPayload):
            self._opener.open(record.header, record.payload, begins_stream=begins)
            return
        try:
            for _ in self._opener.pieces(record.header, record.payload.blocks(), begins_stream=begins):
                pass
        except StreamError as error:
            raise Tampered(str(error)) from None


def check_segment(storage: Storage, file: FileHeader) -> None:
    """Raise Damaged unless the holder of the key has written every record of this segment. Raises OSError."""
    name, authenticator = segment_name(file.number), Authenticator(file)
    with closing(storage.open(name)) as handle:
        for record in RecordReader(handle, name, file, None, None).records():
            try:
                authenticator.check(record)
            except Tampered as error:
                raise Damaged(f"a record cannot be decrypted ({error})", name, record.offset) from None
