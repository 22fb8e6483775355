"""The errors that people read: each says what happened, what is safe, and what to type next."""

from typing import TYPE_CHECKING

from backends.text import one_line

if TYPE_CHECKING:
    from backends.holder import Holder


class BackupError(Exception):
    """Something was refused or failed; the message is one sentence for a frightened person.

    `exit_code` is what `backup-cli` exits with: 1 refused or failed, 3 the backup is damaged.
    """

    exit_code = 1

    kind = "refused"
    """What programs tell errors apart by (`--json`): it stays, whatever the sentence becomes."""

    listed: tuple[str, ...] = ()
    """What is to be shown below the message, each on a line of its own."""

    withheld: str = ""
    """What the message leaves out because it holds the node's secrets: shown only to whoever asks (--show-statements).

    It is part of no sentence: neither the node's log, nor a notification, nor a note in a backup ever has it.
    """

    def __str__(self) -> str:
        """One line that no terminal obeys, whatever foreign text the message was made of."""
        return one_line(super().__str__())


def withheld_by(error: BaseException) -> str:
    """What this error, or one that it was made of, keeps from strangers."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BackupError) and seen.withheld:
            return seen.withheld
        seen = seen.__cause__ or seen.__context__
    return ""


class Unreachable(BackupError):
    """The destination cannot be used now: missing, not mounted, not writable, not answering."""

    kind = "unreachable"


class ClosedToUser(Unreachable):
    """What was asked for belongs to another user, and only he may read it. `uid` and `gid` are his; None: unknown."""

    def __init__(self, message: str, uid: int | None, gid: int | None) -> None:
        super().__init__(message)
        self.uid, self.gid = uid, gid


class NotABackup(BackupError):
    """What lies at the destination is not a backup, or only part of one."""

    kind = "not_a_backup"


class FromTheFuture(BackupError):
    """Written by a later release in a format that this one does not know."""

    kind = "from_the_future"


class WriteFailed(BackupError):
    """A write or sync failed: what it carried must count as not saved, and the handle is finished."""

    kind = "write_failed"


class Fenced(BackupError):
    """Another writer took this backup over; nothing more may be appended from here."""

    kind = "replaced"


class Unrestorable(BackupError):
    """Proof, found by reading, that a backup cannot be restored whole; no trouble of this machine's is one.

    `finding` says what was found in one clause that may be kept and shown: nothing of a statement stands in it.
    """

    exit_code = 3
    kind = "unrestorable"

    def __init__(self, message: str, finding: str) -> None:
        super().__init__(message)
        self.finding = finding


_UNTOUCHED = "the snapshot and the log may still be good, which backup-cli verify tells"


class InUse(BackupError):
    """Another process writes to this backup, or nobody can tell that none does. `holder` holds its lock."""

    kind = "in_use"

    holder: "Holder | None" = None


class Damaged(Unrestorable):
    """Bytes that were once saved have changed or gone.

    `file` and `offset` (bytes from its start) name the place, `last_good` the last data version
    before it (None when not even the snapshot is whole). `hint` is a further sentence, with a space before it.
    """

    kind = "damaged"

    def __init__(self, what: str, file: str, offset: int, last_good: "int | None" = None, hint: str = "") -> None:
        good = f"the last good version is {last_good}"
        if last_good is None:
            good = _UNTOUCHED if file == "session" else "nothing before it can be trusted"
        super().__init__(
            f"the backup is damaged: {what} in {file} at byte {offset}; {good}. Do not start a node from it; "
            f"keep every disk, and if the node's own database is alive, run: backup-cli resync{hint and '.' + hint}",
            f"{what} in {file} at byte {offset}",
        )
        self.what, self.file, self.offset, self.last_good, self.hint = what, file, offset, last_good, hint
