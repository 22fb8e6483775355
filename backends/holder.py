"""Who holds a lock: what that process wrote into the lock file, and how a person is told about it.

The file holds one line: the process number, a space, and the name that the process gives itself (`FileLock`). A command
uses what was typed as its name, so the first word is `backup-cli`. That word alone identifies a command.
"""

from dataclasses import dataclass

from backends.text import printable

COMMAND = "backup-cli"
"""The first word of the name that a command gives itself."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock. In a sentence: `pid 4711, backup-cli verify`."""

    pid: int | None
    """None if unknown."""
    name: str
    """The name that the process gave itself; empty if it gave none."""

    @property
    def is_command(self) -> bool:
        """Whether the holder is a command, which will end soon, and not a node."""
        return self.name.partition(" ")[0] == COMMAND

    def __str__(self) -> str:
        if self.pid is None:
            return self.name
        return f"pid {self.pid}, {printable(self.name)}" if self.name else f"pid {self.pid}"

    @classmethod
    def decode(cls, data: bytes) -> "Holder | None":
        """The holder named by the first bytes of a lock file; None if nobody has written into it yet."""
        number, _, name = data.decode(errors="replace").partition("\n")[0].partition(" ")
        return cls(int(number), name) if number.isascii() and number.isdigit() else None


UNNAMED = Holder(None, "one that is just starting or ending")
IN_TURNS = Holder(None, "several, one after the other")
