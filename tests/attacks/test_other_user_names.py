"""A name is exchanged between two looks at it, by somebody who may write in the same directory."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.node import files
from backends.node.lockfile import Settings, write_settings
from backends.node.sync_point import OpenSyncPoint, SyncPoint
from backends.storage.local import LocalStorage
from backends.system.locks import FileLock
from backup_cli.restore_place import unfinished
from tests.end_to_end.tracing import Trace
from tests.end_to_end.world import World, backup_cli, command, spawned
from tests.fake_lightningd import History

KEPT = "keep me"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A file that an attacker would like to have overwritten."""
    file = tmp_path / "elsewhere"
    file.write_text(KEPT)
    return file


@pytest.fixture
def old_node(world: World, history: History) -> World:
    """A node with a backup that gets another one: the earlier backup.lock is then kept."""
    world.init().run([history.first(), *history.notes(3)])
    return world


@pytest.mark.parametrize("act", ["init", "resync", "restore", "compact"])
def test_files_written_by_commands_are_never_readable_for_others(old_node: World, act: str) -> None:
    """From a real finding: the copy of backup.lock had the umask's mode for a moment, and was read in 9 of 12 tries."""
    words: dict[str, list[object]] = {
        "init": ["--lightning-dir", old_node.directory, f"{old_node.url}.new"],
        "resync": ["--lightning-dir", old_node.directory],
        "restore": ["--replace", "--resume", old_node.url, old_node.directory],
        "compact": [old_node.url],
    }
    trace = Trace(old_node.root, command(act, *words[act]))
    before = os.umask(0)
    try:
        assert spawned(*trace.command).code == 0
    finally:
        os.umask(before)
    made = []
    for call in (call for thread in trace.threads() for call in thread):
        if call.name in ("openat", "open", "creat", "mkdir") and not call.failed:
            mode = re.search(r", 0(\d+)$", call.arguments)
            if mode is not None and call.path.startswith(str(old_node.root)):
                made.append((call.path, int(mode[1], 8)))
    assert made
    assert [(path, f"{mode:o}") for path, mode in made if mode & 0o077] == []


def test_hard_link_in_place_of_a_lock_file_is_not_emptied(tmp_path: Path, elsewhere: Path) -> None:
    os.link(elsewhere, tmp_path / "lock")
    with pytest.raises(OSError, match="second name of another file"):
        FileLock(tmp_path / "lock", "test").acquire()
    assert elsewhere.read_text() == KEPT


def test_hard_link_in_place_of_the_sync_point_file_is_replaced(tmp_path: Path, elsewhere: Path) -> None:
    """The sync point file may be recreated at any time."""
    os.link(elsewhere, tmp_path / "backup.witness")
    note = OpenSyncPoint(tmp_path)
    note.write(SyncPoint("id", 1, 1, 1, None, None))
    note.close()
    assert elsewhere.read_text() == KEPT


@pytest.mark.parametrize("link", [True, False])
def test_small_file_exchanged_while_it_is_written_is_not_published(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    write_settings(tmp_path, Settings("file:///old", "id"))
    before, sync = (tmp_path / "backup.lock").read_bytes(), os.fsync

    def exchanged(descriptor: int) -> None:
        sync(descriptor)
        temporary = tmp_path / "backup.lock.tmp"
        if temporary.exists():
            temporary.unlink()
            temporary.symlink_to(elsewhere) if link else temporary.write_text('{"backend_url": "file:///theirs"}')

    monkeypatch.setattr(os, "fsync", exchanged)
    with pytest.raises(OSError, match="another file was put"):
        files.replace_file(tmp_path / "backup.lock", b"{}", durably=True)
    assert (tmp_path / "backup.lock").read_bytes() == before
    assert elsewhere.read_text() == KEPT


WRITES: dict[str, Callable[[LocalStorage], object]] = {
    "publish": lambda storage: storage.publish("manifest", b"{}"),
    "create": lambda storage: storage.create("segment").close(),
    "rename": lambda storage: storage.rename("old", "new"),
    "rename_new": lambda storage: storage.rename_new("old", "new"),
    "remove": lambda storage: storage.remove("old"),
    "seal": lambda storage: storage.seal("old"),
    "lock": lambda storage: storage.lock("test"),
    "read": lambda storage: storage.read_small("old"),
    "unmake": lambda storage: storage.unmake(),
}


@pytest.mark.parametrize("act", WRITES)
@pytest.mark.parametrize("which", ["the directory", "the one above it"])
def test_link_in_place_of_a_backup_directory_is_not_followed(tmp_path: Path, act: str, which: str) -> None:
    """Whoever may write to a share or stick can put one there while a command runs."""
    storage = LocalStorage(tmp_path / "disk" / "lightning.bkp")
    (tmp_path / "disk").mkdir()
    storage.make()
    storage.publish("old", b"data")
    target = tmp_path / "target"
    shutil.copytree(tmp_path / "disk", target)
    before = {path: path.lstat().st_mode for path in sorted(target.rglob("*"))}
    place = tmp_path / "disk" if which == "the one above it" else tmp_path / "disk" / "lightning.bkp"
    place.rename(tmp_path / "aside")
    place.symlink_to(target if which == "the one above it" else target / "lightning.bkp")
    with pytest.raises(OSError):
        WRITES[act](storage)
    assert {path: path.lstat().st_mode for path in sorted(target.rglob("*"))} == before


@pytest.mark.parametrize("what", ["a link", "a directory", "a second name", "another directory"])
def test_restored_file_that_was_exchanged_is_not_published(tmp_path: Path, elsewhere: Path, what: str) -> None:
    target = tmp_path / "lightningd.sqlite3"
    with unfinished(target) as file:
        file.path.write_text("the node's")
        if what == "another directory":
            file.path.parent.rename(tmp_path / "aside")
            file.path.parent.mkdir()
            file.path.write_text("theirs")
        elif what == "a second name":
            os.link(file.path, tmp_path / "theirs")
        else:
            file.path.unlink()
            file.path.symlink_to(elsewhere)
            if what == "a directory":
                file.path.unlink()
                file.path.mkdir()
        with pytest.raises(OSError, match="put in the place of the file being restored"):
            file.publish(target)
    assert not target.exists()


def test_earlier_backup_lock_kept_by_init_is_unreadable_for_others(old_node: World) -> None:
    (old_node.directory / "backup.lock").chmod(0o644)
    assert backup_cli("init", "--lightning-dir", old_node.directory, f"{old_node.url}.new").code == 0
    (kept,) = old_node.directory.glob("backup.lock.2*")
    assert kept.stat().st_mode & 0o777 == 0o600
