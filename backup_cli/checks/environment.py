"""Whether the destination opens for the node, too, and not only in the shell where check-config runs."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backends.errors import BackupError
from backends.node.lockfile import read_settings
from backup_cli.findings import Finding, ok, warning
from backup_cli.node_environment import lacked_by, opened_by, shell_only


def check_environment(directory: Path, pid: int | None) -> Iterator[Finding]:
    """Warn of credentials that only this command's environment is known to have. `pid` is the running lightningd's."""
    names: list[str] = []
    with suppress(BackupError):  # that backup.lock cannot be read is reported as such
        names = opened_by(read_settings(directory).urls)
    lacked = lacked_by(names, pid)
    if lacked:
        yield warning("environment", shell_only(lacked))
    elif names:
        yield ok("environment", f"the running node has {' and '.join(names)}, too")
