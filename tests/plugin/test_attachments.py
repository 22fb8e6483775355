"""`emergency.recover` is copied into the backup while the node runs, and no commit ever depends on that."""

import errno
import time
from pathlib import Path

import pytest

from backends.log.attachments import publish_attachment, read_attachment
from backends.log.format.attachments import Attachment
from backends.storage.local import LocalStorage
from plugin import attachments
from plugin.attachments import AttachmentWatch
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import History
from tests.log.histories import backup_in, changes, silent, source
from tests.members.world import MembersWorld, eventually
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

EMERGENCY = Attachment.EMERGENCY


def write(directory: Path, content: bytes) -> None:
    """Write the file as lightningd does: whole, under another name, then renamed."""
    (directory / "scb.tmp").write_bytes(content)
    (directory / "scb.tmp").rename(directory / EMERGENCY.value)


def stored(backup: Path) -> bytes | None:
    return read_attachment(LocalStorage(backup), EMERGENCY)


# The watch


class Watched:
    """A watch over a directory, the backup that it copies to, and what it has reported."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.lines = directory, list[tuple[str, str]]()
        self.storage = FaultyStorage(SimulatedStorage(SimulatedDisk()))
        backup_in(self.storage).create(source())
        self.writer = backup_in(self.storage).open(silent, "one")
        self.start()

    def start(self) -> None:
        self.watch = AttachmentWatch(self.directory, lambda level, line: self.lines.append((level, line)))

    def tick(self) -> list[str]:
        """Look once; the levels of what it has reported."""
        self.watch.tick(self.writer, None)
        levels, self.last = [level for level, _ in self.lines], [line for _, line in self.lines]
        self.lines.clear()
        return levels

    @property
    def stored(self) -> bytes | None:
        return read_attachment(self.storage.storage, EMERGENCY)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(attachments, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(attachments, "TRY_AGAIN", 0.0)
    return Watched(tmp_path)


def test_file_is_copied_once_and_again_after_each_change(watched: Watched) -> None:
    assert watched.tick() == []
    write(watched.directory, b"one channel")
    assert watched.tick() == ["info"]
    assert watched.stored == b"one channel"
    watched.storage.calls.clear()
    assert watched.tick() == []
    assert not watched.storage.calls, "an unchanged file costs nothing at the destination"
    write(watched.directory, b"two channels")
    assert watched.tick() == ["info"]
    assert watched.stored == b"two channels"
    (watched.directory / EMERGENCY.value).unlink()
    assert watched.tick() == []
    assert watched.stored == b"two channels", "what is stored is kept"


def test_start_copies_a_file_that_differs_and_leaves_one_that_does_not(watched: Watched) -> None:
    write(watched.directory, b"one channel")
    watched.tick()
    watched.start()
    assert watched.tick() == []
    assert watched.storage.storage.read_small(EMERGENCY.value).startswith(b"{")
    publish_attachment(watched.storage, EMERGENCY, b"of another time")
    watched.start()
    assert watched.tick() == ["info"]
    assert watched.stored == b"one channel"


def test_damaged_copy_is_replaced_at_the_next_start(watched: Watched) -> None:
    write(watched.directory, b"one channel")
    watched.storage.publish(EMERGENCY.value, b"rubbish")
    assert watched.tick() == ["info"]
    assert watched.stored == b"one channel"


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_names"])
def test_failed_copy_is_reported_once_tried_again_and_the_log_goes_on(watched: Watched, operation: str) -> None:
    write(watched.directory, b"one channel")
    watched.storage.fail(operation, errno.ENOSPC, sticky=True)  # type: ignore[arg-type]
    assert watched.tick() == ["unusual"]
    assert "No space left on device. It is tried again; changes are saved as before" in watched.last[0]
    assert watched.tick() == []
    watched.storage.heal()
    for change in changes(3):
        watched.writer.append(change)
    assert watched.tick() == ["info"]
    assert watched.stored == b"one channel"
    watched.storage.fail("create", errno.EIO)
    write(watched.directory, b"two channels")
    assert watched.tick() == ["unusual"], "another trouble is reported again"
    assert watched.tick() == ["info"]


def test_file_that_may_not_be_copied_is_reported_once_until_it_is_another(watched: Watched) -> None:
    path = watched.directory / EMERGENCY.value
    path.symlink_to("/etc/passwd")
    assert watched.tick() == ["unusual"]
    assert "it is a link" in watched.last[0]
    assert watched.tick() == []
    path.unlink()
    path.write_bytes(bytes((1 << 20) + 1))
    assert watched.tick() == []
    assert watched.stored is None
    write(watched.directory, b"one channel")
    assert watched.tick() == ["info"]
    assert watched.stored == b"one channel"


def test_writer_that_was_replaced_leaves_the_file_of_the_other(watched: Watched) -> None:
    write(watched.directory, b"old")
    watched.tick()
    other = backup_in(watched.storage).open(silent, "two")
    publish_attachment(other.storage, EMERGENCY, b"of the other node")
    write(watched.directory, b"still old")
    watched.tick()
    watched.tick()
    assert watched.stored == b"of the other node"
    assert watched.lines == []


# The plugin


def test_file_that_changes_while_the_node_runs_is_in_the_backup_soon(lived: World, history: History) -> None:
    with lived.node() as node:
        node.play(history.notes(2))
        for content in (b"one channel", b"two channels", bytes(1 << 20)):
            write(lived.directory, content)
            eventually(lambda content=content: stored(lived.backup) == content)  # type: ignore[misc]
            node.play(history.notes(2))
    assert said_at(node, "unusual") == []
    lived.assert_restored_equals_the_nodes()


def test_file_that_changed_while_the_plugin_was_dead_is_copied_at_its_next_start(
    lived: World, history: History
) -> None:
    write(lived.directory, b"one channel")
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    eventually(lambda: stored(lived.backup) == b"one channel")
    node.die()
    write(lived.directory, b"two channels")
    assert stored(lived.backup) == b"one channel"
    with lived.node() as again:
        again.play(History(lived.version).notes(2))
        eventually(lambda: stored(lived.backup) == b"two channels")
    lived.assert_restored_equals_the_nodes()


def test_plugin_killed_while_it_copies_leaves_the_old_file_or_the_new(lived: World, history: History) -> None:
    old = bytes([1]) * (1 << 20)
    write(lived.directory, old)
    for number in range(2, 6):
        node = lived.node()
        node.start()
        node.play(History(lived.version).notes(1))
        eventually(lambda old=old: stored(lived.backup) == old)  # type: ignore[misc]
        new = bytes([number]) * (1 << 20)
        write(lived.directory, new)
        until = time.monotonic() + 5
        while not list(lived.backup.glob("emergency.recover-*")):
            if stored(lived.backup) == new or time.monotonic() > until:
                break
        node.die()
        assert stored(lived.backup) in (old, new)
        old = new
    lived.run(History(lived.version).notes(1))
    assert not list(lived.backup.glob("*.tmp"))
    lived.assert_restored_equals_the_nodes()


def test_destination_that_refuses_the_copy_disturbs_no_commit_and_is_reported_once(
    lived: World, history: History
) -> None:
    (lived.backup / EMERGENCY.value).mkdir()  # no file gets this name now
    write(lived.directory, b"one channel")
    with lived.node() as node:
        node.play(history.notes(3))
        node.wait_for_log("could not be copied")
        write(lived.directory, b"two channels")
        for call in history.notes(30):
            node.db_write(call)
            time.sleep(0.05)
    (line,) = said_at(node, "unusual")
    assert line.startswith("emergency.recover could not be copied into the backup: ")
    (lived.backup / EMERGENCY.value).rmdir()
    lived.assert_restored_equals_the_nodes()
    with lived.node() as node:
        node.play(History(lived.version).notes(2))
        eventually(lambda: stored(lived.backup) == b"two channels")


def test_all_members_in_sync_get_the_file_and_one_that_is_caught_up_too(tmp_path: Path, history: History) -> None:
    world = MembersWorld(tmp_path).init()
    write(world.directory, b"one channel")
    node = world.node()
    node.start()
    node.play([history.first(), *history.notes(3)])
    for name in world.names:
        eventually(lambda name=name: stored(world.place(name)) == b"one channel")  # type: ignore[misc]
    world.place("stick").parent.rename(tmp_path / "unplugged")
    node.play(history.notes(2))
    write(world.directory, b"two channels")
    eventually(lambda: stored(world.place("nas")) == b"two channels")
    (tmp_path / "unplugged").rename(world.place("stick").parent)
    eventually(lambda: world.note.in_sync == world.names)
    node.stop()
    assert stored(world.place("stick")) == b"two channels"
    said = backup_cli("verify", *(world.place(name).as_uri() for name in world.names))
    assert said.code == 0, said
