"""What a command that failed must look like: an exit code, one sentence, and nothing on stdout like a success."""

import re
from pathlib import Path

from tests.end_to_end.world import Said, World, backup_cli

PID_LOCK = "f = open(a[0], 'w'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
"""How lightningd locks its pid file, as a program for `tests.node.processes.running`."""


def assert_refused(said: Said, pattern: str, code: int = 1) -> None:
    """Assert that the command printed exactly one error, which matches the pattern, and ended with this exit code."""
    assert said.code == code, said
    assert "Traceback" not in said.err
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said.err
    assert re.search(pattern, said.err[said.err.index("error: ") :], re.DOTALL), errors[0]
    assert said.out == ""


def init(world: World) -> Said:
    """Run `backup-cli init` for this node and its destination."""
    return backup_cli("init", "--lightning-dir", world.directory, world.url)


def restore(world: World, dest: Path, *options: str) -> Said:
    """Run `backup-cli restore` from this node's backup to `dest`."""
    return backup_cli("restore", *options, world.url, dest)
