"""Who holds a lock: what that process has written into the lock's file, and what a person is told of it.

The file holds one line: its process number, a space, and what it calls itself (`FileLock`). A command calls itself by
what was typed, so that its first word is `backup-cli`; by that word alone it is known.
"""

from dataclasses import dataclass

from backends.text import printable

COMMAND = "backup-cli"
"""The first word of what a command calls itself."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock. In a sentence: `pid 4711, backup-cli verify`."""

    pid: int | None
    """None: nobody can tell."""
    name: str
    """What it calls itself; empty when it has said nothing."""

    @property
    def is_command(self) -> bool:
        """Whether it is no node but a command, which will have ended soon."""
        return self.name.partition(" ")[0] == COMMAND

    def __str__(self) -> str:
        if self.pid is None:
            return self.name
        return f"pid {self.pid}, {printable(self.name)}" if self.name else f"pid {self.pid}"

    @classmethod
    def decode(cls, data: bytes) -> "Holder | None":
        """From what was read at the file's beginning; None when nobody has written into it yet."""
        number, _, name = data.decode(errors="replace").partition("\n")[0].partition(" ")
        return cls(int(number), name) if number.isascii() and number.isdigit() else None


UNNAMED = Holder(None, "one that is just starting or ending")
IN_TURNS = Holder(None, "one after the other")
