"""The sizes and times by which a log is written: one object, so that a test can pass in others."""

from dataclasses import dataclass

from backends.log.format.records import MAX_FILE


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Sizes in bytes, times in seconds. None of them is part of the format: a reader takes any."""

    segment_size: int = 8 << 20
    """A segment that is as large is left for the next one. A start copies the last one, so this bounds the start."""
    preallocate_min: int = 1 << 16
    preallocate_max: int = 1 << 20
    """Zeros that are kept written after the last record."""
    max_file: int = MAX_FILE
    """No segment has more, and a snapshot goes on in another file before one has. A reader refuses twice MAX_FILE."""
    sync_every: int = 4 << 20
    """Of a snapshot: what is not synced yet lies in front of the node's next commit, on a slow disk for seconds."""
    check_every: float = 5.0
    """Between two looks at the session marker; a replaced writer must refuse within 15."""
    note_every: float = 60.0
    """Between two notes of how far was acknowledged: rare, to be kind to flash; it is only a second witness."""

    def preallocated(self, end: int) -> int:
        """How many zeros belong after a segment whose records end at byte `end`."""
        return min(max(end // 4, self.preallocate_min), self.preallocate_max)


DEFAULT_OPTIONS = LogOptions()
