"""A new snapshot where there is little space: history is given up for it, it hurries, and what is lacking is said."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backends.compaction.from_copy import CopiedDatabase, snapshot_of_copy
from backends.compaction.space_reserve import NEARLY_FULL
from backends.errors import BackupError
from backends.log.format.documents import Base
from backends.log.writer.pace import Pace
from backends.log.writer.writer import Writer
from backends.storage.base import Space
from backends.storage.local import LocalStorage
from backends.system.commits import commits
from tests.end_to_end.test_history_full_disk import fill, kept
from tests.end_to_end.test_renewal import BEGUN, LARGE, TAKEN, doubt, play_until, said
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import History, Refused
from tests.log.histories import silent
from tests.small_disk import needs_small_disks, small_disk

MIB = 1 << 20


@pytest.fixture
def roomy(world: World, history: History) -> Iterator[World]:
    """A stopped node with a database of 4 MiB that does not compress, and its backup on a disk of 120 MiB."""
    with small_disk(world.backup.parent, 120 * MIB):
        blob = os.urandom(4 * MIB).hex()
        world.run_without_plugin(
            [history.first(), history.transaction(f"INSERT INTO vars (name, blobval) VALUES ('large', x'{blob}')")]
        )
        world.init()
        yield world


@needs_small_disks
def test_history_is_given_up_for_a_new_snapshot_that_is_made_beside_the_node(roomy: World, history: History) -> None:
    """Its first call does not wait for the snapshot, which it would if only the free bytes counted."""
    lock = roomy.directory / "backup.lock"
    lock.write_text(lock.read_text().replace(roomy.url, f"{roomy.url}?keep=30d,1G"))
    for _ in range(2):
        assert backup_cli("resync", "--lightning-dir", roomy.directory).code == 0
    assert kept(roomy) == [1, 2]
    fill(roomy.backup.parent, 65 * MIB)
    doubt(roomy)
    roomy.environment |= LARGE
    with roomy.node() as node:
        node.play([history.note()])
        assert said(node, BEGUN), node.logs
        play_until(node, history, lambda: bool(said(node, TAKEN)))
        assert said(node, "generation 2, which was kept for its history")
    roomy.assert_restored_equals_the_nodes()


@needs_small_disks
def test_start_without_space_for_its_new_snapshot_says_what_it_is_for_and_how_much_it_takes(
    roomy: World, history: History
) -> None:
    roomy.run(history.notes(3))
    fill(roomy.backup.parent, 3 * MIB)
    doubt(roomy)
    node = roomy.node()
    node.start()
    with pytest.raises(Refused) as refused:
        node.play([history.note()])
    [broken] = said_at(node, "broken")
    for text in (refused.value.message, broken):
        assert "the backup needs a new snapshot of the database, and there is no space for it at" in text
        assert "MiB are free (No space left on device)" in text and "a snapshot takes 4 MiB at most" in text
    (roomy.backup.parent / "filler").unlink()
    history.version = roomy.version
    roomy.run(history.notes(2))
    roomy.assert_restored_equals_the_nodes()


class NearlyFull(LocalStorage):
    """A place whose free bytes are told."""

    free = 0

    def space(self) -> Space:
        return Space(self.free, 1 << 40)


def copied_at_the_end(writer: Writer, copy: Path) -> CopiedDatabase:
    """This copy of the database, as of the last change."""
    at = writer.position
    base = Base(at.sequence, at.data_version, at.checksum, foreign_keys=True)
    return CopiedDatabase(str(copy), base, writer.begin_segment(), 1)


@pytest.mark.parametrize("hurries", [True, False])
def test_snapshot_of_a_copy_hurries_where_it_nearly_fills_the_destination(
    world: World, history: History, tmp_path: Path, hurries: bool
) -> None:
    world.init().run([history.first(), *history.notes(3)])
    storage = NearlyFull(world.backup)
    NearlyFull.free = NEARLY_FULL + (0 if hurries else MIB)
    copy = tmp_path / "copy.sqlite3"
    copy.write_bytes(world.database.read_bytes())
    with closing(backup_at(world.url).open(silent)) as writer:
        pace = Pace(commits)
        snapshot_of_copy(storage, copied_at_the_end(writer, copy), lambda done, total: None, pace=pace)
        assert pace.hurried == hurries


def test_snapshot_of_a_copy_says_that_the_copy_cannot_be_read(
    world: World, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that the destination fails."""

    def failing(path: Path) -> Iterator[bytes]:
        yield path.read_bytes()[:4096]
        raise OSError(errno.EIO, "Input/output error")

    world.init().run([history.first(), *history.notes(3)])
    copy = tmp_path / "copy.sqlite3"
    copy.write_bytes(world.database.read_bytes())
    monkeypatch.setattr("backends.compaction.from_copy.file_pieces", failing)
    with (
        closing(backup_at(world.url).open(silent)) as writer,
        pytest.raises(BackupError, match=r"copy\.sqlite3 could not be read: Input/output error"),
    ):
        snapshot_of_copy(writer.storage, copied_at_the_end(writer, copy), lambda done, total: None)
