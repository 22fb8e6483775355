"""The sizes and intervals for writing a log: one object, so that a test can pass in others."""

from dataclasses import dataclass

from backends.keep import Keep
from backends.log.format.records import MAX_FILE

SMALL_FILES = 128 << 10
"""The most bytes that a start takes for the small files (lock, session and manifest) and for all file names."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Sizes in bytes, times in seconds. None of them is part of the format: a reader accepts any."""

    segment_size: int = 8 << 20
    """The log goes on in the next segment once one is this large. A start copies the last segment, so this bounds the
    time of a start."""
    preallocate_min: int = 1 << 16
    preallocate_max: int = 1 << 20
    """The fewest and the most zeros that are kept preallocated after the last record."""
    max_file: int = MAX_FILE
    """The most bytes of a file: a segment takes no more, and a snapshot goes on in another file. A reader refuses more
    than twice MAX_FILE."""
    sync_every: int = 4 << 20
    """Bytes of a snapshot between two syncs: the node's next commit waits for all that is not synced yet, for seconds
    on a slow disk."""
    check_every: float = 5.0
    """Between two looks at the session marker. A fenced writer must refuse within 15 seconds."""
    note_every: float = 60.0
    """Between two notes of the acknowledged position: rare, to spare flash memory. The note is only a second proof of
    what was saved."""
    keep: Keep | None = None
    """How much of the history is kept; None leaves that as it is noted in the backup."""

    def preallocated(self, end: int) -> int:
        """How many zeros to preallocate in a segment whose records end at byte `end`."""
        return min(max(end // 4, self.preallocate_min), self.preallocate_max)


DEFAULT_OPTIONS = LogOptions()
