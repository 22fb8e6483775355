"""Signs of life of the work in this process: set where the work is done, read by a thread that watches it.

A statement of a stranger's can keep SQLite in one long step that no signal ends, so that somebody else must be able to
tell work from standing still. Setting these costs nothing that could be measured.
"""


class Pulse:
    """How far the work is. One thread writes, and any other reads."""

    __slots__ = ("change", "done", "segment", "signs", "total")

    def __init__(self) -> None:
        self.done, self.total = 0, 0
        """Stored bytes read so far, and all of them."""
        self.signs = 0
        """Grows while SQLite executes one statement: its progress handler counts here."""
        self.change: int | None = None
        """The data version of the change that is being executed; None before the first and after the last."""
        self.segment = 0
        """The index of the segment that this change lies in; 0 where there are none."""

    def read(self, done: int, total: int) -> None:
        """So many stored bytes are read, of so many. It is a `BytesDone`."""
        self.done, self.total = done, total

    def beat(self) -> tuple[int, int, int | None]:
        """Another value whenever the work has gone on."""
        return self.done, self.signs, self.change


pulse = Pulse()
"""That of this process."""
