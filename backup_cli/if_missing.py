"""`restore --if-missing`, for an entrypoint that nobody watches: restore only if the node has no database.

It may run at each start of the node, so it is quick where there is one, and reads neither the backup nor the whole
database then. Where it is not plain whether there is one, it refuses: an entrypoint that goes on would start a node
that is empty, or that runs from the wrong state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from backends.errors import BackupError
from backends.node.directory import DATABASE
from backends.node.following import why_following
from backends.node.lockfile import LOCK_FILE, read_settings
from backends.node.pairing import Found
from backends.node.present import inspect_database
from backends.node.running import running_lightningd
from backends.sqlite_header import MAGIC
from backends.text import shell_line
from backup_cli.console import say, warn
from backup_cli.dry_run import tell_steps
from backup_cli.for_programs import hand_out_result
from backup_cli.restore_past import Wanted
from backup_cli.restore_place import existing_at

IF_MISSING = "--if-missing"

if_missing_option = click.option(
    IF_MISSING,
    is_flag=True,
    help="Do nothing, and exit with 0, if the database is there: for the entrypoint of a container.",
)

LOOKED_INTO = 16 << 20
"""A database of up to this many bytes is opened. lightningd makes one of some 300 KiB within its first transaction, so
a larger one is no leftover of a first start that was killed; and a copy of it, which a journal asks for, takes long."""


def refuse_with_others(given: bool, *, replace: bool, wanted: Wanted) -> None:
    """Raise UsageError if `--if-missing` was given together with an option that means the opposite."""
    others = {
        "--replace": replace,
        "--to-version": wanted.to_version is not None,
        "--to-time": wanted.to_time is not None,
        "--kept": wanted.kept,
    }
    for option, there in others.items():
        if given and there:
            raise click.UsageError(f"{IF_MISSING} restores the newest state where there is none, so not with {option}")


def database_is_there(target: Path, file: Path) -> bool:
    """Whether the node has a database, so that nothing is to be restored. `file` is what `target` leads to.

    An empty file is none, nor is one that a first start was killed in: SQLite would make it empty again. Raises
    BackupError if what is there is no database that a node can go on with.
    """
    existing = existing_at(file)
    if not existing:
        return False
    if not file.exists():
        names = " and ".join(str(path) for path in existing)
        _refuse(f"{names} belongs to a database that is not there", file)
    size = file.stat().st_size
    if size == 0:
        kept = [path for path in existing if path != file and path.stat().st_size > 0 and not _is_journal(path)]
        if kept:
            _refuse(f"{file} is empty, and {kept[0]} beside it is not", file)
        return False
    following = why_following(file)
    if following is not None:
        raise BackupError(f"{following}. Nothing was restored")
    if size > LOOKED_INTO or running_lightningd(target.parent) is not None:
        with file.open("rb") as opened:
            begins = opened.read(len(MAGIC))
        if begins != MAGIC:
            _refuse(f"{file} is no SQLite database: its first bytes are others", file)
        return True
    found = inspect_database(file)
    if found.found in (Found.CORRUPT, Found.UNREADABLE):
        _refuse(found.why, file)
    return found.found is not Found.NOTHING


def _is_journal(path: Path) -> bool:
    """Whether it is a rollback journal: of an empty database, it can only hold that this was empty."""
    return path.name.endswith("-journal")


def _refuse(why: str, file: Path) -> NoReturn:
    raise BackupError(
        f"{why}: nobody can tell from here what happened to the database, so nothing was restored, and nothing was "
        f"touched. Look at it before the node starts. To restore, with what is in {file.parent} moved aside, repeat "
        f"this by hand with --replace instead of {IF_MISSING}"
    )


def tell_there(target: Path, resume: bool, dry_run: bool, as_json: bool) -> None:
    """Say that nothing is done, because the database is there."""
    say(f"{target} is there, so nothing was restored.")
    if resume and not (target.parent / LOCK_FILE).exists():
        warn(
            f"there is no {LOCK_FILE} in {target.parent}, so the plugin will stop the node at its first commit, and "
            "say what to type"
        )
    if dry_run:
        tell_steps([], as_json)
    elif as_json:
        hand_out_result({"path": str(target), "restored": False, "reason": "there", "resumed": False})


def advise_init(error: BackupError, directory: Path, urls: Sequence[str]) -> BackupError:
    """The error, with what to do for a node that has never run: no entrypoint may do that by itself."""
    command = shell_line("backup-cli", "init", "--lightning-dir", directory, *urls)
    advice = (
        "If this node has run before, its backup must be found (is that disk mounted?): a node that starts empty loses "
        f"its channels. Only if it has never run, make its backup once, by hand: {command}"
    )
    if error.listed:  # the message ends by announcing a list
        error.listed = (*error.listed, advice)
        return error
    return type(error)(f"{error}. {advice}")


def named_in_lock(directory: Path) -> str | None:
    """The id of the backup that backup.lock names; None if there is none, or one that cannot be read."""
    try:
        return read_settings(directory).backup_id
    except BackupError:
        return None


def tell_empty(target: Path, url: str, resumed: bool, as_json: bool) -> None:
    """Say that there was nothing to restore, because the node has never started with its backup."""
    say(
        f"{url} holds no database yet: the node has never started with it. Nothing was restored; the node begins empty."
    )
    if target.name == DATABASE and (target.parent / "hsm_secret").exists():
        warn(
            "hsm_secret is there, so this node may have run before. If another backup of it exists, do not start it "
            "empty, or it loses its channels: restore from that one"
        )
    if as_json:
        document = {"path": str(target), "url": url, "restored": False, "reason": "backup_is_empty", "resumed": resumed}
        hand_out_result(document)
