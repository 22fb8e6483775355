"""The bytes after the last record that can be trusted, when by the header nothing acknowledged can follow.

Most often they are a record that was being written when the node died. But nothing in a legacy file was ever synced:
after a power cut, the header may be older than the records. So the bytes are searched for a trace of anything newer.
"""

from backends.change import VERSIONS, ahead
from backends.legacy.changes import BUMP_SIZE, latest_bump
from backends.legacy.file import CHANGE, SNAPSHOT, LegacyFile

_BLOCK = 1 << 20


def newer_in_tail(file: LegacyFile, offset: int, version: int) -> int | None:
    """A version newer than `version` that was once saved at or after `offset`; None when there is no trace of one.

    An incomplete change to the very next version does not count: it was just being written.
    """
    begun = file.begun(offset)
    if begun is not None:
        allowed = {CHANGE: 1, SNAPSHOT: 0}.get(begun.kind)
        if allowed is not None and ahead(begun.data_version, version) > allowed:
            return begun.data_version
    for at in range(offset, file.size, _BLOCK):
        for stood_at in latest_bump(file.read(at, _BLOCK + BUMP_SIZE)):
            # A bump that was cut short has lost digits, so it names a smaller version.
            if ahead(stood_at, version) >= 0:
                return (stood_at + 1) % VERSIONS
    return None
