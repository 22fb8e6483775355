"""Whether a member can be read at every moment while its segments are replaced, one after the other.

After each file, a reader finds the source's segments as far as they have been copied, and then what the member had.
That is a good log only if each joins its neighbours, and if it does not end before what the member's session marker
says was once saved. Records that were abandoned break both: the source may have gone on in another segment than they
did, and the marker of the writer that died counts them.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field

from backends.errors import BackupError
from backends.log.format.documents import SESSION, Session
from backends.log.format.records import segment_index, segment_name
from backends.log.format.torn import has_records
from backends.members.validity import Fault, Records, records_in
from backends.storage.base import Storage


def indexes(names: Iterable[str]) -> set[int]:
    """Those of the segments among these files."""
    return {index for name in names if (index := segment_index(name)) is not None}


def is_unused(target: Storage, name: str) -> bool:
    """Whether this is a segment that was made ahead of use and holds no record."""
    try:
        with closing(target.open(name)) as handle:
            return segment_index(name) is not None and not has_records(handle)
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Replacing:
    """Segments of `source` that are to be copied to `target`, in the order of their indexes."""

    source: Storage
    target: Storage
    backup_id: bytes
    copied: set[int]
    """The segments that the target lacks, or that differ."""
    ours: set[int]
    """All of the source's that are looked at. What is not copied is the same at the target."""
    theirs: set[int]
    """All of the target's."""
    read: dict[int, Records | None] = field(default_factory=dict)
    """The source's segments that were read."""

    def keeps_log_whole(self) -> bool:
        """Whether a log that the target holds can be read after each file. Reads segments that are to be replaced.

        Raises OSError if the source cannot be read.
        """
        saved = _saved(self.target)
        return all(
            self._joins_previous(index) and (index not in self.theirs or self._may_replace(index, saved))
            for index in sorted(self.copied)
        )

    def _joins_previous(self, index: int) -> bool:
        if index - 1 in self.ours:
            return True
        if index - 1 not in self.theirs:  # a gap, if the target has earlier ones
            return all(index <= each for each in self.theirs)
        new, previous = self._new(index), self._old(index - 1)
        if new is None or previous is None:
            return False
        return new.before is None or new.before == previous.last

    def _may_replace(self, index: int, saved: int) -> bool:
        """Whether the log is good while the target's next segment is still its own."""
        new = self._new(index)
        if new is None:
            return False
        if index + 1 in self.theirs:
            if index + 1 in self.ours - self.copied:
                return True
            following = self._old(index + 1)
            if following is None:
                return False
            if following.before is not None:
                return following.before == new.last
        if new.last is None:
            return is_unused(self.target, segment_name(index))
        return new.last.sequence >= saved

    def _new(self, index: int) -> Records | None:
        """The source's segment, which is read once; None if it is damaged."""
        if index not in self.read:
            found = records_in(self.source, segment_name(index), self.backup_id)
            self.read[index] = None if isinstance(found, Fault) else found
        return self.read[index]

    def _old(self, index: int) -> Records | None:
        """The target's segment; None if it is damaged or cannot be read."""
        try:
            found = records_in(self.target, segment_name(index), self.backup_id)
        except (OSError, BackupError):
            return None
        return None if isinstance(found, Fault) else found


def _saved(target: Storage) -> int:
    """The last record that the target's session marker says was once saved; 0 if it does not say."""
    try:
        return Session.decode(target.read_small(SESSION)).sequence
    except (OSError, BackupError):
        return 0
