"""A real lightningd, if one is on PATH. It needs no bitcoind: it makes its database, and ends when it finds none.

Small on purpose: that a real node does what the fake lightningd does is shown by the recordings; here, that the plugin
is
started, heard and believed by the real one.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import PLUGIN, World

pytestmark = [
    pytest.mark.lightningd,
    pytest.mark.skipif(shutil.which("lightningd") is None, reason="there is no lightningd on PATH"),
]

START_TIMEOUT = 60.0
"""Seconds; lightningd gives its plugins as long to answer."""


def start(world: World, how: str) -> str:
    """Run lightningd until it ends by itself (or gives up on bitcoind); what it printed."""
    executable = world.root / "lightningd-backup"
    executable.write_text(f'#!/bin/sh\nexec {" ".join(PLUGIN)} "$@"\n')
    executable.chmod(0o700)
    command = [
        "lightningd",
        f"--lightning-dir={world.directory.parent}",
        f"--network={world.directory.name}",
        f"--{how}={executable}",
        "--bitcoin-cli=/bin/false",
        "--bitcoin-retry-timeout=1",
        "--offline",
        "--log-level=debug",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=world.root)
    try:
        said, _ = process.communicate(timeout=START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate()
    return said


@pytest.mark.parametrize("how", ["plugin", "important-plugin"])
def test_real_lightningd_without_a_backup_does_not_start(world: World, how: str) -> None:
    said = start(world, how)
    assert "this node has no backup yet" in said
    assert "backup-cli init" in said
    assert not world.database.exists() or everything(world.database) == {"": []}


def test_real_lightningds_commits_are_restored_exactly(world: World) -> None:
    world.init()
    said = start(world, "important-plugin")
    assert "backing up to" in said
    assert Path(world.database).exists(), said
    world.assert_restored_equals_the_nodes()
