"""What the records of changes carry, unpacked: one compression stream runs over many of them."""

from collections.abc import Sequence

from backends.change import MAX_CHANGE
from backends.log.format.codec import Decompressor, StreamError
from backends.log.format.records import Flag, RecordKind
from backends.log.reader.records import Record, StoredPayload
from backends.log.reader.statements import spooled

SMALL = 1 << 16
"""Bytes of SQL up to which a change is unpacked in memory."""

_CHANGE = int(RecordKind.CHANGE)
"""A plain number: it is looked at for every record."""


class Unreadable(Exception):
    """A record is unharmed and yet makes no sense: no writer of this project wrote it."""


class Unpacker:
    """Unpacks the records of a log in order. Also those that nobody wants must pass through it."""

    def __init__(self) -> None:
        self._stream: Decompressor | None = None

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
            raise Unreadable(f"a change claims {size} bytes, more than any has")
        try:
            if isinstance(payload, StoredPayload):
                return spooled(self._stream.pieces(payload.blocks(), size), size)
            if size <= SMALL:
                return self._stream.whole(payload, size).decode().split("\0")
            return spooled(self._stream.pieces((payload,), size), size)
        except (StreamError, UnicodeDecodeError) as error:
            raise Unreadable(f"a change cannot be unpacked ({error})") from None
