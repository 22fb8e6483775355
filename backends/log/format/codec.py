"""Compression: one zstd stream over many records, flushed after each, because successive calls are nearly alike.

A stream cannot be continued after a restart, so a record may begin a new one (Flag.FRAME).
"""

import sys
from collections.abc import Iterable, Iterator

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL_CHANGES = 1
"""The zstd level for changes. On the recordings it is smaller and faster than level 3: 7.7 % of the SQL against 8.2 %,
4 µs a call against 7."""

LEVEL_SNAPSHOT = 3

LARGE_SNAPSHOT = 64 << 20
LEVEL_LARGE_SNAPSHOT = 1
"""For a database of more than LARGE_SNAPSHOT bytes, while whose snapshot is made somebody waits: level 1 takes half the
time of level 3 or less, and what is kept is 2 to 11 % larger."""

_PIECE = 1 << 16
_MAX_WINDOW_LOG = 23
"""8 MiB, the most that levels 1 to 9 use: a hostile stream cannot ask for more memory."""


class StreamError(Exception):
    """The bytes are not what this program's compressor writes."""


class Compressor:
    """Compresses one stream."""

    def __init__(self, level: int) -> None:
        self._stream = zstd.ZstdCompressor(level=level)

    def add(self, data: bytes) -> bytes:
        """The compressed bytes from which a reader recovers `data`, once it has everything that was added before."""
        return self._stream.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)


class Decompressor:
    """Decompresses one stream."""

    def __init__(self) -> None:
        self._stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})

    def pieces(self, payload: Iterable[bytes], size: int) -> Iterator[bytes]:
        """The data given to one `Compressor.add`, piece by piece. Raises StreamError unless it has `size` bytes."""
        got = 0
        for block in payload:
            data = block
            while True:
                try:
                    piece = self._stream.decompress(data, max_length=min(_PIECE, size - got + 1))
                except (zstd.ZstdError, EOFError) as error:
                    raise StreamError(str(error)) from None
                got += len(piece)
                if got > size or self._stream.eof:
                    raise StreamError(f"it unpacks to more than the {size} bytes that its header claims")
                if piece:
                    yield piece
                if self._stream.needs_input or not piece:
                    break
                data = b""
        if got != size:
            raise StreamError(f"it unpacks to {got} bytes, and its header claims {size}")

    def whole(self, payload: bytes, size: int) -> bytes:
        """Like `pieces`, but in one piece, for data that is known to be small."""
        try:
            piece = self._stream.decompress(payload, max_length=size + 1)
        except (zstd.ZstdError, EOFError) as error:
            raise StreamError(str(error)) from None
        if len(piece) == size and self._stream.needs_input and not self._stream.eof:
            return piece
        raise StreamError(f"it does not unpack to the {size} bytes that its header claims")
