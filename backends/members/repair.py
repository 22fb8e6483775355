"""Mending a damaged file of one member from a good one of another.

A file is copied only if the member that it comes from and the one that it goes to are in the same, newest epoch, and
the copy it comes from is good when it is read again right before. Afterwards it is read back. A member that does not
say in which epoch it is, or is behind, is never touched: catching it up is the running node's business.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from backends.errors import BackupError
from backends.log.format.documents import MANIFEST
from backends.log.format.members import Epoch
from backends.log.format.records import segment_index
from backends.log.reader.opening import read_members
from backends.members.comparison import ComparedFile, Comparison, Copy
from backends.members.copy_file import Pause, copy_file
from backends.members.peers import Peer
from backends.members.shared_files import DOCUMENTS, is_snapshot_part
from backends.members.validity import Fault, document_in, read_document, records_in
from backends.storage.base import Storage
from backends.text import printable


class Mending(Enum):
    """What became of a damaged copy of a file. Programs identify it by the value."""

    MENDED = "mended"
    NO_GOOD_COPY = "no_good_copy"
    """No member holds a good one. Nothing was changed."""
    LEFT_TO_NODE = "left_to_node"
    """The running node may have it open: the member must be put out of sync, and is then caught up."""
    FAILED = "failed"
    """It could not be copied, or what was read back is not what was written."""


@dataclass(frozen=True, slots=True)
class Mended:
    """One damaged copy: of which file, at which member, what was wrong, and what was done about it.

    `why` is a clause that says why it was not mended; empty if it was, or was left to the node.
    """

    file: str
    member: str
    what: str
    offset: int
    outcome: Mending
    source: str = ""
    """The member that the good copy came from."""
    why: str = ""


class NotNow(Exception):
    """The members have changed since they were compared."""


def sealed_files(comparison: Comparison) -> frozenset[str]:
    """The files that a running node never writes to again: snapshots, and every segment but the last one."""
    indexes = [index for file in comparison.files if (index := segment_index(file.name)) is not None]
    last = max(indexes, default=0)
    return frozenset(
        file.name
        for file in comparison.files
        if is_snapshot_part(file.name) or 0 < (segment_index(file.name) or 0) < last
    )


def mend(
    comparison: Comparison, peers: Sequence[Peer], *, running: bool, pause: Pause = lambda copied: None
) -> tuple[Mended, ...]:
    """Mend every damaged or missing file that some member has a good copy of. `peers` are those that were compared.

    With `running`, a node is writing to the backup: only sealed files are mended. Raises nothing for a member that
    fails: the outcome says it.
    """
    sealed, done = sealed_files(comparison), list[Mended]()
    by_name = {peer.name: peer for peer in peers if peer.name in comparison.compared}
    for file in comparison.faults:
        for bad in file.bad:
            done.append(_mend_one(comparison, file, bad, by_name, pause, left=running and file.name not in sealed))
    return tuple(done)


def _mend_one(
    comparison: Comparison, file: ComparedFile, bad: Copy, peers: dict[str, Peer], pause: Pause, *, left: bool
) -> Mended:
    outcome, source, why = Mending.NO_GOOD_COPY, "", "no member holds a good copy"
    if left:
        return Mended(file.name, bad.member, bad.what, bad.offset, Mending.LEFT_TO_NODE)
    for name in file.good:
        source = name
        try:
            copy_good_file(
                peers[name].storage, peers[bad.member].storage, file.name, comparison.backup_id, comparison.epoch, pause
            )
        except NotNow as error:
            outcome, why = Mending.FAILED, str(error)
        except OSError as error:
            outcome, why = Mending.FAILED, printable(error.strerror or str(error))
        except BackupError as error:
            outcome, why = Mending.FAILED, str(error)
        else:
            return Mended(file.name, bad.member, bad.what, bad.offset, Mending.MENDED, source)
    return Mended(file.name, bad.member, bad.what, bad.offset, outcome, source, why)


def copy_good_file(
    source: Storage, target: Storage, name: str, backup_id: str, epoch: Epoch, pause: Pause = lambda copied: None
) -> None:
    """Copy a file that was found good at `source` over a damaged or missing one at `target`, durably.

    Checks the file before and after, and that both members are in `epoch`. Raises NotNow, OSError or FromTheFuture.
    """
    original = _good(source, name, backup_id)
    manifest = source.read_small(MANIFEST)

    def check(copied: int) -> None:
        pause(copied)
        if not copied:  # the file gets its name now: a node may have begun another generation or epoch meanwhile
            _check_epoch(source, target, backup_id, epoch)
            if source.read_small(MANIFEST) != manifest:
                raise NotNow("a new generation has begun meanwhile")

    _check_epoch(source, target, backup_id, epoch)
    if name in DOCUMENTS:
        check(0)
        target.publish(name, read_document(source, name))
    else:
        copy_file(source, target, name, check)
        target.sync_names()
    if _good(target, name, backup_id) != original:
        raise NotNow("what was read back is not what was written: do not trust that disk")


def _good(storage: Storage, name: str, backup_id: str) -> bytes:
    """What identifies the content of a good file. Raises NotNow if the file is not good."""
    found = document_in(storage, name) if name in DOCUMENTS else records_in(storage, name, bytes.fromhex(backup_id))
    if isinstance(found, Fault):
        raise NotNow(f"the copy in {storage.describe()} is damaged: {found.what} at byte {found.offset}")
    return found if isinstance(found, bytes) else found.digest


def _check_epoch(source: Storage, target: Storage, backup_id: str, epoch: Epoch) -> None:
    """Raise NotNow unless both members say that they are in this epoch of this backup."""
    for storage in (source, target):
        document = None
        with suppress(BackupError):
            document = read_members(storage)
        if document is None:
            raise NotNow(f"{storage.describe()} does not say in which epoch it is, or only to those who have the key")
        if document.backup_id != backup_id or document.epoch != epoch:
            raise NotNow(f"{storage.describe()} is in another epoch now")
