"""The segments that are open at the members in sync, as far as one that is being caught up holds them."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

from backends.members.copy_file import Pause
from backends.members.files import refuse_rotten
from backends.storage.base import FileFenced, Storage, WriteHandle

_MAX_ZEROS = 1 << 20
"""The most bytes that are preallocated at the member from the beginning."""


@dataclass(slots=True)
class Tail:
    """A file of the member that is being written at the others: how much of it is there."""

    part: WriteHandle
    end: int


class Tails(dict[str, Tail]):
    """The open files of one member, by name. `pause` is called with the bytes that were just copied."""

    def __init__(self, storage: Storage, pause: Pause) -> None:
        super().__init__()
        self._storage, self._pause = storage, pause

    def refuse_fenced(self) -> None:
        """Raise FileFenced if another writer has sealed one of them: then it must be begun again."""
        for name, tail in self.items():
            if tail.part.is_fenced():
                raise FileFenced(name)

    def end_all_but(self, still_open: Collection[str]) -> None:
        """Close the files that are no longer open at the others; from now on they are compared like every other."""
        for name in [name for name in self if name not in still_open]:
            tail = self.pop(name)
            with closing(tail.part):
                tail.part.truncate(tail.end)
                tail.part.sync()
                tail.part.finish()

    def extend(self, source: Storage, name: str, end: int, backup_id: str) -> int:
        """Copy what was written to this open file up to `end` since the last time. Returns the number of bytes."""
        tail = self.get(name)
        if tail is None:
            self[name] = self._begun(source, name, end, backup_id)
            return end
        with closing(source.open(name)) as reading:
            return self._copy(reading.blocks(tail.end, end), tail)

    def _copy(self, blocks: Iterator[bytes], tail: Tail) -> int:
        copied = 0
        for block in blocks:
            tail.part.write_durably(tail.end, block)
            tail.end += len(block)
            copied += len(block)
            self._pause(len(block))
        with suppress(OSError):
            tail.part.tidy()
        return copied

    def _begun(self, source: Storage, name: str, end: int, backup_id: str) -> Tail:
        """Make the member's own copy of a file that is open at the others; it stays open here, too."""
        if name in self._storage.names():  # the member may have the last good copy
            refuse_rotten(source, name, bytes.fromhex(backup_id))
        temporary = self._storage.temporary(name)
        part = self._storage.create(temporary)
        try:
            with closing(source.open(name)) as reading:
                offset = 0
                for block in reading.blocks(0, end):
                    part.write(offset, block)
                    offset += len(block)
                    self._pause(len(block))
                zeros = min(max(reading.size() - end, 0), _MAX_ZEROS)
            part.write(end, bytes(zeros))
            part.sync()
            self._pause(0)
            self._storage.rename(temporary, name)
            self._storage.sync_names()
        except BaseException:
            part.close()
            raise
        return Tail(part, end)

    def copy_last(self, source: Storage, ends: Mapping[str, int]) -> None:
        """Copy the last bytes of each file, up to its end in `ends`. Raises FileFenced, OSError."""
        for name, tail in self.items():
            if tail.end < ends[name]:
                with closing(source.open(name)) as reading:
                    tail.part.write_durably(tail.end, reading.read(tail.end, ends[name] - tail.end))
                tail.end = ends[name]
            elif tail.part.is_fenced():
                raise FileFenced(name)
