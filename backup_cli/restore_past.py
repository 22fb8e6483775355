"""Which state a restore is to give when that is not the newest one: `--to-version`, `--to-time` and `--kept`."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import click

from backends.change import ahead
from backends.errors import BackupError, Damaged
from backends.log.backup import Backup
from backends.log.format.documents import Kept
from backends.log.reader.timeline import Found, NotHeld, State
from backends.node.present import end_of_backup
from backup_cli.console import moment, say_row, warn
from backup_cli.point_in_time import PointInTime
from backup_cli.restore_text import WHY_OLD_IS_DEADLY


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user has asked for."""

    to_version: int | None
    to_time: PointInTime | None
    kept: bool
    resume: bool
    not_for_a_node: bool

    def demand_consent(self) -> None:
        """Raise BackupError or UsageError unless the options are about one state, and the user has said that an old one
        is for looking at only."""
        old = self.to_version is not None or self.to_time is not None
        if self.to_version is not None and self.to_time is not None:
            raise click.UsageError("--to-version and --to-time both say where to stop; choose one")
        if not old and self.not_for_a_node and not self.kept:
            raise click.UsageError(
                "--not-for-a-node needs --to-version, --to-time or --kept; without them, the restore is for a node"
            )
        if old and (self.resume or not self.not_for_a_node):
            option = "--to-version" if self.to_time is None else "--to-time"
            raise BackupError(
                f"an old version is for looking at only. {WHY_OLD_IS_DEADLY}. To restore a node, leave {option} out; "
                "if you only want to look, add --not-for-a-node (and no --resume). Nothing was restored"
            )


@dataclass(frozen=True, slots=True)
class Past:
    """The state to restore: the version `to_version`, or the last one, of the kept generation `held`, or of the current
    one."""

    to_version: int | None = None
    held: Kept | None = None
    suffix: str = ""
    """Of the file's name: it says that the state is not for a node. Empty if it is the node's newest one."""


def find_past(url: str, backup: Backup, wanted: Wanted) -> Past:
    """The state that is wanted of this backup. Raises BackupError if the backup does not hold it."""
    note, suffix, version = None, "", wanted.to_version
    if wanted.kept:
        note, suffix = _kept(url, backup, wanted)
    held: Kept | None = note
    if wanted.to_time is not None:
        state = _at_time(url, backup, wanted.to_time, None if note is None else [note])
        version, held = state.data_version, _numbered(backup, state.generation)
    elif version is not None and note is None:
        held = _holding(url, backup, version)
    return Past(version, held, suffix + version_suffix(version))


def version_suffix(version: int | None) -> str:
    """The suffix of the name of a database at an old version; empty without one."""
    return "" if version is None else f".version-{version}-NOT-FOR-A-NODE"


def _kept(url: str, backup: Backup, wanted: Wanted) -> tuple[Kept, str]:
    """The kept generation, and the name's suffix for a database restored from it; empty if that is the node's newest
    state. Raises BackupError if nothing is kept, or if it is old and the user has not said that it is for looking at
    only."""
    note = backup.kept()
    if note is None:
        raise BackupError(
            f"no earlier generation is kept in {url}: one is kept, for 7 days, only when a snapshot that disagrees "
            "with it replaces it. Nothing was restored"
        )
    end = end_of_backup(backup, url)
    if ahead(note.data_version, end.version) > 0:
        return note, ""
    if wanted.resume or not wanted.not_for_a_node:
        raise BackupError(
            f"the kept generation ends at version {note.data_version}, and the backup has reached version "
            f"{end.version} since, so it is for looking at only. {WHY_OLD_IS_DEADLY}. If you only want to look, add "
            "--not-for-a-node (and no --resume). Nothing was restored"
        )
    return note, ".kept-NOT-FOR-A-NODE"


def _holding(url: str, backup: Backup, version: int) -> Kept | None:
    """The newest kept generation that holds this version; None if the current one does, or if none is kept.

    The current one is also tried where its end cannot be found. Raises BackupError.
    """
    held = backup.held()
    seen, last = backup.look(), None
    with suppress(Damaged):
        last = seen.end.data_version
    first = seen.manifest.base.data_version
    if not held or _within(version, first, last):
        return None
    for kept in reversed(held):
        if _within(version, kept.manifest.base.data_version, kept.data_version):
            return kept
    ranges = [f"{kept.manifest.base.data_version} to {kept.data_version}" for kept in held]
    raise BackupError(
        f"no generation in {url} holds version {version}: they hold {', '.join(ranges)}, and {first} to "
        f"{'the end' if last is None else last}. Nothing was restored; see: backup-cli versions"
    )


def _within(version: int, first: int, last: int | None) -> bool:
    return ahead(version, first) >= 0 and (last is None or ahead(last, version) >= 0)


def _numbered(backup: Backup, generation: int) -> Kept | None:
    """The kept generation with this number; None if it is the current one."""
    return next((kept for kept in backup.held() if kept.manifest.generation == generation), None)


def _at_time(url: str, backup: Backup, asked: PointInTime, among: Sequence[Kept] | None) -> State:
    """The state at this time, which is shown to the user. Raises BackupError."""
    try:
        found = backup.state_at(asked.seconds, among)
    except NotHeld as error:
        raise BackupError(f"{_not_held(url, backup, asked, error)}. Nothing was restored") from None
    _tell(asked, found)
    return found.state


def _tell(asked: PointInTime, found: Found) -> None:
    state = found.state
    say_row("at", asked.shown, 9)
    say_row("state", f"version {state.data_version}, saved {moment(state.time)} (generation {state.generation})", 9)
    if found.set_back is not None:
        back = found.set_back
        warn(
            f"the node's clock was set back later: changes up to version {back.data_version} ({moment(back.time)}) "
            f"carry times up to the one that you asked for, although they come after changes with later times. To look "
            f"at one of them, use --to-version {back.data_version}"
        )


def _not_held(url: str, backup: Backup, asked: PointInTime, error: NotHeld) -> str:
    """Why there is no state of that time, and which there are."""
    if error.gap is not None:
        before, after = (f"version {state.data_version} of {moment(state.time)}" for state in error.gap)
        return f"{url} holds nothing of {asked.shown}: it goes from {before} to {after}, and what was between is gone"
    first, last = error.first, error.last
    if asked.seconds >= first.time:
        return (
            f"{url} ends before {asked.shown}: it goes from version {first.data_version} of {moment(first.time)} to "
            f"version {last.data_version} of {moment(last.time)}. For the newest state, leave --to-time out; to look "
            f"at it, use --to-version {last.data_version}"
        )
    try:
        end = backup.end()
        until = f"version {end.data_version} of {moment(end.time)}"
    except BackupError:
        until = "its end, which cannot be read"
    since = f"version {first.data_version} of {moment(first.time)}"
    return f"{url} begins after {asked.shown}: it goes from {since} to {until}"
