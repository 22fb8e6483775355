"""Backups as the owner of a destination could forge them: every checksum fits."""

from pathlib import Path

from backends import backup_at
from backends.change import Change
from tests.fake_lightningd.calls import bump
from tests.log.histories import silent, source
from tests.sqlite.databases import node

VERSION = 7
"""The data version of the snapshot."""


def hostile_backup(directory: Path, schema: list[str], *changes: list[str]) -> str:
    """The URL of a backup whose snapshot holds a node's tables and `schema`, and whose log holds these changes."""
    snapshot = node(directory / "snapshot.sqlite3", *schema)
    url = f"file://{directory / 'hostile.bkp'}"
    backup = backup_at(url)
    backup.create(source(snapshot.read_bytes(), VERSION, "02ab"))
    writer = backup.open(silent, "hostile")
    for number, statements in enumerate(changes):
        writer.append(Change(VERSION + number + 1, [*statements, bump(VERSION + number + 1)]))
    writer.close()
    return url
