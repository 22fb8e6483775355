"""`backup-cli member-remove`: removes a destination from the backup of a stopped node; its files stay."""

from dataclasses import asdict, replace
from pathlib import Path

import click

from backends.errors import BackupError
from backends.holder import COMMAND
from backends.log.format.members import MAX_MEMBERS, Member, MembersDocument
from backends.members.newest import newest_epoch
from backends.members.survey import survey
from backends.node.lockfile import LOCK_FILE, Settings, write_settings
from backends.node.members_note import read_members_note
from backends.node.writer_lock import WriterLock
from backends.system.interrupts import ignored
from backends.text import counted
from backup_cli.changing_members import Changing, at_rest, stopped_node
from backup_cli.console import say, warn
from backup_cli.dry_run import dry_run_option, held, tell_steps
from backup_cli.finding_keys import find_key
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.new_members import tell_members
from backup_cli.options import lightning_dir
from backup_cli.ownership import take_over


@click.command("member-remove", short_help="Remove a destination from a stopped node's backup.")
@click.argument("name", metavar="NAME")
@lightning_dir
@click.option(
    "--without",
    metavar="NAME",
    help="The same name again: what only this member may hold is given up; only when the command asks for it.",
)
@click.option(
    "--need",
    type=click.IntRange(min=1, max=MAX_MEMBERS),
    help="How many members must be in sync for the node to go on, from now on.  [default: as before]",
)
@key_options
@take_over
@dry_run_option
@json_option
def member_remove(
    name: str,
    lightning_dir: Path,
    without: str | None,
    need: int | None,
    key: KeyOptions,
    take_over: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove the member NAME: the node saves nothing there any more. Its files stay, and are old from then on.

    Stop lightningd first; while it runs, use: lightning-cli backup-member-remove NAME.
    """
    directory, settings = stopped_node(lightning_dir, "backup-member-remove", name)
    settings = settings if need is None else replace(settings, need=need)
    find_key(settings.urls, key, [directory])
    with held(WriterLock(directory, f"{COMMAND} member-remove"), dry_run):
        member, remaining = _remaining(directory, settings, name)
        given_up = _demand_newest(directory, settings, name, without)
        if dry_run:
            tell_steps([f"remove the member {name} from the backup; its files at {member.url} stay"], as_json)
            return
        before = at_rest(directory, settings, "member-remove", take_over, [name] if given_up else [])
        in_sync = [each for each in before.in_sync if each != name]
        if len(in_sync) < settings.need:
            raise BackupError(
                f"without {name}, {counted(len(in_sync), 'member')} would be in sync, and the node needs "
                f"{settings.need}. Nothing was removed; start the node and wait until another member is in sync"
            )
        changing = Changing(directory, before, remaining)
        with ignored():
            # Before backup.lock: a kill in between leaves a member that the node brings back, not one that it misses.
            changing.begin(in_sync, {})
            write_settings(directory, changing.settings)
    say(
        f"{name} is removed. Its files at {member.url} stay, and are older from the next change on: never restore from "
        "them alone; delete them once you are sure that the others are whole (backup-cli verify)"
    )
    tell_members(remaining)
    if as_json:
        hand_out_result({"removed": asdict(member), "members": [asdict(each) for each in remaining]})


def _remaining(directory: Path, settings: Settings, name: str) -> tuple[Member, tuple[Member, ...]]:
    """The member to remove, and the others. A last one stays a member, with a document of its own: its epoch is what
    shows that the files of the removed ones are older."""
    if not settings.members:
        raise BackupError(
            f"the backup that {directory / LOCK_FILE} names has one destination ({settings.url}), and no members that "
            "could be removed. Nothing was changed"
        )
    member = next((each for each in settings.members if each.name == name), None)
    if member is None:
        names = ", ".join(f"{each.name} ({each.url})" for each in settings.members)
        raise BackupError(f"there is no member {name}; the members are: {names}. Nothing was changed")
    remaining = tuple(each for each in settings.members if each.name != name)
    waited_for = sum(not each.trailing for each in remaining)
    if waited_for < settings.need:
        left = "no member" if not remaining else counted(waited_for, "member") + " that the node waits for"
        lower = f"; or, if this one is lost for good, have the node need fewer: add --need {max(waited_for, 1)}"
        raise BackupError(
            f"without {name}, the backup would have {left}, and the node needs {settings.need}. Nothing was changed; "
            f"add another one first: backup-cli member-add URL{lower if waited_for else ''}"
        )
    return member, remaining


def _demand_newest(directory: Path, settings: Settings, name: str, without: str | None) -> bool:
    """Whether the user has given up a member that cannot be read, and that may be the only one with the newest changes.

    Raises BackupError unless they have typed its name again.
    """
    if without is not None and without != name:
        raise click.UsageError(f"--without {without} does not name the member to remove, which is {name}")
    found = survey(settings.members, settings.backup_id)
    if found.key_needed is not None:
        raise found.key_needed
    member = next((each for each in found.seen if each.name == name), None)
    others, document = [each for each in found.seen if each is not member], None
    if others:
        epoch = newest_epoch(others)
        document = next(each.document for each in others if each.document.epoch == epoch)
    if member is not None and _is_history(directory, document, member.document):
        return False
    if member is not None:
        why = (
            f"{name} is of epoch {member.document.epoch.number}, which no other member and not this node knows of, so "
            "it may hold newer changes than the others"
        )
    elif _was_in_sync(directory, document, name):
        why = (
            f"{name} was in sync and cannot be read now ({found.missing[name]}), so it may hold newer changes than the "
            "others"
        )
    else:
        return False
    if without is None:
        raise BackupError(
            f"{why}: removing it would give them up, and a node that runs from an older state can lose every channel. "
            "Nothing was changed. Connect it, and repeat this. Only if it is lost for good, and this node's database "
            f"is the one that it last ran with, add --without {name}"
        )
    warn(f"{why}; because of --without {name}, it is removed, and what only it holds is given up")
    return True


def _is_history(directory: Path, others: MembersDocument | None, member: MembersDocument) -> bool:
    """Whether what this member holds led to what the newest of the others holds, or is this node's own work."""
    note = read_members_note(directory)
    by_note = note is not None and note.backup_id == member.backup_id and note.knows(member.epoch)
    return by_note or others is None or others.leads_from(member.epoch)


def _was_in_sync(directory: Path, document: MembersDocument | None, name: str) -> bool:
    """Whether the newest document, or the node's own note, has the member as one that is in sync."""
    note = read_members_note(directory)
    by_note = note is not None and name in note.in_sync
    return by_note or document is None or name in document.in_sync
