"""A backup that is known to be damaged while the node runs: noticed, reported once, replaced as soon as that is safe.

The damage is found by the compaction beside the node, or by a `verify` that somebody runs. The database that the node
runs from is whole, so a new snapshot of it repairs the backup. A small one is taken at the next commit, where
lightningd waits anyway and its database is at a known version. A large one would keep lightningd waiting too long: the
copy for it is begun at the next commit, and the rest happens beside the node (plugin/renewal.py).
"""

import time
from contextlib import suppress
from pathlib import Path

from backends.base import Report
from backends.errors import BackupError
from backends.log.known_damage import KnownDamage, found_now
from backends.log.writer.writer import Writer
from backends.node.directory import database_path
from backends.sqlite.live_copy import CopyFailed
from backends.text import counted
from plugin.early_copy import LARGE, is_large
from plugin.renewal import Renewal

LOOK_EVERY = 5.0
"""Seconds between two checks for damage that other processes have found."""

LOOK_RARELY = 60.0
"""The same where each request is paid for: every 5 seconds would be half a million requests in a month."""

SLOWEST = 4 << 20
"""Bytes a second that any destination takes; the snapshot may take a quarter of the commit timeout."""

TRY_AGAIN = 60.0
"""Seconds from a failed attempt to the next; doubled by each further failure in a row."""

TRY_AT_LEAST_EVERY = 3600.0
"""The longest of these waits, in seconds."""


class DamageWatch:
    """Called by the maintenance thread only, except `at_start`, `taken`, `failed` and `could_not`, which the commit
    path calls."""

    def __init__(self, directory: Path, report: Report, renewal: Renewal) -> None:
        self._directory, self._report, self._renewal = directory, report, renewal
        self._told: KnownDamage | None = None
        self._next_look = self._not_before = 0.0
        self._unsaved: KnownDamage | None = None
        self._wait = TRY_AGAIN  # after the next attempt that fails
        self._failed_with: type[Exception] | None = None  # the last one, since a snapshot was taken
        self._lacked = False
        """Whether there was too little space for a new snapshot, and that was said."""
        self.commit_timeout = 0.0
        """Seconds that one call may wait for the destination."""
        self.known: KnownDamage | None = None
        """What is wrong with the current generation; None when nothing is known to be."""
        self.heal: str | None = None
        """Why the next call should begin with a new snapshot; None when it should not."""

    def at_start(self, known: KnownDamage | None) -> str | None:
        """Note what an earlier process found; returns why the first call should begin with a new snapshot, if so."""
        self.known = known
        return self.known.why_anew() if self.known is not None else None

    def tick(self, writer: Writer) -> None:
        """Check from time to time whether damage was found. An unreachable destination is reported elsewhere."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + (LOOK_RARELY if writer.storage.costly else LOOK_EVERY)
        with suppress(BackupError):
            if self._unsaved is not None:
                writer.damage.note(self._unsaved)
                self._unsaved = None
            self._notice(writer, writer.damage.read())

    def found(self, writer: Writer, by: str, what: str, generation: int) -> None:
        """Report damage found beside the node just now. Raises nothing: what cannot be recorded yet is recorded
        later."""
        damage = found_now(by, what, generation)
        try:
            current = writer.damage.note(damage)
        except BackupError as error:
            self._report("unusual", f"the backup is damaged, and that could not be noted in it yet: {error}")
            current, self._unsaved = True, damage
        if current:
            self._notice(writer, damage)

    def _notice(self, writer: Writer, known: KnownDamage | None) -> None:
        self.known = known
        if known is None:
            self.heal = None
            return
        if self._renewal.running:
            return
        if self.heal is None and time.monotonic() >= self._not_before:
            self._try_to_heal(writer, known)
        if self._told is None or known.generation != self._told.generation:
            self._told = known
            self._report("broken", f"{known.sentence()}. {_NOW if self.heal is not None else _LATER}")

    def _try_to_heal(self, writer: Writer, known: KnownDamage) -> None:
        """Let the next call begin with a new snapshot, if there is space for it. What is lacking is said once."""
        try:
            lacks = self._lacks(writer)
        except (OSError, BackupError):
            return
        if lacks is None:
            self.heal = known.why_anew()
        elif not self._lacked:
            self._report("unusual", f"there is no space for the new snapshot of the database: {lacks}. {_MAKE_ROOM}")
        self._lacked = lacks is not None

    def _lacks(self, writer: Writer) -> str | None:
        """What space is missing for a new snapshot; None if nothing is. What is only kept for its history is given up
        for it. Raises OSError or BackupError."""
        size = database_path(self._directory).stat().st_size
        free = writer.space().free + writer.sizes().kept_bytes
        if self.waits_for(size) and free > 2 * size + LARGE:
            return None
        return self._renewal.lacks(free)

    def waits_for(self, size: int) -> bool:
        """Whether a running node can be kept waiting for the snapshot of a database of so many bytes."""
        return not is_large(size) and size <= SLOWEST * self.commit_timeout / 4

    def taken(self) -> None:
        """A new snapshot was taken, and nothing is known against it."""
        self.known = self.heal = None
        self._wait, self._failed_with = TRY_AGAIN, None

    def doubted(self, writer: Writer, why: str) -> None:
        """Note, durably, that the backup cannot be trusted until a new snapshot is complete. Raises BackupError."""
        doubt = found_now("start", why, writer.manifest.generation, doubt=True)
        if self.known is None:
            writer.damage.note(doubt)
            self.known = self._told = doubt

    def begun(self) -> None:
        """A new snapshot is being made beside the node."""
        self.heal = None

    def failed(self, why: str, wait: float) -> None:
        """No snapshot could be taken this time, and the node goes on as before, for at least `wait` seconds."""
        self.heal, self._not_before = None, time.monotonic() + wait
        minutes = counted(round(wait / 60), "minute")
        self._report("unusual", f"no new snapshot could be taken yet (the next attempt is in {minutes}): {why}")

    def could_not(self, error: BackupError | OSError) -> None:
        """The same after an attempt that failed with this error: the wait is twice as long each time, and errors of one
        kind that follow one another are told once."""
        wait, self._wait = self._wait, min(2 * self._wait, TRY_AT_LEAST_EVERY)
        again, self._failed_with = type(error) is self._failed_with, type(error)
        if isinstance(error, CopyFailed) and error.lasting and not again:
            self._report("unusual", f"no new snapshot can be made while the node runs: {error}. {_RESTART}")
        elif not again:
            self.failed(str(error), wait)
        self.heal, self._not_before = None, time.monotonic() + wait


_SAFE = "The node's own database is whole, and changes are still appended"
_NOW = f"{_SAFE}; a new snapshot of it is begun at the next commit"
_LATER = (
    f"{_SAFE}, but do not rely on this backup. A new snapshot is made once there is space for a copy of the database "
    "in the node's directory, and for the snapshot at the destination"
)
_RESTART = (
    "Every change is still saved, but do not rely on this backup. Restart the node when you can (lightning-cli stop, "
    "then start it): its next start takes the new snapshot before it goes on, which may take minutes for a large "
    "database. Or take it while the node is stopped: backup-cli resync"
)
_MAKE_ROOM = "It is taken by itself once there is: make room there"
