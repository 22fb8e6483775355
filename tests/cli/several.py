"""A node whose backup has several members, each in a directory of its own below the test's."""

import json
import os
from collections.abc import Callable
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


# Failures and kills in the middle of a command

KILLED = 9
"""The exit code of a process that `dying` has ended."""


def failing(real: Any, at: int, broken: BaseException) -> Callable[..., Any]:
    """A function that does what `real` does, and raises `broken` instead at the call of number `at`."""
    left = at

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise broken
        return real(*arguments, **named)

    return call


class _Dead(BaseException):
    """The process is to end now."""


def dying(real: Any, at: int) -> Callable[..., Any]:
    """Like `failing`, but ends the process as kill -9 does: nothing is cleaned up."""
    call = failing(real, at, _Dead())

    def ending(*arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except _Dead:
            os._exit(KILLED)

    return ending


def killed(command: Callable[[], object]) -> bool:
    """Run a command in a forked process. Returns whether it was killed by `dying`."""
    child = os.fork()
    if child == 0:
        try:
            command()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
