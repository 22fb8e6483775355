"""Adding and removing a member while the node runs. Both begin an epoch, whose documents list the members anew."""

from dataclasses import replace

from backends.errors import BackupError
from backends.log.format.members import MAX_MEMBERS, Member
from backends.members.examine import Obstacle, Obstructed, examine
from backends.members.running import RunningMembers
from backends.members.survey import ask_all, why_not_seen
from backends.members.where import mount_point, same_place
from backends.node.lockfile import write_settings
from backends.node.members_note import MembersNote
from backends.places.base import Place
from backends.text import counted

BEING_ADDED = "it is being added"
"""Why a new member is not in sync yet: a clause."""

WITHIN = 10.0
"""Seconds that a new member has to answer; commits wait meanwhile."""


def check_new_member(member: Member, place: Place, members: tuple[Member, ...], note: MembersNote) -> None:
    """Raise BackupError unless this member may join these.

    Looks at the destination, with a deadline, and changes nothing.
    """
    if any(member.name == each.name for each in members):
        raise BackupError(f"there is a member {member.name} already. Nothing was changed; choose another name")
    if any(member.url == each.url for each in members):
        raise BackupError(f"{member.url} is a member already. Nothing was changed")
    if len(members) >= MAX_MEMBERS:
        raise BackupError(f"a backup has at most {MAX_MEMBERS} members. Nothing was changed; remove one first")

    def look() -> None:
        for each in members:
            if same_place(member.url, each.url):  # it would be caught up from itself
                raise Obstructed(Obstacle.NOT_THERE, f"it is the same place as {each.name} ({each.url})")
        examine(member.name, member.url, place, note)

    _, failures = ask_all({member.name: look}, WITHIN)
    if member.name in failures:
        error = failures[member.name]
        why = error.why if isinstance(error, Obstructed) else why_not_seen(error, WITHIN)
        raise BackupError(f"{member.url} cannot become a member: {why}. Nothing was changed; fix that, and repeat this")


def add_member(running: RunningMembers, member: Member, place: Place) -> Member:
    """Add a member, which is then caught up beside the running node. Returns it as backup.lock names it.

    Raises BackupError, or OSError as a commit would.
    """
    epochs = running.epochs
    check_new_member(member, place, epochs.settings.members, epochs.note)
    member = replace(member, url=place.durable_url(member.url))
    mount = mount_point(member.url)
    with running.changing:
        epochs.settings = replace(epochs.settings, members=(*epochs.settings.members, member))
        running.places[member.name] = place
        if mount is not None:
            epochs.note_mount(member.name, mount)
        failed = running.change(running.mirror.in_sync.keys(), {member.name: BackupError(BEING_ADDED)})
        if failed:
            running.dropped(failed)
        write_settings(epochs.directory, epochs.settings)  # last: a member that it names must be in the documents
    running.catch_up(member.name)
    return member


def remove_member(running: RunningMembers, name: str) -> None:
    """Remove a member; its files stay as they are. Raises BackupError, or OSError as a commit would."""
    epochs = running.epochs
    with running.changing:
        settings = epochs.settings
        remaining = tuple(member for member in settings.members if member.name != name)
        if len(remaining) == len(settings.members):
            names = ", ".join(member.name for member in settings.members)
            raise BackupError(f"there is no member {name}; the members are {names}. Nothing was changed")
        in_sync = running.mirror.in_sync.keys() - {name}
        if len(in_sync) < settings.need:
            raise BackupError(
                f"without {name}, {counted(len(in_sync), 'member')} would be in sync, and the node needs "
                f"{settings.need}. Nothing was changed; add another member first, and wait until it is in sync"
            )
        epochs.settings = replace(settings, members=remaining, url=remaining[0].url)
        with running.mirror.failing({name: None}):
            failed = running.change(in_sync, {})
        if failed:
            running.dropped(failed)
        write_settings(epochs.directory, epochs.settings)
        running.forget(name)
