"""What a command proves against a backup is left in it, so that status, check-config and the plugin know of it too."""

from collections.abc import Iterator
from contextlib import contextmanager

from backends.errors import BackupError, Unrestorable
from backends.log.backup import Backup
from backends.log.known_damage import found_now
from backup_cli.console import warn


@contextmanager
def damage_noted(backup: Backup, by: str, generation: int) -> Iterator[None]:
    """While this generation is read whole: what proves that it cannot be restored is noted, and raised all the same."""
    try:
        yield
    except Unrestorable as error:
        _note(backup, by, error.finding, generation)
        raise


def _note(backup: Backup, by: str, finding: str, generation: int) -> None:
    try:
        current = backup.damage.note(found_now(by, finding, generation))
    except BackupError as error:
        warn(
            "this finding could not be noted in the backup, so that `status` and `check-config` do not know of it "
            f"({error})"
        )
        return
    if not current:
        warn("meanwhile the node has begun a new generation, of which this says nothing: run this again")
        return
    warn(
        "this finding is noted in the backup: the node that writes to it takes a new snapshot, at its next start at "
        "the latest"
    )
