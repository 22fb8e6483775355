"""Whether a node may be writing to a backup: commands that write to the backup then refuse, and a restore warns."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import click
import psutil

from backends.base import LastWriter, Position
from backends.errors import BackupError, Damaged, Fenced, InUse, Unreachable
from backends.holder import COMMAND
from backends.log.backup import Backup
from backup_cli.console import age, warn
from backup_cli.pairing_text import TWO_NODES

take_over = click.option(
    "--take-over",
    is_flag=True,
    help="Go on although a node may still be writing to the backup; only if you know that it is off.",
)

JUST_NOW = 60.0
"""If the last change is at most this many seconds old, a session that was not ended probably still runs."""


@contextmanager
def alone(url: str, backup: Backup, what: str, take_over: bool, dry_run: bool = False) -> Iterator[None]:
    """Raise InUse if another process of this machine writes to the backup, or a node whose session has not ended may.

    Such a node is known to be dead if this process gets the lock in the backup and only this machine can write there.
    The lock is held until the context ends (in a dry run it is only checked); then the backup is closed. `what` is the
    command's name.
    """
    try:
        locked = _held(backup, what, dry_run)
        writer = backup.last_writer()
        if writer is not None and not writer.closed and not (locked and backup.place.only_this_machine_writes()):
            _refuse_or_warn(url, writer, what, take_over)
        yield
    except Fenced as error:
        raise _overtaken(url, backup, error) from error
    finally:
        backup.let_go()


def _held(backup: Backup, what: str, dry_run: bool) -> bool:
    try:
        if dry_run:
            backup.check_lock()
            return True
        return backup.hold(f"{COMMAND} {what}")
    except InUse as error:
        if what != "compact":
            raise
        raise InUse(
            f"{error}. A running node compacts by itself when that is due; to do it now: lightning-cli backup-compact"
        ) from None


def _overtaken(url: str, backup: Backup, error: Fenced) -> InUse:
    """The error for a command that another writer has fenced. Without locks, two writers that check at the same moment
    may both begin; the first of them ends here."""
    writer, who = None, "another process"
    with suppress(BackupError, OSError):
        writer = backup.last_writer()
    if writer is not None:
        who += f" ({writer.host}, {writer.process}{', which has ended since' if writer.closed else ''})"
    return InUse(
        f"{who} has begun to write to {url} at the same moment, another command or a node: this one has stopped, and "
        "nothing that was saved is lost. Wait until that process has ended, or stop it if it is a node (lightning-cli "
        f"stop), then repeat this. If you know of no such process: {error}"
    )


def _refuse_or_warn(url: str, writer: LastWriter, what: str, take_over: bool) -> None:
    who = f"{writer.host}, {writer.process}"
    if take_over:
        warn(
            f"{url} was last written by a node ({who}) that has not ended its session. If it is running, this stops it "
            "at its next change, or up to 15 seconds later, and what it saves until then is lost"
        )
        return
    if writer.host == socket.gethostname() and _lives(writer):
        raise InUse(
            f"a running node ({who}) is writing to {url}; nothing was changed. Stop it first (lightning-cli stop)"
            + (", or have it compact by itself: lightning-cli backup-compact" if what == "compact" else "")
            + ", then repeat this"
        )
    raise InUse(
        f"{url} was last written by a node ({who}) that has not ended its session, and nobody can tell from here "
        "whether it runs: another machine may write there. Nothing was changed. If it runs, stop it cleanly "
        "(lightning-cli stop), then repeat this. If it has crashed, start it and stop it cleanly, or, if you know "
        f"that it is off and stays off, add --take-over: a node that was still running would lose what it saves "
        f"until it notices, and {TWO_NODES}"
    )


def _lives(writer: LastWriter) -> bool:
    """Whether the writer's process runs on this machine, as far as can be seen from this container."""
    with suppress(psutil.Error):
        return psutil.Process(writer.pid).create_time() <= writer.started + 60
    return False


# Reading from a backup that is being written


@dataclass(frozen=True, slots=True)
class Seen:
    """A backup's writer and its end at one moment."""

    writer: LastWriter | None
    end: Position | None
    """The position at which the log ends; None when damage hides it."""


