"""A database that is a copy which follows a backup: it may be behind, and no node may run from it."""

import json
import os
from contextlib import suppress
from pathlib import Path

from backends.change import DATABASE_HEADER, is_following
from backends.node.directory import DATABASE
from backends.node.files import read_small_file
from backends.text import shell_line

COPY = "following.sqlite3"
"""A name that no lightningd takes for its database."""

NOTE = "following.json"
"""What is noted beside a copy."""


def why_following(database: Path) -> str | None:
    """Why no node may run from this database, as a sentence; None unless it is a copy that was not promoted.

    Never call it while this process has the database open through SQLite: see `sync_point.fingerprint`.
    """
    if not is_copy(database):
        return None
    return (
        f"{database} is a copy that follows a backup and was never promoted: it may be behind, and a node that "
        f"runs from an old state can lose every channel. Keep it; name it {COPY} again, and make it "
        f"the node's database with: {shell_line('backup-cli', 'follow', '--promote', 'URL', database.parent)}"
    )


def is_copy(database: Path) -> bool:
    """Whether this file carries the mark of a copy. As with `why_following`, SQLite must not have it open here."""
    with suppress(OSError):
        descriptor = os.open(database, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return is_following(os.pread(descriptor, DATABASE_HEADER, 0))
        finally:
            os.close(descriptor)
    return False


def why_unfinished(directory: Path) -> str | None:
    """If a promotion in this directory was cut off after its copy had ceased to be one, and nobody has used that file
    since: a sentence that says so."""
    copy, database = directory / COPY, directory / DATABASE
    try:
        note = json.loads(read_small_file(directory / NOTE))
        url, left = note["url"], note["released"]
        now = (database if not os.path.lexists(copy) else copy).stat()
        unused = (now.st_ino, now.st_size, now.st_mtime_ns) == (left["inode"], left["size"], left["mtime_ns"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not unused or is_copy(copy):
        return None
    again = shell_line("backup-cli", "follow", "--promote", str(url), directory)
    return (
        f"the promotion of the copy in {directory} was cut off before its last steps. Nothing is lost, and no node may "
        f"start there yet: first finish it, by typing the same again: {again}"
    )
