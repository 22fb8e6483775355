"""Proving that one backup can be restored: every byte is read, every change replayed, the result checked."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from backends.confined.work import Outcome, Overtaken, rebuild_backup
from backends.errors import BackupError, Damaged, KeyNeeded
from backends.log.attachments import read_attached
from backends.log.backup import Backup
from backends.log.format.attachments import Attachment
from backends.storage.unreachable import reaching
from backends.text import counted
from backup_cli.console import moment, progress, say, show_line, size, warn
from backup_cli.noting import ENDS_A_DOUBT, damage_noted

_ATTEMPTS = 5


Accept = Callable[[str, Outcome], None]
"""Raises BackupError if the database that was rebuilt from the backup at that URL is not accepted."""


def rebuild(
    url: str, backup: Backup, target: Path, accept: Accept, *, note: bool = True, what: str = "Verifying"
) -> Outcome:
    """Rebuild the database in the backup as the new file `target`, and say what is unusual about it.

    `what` is shown with the progress. Proof that the backup cannot be restored is raised, and with `note` recorded in
    the backup before.
    """
    outcome = _outcome(url, backup, target, note, what)
    rebuilt = outcome.rebuilt
    accept(url, outcome)
    if rebuilt.torn is not None:
        warn(f"the end of the log is torn, as a power cut leaves it: {rebuilt.torn}")
    if rebuilt.end_unverified is not None:
        warn(rebuilt.end_unverified)
    for violation in outcome.violations:
        say(f"note: the node's own database also has this: {violation}")
    return outcome


def tell_whole(url: str, verified: Outcome) -> None:
    """Say that the backup is whole, and what it holds."""
    rebuilt = verified.rebuilt
    show_line(
        f"{url} is whole: version {rebuilt.data_version}, last changed {moment(rebuilt.last_time)}; "
        f"{size(verified.stored)} read, {counted(rebuilt.changes, 'change')} replayed, integrity ok"
    )


def _outcome(url: str, backup: Backup, target: Path, note: bool, what: str) -> Outcome:
    """Rebuild the generation in use; retried, since a running node may begin another one at any moment."""
    for _ in range(_ATTEMPTS):
        with backup.read() as reader:
            number = reader.manifest.generation
        with (
            suppress(Overtaken),
            _noted(backup, number) if note else nullcontext(),
            progress(what, "Checking the database") as show,
        ):
            return rebuild_backup(url, target, show, generation=number, durable=False, violations=True)
    raise BackupError(f"{url} begins new generations faster than it can be read; try again in a minute")


def _noted(backup: Backup, number: int) -> AbstractContextManager[None]:
    return damage_noted(backup, "verify", number)


def warn_of_earlier(backup: Backup, generation: int, *, replayed: bool = True) -> bool:
    """Warn of damage that was recorded earlier, although all is readable now: the cause may be a cable or memory that
    fails at times, and only a new snapshot clears the record. `replayed`: the contents were read, too, with the key.
    Returns whether there is such a record."""
    known = backup.damage.read()
    if known is None or known.generation != generation:
        return False
    if known.doubt:
        warn(f"{known.sentence()}. All that it holds is readable. {ENDS_A_DOUBT}")
        return True
    now = (
        "This time all of it could be read and replayed, so a disk, cable or memory may be failing at times"
        if replayed
        else "This time every stored byte matches its checksum, which does not show that the contents are whole: only "
        "a verify with the key does"
    )
    warn(
        f"{known.sentence()}. {now}. The backup counts as damaged until there is a new snapshot, which the node "
        "takes by itself, at its next start at the latest"
    )
    return True


def warn_of_kept(backup: Backup) -> None:
    """Warn of damage in generations that are only kept: every byte of them is read, and nothing replayed. No restore of
    the newest state depends on them."""
    for kept in backup.held():
        number = kept.manifest.generation
        try:
            with backup.read_held(kept) as reader, reaching(backup.storage):
                for _ in reader.scan():
                    pass
                for _ in reader.snapshot:
                    pass
        except Damaged as error:
            if number in [each.manifest.generation for each in backup.held()]:  # else it was removed meanwhile
                warn(
                    f"generation {number}, which is kept and not in use, is damaged ({error.finding}). The newest "
                    "state is not affected; what can still be read of it is in: backup-cli versions"
                )


def warn_of_attachments(backup: Backup) -> None:
    """Warn of a stored file of the node that is damaged: no restore of the database depends on it."""
    for which in Attachment:
        with suppress(KeyNeeded), reaching(backup.storage):
            try:
                read_attached(backup.storage, which)
            except Damaged as error:
                again = "the node's next start stores that file again"
                if which is Attachment.SECRET:
                    again = "keep your other copies of that file safe: this one is lost"
                warn(
                    f"the copy of {which.value} in the backup is damaged ({error.finding}). The database in it is not "
                    f"affected, and {again}"
                )
