"""Members of one backup, made as plain directories with the documents that a test wants."""

import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from backends import backup_at
from backends.base import SnapshotSource
from backends.log.format.members import MEMBERS, Epoch, Member, MembersDocument, OutOfSync

EMPTY = SnapshotSource((), 0, None)

FIRST = Epoch(1, "")
"""The epoch in which `backup-cli init` makes a backup."""


def members_in(directory: Path, names: Iterable[str], trailing: Collection[str] = ()) -> tuple[Member, ...]:
    """Members with these names, each in a directory of its own below `directory`; nothing is made yet."""
    return tuple(Member(name, (directory / name / "lightning.bkp").as_uri(), name in trailing) for name in names)


def directory_of(member: Member) -> Path:
    """Where this member's files are."""
    return Path(member.url.removeprefix("file://"))


def make_members(members: tuple[Member, ...], **fields: object) -> str:
    """Make a backup at the first of these members and copies of it at the others. Returns its id.

    `fields` are those of `note_epoch`.
    """
    first = directory_of(members[0])
    first.parent.mkdir(parents=True)
    backup_at(members[0].url).create(EMPTY)
    backup_id = backup_at(members[0].url).id()
    for member in members[1:]:
        shutil.copytree(first, directory_of(member))
    note_epoch(members, members, backup_id, **fields)  # type: ignore[arg-type]
    return backup_id


def note_epoch(
    on: Iterable[Member],
    members: tuple[Member, ...],
    backup_id: str,
    *,
    epoch: Epoch = FIRST,
    in_sync: tuple[str, ...] | None = None,
    need: int = 1,
    out: Mapping[str, OutOfSync] | None = None,
) -> None:
    """Write the document of this epoch to the members `on`. By default, all that do not trail are in sync."""
    names = tuple(member.name for member in members if not member.trailing) if in_sync is None else in_sync
    for member in on:
        document = MembersDocument(
            backup_id, member.name, epoch, names, members, need, out or {}, {epoch.session: epoch.number}, FIRST.number
        )
        (directory_of(member) / MEMBERS).write_bytes(document.encode())
