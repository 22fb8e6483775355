"""The names that begin with a dot in a backup on an SFTP server. They make late requests harmless.

A server process that is frozen, or that waits for its disk, may carry out what it was sent at any later time: after
this process has found a new connection, and after another writer has taken the backup over. A request that changes a
name must not hit another file then, which has got that name meanwhile. So

- a file is removed by renaming it into a directory that belongs to the connection alone (`.trash-…`). On the next
  connection, and at a take-over, that directory is removed first: a removal that comes late finds it gone, and fails.
- a file that is open for writing is found again by a name that only it ever has (`.open-…`), not by its public one.
- a temporary name is renamed from only once, and at a take-over all temporary files are removed: a renaming that comes
  late finds no file. (`SftpStorage.temporary`, `SftpStorage.stop_late_changes`)
"""

import secrets

_OPEN = ".open-"
_TRASH = ".trash-"


def open_name() -> str:
    """Make a new second name for a file that stays open for writing."""
    return f"{_OPEN}{secrets.token_hex(8)}"


def trash_name() -> str:
    """Make a new name for a directory into which one connection moves what it removes."""
    return f"{_TRASH}{secrets.token_hex(8)}"


def is_open_name(name: str) -> bool:
    """Whether `open_name` may have made this name."""
    return name.startswith(_OPEN)


def is_trash_name(name: str) -> bool:
    """Whether `trash_name` may have made this name."""
    return name.startswith(_TRASH)
