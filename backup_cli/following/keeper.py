"""The loop that keeps a copy: follow, and begin again whenever the log goes on elsewhere or the backup is in trouble.

A change that cannot be replayed may also mean that the copy is at fault, by this machine's disk or memory. So it is
proved first: the whole backup is rebuilt. If that works, the new database becomes the copy; if not, what was found is
recorded in the backup, as `verify` does, and the copy stays as it is, a whole earlier state.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backends.change import ahead
from backends.confined.work import Stopped, follow_backup
from backends.errors import BackupError, KeyNeeded, NotEncrypted, Unrestorable, WrongKey
from backends.following.follower import Ended, News, Order, Stretch
from backends.mounts.missing import is_it_mounted
from backends.sqlite.following import CopyDamaged, NoCopy
from backends.system.scratch import scratch_directory
from backends.text import counted
from backup_cli.consent.schema import UnknownSchema
from backup_cli.console import age, forget_warnings, say, size, warn
from backup_cli.finding_keys import find_key
from backup_cli.following.building import OtherBackup, build
from backup_cli.following.copy_directory import CopyDirectory, Note
from backup_cli.following.figures import Figures, write_figures
from backup_cli.following.sources import Followed, followed_at
from backup_cli.following.why_not import CopyGone, ahead_of, gone, nobodys
from backup_cli.key_options import KeyOptions

NOTE_EVERY = 60.0
NOTE_IDLE_EVERY = 600.0
"""While no change comes, to spare flash memory."""

FIGURES_EVERY = 15.0
MAX_WAIT = 30.0
"""Seconds between two attempts while the backup is in trouble. The first ones come sooner."""

_BETWEEN = -1
"""The lineage in the note while a copy of another lineage takes the place of the old one. Cut off there, the copy is
built again."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user wants of the copy."""

    urls: Sequence[str]
    key: KeyOptions
    once: bool
    accepted: bool
    """Whether objects in the schema are accepted that no lightningd makes."""
    check_every: float
    """Seconds from one check of all tables to the next."""
    figures: Path | None = None
    """Where the metrics are written to; None if nowhere."""
    quiet: bool = False
    """Whether it is not worth a line that the copy is in step."""


