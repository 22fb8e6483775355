"""Where members are: whether two URLs name the same directory, and what could destroy two members at once."""

import os
from contextlib import suppress
from pathlib import Path

from backends import place_at
from backends.errors import BackupError
from backends.mounts.sticks import find_stick
from backends.mounts.table import mount_of
from backends.storage.unreachable import reaching
from backends.urls import parse_url


def local_path(url: str) -> Path | None:
    """The path of a member's directory on this machine; None if the URL names a server.

    Raises BadURL, or Unreachable if it is on a stick that is not there.
    """
    place = parse_url(url)
    if place.scheme == "usb":
        return find_stick(place.host).point.joinpath(*place.path.parts[1:])
    return place.local_path if place.scheme in ("file", "nfs") and place.names_no_other_machine else None


def mount_point(url: str) -> str | None:
    """Where the filesystem is mounted that holds a member's directory, for `MembersNote.mounts`; None if that says
    nothing: for a server, and for a stick, which is found by its name, wherever it is mounted.

    Raises BadURL, or OSError if it cannot be determined.
    """
    path = None if parse_url(url).scheme == "usb" else local_path(url)
    return None if path is None else str(mount_of(path).point)


def same_place(one: str, other: str) -> bool:
    """Whether two URLs name the same directory, as far as that can be known before it is made.

    Links, bind mounts and different schemes are seen through, for directories of this machine. Raises BadURL.
    """
    first, second = parse_url(one), parse_url(other)
    if (first.scheme, first.host.lower(), first.path) == (second.scheme, second.host.lower(), second.path):
        return True
    with suppress(BackupError, OSError):
        paths = local_path(one), local_path(other)
        if paths[0] is not None and paths[1] is not None:
            return _same_directory(paths[0], paths[1])
    return False


def _same_directory(one: Path, other: Path) -> bool:
    one, other = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return one.name == other.name and one.parent.samefile(other.parent)


def share_a_fate(one: str, other: str) -> str | None:
    """What one failure would take from both members, as a noun for a sentence; None if nothing is known.

    Raises BackupError if a place cannot be asked.
    """
    first, second = parse_url(one), parse_url(other)
    if first.host and first.host == second.host and not first.names_no_other_machine:
        return f"server {first.host}"
    path = local_path(other)
    if path is None or local_path(one) is None:
        return None
    storage = place_at(one).storage
    with reaching(storage):
        there = path if path.exists() else path.parent
        return "disk" if storage.shares_disk_with(there) else None
