"""Why a copy does not follow, and what to do: the errors about a copy that nothing may be done with."""

from backends.errors import BackupError
from backends.sqlite.following import NoCopy
from backup_cli.following.copy_directory import CopyDirectory


class CopyAhead(BackupError):
    """The copy holds a later version than the backup."""

    kind = "copy_ahead"


class CopyGone(BackupError):
    """The copy was moved away, or replaced, while it followed."""

    kind = "copy_gone"


def gone(directory: CopyDirectory) -> CopyGone:
    """The error for a copy that has lost its name."""
    return CopyGone(
        f"{directory.copy} was moved away or replaced while it followed the backup; nothing more is written "
        "to it. It may be behind: never start a node from it. To make it a node's database, put it back and run: "
        "backup-cli follow --promote"
    )


def nobodys(directory: CopyDirectory, url: str) -> NoCopy:
    """The error for a copy of which nobody can tell that it is one of the backup at `url`."""
    return NoCopy(
        f"{directory.copy} is a copy, but the note beside it is gone that says of which backup, and "
        f"{url} does not hold its last change. Nothing was changed. Check whether that is the right "
        "backup; if it is, move the copy away, or name another directory: a new copy is built then"
    )


def ahead_of(directory: CopyDirectory, url: str, copy_version: int, backup_version: int) -> CopyAhead:
    """The error for a copy that is at a later version than the backup."""
    return CopyAhead(
        f"the copy in {directory.path} is at version {copy_version}, and {url} ends at version {backup_version}: "
        "the backup has lost its end or was set back to an older copy of itself, or its last change was taken back "
        "by a power cut before it was saved. The copy was not changed, and may be the newest state there is: keep "
        "it. In the last case the node's next changes settle this. If the node's own database is alive, start "
        "the node: it takes a new snapshot if that is needed. To follow the backup as it is, name another directory"
    )
