"""When a command proves that a backup is damaged, that is recorded in the backup, so that `status`, `check-config` and
the plugin know of it too."""

from collections.abc import Iterator
from contextlib import contextmanager

from backends.errors import BackupError, Unrestorable
from backends.log.backup import Backup
from backends.log.known_damage import found_now
from backup_cli.console import warn

ENDS_A_DOUBT = "The running node makes that snapshot and says so in its log; if it does not run, start it"


@contextmanager
def damage_noted(backup: Backup, by: str, generation: int) -> Iterator[None]:
    """Around the complete reading of this generation: an error that proves that it cannot be restored is recorded in
    the backup, then raised. `by` names the command."""
    try:
        yield
    except Unrestorable as error:
        note_damage(backup, by, error.finding, generation)
        raise


def note_damage(backup: Backup, by: str, finding: str, generation: int) -> None:
    """Record in the backup what proves that this generation cannot be restored, and say so."""
    try:
        known = backup.damage.read()
        if known is not None and known.doubt and known.generation == generation:
            warn(f"{known.sentence()}. {ENDS_A_DOUBT}")  # it is no news then, and that note stays
            return
        current = backup.damage.note(found_now(by, finding, generation))
    except BackupError as error:
        warn(
            "this finding could not be recorded in the backup, so `status` and `check-config` do not know of it "
            f"({error})"
        )
        return
    if not current:
        warn("meanwhile the node has begun a new generation, and this finding is not about that one: run this again")
        return
    warn(
        "this finding is recorded in the backup: the node that writes to it will take a new snapshot, at its next "
        "start at the latest"
    )
