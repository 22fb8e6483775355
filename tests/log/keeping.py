"""A node whose history is kept, and what can be read of it."""

from dataclasses import replace

from backends.keep import Keep
from backends.log.backup import Backup
from tests.log.conftest import SMALL
from tests.log.histories import Node, noise

MONTH = replace(SMALL, keep=Keep(30 * 86400, 1 << 30))
"""Everything is kept for 30 days."""


def reachable(backup: Backup) -> list[int]:
    """Every version that can be restored, in order; each kept generation must be whole."""
    found: list[int] = []
    for kept in backup.held():
        with backup.read_held(kept) as reader:
            assert b"".join(reader.snapshot) or not reader.manifest.base.data_version
            found += [reader.manifest.base.data_version, *(change.data_version for change in reader.changes())]
    with backup.read() as reader:
        return [*found, reader.manifest.base.data_version, *(change.data_version for change in reader.changes())]


def generations(backup: Backup) -> list[int]:
    """The numbers of the kept generations."""
    return [kept.manifest.generation for kept in backup.held()]


def noted(node: Node, count: int) -> None:
    """So many changes that need several segments."""
    for seed in range(count):
        node.note(noise(900, seed))
        node.writer.maintain()


def begun(node: Node) -> Node:
    """The node has a backup, at version 1."""
    node.create()
    node.open()
    node.append(node.history.first())
    return node


def lived(node: Node, compactions: int = 3) -> Node:
    """The node has a backup, and after each dozen changes came a compaction."""
    begun(node)
    for _ in range(compactions):
        noted(node, 12)
        node.compact()
    noted(node, 3)
    return node
