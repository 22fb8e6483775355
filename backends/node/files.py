"""Small files on the node's side: read with a limit, replaced whole."""

import errno
import os
from contextlib import suppress
from pathlib import Path

_LIMIT = 1 << 16  # what is kept on the node's side has a few hundred bytes

_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""How filesystems say that they know no fsync of a directory: they write names at once and offer nothing better."""


def read_small_file(path: Path) -> bytes:
    """The whole file. OSError when it is missing, cannot be read, or has more than 64 KiB."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for somebody to write
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise OSError(errno.EFBIG, f"it has more than {_LIMIT} bytes", str(path))
    return data


def replace_file(path: Path, data: bytes, *, durably: bool) -> None:
    """Put `data` (mode 0600) in the place of `path`: a reader sees the old file or the new one, never a part.

    With `durably`, the new one is safe from a power cut when this returns. After an OSError the file is
    the old one or, when only the last sync failed, the new one.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        _write_new(temporary, data, durably)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durably:
        sync_directory(path.parent)


def _write_new(path: Path, data: bytes, durably: bool) -> None:
    """A new file: one left over from a crash is not reused, it may be a link or have another mode."""
    with suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        if durably:
            os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """What was created, renamed or removed in the directory is durable when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)
