"""The RPC methods that show, add and remove members while the node runs.

They are called between two calls of the hook, in the same thread, so no commit is under way.
"""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends import place_at
from backends.base import Report
from backends.errors import BackupError
from backends.keep import keep_of_all
from backends.log.backup import Backup
from backends.log.format.members import MEMBERS, Member, OutOfSync
from backends.log.format.records import time_now
from backends.log.reader.opening import read_manifest
from backends.log.status import Status
from backends.log.status_of_members import with_members
from backends.log.writer.writer import Writer
from backends.members.adopting import first_epoch
from backends.members.configuring import BEING_ADDED, add_member, check_new_member, remove_member
from backends.members.epochs import Epochs
from backends.members.live_status import live_statuses
from backends.members.running import RunningMembers
from backends.members.strangers import encrypt_later, readable_by_others
from backends.members.urls import is_name, new_name, split_trailing
from backends.members.where import mount_point
from backends.node.lockfile import Settings, read_settings, write_settings
from backends.node.members_note import MembersNote, write_members_note
from backends.node.session import known_sessions, remember_sessions
from plugin.destination import SeveralMembers


def status_with_members(log: Status, running: RunningMembers) -> Status:
    """The status of the whole backup; `log` is what the writer knows."""
    epochs = running.epochs
    return with_members(log, live_statuses(running), epochs.settings.need, epochs.note.epoch.number)


def add_by_rpc(running: RunningMembers, writer: Writer, url: str, name: str | None) -> dict[str, Any]:
    """Add a member to a backup that has several. Raises BackupError."""
    member = _new_member(url, name, running.epochs.settings.members)
    added = _added(add_member(running, member, place_at(member.url)), running.epochs)
    _keep_as_said(running, writer)
    return added


def _keep_as_said(running: RunningMembers, writer: Writer) -> None:
    """As much of the history is kept as at the next start, with the members that there are now."""
    writer.keep_history(keep_of_all(member.url for member in running.epochs.settings.members))


def remove_by_rpc(running: RunningMembers, writer: Writer, name: str) -> dict[str, Any]:
    """Remove a member. Raises BackupError."""
    remove_member(running, name)
    _keep_as_said(running, writer)
    return {"removed": name, "members": [member.name for member in running.epochs.settings.members]}


def _new_member(url: str, name: str | None, members: tuple[Member, ...]) -> Member:
    if name is not None and not is_name(name):
        raise BackupError(
            f"{name!r} cannot be a member's name: use lower-case letters, digits and hyphens. Nothing was changed"
        )
    plain, trailing = split_trailing(url)
    return Member(name or new_name(plain, [each.name for each in members]), plain, trailing)


def _added(member: Member, epochs: Epochs) -> dict[str, Any]:
    added = {"added": member.name, "url": member.url, "trailing": member.trailing, "state": "catching_up"}
    told = None if epochs.key is not None else readable_by_others([member.url], encrypt_later(epochs.directory))
    return added if told is None else {**added, "warning": told}


def several_of_one(directory: Path, url: str, name: str | None) -> tuple[Settings, dict[str, Any]]:
    """Make the backup with one destination that backup.lock names one with two members. Returns the settings before.

    Nothing about the open backup changes: it is to be opened again. The order matters: a start that finds only the
    first of these files takes the backup for one with one destination. Raises BackupError or OSError.
    """
    before = read_settings(directory)
    assert before.backup_id is not None
    first = Member(new_name(before.url, []), before.url)
    new = _new_member(url, name, (first,))
    sessions = tuple(known_sessions(directory, before.backup_id) or ())
    storage = place_at(first.url).storage
    epoch = first_epoch(storage)
    note = MembersNote(before.backup_id, epoch, (first.name,), sessions=sessions, adopted=epoch.number)
    place = place_at(new.url)
    check_new_member(new, place, (first,), note)
    new = replace(new, url=place.durable_url(new.url))
    settings = replace(before, members=(first, new))
    mounts = {member.name: mount for member in settings.members if (mount := mount_point(member.url)) is not None}
    out = {} if new.trailing else {new.name: OutOfSync(time_now(), BEING_ADDED)}
    note = replace(note, mounts=mounts, out=out)
    epochs = Epochs(directory, settings, note, "", key=read_manifest(storage).key)
    storage.publish(MEMBERS, epochs.current_document(first.name).encode())
    write_members_note(directory, note)
    write_settings(directory, settings)
    return before, _added(new, epochs)


def reopened(report: Report, directory: Path, before: Settings) -> tuple[Writer, RunningMembers | None, str]:
    """Open the backup again, as one of several; if that fails, as it was before. Returns the session's id, too."""
    assert before.backup_id is not None
    session = _next_session(directory, before.backup_id)
    try:
        several = SeveralMembers(directory, read_settings(directory))
        several.check_start(proven=True, changed_ago=0.0)
        writer = several.open(report, session, None)
        return writer, several.members, session
    except BackupError as error:
        report("unusual", f"the member could not be added: {error}")
        write_settings(directory, before)
        return Backup(place_at(before.url)).open(report, session), None, session


def _next_session(directory: Path, backup_id: str) -> str:
    new = secrets.token_hex(8)
    remember_sessions(directory, backup_id, [*(known_sessions(directory, backup_id) or [])[-1:], new])
    return new
