"""Comparing the files of two members: which of them must be copied, and where two begin to differ."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from backends.log.format.keys import KEYS
from backends.log.format.torn import first_nonzero
from backends.members.key_copies import read_keys_file, replaces
from backends.members.shared_files import DOCUMENTS, STORED, shared_names
from backends.members.validity import read_document
from backends.storage.base import ReadHandle, Storage

_BLOCK = 1 << 18
_TAIL = 1 << 16


@dataclass(frozen=True, slots=True)
class Differences:
    """What must be done to a member so that it has the same shared files as another."""

    copy: tuple[str, ...]
    """The files that are missing, or that differ; sorted."""
    remove: tuple[str, ...]
    """The files that the other member does not have; sorted. Those in STORED are not among them."""


def differences(source: Storage, target: Storage, *, deep: bool) -> Differences:
    """How the shared files of `target` differ from those of `source`.

    Compares the content of documents, and of all other files the size and the end, which shows other records but no bit
    rot; with `deep`, every byte. A file of the target that cannot be read differs. Raises OSError if the source cannot
    be read, or the target's names cannot.
    """
    return compared(source, shared_names(source.names()), target, deep)


def compared(source: Storage, names: Sequence[str], target: Storage, deep: bool) -> Differences:
    """The same as `differences`, for these of the source's shared files."""
    theirs = set(shared_names(target.names()))
    copy = tuple(name for name in names if name not in theirs or differs(source, target, name, deep=deep))
    return Differences(copy, tuple(sorted(theirs.difference(names, STORED))))


def differs(source: Storage, target: Storage, name: str, *, deep: bool) -> bool:
    """Whether this file of `target` differs from that of `source`, as in `differences`."""
    if name == KEYS:
        return replaces(read_keys_file(source) or b"", read_keys_file(target))
    if name in DOCUMENTS:
        return read_document(source, name) != read_if_possible(target, name)
    with closing(source.open(name)) as original:
        size = original.size()
        try:
            copy = target.open(name)
        except OSError:
            return True
        with closing(copy):
            if _size_if_known(copy) != size:
                return True
            return first_difference(original, copy, 0 if deep else _end(original, size), size) is not None


def _end(original: ReadHandle, size: int) -> int:
    """From where on two files of equal size must be compared so that one with other records is noticed.

    The last record carries a checksum of all before it, so the last bytes are enough, but not where they are zeros:
    an open segment has the same size, however many records are in it.
    """
    start = max(0, size - _TAIL)
    return start if first_nonzero(original, start, size) is not None else 0


def first_difference(original: ReadHandle, copy: ReadHandle, start: int, size: int) -> int | None:
    """The offset of the first byte from `start` up to `size` in which two open files differ; None if there is none.

    From where `copy` cannot be read, it differs. Raises OSError if `original` cannot be read.
    """
    for offset in range(start, size, _BLOCK):
        block = original.read(offset, min(_BLOCK, size - offset))
        try:
            other = copy.read(offset, len(block))
        except OSError:
            return offset
        if block != other:
            same = min(len(block), len(other))
            return offset + next((at for at in range(same) if block[at] != other[at]), same)
    return None


def read_if_possible(target: Storage, name: str) -> bytes | None:
    """A document of a member that may be overwritten; None if there is none, or if it cannot be read."""
    try:
        return read_document(target, name)
    except OSError:
        return None


def _size_if_known(handle: ReadHandle) -> int | None:
    try:
        return handle.size()
    except OSError:
        return None
