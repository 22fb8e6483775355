"""Small files on the node's side: read with a size limit, replaced as a whole."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_LIMIT = 1 << 16  # files on the node's side have a few hundred bytes

_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""The errors of filesystems that cannot fsync a directory: they write names at once and offer nothing better."""


def read_small_file(path: Path, *, links: bool = True) -> bytes:
    """The whole content. OSError when the file is missing, cannot be read, or is larger than 64 KiB; without `links`,
    also (ELOOP) when the name is that of a symbolic link."""
    no_link = 0 if links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_link)  # O_NONBLOCK: a FIFO would block
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise OSError(errno.EFBIG, f"it has more than {_LIMIT} bytes", str(path))
    return data


def replace_file(path: Path, data: bytes, *, durably: bool, mode: int = 0o600) -> None:
    """Replace the file `path` by `data`: a reader sees the old file or the new one, never a part.

    The new file has this mode from its first moment. With `durably`, it survives a power cut once this returns. After
    an OSError the file is the old one or, if only the last sync failed, the new one.
    """
    temporary = path.name + ".tmp"
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileNotFoundError):  # a file that a crash has left is not reused: it may be a link
            os.unlink(temporary, dir_fd=directory)
        with _created(path, temporary, directory, mode) as file:
            file.write(data)
            file.flush()
            if durably:
                os.fsync(file.fileno())
            _refuse_another(file.fileno(), temporary, directory)
            os.replace(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        if durably:
            _sync(directory)
    finally:
        os.close(directory)


@contextmanager
def _created(path: Path, name: str, directory: int, mode: int) -> Iterator[IO[bytes]]:
    """A new file beside `path`. After an OSError the file is gone again, and the error names `path`."""
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
        except OSError:
            with suppress(OSError):
                os.unlink(name, dir_fd=directory)
            raise
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _refuse_another(descriptor: int, name: str, directory: int) -> None:
    """Raise OSError if `name` no longer is the file that was written, because somebody has replaced it meanwhile."""
    if not os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=directory, follow_symlinks=False)):
        raise OSError(errno.ESTALE, "another file was put in its place while it was being written")


def create_file(path: Path, data: bytes) -> None:
    """Create a file (mode 0600 from its first moment). FileExistsError when the name is taken, even by a link."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Make durable what was created, renamed or removed in the directory. OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
