"""Building the copy from the snapshot and all changes, in a file of its own.

The backup may go on elsewhere while that takes minutes: what was read at its end may be a fenced writer's, and another
backup may come to be at the same place. So the new copy counts only once it has been brought into step, as a copy that
follows.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.confined.work import Overtaken, follow_backup, rebuild_backup
from backends.errors import BackupError
from backends.following.follower import Ended, News, Order
from backends.sqlite.rebuild import Rebuilt
from backup_cli.consent.schema import demand_known_schema
from backup_cli.console import progress
from backup_cli.following.sources import Followed
from backup_cli.noting import damage_noted

_ATTEMPTS = 5
NEVER = 1e12
"""Seconds after which nothing happens any more."""


@dataclass(frozen=True, slots=True)
class Built:
    """A new copy, and where it stands."""

    rebuilt: Rebuilt
    news: News
    size: int
    """Bytes of the database."""

    @property
    def changes(self) -> int:
        """Changes that were replayed."""
        return self.rebuilt.changes + self.news.changes

    @property
    def last_change(self) -> int:
        """When the last change was saved, in seconds since 1970."""
        return self.news.last_change or self.rebuilt.last_time


class OtherBackup(BackupError):
    """Another backup is there than the one that the copy follows."""

    kind = "other_backup"


def build(followed: Followed, backup_id: str, new: Path, accepted: bool) -> Built:
    """Make the copy `new` of the backup with this id. `accepted`: objects that no lightningd makes are, too.

    Raises OtherBackup, UnknownSchema, Unrestorable (which is then recorded in the backup) or another BackupError.
    """
    for _ in range(_ATTEMPTS):
        facts = followed.backup.look()
        if facts.backup_id != backup_id:
            raise OtherBackup(
                f"{followed.url} holds the backup {facts.backup_id} now, and the copy follows {backup_id}; it was not "
                "changed. Is the right disk mounted?"
            )
        generation = facts.manifest.generation
        new.unlink(missing_ok=True)
        with suppress(Overtaken), damage_noted(followed.backup, "follow", generation):
            with progress("Building the copy", "Checking the database") as show:
                outcome = rebuild_backup(
                    followed.url, new, show, generation=generation, durable=False, following=backup_id
                )
            demand_known_schema(
                outcome.rebuilt.state.unknown_objects, accepted, followed.url, "the copy was not changed"
            )
            news = _in_step(followed, backup_id, new, accepted, facts.manifest.lineage)
            return Built(outcome.rebuilt, news, new.stat().st_size)
    raise BackupError(f"{followed.url} begins new generations faster than it can be read; try again in a minute")


def _in_step(followed: Followed, backup_id: str, new: Path, accepted: bool, lineage: int) -> News:
    """Bring the new copy into step. Raises Overtaken if the log that goes on does not hold its last change."""
    order = Order(backup_id, True, 1.0, NEVER, NEVER, accepted, lineage)
    for _ in range(_ATTEMPTS):
        stretch = follow_backup(followed.url, new, order, lambda news: None, lambda: True)
        if stretch.ended is Ended.IN_STEP and stretch.news is not None:
            return stretch.news
        if stretch.ended in (Ended.NOT_THERE, Ended.AHEAD):
            break
    raise Overtaken("the backup has gone on elsewhere while it was read")
