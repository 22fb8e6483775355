"""The progress of the work in this process: written by the thread that works, read by a thread that watches it.

A statement that comes from a stranger can keep SQLite in one long step that no signal ends. So another thread must be
able to tell whether the work makes progress. Writing these values takes no measurable time.
"""

from collections.abc import Mapping


class Pulse:
    """How far the work has got. One thread writes this; any other thread may read it."""

    __slots__ = ("change", "done", "news", "quiet", "segment", "signs", "statement", "total")

    def __init__(self) -> None:
        self.done, self.total = 0, 0
        """Stored bytes that were read, and stored bytes in total."""
        self.signs = 0
        """Grows while SQLite executes a statement: its progress handler increments it."""
        self.change: int | None = None
        """The data version of the change that is being executed; None before the first and after the last."""
        self.segment = 0
        """The index of the segment that holds `change`; 0 where there are no segments."""
        self.statement = 0
        """Bytes of the largest statement in `change` if that takes much memory; otherwise 0."""
        self.news: Mapping[str, object] | None = None
        """What else the work has to tell, and goes on telling: replaced as a whole."""
        self.quiet = False
        """Whether the work waits for something to do: then the watching thread looks less often."""

    def read(self, done: int, total: int) -> None:
        """Note that `done` of `total` stored bytes have been read. This method is a `BytesDone`."""
        self.done, self.total = done, total

    def beat(self) -> tuple[int, int, int | None]:
        """A value that differs from the previous one whenever the work has made progress."""
        return self.done, self.signs, self.change


pulse = Pulse()
"""The progress of this process."""
