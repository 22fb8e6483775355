"""`backup-cli member-add`: adds a destination to the backup of a stopped node."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import click

from backends import backup_at
from backends.errors import BackupError
from backends.holder import COMMAND
from backends.log.backup import Backup
from backends.log.format.members import MAX_MEMBERS, MEMBERS, Member, OutOfSync
from backends.log.format.records import time_now
from backends.members.configuring import BEING_ADDED
from backends.members.new_copy import publish_document
from backends.members.strangers import encrypt_later
from backends.members.urls import is_name, new_name, split_trailing
from backends.node.lockfile import Settings, write_settings
from backends.node.members_note import remove_members_note
from backends.node.writer_lock import WriterLock
from backends.system.interrupts import deferred, ignored
from backup_cli.changing_members import AtRest, Changing, at_rest, first_of_several, stopped_node
from backup_cli.completing import offered_urls
from backup_cli.console import say, warn
from backup_cli.dry_run import dry_run_option, held, tell_steps
from backup_cli.finding_keys import find_key
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.new_members import copy_to, refuse_same_places, tell_members, warn_of_shared_fates, warn_of_strangers
from backup_cli.node_environment import destination_warnings
from backup_cli.options import lightning_dir, removed_on_failure
from backup_cli.ownership import alone, take_over
from backup_cli.seen_encryption import look_for_encryption
from backup_cli.waiting import answered


@click.command("member-add", short_help="Add a destination to a stopped node's backup.")
@click.argument("url", metavar="URL", shell_complete=offered_urls)
@lightning_dir
@click.option("--name", help="What the new member is called.  [default: derived from the URL]")
@key_options
@take_over
@dry_run_option
@json_option
def member_add(
    url: str,
    lightning_dir: Path,
    name: str | None,
    key: KeyOptions,
    take_over: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy the node's backup to URL, and have the node save every change there, too.

    Stop lightningd first; while it runs, use: lightning-cli backup-member-add URL. A URL that ends in ?trailing is
    never waited for. A backup with one destination becomes one with two members.
    """
    directory, settings = stopped_node(lightning_dir, "backup-member-add", url)
    found = look_for_encryption(settings.urls, patient=False)
    find_key(found, key, [directory])
    with held(WriterLock(directory, f"{COMMAND} member-add"), dry_run):
        new = _new_member(url, name, settings)
        there = settings.members or (Member(new_name(settings.url, ()), settings.url),)
        refuse_same_places((*there, new), (new,))
        answered(new.url, backup_at(new.url).check_new)
        warn_of_shared_fates((*there, new), (new,))
        warn_of_strangers([new.url], encrypt_later(directory), encrypted=bool(found.members))
        if dry_run:
            tell_steps([f"copy the backup to {new.url}, and add it as the member {new.name}"], as_json)
            return
        with _at_rest(directory, settings, take_over) as before:
            settings = _add(directory, before, new)
    say(f"The backup has {len(settings.members)} members now:")
    tell_members(settings.members)
    if as_json:
        added = settings.member(new.name)
        hand_out_result({"added": asdict(added), "members": [asdict(member) for member in settings.members]})


def _new_member(url: str, name: str | None, settings: Settings) -> Member:
    """The member to add, without what its URL needs to be lasting. Raises BackupError or UsageError."""
    plain, trailing = split_trailing(url)
    taken = [member.name for member in settings.members] or [new_name(settings.url, ())]
    if name is not None and not is_name(name):
        raise click.UsageError(f"--name {name!r} is no name: use lower-case letters, digits and hyphens, such as nas-2")
    if name in taken:
        raise BackupError(f"there is a member {name} already. Nothing was changed; choose another --name")
    if len(taken) >= MAX_MEMBERS:
        raise BackupError(f"a backup has at most {MAX_MEMBERS} members. Nothing was changed; remove one first")
    return Member(name or new_name(plain, taken), plain, trailing)


@contextmanager
def _at_rest(directory: Path, settings: Settings, take_over: bool) -> Iterator[AtRest]:
    """The members before the change. A backup with one destination is held meanwhile, and is as before on a failure."""
    if settings.members:
        yield at_rest(directory, settings, "member-add", take_over)
        return
    backup = backup_at(settings.url)
    with alone(settings.url, backup, "member-add", take_over):
        before = first_of_several(directory, settings, secrets.token_hex(8))
        try:
            yield before
        except BaseException:
            with deferred(), suppress(BackupError, OSError):
                _forget_members(directory, backup)
            raise


def _forget_members(directory: Path, backup: Backup) -> None:
    """Take back what makes a backup with one destination one with several; backup.lock still names the one."""
    remove_members_note(directory)
    with suppress(FileNotFoundError):
        backup.storage.remove(MEMBERS)
        backup.storage.sync_names()


def _add(directory: Path, before: AtRest, new: Member) -> Settings:
    """Make the new member and let it join. Returns what backup.lock says then."""
    target = backup_at(new.url)
    new = replace(new, url=target.place.durable_url(new.url))
    members = tuple(sorted((*before.settings.members, new), key=lambda member: member.trailing))
    changing, in_sync = Changing(directory, before, members), before.in_sync
    with removed_on_failure(target) as making:
        document = changing.document(new.name)
        if not new.trailing:
            document = replace(document, out={**document.out, new.name: OutOfSync(time_now(), BEING_ADDED)})
        copy_to(before.source(), target, document, f"{COMMAND} member-add")
        _tell_place(directory, target, new)
        with ignored():
            changing.begin(in_sync, {new.name: BEING_ADDED})
            write_settings(directory, changing.settings)
            making.keep()
    try:
        if new.trailing:
            publish_document(target, changing.document(new.name))
        else:
            changing.begin((*in_sync, new.name), {})
    except (BackupError, OSError) as error:
        warn(f"{new.name} was added, but is not in sync yet ({error}); the node brings it up to date once it runs")
    return changing.settings


def _tell_place(directory: Path, target: Backup, new: Member) -> None:
    for line in destination_warnings(new.url, target.place, directory):
        warn(line)
    for line in target.place.about():
        say(f"Found at {new.name}: {line}")
    say(f"A commit takes {target.commit_latency() * 1000:.1f} ms at {new.name}.")
