"""The statements of a change that is too large for memory: they are on disk and read one at a time."""

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, overload

from backends.system.pulse import pulse

_BLOCK = 1 << 16
_IN_MEMORY = 8 << 20


class SpooledStatements(Sequence[str]):
    """A sequence of `count` statements that is read from `spool` on each use.

    Access by index is slow, because it reads from the first statement on.
    """

    def __init__(self, spool: IO[bytes], count: int, largest: int) -> None:
        self._spool, self._count = spool, count
        self.largest = largest
        """No statement has more bytes. Only one is in memory at a time, but that one as a whole."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        position, started = 0, list[bytes]()
        while True:
            self._spool.seek(position)  # several iterators may take turns
            block = self._spool.read(_BLOCK)
            if not block:
                break
            position += len(block)
            pulse.signs += 1  # a sign of life: the change may have a million short statements
            first, *others = block.split(b"\0")
            started.append(first)
            for other in others:
                yield _taken(started)
                started.append(other)
        yield _taken(started)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            wanted = range(self._count)[index]
            return [self[number] for number in wanted]
        number = range(self._count)[index]
        return next(statement for at, statement in enumerate(self) if at == number)


def _taken(parts: list[bytes]) -> str:
    """The statement in these parts, which are dropped: nothing else may hold its bytes while it is executed."""
    joined = b"".join(parts)
    parts.clear()
    return joined.decode()


def spooled(pieces: Iterable[bytes], size: int) -> SpooledStatements:
    """The statements of a change of `size` bytes of SQL, which arrives in these pieces.

    Raises UnicodeDecodeError, and what `pieces` raises.
    """
    # The file lives as long as the statements. It is no SpooledTemporaryFile: that class has a destructor in Python,
    # and a Ctrl-C that arrives in it is lost, with a traceback.
    spool: IO[bytes] = BytesIO() if size <= _IN_MEMORY else TemporaryFile()  # noqa: SIM115
    check, count, largest, length = getincrementaldecoder("utf-8")(), 1, 0, 0
    for piece in pieces:
        check.decode(piece)
        spool.write(piece)
        count += piece.count(b"\0")
        first, last = piece.find(b"\0"), piece.rfind(b"\0")
        if first < 0:
            length += len(piece)
        else:  # those in between are smaller than a piece: their lengths, perhaps of millions, are not looked at
            largest, length = max(largest, length + first, last - first - 1), len(piece) - last - 1
    check.decode(b"", True)
    return SpooledStatements(spool, count, max(largest, length))
