"""What a compaction hands to the writer: a snapshot that waits to be published."""

import json
import re
from dataclasses import asdict, dataclass

from backends.log.format.documents import Base
from backends.log.format.records import snapshot_name
from backends.storage.base import TEMPORARY, Storage

BY = "-compaction"
"""Stands in the temporary name of such a snapshot."""


@dataclass(frozen=True, slots=True)
class CompactedSnapshot:
    """A snapshot that waits under its temporary name `written` to be published as `generation`, in place of another."""

    replaces: int
    generation: int
    written: str
    base: Base
    first_segment: int

    def encode(self) -> str:
        """As JSON: the process that compacted hands it to the writer's."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "CompactedSnapshot":
        """The inverse. Raises ValueError, KeyError or TypeError for anything else.

        It is checked because whoever compacted has read the log, and may have been taken over by what is in it.
        """
        fields = json.loads(text)
        compacted = cls(**{**fields, "base": Base(**fields["base"])})
        base = compacted.base
        numbers = (compacted.replaces, compacted.generation, compacted.first_segment, base.sequence, base.data_version)
        if any(type(number) is not int or not 0 <= number < 1 << 62 for number in (*numbers, base.checksum)):
            raise ValueError("a number that no compaction has")
        begins = f"{snapshot_name(compacted.generation)}{BY}-"
        if type(base.foreign_keys) is not bool or not re.fullmatch(
            f"{begins}[0-9a-f]{{8}}{re.escape(TEMPORARY)}", str(compacted.written)
        ):
            raise ValueError("a name that no compaction gives")
        return compacted


def remove_unfinished(storage: Storage) -> None:
    """Give back the room of a snapshot that a compaction began and will not finish. Raises OSError."""
    for name in storage.names():
        if BY in name and name.endswith(TEMPORARY):
            storage.remove(name)
