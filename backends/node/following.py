"""A database that is a copy which follows a backup: it may be behind, and no node may run from it."""

import os
from contextlib import suppress
from pathlib import Path

from backends.change import DATABASE_HEADER, is_following
from backends.text import shell_line


def why_following(database: Path) -> str | None:
    """Why no node may run from this database, as a sentence; None unless it is a copy that was not promoted.

    Never call it while this process has the database open through SQLite: see `sync_point.fingerprint`.
    """
    with suppress(OSError):
        descriptor = os.open(database, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            header = os.pread(descriptor, DATABASE_HEADER, 0)
        finally:
            os.close(descriptor)
        if is_following(header):
            return (
                f"{database} is a copy that follows a backup and was never promoted: it may be behind, and a node that "
                "runs from an old state can lose every channel. Keep it; name it following.sqlite3 again, and make it "
                f"the node's database with: {shell_line('backup-cli', 'follow', '--promote', 'URL', database.parent)}"
            )
    return None
