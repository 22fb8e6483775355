"""Whether the database still holds what the backup holds, although only their versions can be compared.

The same version with other content comes about so: a change was saved but not committed, then lightningd ran without
the plugin and committed another. SQLite's change counter cannot tell (both commits count one). So the plugin keeps, on
the node's side, a witness of the database file at a moment when it was known to hold exactly the backup's last change:
inode, size, time and counter. A file that still looks so was not touched. Any other is doubted, and doubt costs no
more than a new snapshot.
"""

import contextlib
from pathlib import Path

from backends.base import Backend, Standing
from backends.database.source import DatabaseState, inspect
from backends.errors import BackupError
from backends.node.directory import database_path
from backends.node.witness import Fingerprint, Witness, fingerprint, read_witness, write_witness


def why_doubted(directory: Path, seen: Fingerprint | None, backup_id: str, standing: Standing) -> str | None:
    """Why the database file, `seen` before lightningd opened it, may not hold what the backup holds; None: it does."""
    witness = read_witness(directory)
    if witness is None or witness.backup_id != backup_id:
        return "nothing on this machine says what the database held when the backup was last written"
    if witness.failure is not None:
        return f"the last run ended with a failure ({witness.failure})"
    if not _fits(witness, backup_id, standing):
        return "the node was not stopped in order, so its last change may not have been committed"
    if witness.fingerprint != seen:
        return "the database file was touched while this plugin did not run"
    return None


def testify(directory: Path, backend: Backend, backup_id: str, last_known: Standing | None) -> DatabaseState | None:
    """Write a witness if the database is known to have committed the backup's last change. Returns what it read.

    `last_known` is the standing that has a witness already. Never raises: a missing witness only costs a snapshot.
    """
    standing = backend.standing
    if standing == last_known:
        return None
    try:
        path = database_path(directory)
        before = fingerprint(path)
        state = inspect(path, writable=False)
        if (state.data_version or 0) != standing.data_version or backend.standing != standing:
            return None
        if fingerprint(path) == before:
            _write(directory, backup_id, standing, before, None)
    except (BackupError, OSError):
        return None
    return state


def confess(directory: Path, backup_id: str, standing: Standing, failure: str) -> None:
    """Note that the backup failed, so that the next start begins a new generation whatever the versions say.

    What is known of the last change stays known: a second start from an old copy must be refused like the first one.
    """
    witness = read_witness(directory)
    seen = witness.fingerprint if witness is not None and _fits(witness, backup_id, standing) else None
    with contextlib.suppress(OSError):
        _write(directory, backup_id, standing, seen, failure)


def _fits(witness: Witness, backup_id: str, standing: Standing) -> bool:
    """Whether it tells of this very change."""
    noted = (witness.backup_id, witness.sequence, witness.data_version, witness.checksum)
    return noted == (backup_id, standing.sequence, standing.data_version, standing.checksum)


def _write(directory: Path, backup_id: str, standing: Standing, seen: Fingerprint | None, failure: str | None) -> None:
    write_witness(
        directory,
        Witness(backup_id, standing.sequence, standing.data_version, standing.checksum, seen, failure),
    )
