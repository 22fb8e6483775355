"""A node with one member in a local directory and others anywhere, and the stream of changes that it makes."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backends import backup_at
from backends.log.format.members import MEMBERS, Member, MembersDocument
from backends.sqlite.rebuild import rebuild
from tests.end_to_end.world import said_at
from tests.fake_lightningd import History, Node
from tests.members.world import MembersWorld

LOCAL = "disk"
"""The member that never fails."""

NAP = 0.002
"""Seconds between two changes: a busy node, on a machine that has other work, too."""


class MembersElsewhere(MembersWorld):
    """The members are `disk`, which never fails, and those of `urls`; those in `trailing` trail."""

    def __init__(
        self, root: Path, urls: Mapping[str, str], *, trailing: tuple[str, ...] = (), need: int = 1, grace: float = 1.0
    ) -> None:
        super().__init__(root, (LOCAL, *urls), trailing=trailing, need=need, grace=grace)
        self.members = tuple(
            Member(member.name, urls.get(member.name, member.url), member.trailing) for member in self.members
        )

    def document(self, name: str) -> MembersDocument:
        return MembersDocument.decode(backup_at(url_of(self, name)).storage.read_small(MEMBERS))

    def restored_from(self, name: str) -> Path:
        self.restores += 1
        target = self.root / f"restored-{self.restores}-{name}.sqlite3"
        with backup_at(url_of(self, name)).read() as reader:
            rebuild(reader, target)
        return target


class Stream:
    """Changes that a node makes one after the other. `took` has the seconds that the plugin took for each."""

    def __init__(self, node: Node, history: History, text: Callable[[], str] = str) -> None:
        self._node, self._history, self._text = node, history, text
        self.took: list[float] = []

    def changes(self, count: int) -> None:
        """Make this many changes."""
        for _ in range(count):
            self.took.append(self._node.db_write(self._history.note(self._text())))
            time.sleep(NAP)

    def until(self, holds: Callable[[], bool], what: str, within: float = 25.0) -> None:
        """Make changes until it holds."""
        deadline = time.monotonic() + within
        while not holds():
            if time.monotonic() > deadline:
                members = self._node.rpc("backup-status")["members"]
                pytest.fail(f"not within {within} s: {what}; the last logs: {self._node.logs[-5:]}; {members}")
            self.changes(1)

    def during(self, work: Callable[[], object]) -> None:
        """Make changes while a thread does this."""
        wrong: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:
                wrong.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.until(lambda: not thread.is_alive(), "the end of what was done beside the stream", 60)
        if wrong:
            raise wrong[0]

    def assert_waited_once(self, grace: float) -> None:
        """At most one change had to wait, for about `grace`."""
        longest = sorted(self.took)[-3:]
        assert longest[-1] < grace + 1.0, longest
        assert sum(took > 0.5 for took in self.took) <= 1, longest


def go_on_without(
    world: MembersWorld,
    name: str,
    fail: Callable[[], object],
    heal: Callable[[], object],
    why: str,
    text: Callable[[], str] = str,
) -> Node:
    """The promise: `name` fails, the node goes on and says so once; it is healed, and joins without a restart.

    `why` is a pattern for what the log says. `text` makes the text of each change.
    """
    history = History()
    with world.node() as node:
        node.play([history.first(), *history.notes(10)])
        stream = Stream(node, history, text)
        stream.changes(50)
        stream.during(fail)
        stream.until(lambda: name not in world.note.in_sync, f"{name} out of sync")
        stream.changes(30)
        assert name not in world.document(LOCAL).in_sync
        assert re.search(why, world.document(LOCAL).out[name].why), world.document(LOCAL)
        assert status_of(node, name)["state"] in ("out_of_sync", "catching_up")
        assert re.search(why, world.note.out[name].why)
        stream.during(heal)
        stream.until(lambda: name in world.note.in_sync, f"{name} in sync again")
        stream.changes(30)
        assert status_of(node, name)["state"] == "in_sync"
        assert set(world.document(name).in_sync) == {LOCAL, name}
        assert node.shut_down() == 0
    stream.assert_waited_once(world.grace)
    said = said_at(node, "unusual")
    assert len([line for line in said if "went out of sync" in line]) == 1, said
    assert re.search(f"^{name} .* went out of sync .*: .*({why})", "\n".join(said), re.MULTILINE), said
    assert len([line for line in said if "is back in sync" in line]) == 1, said
    assert not [line for line in said if "maintenance:" in line], said
    assert said_at(node, "broken") == [], node.logs
    for member in (LOCAL, name):
        world.assert_member_equals_the_node(member)
    return node


def url_of(world: MembersWorld, name: str) -> str:
    """The member's URL."""
    return next(member.url for member in world.members if member.name == name)


def status_of(node: Node, name: str) -> dict[str, Any]:
    """What backup-status says about the member."""
    members: list[dict[str, Any]] = node.rpc("backup-status")["members"]
    return next(member for member in members if member["name"] == name)


def names_in(directory: Path) -> list[str]:
    """What is in a directory; nothing if there is none."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in directory.iterdir())
    return []


def wipe(directory: Path) -> None:
    """Remove a directory, although somebody goes on creating files in it."""
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
