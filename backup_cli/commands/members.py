"""`backup-cli members`: lists the members of a backup with several destinations, without changing anything."""

from pathlib import Path

import click

from backends.members.urls import split_trailing
from backends.node.lockfile import read_settings
from backup_cli import as_owner
from backup_cli.completing import offered_urls
from backup_cli.console import show_line, warn
from backup_cli.finding_keys import find_key
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.members_text import show_members_in_full
from backup_cli.options import existing_backup_as_owner, lightning_dir
from backup_cli.seen_members import SeenBackup, given_members, has_members, own_members


@click.command(short_help="List the destinations of a backup that has several.")
@click.argument("urls", metavar="[URL]...", nargs=-1, shell_complete=offered_urls)
@lightning_dir
@key_options
@json_option
def members(urls: tuple[str, ...], lightning_dir: Path, key: KeyOptions, as_json: bool) -> None:
    """List the members of the node's own backup; with URLs, of the backup whose members are there.

    Each is read as it is now. One that hangs is given up after a while and listed as such.
    An encrypted backup lists its members only to the holder of its key.
    """
    seen, url = _seen(urls, lightning_dir, key)
    if seen is None:
        if as_json:
            hand_out_result({"url": url, "backup_id": None, "need": 1, "epoch": None, "members": []})
            return
        show_line(f"{url} is the only destination of this backup; to add another one, run: backup-cli member-add URL")
        return
    doubt = seen.doubt()
    if doubt is not None:
        warn(doubt)
    status = seen.status
    if as_json:
        listed = [member.as_json() for member in status.members]
        hand_out_result(
            {
                "url": status.url,
                "backup_id": status.backup_id,
                "need": status.need,
                "epoch": status.epoch,
                "members": listed,
            }
        )
        return
    show_members_in_full(status)


def _seen(urls: tuple[str, ...], lightning_dir: Path, key: KeyOptions) -> tuple[SeenBackup | None, str]:
    """The backup's members, None if it has one destination; and its first URL. Raises BackupError."""
    urls = tuple(split_trailing(url)[0] for url in urls)
    if not urls:
        directory = as_owner.node_directory(lightning_dir)
        settings = read_settings(directory)
        find_key(settings.urls, key, [directory], needed=bool(settings.members))
        return (own_members(directory, settings) if settings.members else None), settings.url
    if len(urls) > 1:
        as_owner.backups(urls)
        find_key(urls, key)
        return given_members(urls), urls[0]
    url, backup = existing_backup_as_owner(urls[0])
    several = has_members(backup)
    find_key(backup, key, needed=several)
    return (given_members((url,)) if several else None), url
