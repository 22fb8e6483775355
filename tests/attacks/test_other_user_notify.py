"""Another user of the machine has `backup.notify` changed or exchanged: neither the plugin nor `tell` runs it."""

import os
import shutil
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.node.trusted import Untrusted, trusted_program
from plugin.notify import NOTIFY_FILE, Notifier
from tests.contrib.test_units import CONTRIB
from tests.other_user import OTHER, looping

NODE = 65534
"""The node's user, who needs no name. Run by an ordinary user, all users here are that one."""

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root can give files to two other users")

TRIES = 400 if "LIGHTNINGD_BACKUP_CAMPAIGN" in os.environ else 40


class Node:
    """`top/home/node`: the node's directory with a backup.notify in it; all three are its user's."""

    def __init__(self, top: Path) -> None:
        self.top, self.home = top, top / "home"
        self.directory = self.home / "node"
        self.directory.mkdir(parents=True)
        self.command = program(self.directory / NOTIFY_FILE, "ours")
        for path in (self.home, self.directory, self.command):
            give(path, NODE)
            path.chmod(0o755)

    @property
    def called(self) -> list[str]:
        """Marks of the programs that have run: whose they were."""
        return sorted(path.name for path in self.directory.glob("called-*"))


def program(path: Path, whose: str) -> Path:
    path.write_text(f"#!/bin/sh\ntouch called-{whose}\n")
    path.chmod(0o755)
    return path


def give(path: Path, user: int) -> None:
    if ROOT:
        os.chown(path, user, user, follow_symlinks=False)


@pytest.fixture
def node() -> Iterator[Node]:
    """In a directory that other users can reach, unlike pytest's own."""
    top = Path(tempfile.mkdtemp(prefix="attack-", dir="/var/tmp"))
    top.chmod(0o755)
    try:
        yield Node(top)
    finally:
        shutil.rmtree(top)


def by_plugin(node: Node) -> str:
    """Let the plugin's notifier call it, in a process of the node's user; returns the log."""
    log = node.top / "log"
    if (child := os.fork()) == 0:
        try:
            with log.open("w") as lines:
                if ROOT:
                    os.setgroups([])
                    os.setgid(NODE)
                    os.setuid(NODE)
                notifier = Notifier(node.directory, lambda level, line: print(line, file=lines, flush=True))
                notifier.start()
                notifier.tell("broken", "the sentence")
                notifier.stop()
                for process, _ in notifier._running:
                    process.wait()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return log.read_text()


