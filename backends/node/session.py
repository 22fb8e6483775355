"""Which sessions of the backup were this node's: this tells an old machine that comes back from the one in use.

After a restore on another machine, or with two copies of one node's directory, the backup's session marker names a
writer that this directory has never been. Such a node must not continue by itself: its state may be old, and two nodes
with the same keys lose money.
"""

import json
from pathlib import Path

from backends.node.files import read_small_file, replace_file

SESSION_FILE = "backup.session"


def known_sessions(directory: Path, backup_id: str) -> list[str] | None:
    """The ids of this node's last sessions with that backup, the newest last; None when it knows of none."""
    try:
        document = json.loads(read_small_file(directory / SESSION_FILE))
        sessions = document["sessions"]
        if document["backup_id"] != backup_id or not all(isinstance(session, str) for session in sessions):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return list(sessions)


def remember_sessions(directory: Path, backup_id: str, sessions: list[str]) -> None:
    """Record these session ids durably, before the backup carries the newest of them.

    Otherwise a crash in between would lock the node out. OSError.
    """
    document = {"backup_id": backup_id, "sessions": sessions, "directory": directory.stat().st_ino}
    replace_file(directory / SESSION_FILE, json.dumps(document).encode() + b"\n", durably=True)


def were_here(directory: Path, backup_id: str) -> bool:
    """Whether these sessions worked in this very directory, and not in one that it was copied from."""
    try:
        document = json.loads(read_small_file(directory / SESSION_FILE))
        return bool(document["backup_id"] == backup_id and document["directory"] == directory.stat().st_ino)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def forget_sessions(directory: Path) -> None:
    """This directory was restored or set up again: from now on it is the one in use."""
    (directory / SESSION_FILE).unlink(missing_ok=True)