class Keeper:
    """Keeps the copy in `directory`. The caller holds its lock."""

    def __init__(self, directory: CopyDirectory, wishes: Wishes, only: Followed | None = None) -> None:
        """`only` is the destination to follow, if that is decided already."""
        self._directory, self._wishes, self._only = directory, wishes, only
        self.note = directory.read()
        self._is_ours = self.note is not None  # a file of that name that nothing is known of may be anybody's
        self.news: News | None = None
        self.changes = 0
        """Changes that were replayed into the copy."""
        self.rebuilt = False
        """Whether the copy was built from a snapshot."""
        self._before = 0  # changes of the stretches before this one
        self._noted = self._figured = 0.0
        self._trouble: str | None = None
        self._failed: Unrestorable | None = None
        self._unproved: tuple[int, str] | None = None
        """The generation and the finding that a rebuild has confirmed: it is not done again for the same one."""
        self._told_in_step = False

    def keep(self) -> Followed:
        """Follow until this process is stopped; with `once`, until the copy is in step. Returns what was followed.

        Raises CopyGone; with `once`, everything that is in the way, as a BackupError or OSError.
        """
        wait = 1.0
        while True:
            try:
                followed = self._go_on()
                if followed is not None:
                    return followed
                wait = 1.0
            except CopyGone:
                raise
            except (BackupError, OSError) as error:
                self._tell_trouble(error)
                if self._wishes.once or (self.news is None and isinstance(error, _LASTING)):
                    raise
                time.sleep(wait)
                wait = min(2 * wait, MAX_WAIT)

    # One round

    def _go_on(self) -> Followed | None:
        """One stretch. Returns what was followed if that was all that was wanted."""
        urls = self._wishes.urls if self._only is None else [self._only.url]
        find_key(urls, self._wishes.key, [self._directory.path])  # first: what members say of each other is sealed
        followed = self._only or followed_at(urls)
        self._refuse_another(followed)
        if not self._directory.copy.exists():
            if self.rebuilt or self.news is not None:
                raise gone(self._directory)
            self._rebuild(followed, None)
        try:
            stretch = self._stretch(followed)
        except (NoCopy, CopyDamaged) as error:
            self._replace(followed, error)
            return None
        except Unrestorable as error:
            self._prove(followed, error)
            return None
        except Stopped:
            return None  # another member is newer
        return self._ended(followed, stretch)

    def _refuse_another(self, followed: Followed) -> None:
        found = followed.backup.id()
        if self.note is not None and self.note.backup_id != found:
            raise OtherBackup(
                f"{followed.url} holds the backup {found}, and the copy in {self._directory.path} follows "
                f"{self.note.backup_id}; nothing was changed. Is the right disk mounted? To follow this one, name "
                "another directory"
            )
        if self.note is None:
            if self._directory.copy.exists():
                say(f"The note beside {self._directory.copy} is gone; a new one is made")
            self._write_note(Note(found, followed.url))

    def _stretch(self, followed: Followed) -> Stretch:
        note = self.note
        assert note is not None
        order = Order(
            backup_id=note.backup_id,
            once=self._wishes.once,
            every=followed.backup.place.look_every,
            check_in=_check_in(note, self._wishes.check_every, time.time()),
            check_every=self._wishes.check_every,
            accept_unknown=self._wishes.accepted,
            lineage=note.lineage,
        )
        self._before = self.changes
        return follow_backup(
            followed.url, self._directory.copy, order, lambda news: self._heard(followed, news), followed.is_newest
        )

    def _ended(self, followed: Followed, stretch: Stretch) -> Followed | None:
        if stretch.news is not None:
            self._heard(followed, stretch.news)
        if stretch.ended is Ended.IN_STEP:
            self._write_note(self.note)
            self._show_figures(followed.url, now=True)
            return followed
        if stretch.ended is Ended.NOT_THERE:
            why = "the backup does not hold the last change of the copy any more: a new snapshot has taken its place"
            self._rebuild(followed, why, stretch.copy_version)
        elif stretch.ended is Ended.AHEAD:
            raise ahead_of(self._directory, followed.url, stretch.copy_version, stretch.backup_version)
        elif stretch.ended is Ended.GONE:
            raise gone(self._directory)
        return None

    # Rebuilding

    def _replace(self, followed: Followed, error: NoCopy | CopyDamaged) -> None:
        """Rebuild a copy that is damaged. Raises BackupError for a file that is nobody's copy."""
        copy = self._directory.copy
        if not copy.exists():
            raise gone(self._directory)
        if isinstance(error, NoCopy) or not self._is_ours:
            raise NoCopy(
                f"{copy} is not a copy that follows a backup, and nothing was changed. If a promotion was cut off, "
                "repeat it: backup-cli follow --promote. Otherwise find out what that file is, and move it away"
            )
        self._rebuild(followed, str(error))

    def _prove(self, followed: Followed, error: Unrestorable) -> None:
        """Find out whether the backup or the copy is at fault. Raises Unrestorable if it is the backup."""
        generation = followed.backup.look().manifest.generation
        if self._unproved == (generation, error.finding):
            raise self._failed or error
        try:
            self._rebuild(followed, f"{error.finding}; to find out whether the backup or the copy is at fault")
        except Unrestorable as proved:
            self._unproved, self._failed = (generation, error.finding), proved
            raise
        self._unproved = None

    def _rebuild(self, followed: Followed, why: str | None, held: int | None = None) -> None:
        """Build the copy from the snapshot and all changes. The old copy stays in place until the new one is whole.

        `held` is the version of the old copy, by default the one that was last noted. Raises CopyAhead if the new one
        is at an earlier version: the backup may have been set back since the old one was compared with it.
        """
        note, copy = self.note, self._directory.copy
        assert note is not None
        if copy.exists() and not self._is_ours:
            raise nobodys(self._directory, followed.url)
        if why is not None:
            say(f"Rebuilding the copy: {why}")
        began = time.monotonic()
        with scratch_directory(self._directory.path) as scratch:
            new = scratch / "rebuilding.sqlite3"
            built = build(followed, note.backup_id, new, self._wishes.accepted)
            held, reached = note.data_version if held is None else held, built.news.data_version
            if copy.exists() and ahead(held, reached) > 0:
                raise ahead_of(self._directory, followed.url, held, reached)
            lineage = built.news.lineage
            note = Note(
                note.backup_id, followed.url, built.news.generation, reached, built.news.sequence,
                built.last_change, int(time.time()), built.news.in_step,
                lineage=lineage if lineage == note.lineage else _BETWEEN,
            )  # fmt: skip
            self._write_note(note)
            self._directory.replace_copy(new)
            if lineage != note.lineage:
                self._write_note(replace(note, lineage=lineage))
        self.changes += built.changes
        self.rebuilt = self._is_ours = True
        for line in (built.news.torn, built.news.end_unverified):
            if line is not None:
                warn(line)
        say(
            f"Built the copy at version {reached}: {size(built.size)}, {counted(built.changes, 'change')} replayed, "
            f"integrity checked, in {time.monotonic() - began:.1f} s"
        )

    # What is told

    def _heard(self, followed: Followed, news: News) -> None:
        self.news, self.changes, self._is_ours = news, self._before + news.changes, True
        note = self.note or Note(news.backup_id, followed.url)
        self.note = replace(
            note,
            url=followed.url,
            generation=news.generation,
            data_version=news.data_version,
            sequence=news.sequence,
            last_change=news.last_change or note.last_change,
            in_step=news.in_step or note.in_step,  # not the later one: the clock may have been wrong
            checked=news.checked or note.checked,
        )
        if news.in_step:
            self._tell_in_step(news)
        now = time.monotonic()
        idle = self.note.sequence == note.sequence
        if not self._wishes.once and now - self._noted > (NOTE_IDLE_EVERY if idle else NOTE_EVERY):
            self._update_note(self.note)
        self._show_figures(followed.url, now=False)

    def _tell_in_step(self, news: News) -> None:
        if not self._wishes.quiet and (self._trouble is not None or not self._told_in_step):
            say(f"In step with the backup, at version {news.data_version}")
        self._trouble, self._failed, self._told_in_step = None, None, True

    def _tell_trouble(self, error: BackupError | OSError) -> None:
        text = (
            str(error) if isinstance(error, BackupError) else f"{in_words(error)}. Fix that (permission, space, mount)"
        )
        self._failed = error if isinstance(error, Unrestorable) else self._failed
        if text != self._trouble and not self._wishes.once:
            since = (
                ""
                if self.note is None or not self.note.in_step
                else (f" (the copy was last in step {age(time.time() - self.note.in_step)} ago)")
            )
            say(f"NOT in step{since}: {text}", *(f"  {line}" for line in getattr(error, "listed", ())))
        self._trouble = text
        forget_warnings()
        self._show_figures(self._wishes.urls[0] if self.note is None else self.note.url, now=True)

    def _write_note(self, note: Note | None) -> None:
        if note is not None:
            self.note = note
            self._directory.write(note)
            self._noted = time.monotonic()

    def _update_note(self, note: Note) -> None:
        """Write it down on the way. The copy says itself where it is, so it goes on following without that."""
        try:
            self._write_note(note)
        except OSError as error:
            self._noted = time.monotonic()
            say(f"the note beside the copy is out of date: {in_words(error)}; the copy goes on following")

    def _show_figures(self, url: str, *, now: bool) -> None:
        path = self._wishes.figures
        if path is None or (not now and time.monotonic() - self._figured < FIGURES_EVERY):
            return
        self._figured = time.monotonic()
        figures = Figures(
            self.note, self.news, self._trouble is None and self.news is not None, self._failed is not None
        )
        try:
            write_figures(path, url, figures, time.time())
        except OSError as error:
            missing = is_it_mounted(path) if isinstance(error, FileNotFoundError) else ""
            say(f"{path} cannot be written: {error.strerror or error}; the copy goes on following{missing}")


def in_words(error: OSError) -> str:
    """What happened to which file."""
    what = error.strerror or str(error)
    return f"{error.filename} cannot be used: {what}" if error.filename else what


def _check_in(note: Note, every: float, now: float) -> float:
    """Seconds until all tables are to be checked. A check in the future does not count: the clock was wrong then."""
    last = max((at for at in (note.checked, note.rebuilt) if at <= now), default=0)
    return max(last + every - now, 0.0)


_LASTING = (NoCopy, KeyNeeded, WrongKey, NotEncrypted, UnknownSchema, OtherBackup)
"""Errors about which only a person can do something: at the first attempt, they end the command."""
