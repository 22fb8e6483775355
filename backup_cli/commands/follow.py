"""`backup-cli follow`: keeps a copy of the database that trails the backup by a second, and makes it a node's."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from backends.errors import BackupError
from backends.legacy import legacy_backup_at
from backends.members.urls import split_trailing
from backends.node.directory import NETWORKS
from backup_cli import as_owner
from backup_cli.consent.schema import accept_schema
from backup_cli.console import hand_out_path, say
from backup_cli.dry_run import dry_run_option, tell_steps
from backup_cli.following.copy_directory import CopyDirectory
from backup_cli.following.keeper import Keeper, Wishes
from backup_cli.following.promotion import Promotion, promote, tell_promoted, would_promote
from backup_cli.following.sources import Followed
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.options import A_PATH, no_limits, show_statements, urls_argument
from backup_cli.ownership import take_over
from backup_cli.replica import warn_of_other_main
from backup_cli.restore_attached import files_document, secret_is_stored
from backup_cli.restore_members import without_option
from backup_cli.restore_place import MOUNT_FIRST, made, refuse_inside
from backup_cli.restore_text import tell_rules

DAY = 24.0


@click.command(short_help="Keep a copy of the database that follows the backup.")
@urls_argument
@click.argument("dest", type=click.Path(readable=False))
@click.option("--once", is_flag=True, help="End as soon as the copy holds all that the backup does: for a timer.")
@click.option(
    "--promote",
    "promoting",
    is_flag=True,
    help="Take the backup over, bring the copy to its end, and make it the database of the node in DEST, which goes on "
    "with this same backup.",
)
@click.option(
    "--check-every",
    type=click.FloatRange(min=0, min_open=True),
    default=DAY,
    show_default=True,
    metavar="HOURS",
    help="How often every table of the copy is checked, page by page.",
)
@click.option(
    "--prometheus", "figures", type=A_PATH, metavar="FILE", help="Write metrics for Prometheus to FILE, now and then."
)
@accept_schema
@without_option
@key_options
@take_over
@dry_run_option
@json_option
@show_statements
@no_limits
def follow(
    urls: tuple[str, ...],
    dest: str,
    once: bool,
    promoting: bool,
    check_every: float,
    figures: Path | None,
    accepted: bool,
    without: tuple[str, ...],
    key: KeyOptions,
    take_over: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Keep a copy of the database in the directory DEST that follows the backup at URL, within a second, until stopped.

    Every change is replayed and checked as in a restore, so one that could not be restored is known within seconds.
    Reads the backup only, and does not disturb the node. The copy may be behind: no node starts from it before it was
    promoted.

    Of a backup with several members, one URL is enough. An encrypted backup is opened as for a restore; a backup.key in
    DEST is found.
    """
    _refuse_senseless(once, promoting, dry_run, as_json, take_over, without)
    urls = tuple(split_trailing(url)[0] for url in urls)
    if len(urls) == 1 and legacy_backup_at(urls[0]) is not None:
        raise BackupError(
            f"{urls[0]} is a file of the older backup plugin, which cannot be followed. Nothing was changed; to make a "
            "backup of it that can, run: backup-cli import"
        )
    place = as_owner.restore_place(Path(dest))
    _refuse_place(place, promoting=promoting)
    figures = None if figures is None else figures.absolute()
    wishes = Wishes(urls, key, once, accepted, check_every * 3600, figures)
    directory = CopyDirectory(place)
    if dry_run:
        tell_steps(would_promote(directory, wishes, without, take_over), as_json)
        return
    if promoting:
        with directory.alone():
            done = promote(directory, wishes, without, take_over)
        _tell_promotion(directory, done, as_json)
        return
    with made(place), directory.alone():
        directory.refuse_database()
        if not once:
            say(f"Following {' and '.join(urls)} with {directory.copy} (Ctrl-C stops)")
        keeper = Keeper(directory, wishes)
        followed = keeper.keep()
    if as_json:
        hand_out_result(_document(directory, keeper, followed))


def _refuse_senseless(
    once: bool, promoting: bool, dry_run: bool, as_json: bool, take_over: bool, without: tuple[str, ...]
) -> None:
    if once and promoting:
        raise click.UsageError("--once and --promote exclude each other: a promotion brings the copy up to date anyway")
    if (dry_run or take_over or without) and not promoting:
        raise click.UsageError("--dry-run, --take-over and --without belong to --promote: otherwise nothing is changed")
    if as_json and not (once or promoting):
        raise click.UsageError("--json needs --once or --promote: otherwise the command does not end")


def _refuse_place(place: Path, *, promoting: bool) -> None:
    """Refuse a DEST that cannot be the directory of a copy."""
    if place.exists() and not place.is_dir():
        raise BackupError(f"{place} is a file; DEST is the directory that the copy is kept in. Nothing was changed")
    if not place.exists() and promoting:
        raise BackupError(
            f"{place} does not exist, so there is no copy in it to promote. Nothing was changed; check DEST; "
            f"{MOUNT_FIRST}. Without a copy, the backup's newest state is brought back by: backup-cli restore --resume"
        )
    if not place.exists() and not place.parent.is_dir():
        raise BackupError(
            f"{place.parent} does not exist, so no copy can be kept in it; create it, or check DEST; {MOUNT_FIRST}"
        )
    inside = [place / name for name in NETWORKS if (place / name).is_dir()]
    if inside:
        raise BackupError(
            f"{place} is the directory above a node's; lightningd looks for its database in {inside[0]}. Nothing was "
            "changed; name a directory of its own, or that one"
        )
    refuse_inside(place)


def _document(directory: CopyDirectory, keeper: Keeper, followed: Followed) -> dict[str, Any]:
    """The result for programs."""
    note, news = keeper.note, keeper.news
    assert note is not None and news is not None
    fields = asdict(note)
    del fields["released"]
    return {
        **fields,
        "url": followed.url,
        "path": str(directory.copy),
        "encrypted": news.key is not None,
        "lag_changes": news.lag,
        "changes": keeper.changes,
        "built": keeper.rebuilt,
        "torn": news.torn,
        "end_unverified": news.end_unverified,
    }


def _tell_promotion(directory: CopyDirectory, done: Promotion, as_json: bool) -> None:
    tell_promoted(directory, done)
    if not as_json:
        hand_out_path(directory.database)
    warn_of_other_main(directory.path, directory.database)
    url = done.url if done.members is None else done.members.resumed_with(done.url)
    stored = secret_is_stored(done.url, done.backup)
    tell_rules(url, directory.database, done.node_id, done.files, True, False, secret_is_stored=stored)
    if as_json:
        document = {
            "path": str(directory.database),
            "url": done.url,
            "node_id": done.node_id,
            "data_version": done.position.data_version,
            "last_change": done.note.last_change,
            "changes": done.changes,
            "checked": max(done.note.checked, done.note.rebuilt),
            "files": files_document(done.files),
        }
        hand_out_result(document if done.members is None else {**document, **done.members.as_json(done.url)})
