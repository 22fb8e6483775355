"""Which pages of a file the kernel keeps in memory."""

import ctypes
import mmap
import os
from pathlib import Path

PAGE = 4096


def in_memory(file: Path) -> list[bool]:
    """Whether each page of the file is in the kernel's memory. Looking reads none."""
    size = file.stat().st_size
    flags = (ctypes.c_ubyte * -(-size // PAGE))()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        result = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), flags)
        del first
    assert result == 0
    return [bool(flag & 1) for flag in flags]


def forget(file: Path) -> None:
    """Have the kernel keep no page of the file in memory. A filesystem that has no disk keeps them."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
