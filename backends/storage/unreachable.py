"""The errors for people when the place that holds a backup fails or refuses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backends.errors import BackupError, ClosedToUser, NoSpace, Unreachable
from backends.storage.base import Closed, Storage, is_full
from backends.system.owners import user_name
from backends.text import printable


@contextmanager
def reaching(storage: Storage) -> Iterator[None]:
    """Turn each OSError of the block, which uses an existing backup, into Unreachable."""
    try:
        yield
    except OSError as error:
        place = storage.describe()
        if isinstance(error, FileNotFoundError) and not _there(storage):
            raise Unreachable(_nothing_at(place, storage), clause="there is no backup") from error
        if isinstance(error, PermissionError) and (closed := closed_to_us(storage)):
            raise closed_error(f"{place} cannot be read by the user {user_name(os.geteuid())}", closed) from error
        if isinstance(error, FileNotFoundError):
            raise Unreachable(
                f"a file of the backup in {place} was removed while it was in use{_name_of(error)}: another command, "
                "or a node, has put a new snapshot in its place meanwhile, or somebody else deletes files there. "
                "This command has lost nothing that was saved; wait until the other one has ended, then repeat this",
                clause="a file of it was removed just now",
            ) from error
        kind = NoSpace if is_full(error) else Unreachable
        raise kind(
            f"{place} cannot be used: {error.strerror or error}{_file_in(error)}. Nothing that was saved "
            "is lost; fix that and try again",
            clause=f"it cannot be used: {error.strerror or error}",
        ) from error


def is_silence(error: BaseException | None) -> bool:
    """Whether this error, or the one that it was made of, says that no answer came in time: whoever asks again waits as
    long again."""
    return isinstance(error, TimeoutError) or (error is not None and isinstance(error.__cause__, TimeoutError))


def _nothing_at(place: str, storage: Storage) -> str:
    if storage.is_mounted:
        return (
            f"there is no backup at {place}: is the disk or share that holds it mounted, and is the name right? "
            "Nothing was changed; mount it, or correct the URL, then try again"
        )
    return f"there is no backup at {place}: is the URL right? Nothing was changed; correct the URL, then try again"


def closed_to_us(storage: Storage) -> list[Closed]:
    """What in the storage belongs to other users and may not be read by this one; empty when that is unknown."""
    with suppress(OSError, BackupError):
        return storage.closed()
    return []


def closed_error(why: str, closed: list[Closed]) -> ClosedToUser:
    """The error for a user without permission: it says what is closed to him, who owns it, and which user to run as."""
    named = ", ".join(f"{printable(each.name)} ({_owner(each)})" for each in closed[:_SHOWN])
    more = f" and {len(closed) - _SHOWN} more" if len(closed) > _SHOWN else ""
    first = closed[0]
    alone = all((each.uid, each.gid) == (first.uid, first.gid) for each in closed) and first.uid is not None
    who = f"the user {user_name(first.uid)}" if alone and first.uid is not None else "the user who owns the backup"
    return ClosedToUser(
        f"{why}: only the owner may read {named}{more}. A backup belongs to the user that lightningd runs as, and "
        f"nobody else may read it. Nothing was changed; run this as {who}",
        first.uid if alone else None,
        first.gid if alone else None,
    )


def _owner(closed: Closed) -> str:
    return "another user's" if closed.uid is None else f"of the user {user_name(closed.uid)}"


_SHOWN = 6


def _name_of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def _there(storage: Storage) -> bool:
    try:
        return storage.exists()
    except OSError:
        return False


def _file_in(error: OSError) -> str:
    """For a PermissionError: which file this user may not use, and who should own it. Otherwise empty."""
    if not isinstance(error, PermissionError) or not error.filename:
        return ""
    return (
        f" ({error.filename} is closed to the user {user_name(os.geteuid())}: all files of a backup must belong to the "
        "user that lightningd runs as)"
    )
