"""The result that a compaction hands to the writer: a snapshot that waits to be published."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from backends.log.format.documents import Base
from backends.log.format.records import snapshot_name
from backends.storage.base import TEMPORARY, Storage

BY = "-compaction"
"""Part of the temporary name of a compaction's snapshot."""


@dataclass(frozen=True, slots=True)
class CompactedSnapshot:
    """A snapshot under the temporary name `written`, to be published as `generation`.

    That generation replaces `replaces`; its log begins after `base`, in segment `first_segment`.
    """

    replaces: int
    generation: int
    written: str
    base: Base
    first_segment: int

    def encode(self) -> str:
        """As JSON, in which the compacting process sends it to the writer's process."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "CompactedSnapshot":
        """The inverse of `encode`. Raises ValueError, KeyError or TypeError for anything else.

        It is checked because the compacting process read the log, and hostile content may have taken that process over.
        """
        fields = json.loads(text)
        compacted = cls(**{**fields, "base": Base(**fields["base"])})
        base = compacted.base
        numbers = (compacted.replaces, compacted.generation, compacted.first_segment, base.sequence, base.data_version)
        if any(type(number) is not int or not 0 <= number < 1 << 62 for number in (*numbers, base.checksum)):
            raise ValueError("a number that no compaction produces")
        prefix = f"{snapshot_name(compacted.generation)}{BY}-"
        if type(base.foreign_keys) is not bool or not re.fullmatch(
            f"{prefix}[0-9a-f]{{8}}{re.escape(TEMPORARY)}", str(compacted.written)
        ):
            raise ValueError("a name that no compaction produces")
        return compacted


@dataclass(frozen=True, slots=True)
class Anew:
    """Of a snapshot that was made of the node's database, and not from the log: why, and the version at which the log
    in front of it ended, which may be another than the snapshot's."""

    reason: str
    ended: int


def remove_unfinished(storage: Storage) -> None:
    """Remove a snapshot that a compaction began and will not finish. Raises OSError."""
    for name in storage.names():
        if BY in name and name.endswith(TEMPORARY):
            storage.remove(name)


@contextmanager
def removed_unless_finished(storage: Storage) -> Iterator[None]:
    """After an error in the block, nothing is left of the snapshot that it wrote."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            remove_unfinished(storage)
        raise
