"""Brings a file's bytes to the disk without a flush: quicker than a sync, and a commit is not held up by a journal."""

import ctypes  # so whoever needs this imports it late: the plugin does without as long as it can
import errno
import os

from backends.mounts.table import mount_at

_WRITE_AND_WAIT = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER."""

_UNABLE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EPERM, errno.EOPNOTSUPP})


def is_able(descriptor: int) -> bool:
    """Whether `write_out` brings this file's bytes nearer to the disk.

    A FUSE filesystem has no bytes in the kernel that wait: its program has them, and passes them on when it likes.
    """
    if not hasattr(ctypes.CDLL(None), "sync_file_range"):
        return False
    try:
        return not mount_at(descriptor).kind.startswith("fuse")
    except OSError:
        return False


def write_out(descriptor: int, offset: int, length: int) -> bool:
    """Write these bytes to the disk, and wait for it. They are not durable before a sync.

    False if the kernel cannot. Raises OSError if they could not be written; the kernel says so only once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _WRITE_AND_WAIT):
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number))
