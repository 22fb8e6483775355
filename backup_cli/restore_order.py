"""What `backup-cli restore` is to do: the options as typed, and what they mean here. Much is refused before anything is
rebuilt."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from backends.errors import BackupError, NotABackup, Unreachable, Unrestorable
from backends.keyring import DataKey
from backends.legacy import legacy_backup_at
from backends.log.backup import Backup
from backends.node.directory import DATABASE, NETWORKS, looks_like_a_nodes
from backends.node.pairing import pair
from backends.node.present import end_of_backup, inspect_database
from backends.node.running import refuse_if_running
from backup_cli import as_owner
from backup_cli.consent.restore import which_is_newer
from backup_cli.console import warn
from backup_cli.finding_keys import find_key
from backup_cli.if_missing import advise_init
from backup_cli.key_options import KeyOptions
from backup_cli.legacy import CANNOT_RESUME
from backup_cli.restore_members import ReadMembers, Source, source_at
from backup_cli.restore_past import Past, Wanted, find_past, version_suffix
from backup_cli.restore_place import existing_at, file_behind, refuse_inside


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options, as they were typed."""

    if_missing: bool
    replace: bool
    wanted: Wanted
    accepted: bool
    """Whether unknown schema objects are accepted (`--accept-schema`)."""
    consent: tuple[str, ...]
    take_over: bool
    dry_run: bool
    check: bool
    """Whether the whole database is checked, however large it is and wherever it comes from (`--check`)."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be restored, where to, and with which options."""

    url: str
    backup: Backup | None
    members: ReadMembers | None
    """The members that were read of a backup that has several; else None. Then `url` and `backup` are one of them."""
    legacy: Path | None
    """The older plugin's file; then there is no `backup`."""
    target: Path
    file: Path
    """The file that `target` leads to, if it is a link; else `target`."""
    existing: list[Path]
    """The files that are at `file` now, a database and its journals."""
    past: Past
    wishes: Wishes
    key: DataKey | None
    """The key of an encrypted backup."""

    @property
    def source(self) -> Source | None:
        """The backup, unless that is the older plugin's file."""
        return None if self.backup is None else Source(self.url, self.backup, self.members)

    @property
    def old(self) -> bool:
        """Whether the state is old: then it is for looking at only, and the file's name says so."""
        return bool(self.past.suffix)

    @property
    def resume(self) -> bool:
        """Whether the node goes on with this backup (`--resume`)."""
        return self.wishes.wanted.resume


def order_of(urls: tuple[str, ...], target: Path, without: tuple[str, ...], key: KeyOptions, wishes: Wishes) -> Order:
    """What is to be restored, and where to. Raises BackupError if that is refused; nothing is changed yet."""
    legacy = _legacy_file(urls, wishes.wanted, key)
    try:
        opened_with = None if legacy is not None else find_key(urls, key, [target.parent])
        source = None if legacy is not None else source_at(urls, without, wishes.wanted.resume)
    except (NotABackup, Unreachable) as error:
        raise advise_init(error, target.parent, urls) if wishes.if_missing else error from None
    source, past = _past(source, wishes.wanted)
    url, backup, members = (urls[0], None, None) if source is None else (source.url, source.backup, source.members)
    target = target.with_name(f"{target.name}{past.suffix}")
    refuse_inside(target.parent)
    refuse_if_running(target.parent)
    file = file_behind(target)
    as_owner.refuse_anothers(file.parent)
    existing = existing_at(file)
    if existing and not wishes.replace and not wishes.if_missing:
        _refuse_to_overwrite(existing, file, url, backup)
    if wishes.wanted.resume:
        _demand_nodes_directory(target)
    return Order(url, backup, members, legacy, target, file, existing, past, wishes, opened_with)


def _demand_nodes_directory(target: Path) -> None:
    """Raise BackupError if no node goes on from there (`--resume`), and warn if nothing shows that one does."""
    if target.name != DATABASE:
        raise BackupError(f"--resume needs DEST to be a node's directory, so that the file is called {DATABASE}")
    if not looks_like_a_nodes(target.parent):
        warn(
            f"nothing in {target.parent} shows that it is a node's. lightningd must work in exactly this directory; if "
            f"it will work in {target.parent / NETWORKS[0]}, restore to that one"
        )


def _past(source: Source | None, wanted: Wanted) -> tuple[Source | None, Past]:
    """Which state is wanted, and the source that was asked: another member if one of several is damaged."""
    if source is None:
        return None, Past(wanted.to_version, None, version_suffix(wanted.to_version))
    while True:
        try:
            return source, find_past(source.url, source.backup, wanted)
        except (Unrestorable, Unreachable) as error:
            if source.members is None:
                raise
            source = source.members.after(source.url, error, wanted.resume)


def _legacy_file(urls: tuple[str, ...], wanted: Wanted, key: KeyOptions) -> Path | None:
    """The older plugin's file that the only URL names; None if it names something else."""
    legacy = legacy_backup_at(urls[0]) if len(urls) == 1 else None
    if legacy is not None and wanted.resume:
        raise BackupError(CANNOT_RESUME)
    if legacy is not None and wanted.to_time is not None:
        raise click.UsageError("--to-time needs a backup of this plugin; the older plugin's file holds no times")
    if legacy is not None and wanted.kept:
        raise click.UsageError("--kept needs a backup of this plugin; the older plugin's file keeps no old generation")
    if legacy is not None and key.named:
        raise click.UsageError(f"{key.named[0]} is for an encrypted backup; the older plugin encrypts nothing")
    return legacy


def _refuse_to_overwrite(existing: list[Path], target: Path, url: str, backup: Backup | None) -> NoReturn:
    advice = None
    if backup is not None:
        with suppress(BackupError, OSError):  # if one of the two cannot be read, nobody can tell
            advice = which_is_newer(pair(inspect_database(target), end_of_backup(backup, url), None, None))
    names = ", ".join(str(path) for path in existing)
    raise BackupError(
        f"{names} {'exists' if len(existing) == 1 else 'exist'} already, and nothing was touched. "
        f"{advice or 'Check whether that is the newer state'}; to restore anyway, with the old files moved aside, add "
        "--replace (which is refused if they are newer)"
    )
