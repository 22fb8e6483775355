"""A node whose backup has several members, each in a directory of its own below the test's."""

import json
from pathlib import Path
from typing import Any

from backends.log.format.members import MEMBERS, MembersDocument
from tests.end_to_end.world import Said, World, backup_cli

NAMES = ("disk", "nas", "far")


def place_of(world: World, name: str) -> Path:
    """Where the member `name` is; the directory above it exists."""
    path = world.root / name / "lightning.bkp"
    path.parent.mkdir(exist_ok=True)
    return path


def url_of(world: World, name: str, *, trailing: bool = False) -> str:
    """The URL of the member `name`."""
    return place_of(world, name).as_uri() + ("?trailing" if trailing else "")


def init_several(world: World, *names: str, options: tuple[object, ...] = (), trailing: tuple[str, ...] = ()) -> Said:
    """Run `backup-cli init` for this node with members of these names."""
    urls = [url_of(world, name, trailing=name in trailing) for name in names]
    return backup_cli("init", *options, "--lightning-dir", world.directory, *urls)


def document_of(world: World, name: str) -> MembersDocument:
    """What the member `name` says."""
    return MembersDocument.decode((place_of(world, name) / MEMBERS).read_bytes())


def lock_of(world: World) -> dict[str, Any]:
    """What backup.lock says."""
    lock: dict[str, Any] = json.loads((world.directory / "backup.lock").read_text())
    return lock


def shared_files(world: World, name: str) -> dict[str, bytes]:
    """The content of the files of a member that all members share."""
    return {
        path.name: path.read_bytes() for path in place_of(world, name).iterdir() if path.name not in (MEMBERS, "lock")
    }
