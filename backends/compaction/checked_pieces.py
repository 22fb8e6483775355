"""The database that a compaction has rebuilt, for its snapshot: none but one that is whole."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import apsw

from backends.sqlite.check_beside import CheckBeside
from backends.sqlite.copy import file_pieces, of_our_file
from backends.sqlite.error_text import NOT_UTF8
from backends.sqlite.in_step import InStep, pieces_in_step
from backends.sqlite.rebuild import Rebuilt
from backends.sqlite.replay_errors import fails_check, unusable


@contextmanager
def checked_pieces(database: Path, rebuilt: Rebuilt) -> Iterator[Iterable[bytes]]:
    """The rebuilt database, piece by piece. If it was not checked yet, that is done meanwhile.

    The last piece is followed by ReplayFailed if it is not whole; and by BackupError if it cannot be read.
    """
    if rebuilt.all_checked:
        yield of_our_file(file_pieces(database), database)
        return
    with ExitStack() as held:
        descriptor, for_check = (_opened(database, held) for _ in range(2))
        with suppress(OSError):  # then more is read
            # What was just written is in memory in large pieces, which stay or go as a whole. They would leave no room.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        step = InStep()
        check = held.enter_context(CheckBeside(database, for_check, step))
        pieces = pieces_in_step(descriptor, os.fstat(descriptor).st_size, step)
        yield _until_checked(of_our_file(pieces, database), database, check)


def _opened(database: Path, held: ExitStack) -> int:
    descriptor = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
    held.callback(os.close, descriptor)
    return descriptor


def _until_checked(pieces: Iterable[bytes], database: Path, check: CheckBeside) -> Iterator[bytes]:
    yield from pieces
    try:
        what = check.result()
    except apsw.Error as error:
        raise unusable(error, database) from error
    except UnicodeDecodeError as error:
        raise unusable(apsw.CorruptError(NOT_UTF8), database) from error
    if what is not None:
        raise fails_check(what)
