"""What a command proves against a backup is left in it, so that status, check-config and the plugin know of it too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backends.base import Backend
from backends.errors import BackupError, Unrestorable
from backends.log.known_damage import DAMAGE, found_now
from backup_cli.console import warn
from backup_cli.options import local_directory


@contextmanager
def damage_noted(url: str, backend: Backend, by: str, generation: int) -> Iterator[None]:
    """While this generation is read whole: what proves that it cannot be restored is noted, and raised all the same."""
    try:
        yield
    except Unrestorable as error:
        _note(url, backend, by, error.finding, generation)
        raise


def _note(url: str, backend: Backend, by: str, finding: str, generation: int) -> None:
    try:
        current = backend.note_damage(found_now(by, finding, generation))
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
    _give_to_owner(url)


def _give_to_owner(url: str) -> None:
    """What root has made, the node's user must be able to read."""
    place = local_directory(url)
    if place is not None and os.geteuid() == 0:
        with suppress(OSError):
            owner = place.stat()
            os.chown(place / DAMAGE, owner.st_uid, owner.st_gid, follow_symlinks=False)
