"""Which files of a backup all members share; what else is at a member is its own."""

from collections.abc import Iterable

from backends.log.format.attachments import ATTACHMENTS
from backends.log.format.documents import KEPT, MANIFEST, SESSION
from backends.log.format.history import HISTORY
from backends.log.format.keys import KEYS
from backends.log.format.records import segment_index, snapshot_generation
from backends.log.known_damage import DAMAGE

STORED = (KEYS, *ATTACHMENTS)
"""The documents that are not about the log. A member may hold the only good copy of one, so they are never removed."""

DOCUMENTS = (KEYS, KEPT, HISTORY, DAMAGE, *ATTACHMENTS, MANIFEST, SESSION)
"""The small text files that members share."""


def holds_data(name: str) -> bool:
    """Whether this is the name of a segment, or of a finished snapshot or a part of one; not that of a document."""
    return segment_index(name) is not None or is_snapshot_part(name)


def is_snapshot_part(name: str) -> bool:
    """Whether this is the name of a finished snapshot or of a part of one."""
    if snapshot_generation(name) is None:
        return False
    _, dot, part = name.partition(".")
    return not dot or (part.isascii() and part.isdigit() and not part.startswith("0"))


def shared_names(names: Iterable[str]) -> list[str]:
    """Those of these names that belong to files which all members share, sorted.

    They are the snapshots, the segments, and the documents `manifest`, `session`, `kept`, `history`, `damage`, `keys`
    and those that hold files of the node. A member's own are `members`, `lock`, torn ends that were put aside, and
    everything unfinished.
    """
    return sorted(name for name in names if name in DOCUMENTS or holds_data(name))
