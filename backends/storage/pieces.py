"""How a record that is too long for one call to a server is sent in several, and what an interrupted call leaves."""

import errno

SECTOR = 512
"""Bytes that a disk writes completely or not at all."""

_BLOCK = 4096
"""The size in bytes of the larger sectors of disks, and of filesystem blocks."""


def piece(offset: int, length: int, most: int) -> int:
    """How many bytes to send in one call: all `length`, or at most `most`, up to the end of a disk sector.

    So a node that dies between two calls leaves whole sectors of its record followed by zeros, as a disk that loses
    power does. A reader treats that as torn, and a record that was cut within a sector as damaged.
    """
    if length <= most:
        return length
    return most - (offset + most) % (_BLOCK if most >= 2 * _BLOCK else SECTOR)


def check_interrupted(name: str, offset: int, data: bytes, there: bytes) -> None:
    """Check what a write of `data` that was cut off has left at `offset`: all of it, a part, or nothing.

    `there` is what the file holds in its place. Raises OSError if that is something else.
    """
    there = there.ljust(len(data), b"\0")
    start = 0
    while start < len(data):
        end = start + SECTOR - (offset + start) % SECTOR  # any of the disk's own sectors may be written
        found = there[start:end].rstrip(b"\0")  # and a part of one, if the server said that it took fewer bytes
        if not data[start:end].startswith(found):
            raise OSError(errno.EIO, f"{name} differs at byte {offset + start} from what was written")
        start = end
