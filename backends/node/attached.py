"""The node's files that are copied into its backup: how they look, what is in them, and how they come back.

Links are not followed, and only a regular file of a plausible size is read: what is read here leaves the machine. What
is put back replaces nothing.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.log.format.attachments import Attachment, why_unfit
from backends.node.files import create_file, sync_directory
from backends.storage.base import NO_LINKS


class Unfit(Exception):
    """The file is not one that may be copied. The text says why, as a clause."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What differs for a file that was changed or replaced. Times are in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


@dataclass(frozen=True, slots=True)
class NodeFile:
    """A file of the node as it was read."""

    content: bytes
    stamp: Stamp


def stamp_of(directory: Path, which: Attachment) -> Stamp | None:
    """How the file in the node's directory looks, or a link in its place; None if there is none. Raises OSError."""
    try:
        return _stamp((directory / which.value).lstat())
    except FileNotFoundError:
        return None


def read_node_file(directory: Path, which: Attachment) -> NodeFile:
    """Read the file in the node's directory. Raises Unfit, FileNotFoundError, or another OSError."""
    try:
        # Without O_NONBLOCK a FIFO of that name would hang this call.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(directory / which.value, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise Unfit("it is a link, and links are not followed") from None
        if error.errno == errno.ENXIO:
            raise Unfit("it is not a file") from None
        raise
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise Unfit("it is not a file")
        unfit = why_unfit(which, before.st_size)
        if unfit is not None:
            raise Unfit(unfit)
        content = b""
        while len(content) <= which.limit and (read := os.pread(descriptor, which.limit + 1, len(content))):
            content += read
        stamp = _stamp(os.fstat(descriptor))
    finally:
        os.close(descriptor)
    if stamp != _stamp(before) or len(content) != before.st_size:
        raise OSError(errno.EAGAIN, "it changed while it was read", which.value)
    return NodeFile(content, stamp)


def put_node_file(directory: Path, which: Attachment, content: bytes) -> None:
    """Put a file back into the node's directory: complete and durable when this returns, or not there at all.

    Raises FileExistsError if the name is taken, even by a link: then nothing was changed. Raises another OSError.
    """
    path, temporary = directory / which.value, directory / f"{which.value}-{secrets.token_hex(4)}.tmp"
    try:
        create_file(temporary, content)
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o400 if which is Attachment.SECRET else 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _name_new(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    sync_directory(directory)


def _name_new(temporary: Path, path: Path) -> None:
    """Give the file a second name, or a new one, that no file has. FileExistsError if one has it."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.rename(path)


def _stamp(seen: os.stat_result) -> Stamp:
    return Stamp(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
