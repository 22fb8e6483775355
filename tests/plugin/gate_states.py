"""A node in one process, without lightningd, and what may have happened to it since it was stopped cleanly."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from backends import backup_at
from backends.log.backup import Backup
from backends.log.format.documents import MANIFEST
from backends.log.format.records import segment_index
from backends.log.known_damage import found_now, write_damage
from backends.node.hand_over import hand_over, record_sync_point
from backends.node.lockfile import LOCK_FILE, Settings, write_settings
from backends.node.sync_point import SYNC_POINT_FILE
from backends.node.writer_lock import WriterLock
from backends.sqlite.copy import nothing
from backends.storage.base import LOCK
from backends.storage.local import LocalStorage
from backends.system.locks import FileLock
from plugin.before_manifest import before_manifest
from plugin.commit_gate import CONTINUE, CommitGate
from tests.end_to_end.world import tree
from tests.fake_lightningd import Call, History, foreign_keys, transaction

NODE_ID, OTHER_NODE_ID = "02" * 33, "03" * 33


class Node:
    """A node directory, its database, and a backup, as they are when the plugin is started."""

    def __init__(self, root: Path) -> None:
        self.directory, self.backup = root / "node" / "regtest", root / "disk" / "lightning.bkp"
        self.directory.mkdir(parents=True)
        self.backup.parent.mkdir()
        self.database = self.directory / "lightningd.sqlite3"
        self.said: list[str] = []
        self.held: list[WriterLock | FileLock] = []
        position = self.log().create(nothing())
        hand_over(self.directory, self.backup.as_uri(), self.log().id(), position)

    def log(self) -> Backup:
        """The backup, not opened."""
        return backup_at(self.backup.as_uri())

    def commit(self, call: Call) -> None:
        """Commit as lightningd does after `continue`; the file's modification time advances as with a real commit."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            if not call.outside_transaction:
                connection.execute("BEGIN")
            for statement in call.writes:
                connection.execute(statement)
            if connection.in_transaction:
                connection.execute("COMMIT")

    def start(self) -> CommitGate:
        """Start the plugin up to the moment after its manifest, when lightningd will open its database."""
        start = before_manifest(self.directory)
        return CommitGate(self.directory, lambda level, line: self.said.append(line), start)

    def live(self, *calls: Call) -> None:
        """One run with these calls, from start to clean stop."""
        gate = self.start()
        self.database.touch()
        for call in calls:
            assert call_hook(gate, call) == CONTINUE, gate.refusal
            self.commit(call)
        assert gate.writer is not None
        gate.writer.note_node_id(NODE_ID)
        record_sync_point(self.directory, gate.backup_id, gate.writer.position)
        gate.close()

    def everything(self) -> dict[str, str]:
        """Everything that a refused call must not change."""
        return tree(self.directory, self.backup)


def call_hook(gate: CommitGate, call: Call) -> dict[str, str]:
    return gate.db_write(call.data_version, list(call.writes))


# What may have happened since the node was stopped cleanly, at version 3

HISTORY = History()
LIFE = [
    HISTORY.first(),
    HISTORY.transaction(f"INSERT INTO vars (name, blobval) VALUES ('node_id', x'{NODE_ID}')"),
    HISTORY.note(),
]
NEXT, AFTER = HISTORY.note(), HISTORY.note()

STATES: dict[str, Callable[[Node], Any]] = {}


def state(name: str) -> Callable[[Callable[[Node], Any]], None]:
    def note(arrange: Callable[[Node], Any]) -> None:
        STATES[name] = arrange

    return note


state("stopped cleanly")(lambda node: None)
state("its sync point is gone")(lambda node: (node.directory / SYNC_POINT_FILE).unlink())
state("it was started without the plugin, and wrote a change")(lambda node: node.commit(NEXT))
state("the backup is known to be damaged")(
    lambda node: write_damage(LocalStorage(node.backup), found_now("verify", "a lie", 1))
)
state("lightningd's wallet is elsewhere")(
    lambda node: (node.directory / "config").write_text("wallet=sqlite3:///elsewhere/lightningd.sqlite3\n")
)
state("there is no backup.lock")(lambda node: (node.directory / LOCK_FILE).unlink())
state("backup.lock makes no sense")(lambda node: (node.directory / LOCK_FILE).write_text("{"))
state("backup.lock names no destination")(
    lambda node: write_settings(node.directory, Settings("ftp://host/lightning.bkp", node.log().id()))
)
state("the destination is away")(lambda node: node.backup.rename(node.backup.with_name("elsewhere")))
state("the manifest is damaged")(lambda node: flip_middle_byte(node.backup / MANIFEST))
state("the log is damaged")(lambda node: flip_middle_byte(segments(node)[0]))


