"""Whether the database still holds what the backup holds, although only their versions can be compared.

The same version with other content comes about so: a change was saved but not committed, then lightningd ran without
the plugin and committed another. SQLite's change counter cannot tell (both commits count one). So the plugin keeps, on
the node's side, a witness of the database file at a moment when it was known to hold exactly the backup's last change
(`plugin/sync_point.py` says how that is known): inode, size, time and header. A file that still looks so was not
touched. Any other is doubted, and doubt costs no more than a new snapshot.
"""

import contextlib
from dataclasses import replace
from pathlib import Path

from backends.base import Standing
from backends.node.sync_point import Fingerprint, LogEnd, Witness, read_witness, write_witness


def why_doubted(directory: Path, seen: Fingerprint | None, backup_id: str, standing: Standing) -> str | None:
    """Why the database file, `seen` before lightningd opened it, may not hold what the backup holds; None: it does."""
    witness = read_witness(directory)
    if witness is None or witness.backup_id != backup_id:
        return "nothing on this machine says what the database held when the backup was last written"
    if witness.failure is not None:
        return f"the last run ended with a failure ({witness.failure})"
    if not _fits(witness, backup_id, standing):
        return "the node was not stopped cleanly, so its last change may not have been committed"
    if witness.fingerprint != seen:
        return "the database file was touched while this plugin did not run"
    return None


def witness_of(
    backup_id: str,
    standing: Standing,
    seen: Fingerprint | None,
    failure: str | None = None,
    begins: LogEnd | None = None,
) -> Witness:
    """That the database held the backup's last change when its file looked so."""
    point = (standing.sequence, standing.data_version, standing.checksum)
    return Witness(backup_id, *point, seen, failure, begins=begins)


def note_end(directory: Path, backup_id: str, standing: Standing, session: str) -> None:
    """The session has ended, and no call will come any more: if the database held the last change, it still does.

    Otherwise lightningd has died before its last commit was seen. Then at least it is noted where the log ended: a
    change that comes after that is nobody's of this node, and must not be rolled forward into its database.
    """
    witness = read_witness(directory)
    if witness is None or witness.failure is not None or witness.backup_id != backup_id:
        return
    if _fits(witness, backup_id, standing):
        over = replace(witness, ended=session)
    else:
        over = replace(witness, written=LogEnd(session, standing.sequence, standing.data_version, standing.checksum))
    with contextlib.suppress(OSError):
        write_witness(directory, over)


def confess(directory: Path, backup_id: str, standing: Standing, failure: str) -> None:
    """Note that the backup failed, so that the next start begins a new generation whatever the versions say.

    What is known of the last change stays known: a second start from an old copy must be refused like the first one.
    """
    witness = read_witness(directory)
    seen = witness.fingerprint if witness is not None and _fits(witness, backup_id, standing) else None
    with contextlib.suppress(OSError):
        # What failed may have been the publication of a new generation, which counts all the same.
        begins = witness.begins if witness is not None and witness.backup_id == backup_id else None
        write_witness(directory, witness_of(backup_id, standing, seen, failure, begins))


def _fits(witness: Witness, backup_id: str, standing: Standing) -> bool:
    """Whether it tells of this very change."""
    noted = (witness.backup_id, witness.sequence, witness.data_version, witness.checksum)
    return noted == (backup_id, standing.sequence, standing.data_version, standing.checksum)