def look(backup: Backup) -> Seen:
    """The backup's writer and end now. Raises BackupError when the backup is out of reach."""
    try:
        return Seen(backup.last_writer(), backup.end())
    except Damaged:
        return Seen(backup.last_writer(), None)


@dataclass(frozen=True, slots=True)
class Living:
    """A node that writes to the backup: `words` say who and how that is known. `sure` is False if only the time of the
    last change suggests it."""

    words: str
    sure: bool


def writing(before: Seen, now: Seen) -> Living | None:
    """The node that is writing to the backup, from two looks at it; None when nothing shows that one is.

    A session that has not ended is no proof: a machine that has died also leaves one.
    """
    writer = now.writer
    if writer is None or writer.closed:
        return None
    who = f"a node ({writer.host}, {writer.process})"
    if now.end != before.end or writer != before.writer:
        return Living(f"{who} is writing to this backup: it has changed while it was read", True)
    if writer.host == socket.gethostname():
        return Living(f"{who} is writing to this backup", True) if _lives(writer) else None
    since = time.time() - now.end.time if now.end is not None else JUST_NOW
    if since < JUST_NOW:
        words = (
            f"{who} may be writing to this backup: its last change is {age(since)} old, and its session has not ended"
        )
        return Living(words, False)
    return None


def warn_of_writer(living: Living | None) -> None:
    """Warn, in a restore that only reads, that a node still writes to the backup: what is restored is then soon old."""
    if living is not None:
        warn(
            f"{living.words}. What is restored is its state at this moment, and is old as soon as that node writes "
            f"again: never start a node from it while that one runs, or after it has written again ({TWO_NODES})"
        )


@dataclass(frozen=True, slots=True)
class Taking:
    """How a command that lets a node go on with this backup speaks of itself."""

    command: str
    refusal: str
    """What was not done, and what to do; `{two_nodes}` stands for the reason."""
    node: str
    """The node that would go on."""
    needs_lock: bool = False
    """Whether it writes to the backup itself, so that a process of this machine that does so must be stopped first."""
    warned: bool = False
    """Whether the command has warned already."""
    watched: bool = True
    """Whether a person has typed the command, who reads what it warns of."""


RESUMING = Taking(
    "restore",
    "Nothing was restored: a second node using this backup would run alongside that one, and {two_nodes}. Stop that "
    "one for good first (lightning-cli stop on its machine, or switch the machine off), then repeat this. To look at a "
    "copy, restore without --resume",
    "the restored node",
)


def refuse_living_writer(
    url: str, backup: Backup, before: Seen, take_over: bool, taking: Taking = RESUMING, *, dry_run: bool = False
) -> None:
    """Raise InUse if a node is provably writing to the backup that another is to go on with; hold the backup's lock.

    A session that has not ended is no proof: a machine that has died also leaves one. In a dry run, the lock is only
    checked. If no person has typed the command, nobody reads a warning: then it is enough that a node may be writing.
    """
    living = writing(before, look(backup))
    refusal = taking.refusal.format(two_nodes=TWO_NODES)
    try:
        if dry_run:
            backup.check_lock()
        else:
            backup.hold(f"{COMMAND} {taking.command}")
    except InUse as error:
        if error.holder is not None and error.holder.is_command:
            raise
        living = Living(f"a process of this machine ({error.holder}) is writing to this backup", True)
        if taking.needs_lock:
            raise InUse(f"{living.words}. {refusal}") from None
    except Unreachable:  # the backup may be read-only from here; a warning about that follows the restore
        pass
    if living is None:
        return
    if not living.sure and not taking.watched and not take_over:
        when = f"repeat this {JUST_NOW:.0f} seconds after its last change"
        raise InUse(f"{living.words}. {refusal}. If that one is off, {when}")
    if living.sure and not take_over:
        raise InUse(f"{living.words}. {refusal}. Only if you know that it is off from now on, add --take-over")
    if taking.warned:
        return
    why = "because of --take-over, " if living.sure else ""
    warn(
        f"{living.words}; {why}{taking.node} goes on in its place: the other one must be off, and stay off "
        f"({TWO_NODES})"
    )
