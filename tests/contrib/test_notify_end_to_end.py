"""A node that is refused: the notify command is told why, although plugin and node end at once."""

import sys
import time
from pathlib import Path

import pytest

from plugin.notify import NOTIFY_FILE
from tests.fake_lightningd import Node, Refused, read_recording


def test_refused_start_calls_the_notify_command_with_the_reason(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = tmp_path / NOTIFY_FILE
    command.write_text(f'#!/bin/sh\nsleep 0.3\necho "$1: $2" >> {told}\n')
    command.chmod(0o700)
    node = Node(tmp_path, [sys.executable, "-m", "plugin.main"])
    node.start()
    with pytest.raises(Refused):  # there is no backup.lock
        node.play(read_recording(limit=1))
    until = time.monotonic() + 15
    while not told.exists() and time.monotonic() < until:
        time.sleep(0.05)
    (line,) = told.read_text().splitlines()
    assert line.startswith("broken: there is no ") and "backup-cli init" in line
