"""What a directory without a manifest is: the wrong place, or half a backup."""

from backends.errors import NotABackup
from backends.log.documents import SESSION
from backends.log.format import segment_name, snapshot_name
from backends.storage.base import Storage

_OURS = (SESSION, segment_name(0).rstrip("0"), snapshot_name(0).rstrip("0"))


def no_manifest(storage: Storage) -> NotABackup:
    """The error to raise. An empty mount point looks like a directory too, and is no reason to copy anything again."""
    place = storage.describe()
    if any(name.startswith(_OURS) for name in storage.names()):
        return NotABackup(
            f"{place} is not a whole backup: it has no manifest. If it is a copy, it was not copied to the end: copy "
            "the whole directory again. Nothing was changed."
        )
    return NotABackup(
        f"there is no backup in {place} (no manifest is there): is the disk or share that holds it mounted? Nothing "
        "was changed; mount it, or name the directory that the backup is in."
    )
