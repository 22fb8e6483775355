"""A node that has lived once, for each worker, and a copy of it for each test: as if it had lived where the copy is.

A node's run costs a process of the plugin, about 0.4 s of processor time, and hundreds of tests begin with the same
one. Four things tell where a node has lived: the URL in `backup.lock`, the inode of its directory in `backup.session`,
the inode of its database in `backup.witness`, and the times of its files. The copy keeps the times, and gets the other
three as they are there. `test_prepared.py` compares it with a node that has really lived in its place.
"""

import json
import shutil
from dataclasses import replace

from backends.node.key_file import load_key
from backends.node.lockfile import read_settings, write_settings
from backends.node.session import SESSION_FILE
from backends.node.sync_point import SYNC_POINT_FILE, encode, fingerprint, read_sync_point
from tests.end_to_end.world import World


def copy_into(lived: World, world: World) -> World:
    """Make `world`, whose node has never started, the node that has `lived`, which must have stopped cleanly."""
    shutil.copytree(lived.root, world.root, dirs_exist_ok=True)
    write_settings(world.directory, replace(read_settings(lived.directory), url=world.url))
    session = world.directory / SESSION_FILE
    document = json.loads(session.read_bytes())
    assert document["directory"] == lived.directory.stat().st_ino
    session.write_bytes(json.dumps(document | {"directory": world.directory.stat().st_ino}).encode() + b"\n")
    sync_point, there = read_sync_point(lived.directory), fingerprint(lived.database)
    assert sync_point is not None and there is not None and sync_point.fingerprint == there
    here = replace(there, inode=world.database.stat().st_ino)
    assert fingerprint(world.database) == here
    (world.directory / SYNC_POINT_FILE).write_bytes(encode(replace(sync_point, fingerprint=here)))
    load_key(world.directory)  # if its backup is encrypted, the commands that a test runs in this process need the key
    return world