@state("the file was touched since")
def _(node: Node) -> None:
    with closing(sqlite3.connect(node.database)) as connection:
        connection.execute("PRAGMA user_version = 1")
        connection.commit()


@state("the last run ended with a failure")
def _(node: Node) -> None:
    gate = node.start()
    assert call_hook(gate, foreign_keys(3, on=True)) == CONTINUE
    gate.give_up("the disk is full")
    gate.close()


@state("an old copy of the database was put back")
def _(node: Node) -> None:
    old = node.directory.parent / "old.sqlite3"
    shutil.copy2(node.database, old)
    node.live(NEXT)
    shutil.copy2(old, node.database)


@state("an old copy of the database was put back, and changed")
def _(node: Node) -> None:
    STATES["an old copy of the database was put back"](node)
    STATES["the file was touched since"](node)


@state("the database was lost")
def _(node: Node) -> None:
    node.live(*(transaction(version, f"INSERT INTO vars (name) VALUES ('{version}')") for version in range(4, 30)))
    node.database.unlink()


@state("the database was lost, and lightningd has made a new one")
def _(node: Node) -> None:
    STATES["the database was lost"](node)
    node.database.touch()


@state("the destination holds another backup")
def _(node: Node) -> None:
    shutil.rmtree(node.backup)
    node.log().create(nothing())


@state("another node has written to the backup since")
def _(node: Node) -> None:
    node.log().open(lambda level, line: None, "another node's").close()


@state("an older copy of the backup was put back")
def _(node: Node) -> None:
    old = node.backup.with_name("old.bkp")
    shutil.copytree(node.backup, old)
    node.live(NEXT)
    shutil.rmtree(node.backup)
    old.rename(node.backup)


@state("older copies of both were put back")
def _(node: Node) -> None:
    old = node.directory.parent / "old.sqlite3"
    shutil.copy2(node.database, old)
    STATES["an older copy of the backup was put back"](node)
    shutil.copy2(old, node.database)


@state("it is a copy of the directory, made while the node ran, and both went on")
def _(node: Node) -> None:
    copy = node.directory.with_name("copy")
    gate = node.start()
    for call in (NEXT, AFTER):
        assert call_hook(gate, call) == CONTINUE, gate.refusal
        node.commit(call)
        if call is NEXT:
            shutil.copytree(node.directory, copy)
    assert gate.writer is not None
    record_sync_point(node.directory, gate.backup_id, gate.writer.position)
    gate.close()
    node.directory, node.database = copy, copy / node.database.name
    node.commit(AFTER)
    node.commit(transaction(6))


@state("its database was exchanged for another node's")
def _(node: Node) -> None:
    with closing(sqlite3.connect(node.database)) as connection:
        connection.execute("UPDATE vars SET blobval = ? WHERE name = 'node_id'", (bytes.fromhex(OTHER_NODE_ID),))
        connection.commit()


@state("a command works on the node")
def _(node: Node) -> None:
    node.held.append(WriterLock(node.directory, "backup-cli resync"))
    node.held[-1].acquire()


@state("another process of this machine writes the backup")
def _(node: Node) -> None:
    node.held.append(FileLock(node.backup / LOCK, "backup-cli compact"))
    node.held[-1].acquire()


def segments(node: Node) -> list[Path]:
    return sorted(path for path in node.backup.iterdir() if segment_index(path.name) is not None)


def flip_middle_byte(path: Path) -> None:
    """Flip one byte in the middle of the file's content."""
    data = bytearray(path.read_bytes())
    data[len(bytes(data).rstrip(b"\0")) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
