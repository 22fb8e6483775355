"""Where members are: whether two URLs name the same place, and what could destroy two members at once."""

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from backends import place_at
from backends.errors import BackupError
from backends.members.urls import Server, servers
from backends.mounts.sticks import find_stick
from backends.mounts.table import mount_of
from backends.places.base import Place
from backends.storage.unreachable import reaching
from backends.this_machine import is_this_machine
from backends.urls import Destination, parse_url

_PORTS = {"sftp": "22", "postgres": "5432", "nfs": "2049", "http": "80", "https": "443"}
"""The port that a server has where the URL names none."""

_SCHEMA = "lightning_backup"
"""The schema of a postgres:// URL that names none."""

_BUCKETS = ("s3", "gs", "az")


def local_path(url: str) -> Path | None:
    """The path of a member's directory on this machine; None if the URL names a server.

    Raises BadURL, or Unreachable if it is on a stick that is not there.
    """
    place = parse_url(url)
    if place.scheme == "usb":
        return find_stick(place.host).point.joinpath(*place.path.parts[1:])
    return place.directory


def mount_point(url: str) -> str | None:
    """Where the filesystem is mounted that holds a member's directory, for `MembersNote.mounts`; None if that says
    nothing: for a server, and for a stick, which is found by its name, wherever it is mounted.

    Raises BadURL, or OSError if it cannot be determined.
    """
    path = None if parse_url(url).scheme == "usb" else local_path(url)
    return None if path is None else str(mount_of(path).point)


def same_place(one: str, other: str) -> bool:
    """Whether two URLs name the same place, or one inside the other in a bucket, as far as that can be known before it
    is made.

    Links, bind mounts and different schemes are seen through, for directories of this machine. Elsewhere, what may be
    the same counts as the same: a member that is copied onto itself could destroy it. Raises BadURL.
    """
    first, second = parse_url(one), parse_url(other)
    if first.scheme == second.scheme:
        if first.scheme in _BUCKETS:
            return _same_bucket(first, second) and _overlap(first, second)
        if first.scheme == "sftp":
            return bool(_common_servers(first, second)) and _same_path_for_users(first, second)
        if first.scheme == "postgres":
            return bool(_common_servers(first, second)) and _database(first) == _database(second)
    if (first.scheme, first.host.lower(), first.path) == (second.scheme, second.host.lower(), second.path):
        return True
    with suppress(BackupError, OSError):
        paths = local_path(one), local_path(other)
        if paths[0] is not None and paths[1] is not None:
            return _same_directory(paths[0], paths[1])
    return False


def _common_servers(one: Destination, other: Destination) -> set[Server]:
    """The servers that both URLs name, whatever their order. A port that is the default need not be written."""
    named = [
        {Server(each.name, each.port or _PORTS.get(place.scheme, "")) for each in servers(place)}
        for place in (one, other)
    ]
    return named[0] & named[1]


def _same_path_for_users(one: Destination, other: Destination) -> bool:
    """Whether the paths are equal, and below the home directory of what may be the same user."""
    if one.path != other.path:
        return False
    users = {place.host.rpartition("@")[0] for place in (one, other)}
    return one.path.parts[1:2] != ("~",) or len(users) == 1 or "" in users


def _database(place: Destination) -> tuple[object, ...]:
    return place.path, place.option("schema", _SCHEMA)


def _same_bucket(one: Destination, other: Destination) -> bool:
    accounts = {place.option("account", "") for place in (one, other)}
    same_account = len(accounts) == 1 or "" in accounts  # without the option, the environment names it
    return _common_servers(one, other) != set() and _endpoint(one) == _endpoint(other) and same_account


def _endpoint(place: Destination) -> tuple[str, Server | None]:
    """The scheme of the store, and the server that serves its buckets; None for the provider's own."""
    parts = urlsplit(place.option("endpoint", ""))
    if not parts.netloc:
        return place.scheme, None
    server = Server((parts.hostname or "").lower(), str(parts.port or _PORTS.get(parts.scheme, "")))
    return place.scheme, server


def _overlap(one: Destination, other: Destination) -> bool:
    """Whether the objects of one backup would be among those of the other."""
    return one.path.is_relative_to(other.path) or other.path.is_relative_to(one.path)


def _same_directory(one: Path, other: Path) -> bool:
    one, other = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return one.name == other.name and one.parent.samefile(other.parent)


def share_a_fate(one: str, other: str) -> str | None:
    """What one failure would take from both members, as a noun for a sentence; None if nothing is known.

    Raises BackupError if a place cannot be asked.
    """
    first, second = parse_url(one), parse_url(other)
    if first.scheme in _BUCKETS and second.scheme in _BUCKETS and _same_bucket(first, second):
        return f"bucket {servers(first)[0].name}"
    common = [name for name in _machines(first) if name in _machines(second)]
    if common:
        return f"server {common[0]}"
    path = local_path(other)
    if path is None or local_path(one) is None:
        return None
    storage = place_at(one).storage
    with reaching(storage):
        there = path if path.exists() else path.parent
        return "disk" if storage.shares_disk_with(there) else None


def place_warnings(url: str, place: Place, directory: Path) -> list[str]:
    """What the operator of the node in `directory` should know about keeping its backup at this URL, whose place is
    `place`: one sentence per item. Raises BackupError."""
    found, named = place.warnings(directory), parse_url(url)
    machines = [] if named.is_mounted else _machines(named)
    if machines and all(is_this_machine(name) for name in machines):
        found.append(
            f"{url} is reached at this machine's own address. Unless a tunnel begins there, the backup is on the "
            "node's own machine: when that is stolen, burns or loses its disk, database and backup die together. "
            "Better use a server elsewhere"
        )
    return found


def _machines(place: Destination) -> list[str]:
    """The names of the servers, sticks and stores that the member is lost with."""
    if place.scheme in _BUCKETS:
        endpoint = _endpoint(place)[1]
        return [] if endpoint is None else [endpoint.name]
    if place.directory is not None:
        return []
    return [server.name for server in servers(place)]
