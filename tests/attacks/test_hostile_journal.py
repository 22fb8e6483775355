"""A hot journal that names a file elsewhere, which SQLite looks for and deletes; and an old SQLite."""

import struct
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest

from backends.errors import BackupError
from backends.node.pairing import Found
from backends.node.present import inspect_database
from backends.sqlite.as_found import Unclear, as_found
from backends.sqlite.compare import compare
from backends.sqlite.connection import OLDEST_SQLITE, names_super_journal, refuse_old_sqlite
from backends.sqlite.replay import Replay
from backends.sqlite.source import copy_database, inspect
from tests.attacks.hostile import hostile_backup
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History
from tests.sqlite.databases import beside, node, rows, with_hot_journal

MAGIC = bytes.fromhex("d9d505f920a163d7")
PAGE, SECTOR = 4096, 512
LOCK_PAGE = 0x40000000 // PAGE + 1

VICTIMS = {
    "any file": ("precious.txt", b"precious"),
    "one that looks like SQLite's": ("precious-mj0123459ab", None),  # even 3.54.1 deletes it
    "one on the other pattern": ("precious-mj012345910", None),
}


@pytest.fixture(params=VICTIMS)
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file elsewhere. Its content names the journal if SQLite looks for that before it deletes."""
    name, content = VICTIMS[request.param]
    place = tmp_path / "elsewhere"
    place.mkdir()
    file = place / name
    journal = f"{attacked_path(tmp_path)}-journal".encode() + b"\0"
    file.write_bytes(journal if content is None else content)
    return file


def attacked_path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "lightningd.sqlite3"


def attacked(tmp_path: Path, victim: Path) -> Path:
    """A node's database with a journal that rolls nothing back, and names the victim."""
    (tmp_path / "node").mkdir()
    database = node(attacked_path(tmp_path))
    name = str(victim).encode()
    pages = database.stat().st_size // PAGE
    head = (MAGIC + struct.pack(">IIIII", 0, 1, pages, SECTOR, PAGE)).ljust(SECTOR, b"\0")
    checksum = sum(struct.unpack(f"{len(name)}b", name)) & 0xFFFFFFFF
    tail = struct.pack(">I", LOCK_PAGE) + name + struct.pack(">II", len(name), checksum) + MAGIC
    Path(f"{database}-journal").write_bytes(head + tail)
    return database


def brought_forward(database: Path, directory: Path) -> None:
    with Replay(database, in_place=True) as replay:
        replay.execute(["INSERT INTO version VALUES (1)"], 8)


OPENERS: dict[str, Callable[[Path, Path], object]] = {
    "init": lambda database, directory: inspect(database, writable=True),
    "snapshot": lambda database, directory: copy_database(database, directory / "copy", writable=True),
    "reading": lambda database, directory: inspect(database, writable=False),
    "comparison": lambda database, directory: compare(database, database),
    "roll forward": brought_forward,
}


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS.keys())
def test_hostile_journal_deletes_no_file_elsewhere(
    tmp_path: Path, victim: Path, opener: Callable[[Path, Path], object]
) -> None:
    database = attacked(tmp_path, victim)
    before, content = beside(database), victim.read_bytes()
    with pytest.raises(BackupError) as caught:
        opener(database, tmp_path)
    assert victim.read_bytes() == content
    assert beside(database) == before
    assert not isinstance(caught.value, apsw.Error)


def test_hostile_journal_deletes_no_file_when_only_inspected(tmp_path: Path, victim: Path) -> None:
    database = attacked(tmp_path, victim)
    before = beside(database)
    assert as_found(database) is Unclear.NO_DATABASE
    assert inspect_database(database).found is Found.CORRUPT
    assert beside(database) == before and victim.exists()


def test_plain_sqlite_does_delete_the_file_that_a_hostile_journal_names(tmp_path: Path) -> None:
    """SQLite by itself does delete the file. If it ever stops doing so, this test says that the defence is obsolete."""
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "precious-mj0123459ab"
    file.write_bytes(f"{attacked_path(tmp_path)}-journal".encode() + b"\0")
    database = attacked(tmp_path, file)
    with closing(apsw.Connection(str(database))) as connection:
        list(connection.execute("SELECT count(*) FROM sqlite_schema"))
    assert not file.exists()


def test_init_refuses_a_hostile_journal_with_the_reason(tmp_path: Path, world: World) -> None:
    world.run_without_plugin([History().first()])
    victim = tmp_path / "precious-mj0123459ab"
    victim.write_bytes(f"{world.database}-journal".encode() + b"\0")
    name = str(victim).encode()
    tail = struct.pack(">I", LOCK_PAGE) + name + struct.pack(">II", len(name), sum(name)) + MAGIC
    head = (MAGIC + struct.pack(">IIIII", 0, 1, 1, SECTOR, PAGE)).ljust(SECTOR, b"\0")
    Path(f"{world.database}-journal").write_bytes(head + tail)
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert_refused(said, "corrupt: the journal beside it names another file.*nothing was written")
    assert victim.exists()


def test_hot_journal_of_a_real_crash_names_no_super_journal(tmp_path: Path) -> None:
    database = with_hot_journal(tmp_path)
    assert Path(f"{database}-journal").stat().st_size > 0
    assert not names_super_journal(database)
    inspect(database, writable=True)
    assert rows(database, "SELECT count(*) FROM blobs WHERE blob = zeroblob(1000)") == [(100,)]


@pytest.mark.parametrize("size", [0, 7, 8, 16, 17])
def test_journal_too_short_to_name_a_super_journal_is_harmless(tmp_path: Path, size: int) -> None:
    database = node(tmp_path / "db")
    Path(f"{database}-journal").write_bytes((b"\0" * 16 + MAGIC)[-size:] if size else b"")
    assert names_super_journal(database) is (size > 16)
    with suppress(BackupError):
        inspect(database, writable=True)


# An old SQLite

OLD = ["3.46.0", "3.53.4", "3.9.2"]


@pytest.mark.parametrize("version", OLD)
def test_old_sqlite_is_refused_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    url = hostile_backup(tmp_path, [], ["INSERT INTO version VALUES (1)"])
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    said = backup_cli("verify", url, "--scratch", tmp_path)
    assert_refused(said, rf"the SQLite library here is {version}; .*nothing changed.*pip install --upgrade")


def test_old_sqlite_is_refused_by_the_plugin(lived: World, history: History) -> None:
    """Although a commit opens no SQLite database: otherwise it would be found out on the day of a restore."""
    program = "import apsw; apsw.sqlite_lib_version = lambda: '3.46.0'; from plugin.main import main; main()"
    before = lived.everything_on_disk()
    with (
        lived.node(command=[sys.executable, "-c", program]) as running,
        pytest.raises(Exception, match=r"3\.46\.0; a hostile backup"),
    ):
        running.play(history.notes(1))
    assert {k: v for k, v in lived.everything_on_disk().items() if "lightning.bkp" in k} == {
        k: v for k, v in before.items() if "lightning.bkp" in k
    }


def test_oldest_sqlite_equals_the_apsw_requirement_of_setup_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text()
    floor = ".".join(map(str, OLDEST_SQLITE))
    assert f"\n    apsw >= {floor}.0\n" in setup
    refuse_old_sqlite()
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.54.0")
    refuse_old_sqlite()
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.100.0.1")
    refuse_old_sqlite()
