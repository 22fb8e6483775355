"""`?keep=30d` with a running node: what compactions replace can be restored, whoever was killed in between."""

import json
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

from backends.log.format.history import HISTORY
from backends.log.format.records import snapshot_name
from backends.node.lockfile import LOCK_FILE
from tests.encrypted import EVERYTHING, encrypted_for_node
from tests.end_to_end.db_compare import Everything, compared, everything, faults
from tests.end_to_end.test_compaction import ended, wait
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History, Node
from tests.log.histories import noise

KIB, MIB = 1 << 10, 1 << 20


def listed(world: World) -> list[dict[str, Any]]:
    """What `versions` says of each generation, oldest first."""
    said = backup_cli("versions", *world.key_options, world.url, "--json")
    assert said.code == 0, said
    found: list[dict[str, Any]] = json.loads(said.out)
    assert [each["damage"] for each in found] == [None] * len(found)
    return found


def restored(world: World, version: int) -> tuple[Said, Everything | None]:
    """What a restore of this version said, and the database that it made."""
    target = world.root / "old.sqlite3"
    said = backup_cli("restore", *world.key_options, "--to-version", version, "--not-for-a-node", world.url, target)
    made = target.with_name(f"old.sqlite3.version-{version}-NOT-FOR-A-NODE")
    if said.code != 0:
        return said, None
    assert faults(made) == []
    return said, everything(made)


def keep(world: World, history: History, before: str, now: str, gone: str) -> None:
    """Change the value of `keep` in backup.lock, while the node is stopped, and run the node until this file is gone
    from the backup."""
    lock = world.directory / LOCK_FILE
    text = lock.read_text()
    assert text.count(before) == 1
    lock.write_text(text.replace(before, now))
    with world.node() as node:
        node.play([history.note()])
        wait(node, lambda: not (world.backup / gone).exists())


def has_compacted(node: Node) -> bool:
    return ended(node) > 0


def test_versions_of_before_compactions_and_kills_are_restored_until_keep_shrinks(
    world: World, history: History
) -> None:
    with encrypted_for_node(world.directory) if EVERYTHING else nullcontext():
        assert backup_cli("init", "--lightning-dir", world.directory, world.url + "?keep=30d").code == 0
    states: dict[int, Everything] = {}
    world.run([history.first()])
    for number in range(3):
        node = world.node()
        node.start()
        for seed in range(30):
            node.play([history.note(noise(16 * KIB, seed))])
            if seed in (3, 22):
                states[world.version] = everything(world.database)
        node.rpc("backup-compact")
        if number != 1:  # then it is killed in the middle of a compaction
            wait(node, partial(has_compacted, node))
        node.die()
    found = listed(world)
    # A start after a kill may take a new snapshot, and that generation is called `replaced`.
    assert {each["state"] for each in found[:-1]} <= {"kept", "replaced"} and found[-1]["state"] == "in use"
    assert len(found) >= 3
    assert (found[0]["first_version"], found[-1]["last_version"]) == (0, world.version)
    assert all(one["last_version"] == two["first_version"] for one, two in pairwise(found))
    for version, state in states.items():
        said, there = restored(world, version)
        assert there is not None, said
        assert compared(there, state) == [], version

    assert world.status()["history_bytes"] > MIB
    keep(world, history, "keep=30d", "keep=30d,1M", snapshot_name(1))
    shrunk = listed(world)
    assert len(shrunk) < len(found)
    assert shrunk[0]["first_version"] > min(states)
    assert restored(world, min(states))[1] is None
    assert world.status()["history_bytes"] <= MIB
    keep(world, history, "keep=30d,1M", "keep=0", HISTORY)
    assert "kept" not in {each["state"] for each in listed(world)}
    world.assert_restored_equals_the_nodes()
