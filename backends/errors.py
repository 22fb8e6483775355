"""The errors that people read: each says what happened, what is safe, and what to type next."""

import sys
from typing import TYPE_CHECKING

from backends.text import one_line, shell_line

if TYPE_CHECKING:
    from backends.holder import Holder


class BackupError(Exception):
    """Something was refused or failed; the message is one line for a frightened person.

    `exit_code` is what `backup-cli` exits with: 1 refused or failed, 3 the backup is damaged.
    """

    exit_code = 1

    kind = "refused"
    """How programs tell errors apart (`--json`): it stays the same however the message is reworded."""

    listed: tuple[str, ...] = ()
    """Items to show below the message, each on a line of its own."""

    withheld: str = ""
    """What the message leaves out because it holds the node's secrets: shown only on request (--show-statements).

    It is never part of a message, so it never reaches the node's log, a notification or a note in a backup.
    """

    def __init__(self, *message: object, clause: str = "") -> None:
        super().__init__(*message)
        self.clause = clause
        """What happened, as a clause for the middle of another sentence; empty if only the message says it."""

    def __str__(self) -> str:
        """The message on one line, with no control characters for a terminal, whatever foreign text it contains."""
        return one_line(super().__str__())


def withheld_by(error: BaseException) -> str:
    """The `withheld` text of this error or, if it has none, of the nearest error that caused it; "" without one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BackupError) and seen.withheld:
            return seen.withheld
        seen = seen.__cause__ or seen.__context__
    return ""


class Unreachable(BackupError):
    """The destination cannot be used now: missing, not mounted, not writable, not answering."""

    kind = "unreachable"


class NoSpace(Unreachable):
    """The destination is full, or a quota there is used up."""


class ClosedToUser(Unreachable):
    """What was asked for belongs to another user, who alone may read it.

    `uid` and `gid` are that user's; None if unknown.
    """

    def __init__(self, message: str, uid: int | None, gid: int | None) -> None:
        super().__init__(message)
        self.uid, self.gid = uid, gid


class NotABackup(BackupError):
    """What is at the destination is not a backup, or only part of one."""

    kind = "not_a_backup"


class FromTheFuture(BackupError):
    """Written by a later release in a format that this release does not know."""

    kind = "from_the_future"


class KeyNeeded(BackupError):
    """What is asked for is encrypted, and this process does not know the key."""

    kind = "key_needed"


class WrongKey(BackupError):
    """The key, secret or passphrase that was given does not open this backup."""

    kind = "wrong_key"


class WrongPassphrase(WrongKey):
    """The passphrase opens none of this backup's key slots."""

    kind = "wrong_passphrase"


class WrongSecret(WrongKey):
    """The `hsm_secret` that was given opens none of this backup's key slots: it is another node's."""

    kind = "wrong_secret"


class MissingExtra(BackupError):
    """A URL needs a package that is not part of the base installation."""

    def __init__(self, urls: str, package: str, extra: str) -> None:
        super().__init__(
            f"{urls} need{'s' if ' and ' not in urls else ''} the package {package}, which is not installed for this "
            f"Python. Nothing was changed; in the directory of this project, type: {install_extra(extra)}"
        )


def install_extra(extra: str) -> str:
    """The command that adds the packages of an extra to this installation, as the documentation has it."""
    pip, lock = f"{sys.prefix}/bin/pip", f"requirements-{extra}.lock"
    return shell_line(pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", lock)


class DamagedSlot(BackupError):
    """Key slots that could have opened this backup are damaged; `slots` are their numbers, empty if not even these can
    be read. The backup's data is not concerned, so this is no Damaged."""

    exit_code = 3
    kind = "damaged_slot"

    def __init__(self, message: str, slots: tuple[int, ...]) -> None:
        super().__init__(message)
        self.slots = slots


class NotEncrypted(BackupError):
    """A backup that must be encrypted is not: somebody else has put it there, or it was made over."""

    kind = "not_encrypted"


class NotCiphertext(BackupError):
    """Something in a backup that is meant to be encrypted can be read without its key."""

    kind = "not_ciphertext"


class WriteFailed(BackupError):
    """A write or sync failed: treat its data as not saved, and never use the handle again."""

    kind = "write_failed"


class Fenced(BackupError):
    """Another writer took this backup over; nothing more may be appended from here."""

    kind = "replaced"


class Unrestorable(BackupError):
    """Proof, found by reading, that a backup cannot be restored whole; never raised for a problem of this machine.

    `finding` is one clause that says what was found. It contains nothing of any statement, so it may be stored and
    shown.
    """

    exit_code = 3
    kind = "unrestorable"

    def __init__(self, message: str, finding: str) -> None:
        super().__init__(message)
        self.finding = finding


_UNTOUCHED = "the snapshot and the log may still be good; to find out, run: backup-cli verify"


class InUse(BackupError):
    """Another process is writing to this backup, or it is impossible to tell. `holder` is who holds its lock."""

    kind = "in_use"

    holder: "Holder | None" = None


class Damaged(Unrestorable):
    """Bytes that were once saved have changed or are gone.

    `file` and `offset` (bytes from its start) say where. `last_good` is the last data version before the damage; None
    if not even the snapshot is whole. `hint` is a further sentence that begins with a space.
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
