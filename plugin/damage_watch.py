"""A backup that is known to be wrong, while the node runs: noticed, told once, and replaced as soon as that is safe.

It is found by the compaction beside the node, or by a `verify` that somebody runs. The database that the node runs from
is whole, so a new snapshot of it ends the matter. A small one can be taken at the next commit, where lightningd waits
anyway and its database stands at a known version; for a large one that would keep lightningd waiting for too long, and
it is taken at the next start.
"""

import time
from contextlib import suppress
from pathlib import Path

from backends.base import Report
from backends.errors import BackupError
from backends.log.known_damage import KnownDamage, found_now
from backends.log.writer.writer import Writer
from backends.node.directory import database_path

LOOK_EVERY = 5.0
"""Seconds between two looks at what others may have found."""

HEAL_AT_ONCE = 64 << 20
"""Bytes of a database that a running node can be kept waiting for: a second or two at a slow stick."""

SLOWEST = 4 << 20
"""Bytes a second that any destination takes; a quarter of the time that a commit may wait must do."""

TRY_AGAIN = 60.0
"""Seconds after an attempt that came to nothing."""


class DamageWatch:
    """Only the maintenance thread calls it, but for `taken` and `failed`, which are the commit path's."""

    def __init__(self, directory: Path, report: Report) -> None:
        self._directory, self._report = directory, report
        self._told: KnownDamage | None = None
        self._next_look = self._not_before = 0.0
        self._unsaved: KnownDamage | None = None
        self.commit_timeout = 0.0
        """Seconds that one call may wait for the destination."""
        self.known: KnownDamage | None = None
        """What is wrong with the current generation."""
        self.heal: str | None = None
        """Why the next call should begin with a new snapshot; None: it should not."""

    def at_start(self, known: KnownDamage | None) -> str | None:
        """Why the node's first call should begin with a new snapshot, if one before it found something."""
        self.known = known
        return self.known.sentence() if self.known is not None else None

    def tick(self, writer: Writer) -> None:
        """Look, now and then, whether something was found. That a destination does not answer is told by others."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        with suppress(BackupError):
            if self._unsaved is not None:
                writer.damage.note(self._unsaved)
                self._unsaved = None
            self._notice(writer, writer.damage.read())

    def found(self, writer: Writer, by: str, what: str, generation: int) -> None:
        """Something was found beside the node just now. Raises nothing: what cannot be noted yet is noted later."""
        damage = found_now(by, what, generation)
        try:
            current = writer.damage.note(damage)
        except BackupError as error:
            self._report("unusual", f"it could not be noted in the backup that it is damaged, yet: {error}")
            current, self._unsaved = True, damage
        if current:
            self._notice(writer, damage)

    def _notice(self, writer: Writer, known: KnownDamage | None) -> None:
        self.known = known
        if known is None:
            self.heal = None
            return
        if self.heal is None and time.monotonic() >= self._not_before and self._can_heal(writer):
            self.heal = known.sentence()
        if self._told is None or known.generation != self._told.generation:
            self._told = known
            self._report("broken", f"{known.sentence()}. {_NOW if self.heal is not None else _LATER}")

    def _can_heal(self, writer: Writer) -> bool:
        try:
            size, free = database_path(self._directory).stat().st_size, writer.space().free
        except (OSError, BackupError):
            return False
        return size <= min(HEAL_AT_ONCE, SLOWEST * self.commit_timeout / 4) and free > 2 * size + HEAL_AT_ONCE

    def taken(self) -> None:
        """There is a new snapshot, and nothing is known against it."""
        self.known = self.heal = None

    def failed(self, why: str) -> None:
        """It could not be taken this time, and the node goes on as before."""
        self.heal, self._not_before = None, time.monotonic() + TRY_AGAIN
        self._report("unusual", f"no new snapshot could be taken yet, it is tried again in a minute: {why}")


_SAFE = "The node's own database is whole, and changes are still appended"
_NOW = f"{_SAFE}; a new snapshot of it is taken at the next commit"
_LATER = (
    f"{_SAFE}, but do not rely on this backup. The next start takes a new snapshot: restart the node soon, beginning "
    "with: lightning-cli stop"
)
