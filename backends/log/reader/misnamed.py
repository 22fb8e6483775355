"""Files next to a backup's own whose names another program changed: one of them may be the file that is missing.

A sync client writes `segment-00000002 (1)`, a copy to another system `MANIFEST`, an interrupted copy `manifest.part`.
None of them is read as part of the backup, because it may be older than the rest. But a person should hear about it.
"""

import re

from backends.storage.base import Storage
from backends.text import printable

_NAME = r"(manifest|session|segment-\d{8,}|snapshot-\d{8,}(?:\.\d+)?)"
_OURS = re.compile(_NAME)
_LIKE_OURS = re.compile(_NAME + r"(?=$|[ ._~(-])", re.IGNORECASE)
_SHOWN = 3


def misnamed(storage: Storage, wanted: str | None = None) -> str:
    """A sentence (with a space before it) about files that may be the missing file `wanted`, or any missing file.

    Empty when there are none. Raises OSError.
    """
    found = [name for name in storage.names() if _stands_for(name, wanted)]
    if not found:
        return ""
    names = ", ".join(repr(printable(name, 60)) for name in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    which = f"the name {wanted}" if wanted is not None else "their own names (as segment-00000002)"
    return (
        f" In the same directory: {names}{more}, named so by a sync client or by a copy that was cut off. That may be "
        f"what is missing, or something older: copy the whole directory, give the file in the copy {which}, and check "
        "whether the copy is whole with: backup-cli verify file:///PATH/OF/THE/COPY"
    )


def _stands_for(name: str, wanted: str | None) -> bool:
    """Whether the name is almost, but not exactly, that of a file of a backup (of the file `wanted`, if given)."""
    like = None if _OURS.fullmatch(name) else _LIKE_OURS.match(name)
    return like is not None and (wanted is None or like[1].lower() == wanted.lower())
