"""What a directory without a manifest is: the wrong place, or part of a backup."""

from contextlib import suppress

from backends.errors import BackupError, NotABackup
from backends.holder import Holder
from backends.log.format.documents import MANIFEST, SESSION
from backends.log.format.records import segment_name, snapshot_name
from backends.log.reader.misnamed import misnamed
from backends.storage.base import LOCK, Storage

_OURS = (MANIFEST, SESSION, segment_name(0).rstrip("0"), snapshot_name(0).rstrip("0"))


def no_manifest(storage: Storage) -> NotABackup:
    """The error to raise when there is no manifest to read.

    An empty mount point is an empty directory, too, so only a directory with a backup's files is called an incomplete
    copy.
    """
    place, names = storage.describe(), storage.names()
    maker = _maker(storage, names)
    if maker is not None:
        return NotABackup(
            f"{place} is no backup yet: another process ({maker}) is making one there. Nothing was changed; wait until "
            "that process has ended, then repeat this"
        )
    if _ours(names):
        hint = misnamed(storage, MANIFEST)
        return NotABackup(
            f"{place} is not a whole backup: it has no manifest. If it is a copy, the copy is incomplete: copy the "
            f"whole directory again. Nothing was changed{f'.{hint}' if hint else ''}"
        )
    nothing = f"there is no backup in {place} (it has no manifest)"
    if storage.is_mounted:
        return NotABackup(
            f"{nothing}: is the disk or share that holds the backup mounted? Nothing was changed; mount it, or name "
            "the directory that the backup is in"
        )
    return NotABackup(f"{nothing}: is the URL right? Nothing was changed; name the place that the backup is in")


def already_exists(storage: Storage) -> BackupError:
    """The error to raise when a new backup should be made where something exists already."""
    place = storage.describe()
    names = [MANIFEST]
    with suppress(OSError):
        names = storage.names()
    if MANIFEST not in names:
        maker = _maker(storage, names)
        if maker is not None:
            return BackupError(
                f"another process ({maker}) is making a backup in {place}, and nothing in it was touched. Choose "
                "another name; or, if that is this node's backup, wait until that process has ended"
            )
        if _ours(names):
            what = "the directory" if storage.is_mounted else "all that is there"
            return BackupError(
                f"{place} is there already, but is not a whole backup: it has no manifest, as after an init that was "
                "killed. Nothing was touched. Choose another name; or, if an init was killed and this is nobody's copy "
                f"of a backup, delete {what} and repeat this"
            )
        if not storage.is_mounted:
            return BackupError(
                f"{place} is there already, and nothing in it was touched; it is no backup. A backup needs a place of "
                "its own, where there is nothing else: choose another name"
            )
        return BackupError(
            f"{place} is there already, and nothing in it was touched; it is no backup. A backup is a directory of its "
            "own, which must not exist before: choose another name, perhaps one inside that directory"
        )
    return BackupError(
        f"{place} is there already, and nothing in it was touched. Choose another name; to go on with that backup "
        "after a restore, use: backup-cli restore --resume"
    )


def _maker(storage: Storage, names: list[str]) -> Holder | None:
    """The process that is making a backup here now, or None. Its files must not be taken for leftovers."""
    if not _ours(names) or LOCK not in names:
        return None
    with suppress(OSError):  # another user's file, or one that we refuse to lock
        return storage.locked_by()
    return None


def _ours(names: list[str]) -> bool:
    """Whether there are files of a backup among these names."""
    return any(name.lower().startswith(_OURS) for name in names)
