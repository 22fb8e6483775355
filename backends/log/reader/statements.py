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

    def __init__(self, spool: IO[bytes], count: int) -> None:
        self._spool, self._count = spool, count

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
                yield b"".join(started).decode()
                started = [other]
        yield b"".join(started).decode()

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


def spooled(pieces: Iterable[bytes], size: int) -> SpooledStatements:
    """The statements of a change of `size` bytes of SQL, which arrives in these pieces.

    Raises UnicodeDecodeError, and what `pieces` raises.
    """
    # The file lives as long as the statements. It is no SpooledTemporaryFile: that class has a destructor in Python,
    # and a Ctrl-C that arrives in it is lost, with a traceback.
    spool: IO[bytes] = BytesIO() if size <= _IN_MEMORY else TemporaryFile()  # noqa: SIM115
    check, count = getincrementaldecoder("utf-8")(), 1
    for piece in pieces:
        check.decode(piece)
        spool.write(piece)
        count += piece.count(b"\0")
    check.decode(b"", True)
    return SpooledStatements(spool, count)