def by_tell(node: Node) -> str:
    shutil.copy(CONTRIB / "systemd" / "tell", node.top)
    as_node = ["setpriv", f"--reuid={NODE}", f"--regid={NODE}", "--clear-groups"] if ROOT else []
    done = subprocess.run(
        [*as_node, node.top / "tell", node.directory, "broken", "the sentence"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stderr


callers = pytest.mark.parametrize("caller", [by_plugin, by_tell])
Caller = Callable[[Node], str]


# What can be trusted


def _as_it_is(node: Node) -> None:
    pass


def _roots_own(node: Node) -> None:
    give(node.command, 0)


def _link_to_roots_own(node: Node) -> None:
    node.command.unlink()
    node.command.symlink_to("../../elsewhere")
    give(node.command, NODE)
    program(node.top / "elsewhere", "ours")


def _sticky_directory_around(node: Node) -> None:
    give(node.top, 0)
    node.top.chmod(0o1777)


@callers
@pytest.mark.parametrize("state", [_as_it_is, _roots_own, _link_to_roots_own, _sticky_directory_around])
def test_notify_command_that_can_be_trusted_is_called(
    node: Node, caller: Caller, state: Callable[[Node], None]
) -> None:
    state(node)
    assert (caller(node), node.called) == ("", ["called-ours"])


# What others may write


def _file_of_a_group(node: Node) -> Path:
    node.command.chmod(0o775)
    return node.command


def _file_of_everybody(node: Node) -> Path:
    node.command.chmod(0o757)
    return node.command


def _directory_of_a_group(node: Node) -> Path:
    node.directory.chmod(0o775)
    return node.directory


def _directory_around_of_everybody(node: Node) -> Path:
    node.home.chmod(0o777)
    return node.home


def _link_through_a_directory_of_everybody(node: Node) -> Path:
    """To a program that can be trusted itself. The next link may lead to a shell, which runs a file called `broken`."""
    shared = node.top / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    node.command.rename(node.top / "real")
    (shared / "link").symlink_to(node.top / "real")
    give(shared / "link", NODE)
    node.command.symlink_to(shared / "link")
    return shared


@callers
@pytest.mark.parametrize(
    "state",
    [
        _file_of_a_group,
        _file_of_everybody,
        _directory_of_a_group,
        _directory_around_of_everybody,
        _link_through_a_directory_of_everybody,
    ],
)
def test_notify_command_that_others_may_write_is_not_called(
    node: Node, caller: Caller, state: Callable[[Node], Path]
) -> None:
    """Runs for an ordinary user, too."""
    place = state(node)
    said = caller(node)
    assert node.called == []
    assert f"{NOTIFY_FILE} is not called" in said and "other users" in said, said
    assert f"chmod 700 {place}" in said or f"chmod go-w {place}" in said
    assert len(said.splitlines()) == 1 and said.isascii()


# What belongs to somebody else


def _file(node: Node) -> Path:
    give(node.command, OTHER)
    return node.command


def _directory(node: Node) -> Path:
    give(node.directory, OTHER)
    return node.directory


def _directory_around(node: Node) -> Path:
    give(node.home, OTHER)
    return node.home


def _link(node: Node) -> Path:
    """In a directory like /tmp the owner of a link can make it lead elsewhere."""
    node.command.rename(node.top / "real")
    node.command.symlink_to(node.top / "real")
    give(node.command, OTHER)
    return node.command


def _file_behind_a_link(node: Node) -> Path:
    _link(node)
    give(node.command, NODE)
    give(node.top / "real", OTHER)
    return node.top / "real"


def _link_through_their_directory(node: Node) -> Path:
    shared = _link_through_a_directory_of_everybody(node)
    shared.chmod(0o755)
    give(shared, OTHER)
    return shared


@as_root
@callers
@pytest.mark.parametrize(
    "state", [_file, _directory, _directory_around, _link, _file_behind_a_link, _link_through_their_directory]
)
def test_notify_command_that_belongs_to_another_user_is_not_called(
    node: Node, caller: Caller, state: Callable[[Node], Path]
) -> None:
    place = state(node)
    said = caller(node)
    assert node.called == []
    assert f"{NOTIFY_FILE} is not called" in said and f"{place} belongs to" in said and str(OTHER) in said, said
    assert len(said.splitlines()) == 1 and said.isascii()


@as_root
def test_notify_command_of_the_nodes_user_is_not_called_by_root(node: Node) -> None:
    """A lightningd, or a unit, that runs as root would hand that user the machine."""
    with pytest.raises(Untrusted, match=f"{node.home} belongs to"):
        trusted_program(node.command, 0)


@as_root
@callers
def test_notify_directory_exchanged_during_the_check_runs_nothing_foreign(node: Node, caller: Caller) -> None:
    """The attacker's loop swaps the trusted directory around the node's with the attacker's own."""
    give(node.top, OTHER)
    theirs = node.top / "theirs"
    shutil.copytree(node.home, theirs)
    program(theirs / "node" / NOTIFY_FILE, "theirs")
    for path in (theirs, theirs / "node", theirs / "node" / NOTIFY_FILE):
        give(path, OTHER)
    swap = "mv -T home aside; mv -T theirs home; mv -T home theirs; mv -T aside home"
    with looping(OTHER, f"cd {node.top}; {swap}"):
        for _ in range(TRIES):
            caller(node)
    assert not list(node.top.glob("*/node/called-*"))


def test_notify_command_that_is_an_endless_link_is_refused(node: Node) -> None:
    node.command.unlink()
    node.command.symlink_to(NOTIFY_FILE)
    assert "cannot be examined" in by_plugin(node)
    assert stat.S_ISLNK(node.command.lstat().st_mode) and node.called == []


def test_untrusted_notify_command_is_reported_at_the_start(node: Node) -> None:
    node.command.chmod(0o777)
    log: list[str] = []
    notifier = Notifier(node.directory, lambda level, line: log.append(f"{level} {line}"))
    notifier.start()
    notifier.stop()
    assert len(log) == 1 and log[0].startswith(f"unusual {NOTIFY_FILE} is not called, so nobody is told of trouble: ")
