"""Unpacking the changes in records: one compression stream runs over many records."""

from collections.abc import Iterable, Iterator, Sequence

from backends.change import MAX_CHANGE
from backends.log.format.codec import Decompressor, StreamError
from backends.log.format.encryption import FINGERPRINT, Opener, Tampered, known_key
from backends.log.format.records import FileHeader, Flag, RecordHeader, RecordKind
from backends.log.reader.records import Record, StoredPayload
from backends.log.reader.statements import spooled

SMALL = 1 << 16
"""A change of at most this many bytes of SQL is unpacked in memory."""

_CHANGE = int(RecordKind.CHANGE)
"""A plain number for speed: it is compared for every record."""


class Unreadable(Exception):
    """A record's checksum is right, but its content makes no sense: no writer of this project wrote it."""


class Unpacker:
    """Unpacks the records of a log. Every record must pass through it in order, even one that the caller skips."""

    def __init__(self) -> None:
        self._stream: Decompressor | None = None
        self._file: FileHeader | None = None
        self._opener: Opener | None = None

    def go_on_in(self, file: FileHeader) -> None:
        """The next records are those of this segment. An encrypted stream never goes on in another one.

        Raises KeyNeeded if the segment is encrypted and its key unknown.
        """
        if file != self._file:
            self._file = file
            self._opener = None if file.key is None else Opener(known_key(file.key), file)

    def statements(self, record: Record) -> Sequence[str]:
        """The statements of a change. Raises Unreadable."""
        header, payload, _ = record
        if header.kind != _CHANGE:
            raise Unreadable(f"a record of unknown kind {header.kind}")
        if header.flags & Flag.FRAME:
            self._stream = Decompressor()
        if self._stream is None:
            raise Unreadable("the compression stream has no beginning")
        size = header.size
        if size > MAX_CHANGE:
            raise Unreadable(f"a change claims {size} bytes, more than any change has")
        try:
            if isinstance(payload, StoredPayload):
                return spooled(self._stream.pieces(self._decrypted(header, payload), size), size)
            if self._opener is not None:
                opened = self._opener.open(header, payload, begins_stream=bool(header.flags & Flag.FRAME))
                payload = opened[FINGERPRINT:]
            if size <= SMALL:
                return self._stream.whole(payload, size).decode().split("\0")
            return spooled(self._stream.pieces((payload,), size), size)
        except (StreamError, UnicodeDecodeError) as error:
            raise Unreadable(f"a change cannot be unpacked ({error})") from None
        except Tampered as error:
            raise Unreadable(f"a change cannot be decrypted: {error}") from None

    def _decrypted(self, header: RecordHeader, payload: StoredPayload) -> Iterable[bytes]:
        """The bytes of a payload that is too large for memory, as they were before they were encrypted."""
        blocks = payload.blocks()
        if self._opener is None:
            return blocks
        return _statements_in(self._opener.pieces(header, blocks, begins_stream=bool(header.flags & Flag.FRAME)))


def _statements_in(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The decrypted bytes without the fingerprint before them."""
    yield next(pieces)[FINGERPRINT:]
    yield from pieces
