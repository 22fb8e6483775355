"""`backup-cli destinations`: lists what could hold a backup, each with its URL: mounted filesystems, and the kinds of
destinations elsewhere."""

import json
import os
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import click

from backends.errors import BackupError
from backends.mounts.ephemeral import Lifetime, lifetime_of_mount
from backends.mounts.network import is_network, promise_breakers, uploads_late
from backends.mounts.table import Mount, mounts
from backends.mounts.volumes import Volume, disks_of, volumes
from backends.node.directory import expanded
from backends.text import printable
from backends.urls import quote
from backup_cli import as_owner
from backup_cli.console import hand_out, say, show_line, size
from backup_cli.off_site import off_site, show_off_site
from backup_cli.options import lightning_dir
from backup_cli.waiting import NoAnswer, within

NAME = "lightning.bkp"

_NEVER = frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs", "swap"})
"""Filesystem types that nobody writes to, so they cannot hold a backup."""

_SYSTEM = ("/boot", "/efi", "/snap", "/usr", "/var/lib/docker", "/var/lib/containers", "/etc")
"""Mounts below these belong to the system; a backup there would be in its way, or be deleted with it."""

_ANSWER = 3.0
"""Seconds that a mount gets to answer: one whose server hangs must not hide the others."""

_NOT_FOR_PEOPLE = (".", "lost+found")

_MAX_ENTRIES = 1000
"""At most this many entries of a mount point are searched for a directory that belongs to this user."""

_MIN_FREE = 64 << 20
"""A filesystem with fewer free bytes is not listed."""


@dataclass(frozen=True, slots=True)
class Place:
    """A mounted filesystem that could hold a backup. Sizes in bytes."""

    url: str
    mounted_at: str
    directory: str
    """Where the backup would be: the mount point, or a directory in it that belongs to this user."""
    source: str
    """What is mounted: a device, or a server's share."""
    filesystem: str
    label: str | None
    uuid: str | None
    total_bytes: int
    free_bytes: int
    own_disk: bool
    """Whether the node's directory is on the same disk: both would be lost together."""
    warnings: list[str]


@click.command(short_help="List what could hold a backup: disks, sticks, shares, servers elsewhere.")
@lightning_dir
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def destinations(lightning_dir: Path, as_json: bool) -> None:
    """List what could hold a backup, each with its URL: what is mounted (sticks, other disks, network shares), and the
    kinds of destinations elsewhere (SSH servers, object stores, PostgreSQL) with what each of them needs.

    No server elsewhere is contacted.
    """
    found, left_out = places(_own_disks(lightning_dir))
    elsewhere = off_site()
    for line in left_out:
        say(line)
    if as_json:
        document = {"mounted": [asdict(place) for place in found], "off_site": [asdict(kind) for kind in elsewhere]}
        hand_out(json.dumps(document, indent=2))
        return
    for place in found:
        _show(place)
    unmounted = [volume for volume in volumes() if not volume.mounts and volume.names.label]
    for volume in unmounted:
        say(f"Plugged in, but not mounted: {volume.describe()}. Mount it, and run this again.")
    if not found:
        nothing = "Nothing else" if left_out else "Nothing"
        say(f"{nothing} that is mounted here is suitable. Plug in a stick and mount it, or mount a network share.")
    show_line("")
    show_line("Elsewhere, safe from a fire or a thief here; other people may read it, so encrypt it (init --encrypt):")
    show_off_site(elsewhere, partial(show_line, bold=True), show_line)


def places(own_disks: frozenset[str]) -> tuple[list[Place], list[str]]:
    """The suitable places, best first (another disk than the node's, then the most free space), and a line for each one
    that was left out."""
    table = mounts()
    every = volumes()
    named = {(mount.point, mount.ident): volume for volume in every for mount in volume.mounts}
    names = Counter(name for volume in every for name in (volume.names.label, volume.names.uuid))
    twice = {name for name, count in names.items() if count > 1}
    found, left_out = [], []
    for mount in _visible(table):
        volume = named.get((mount.point, mount.ident))
        if (
            mount.read_only
            or mount.kind in _NEVER
            or uploads_late(mount)
            or not (is_network(mount) or volume is not None or _is_on_device(mount))
        ):
            continue
        try:
            place = within(_ANSWER, partial(_place, mount, volume, own_disks, twice))
        except NoAnswer:
            left_out.append(
                f"Left out, because it does not answer: {mount.describe()}. Check whether its server or disk is up."
            )
            continue
        if place is not None and os.access(place.directory, os.W_OK | os.X_OK):
            found.append(place)
        elif place is not None and not place.own_disk:
            left_out.append(
                f"Left out, because this user may not write there: {mount.describe()}. Create a directory on it for "
                f"this user (as root: install -d -o USER -m 0700 DIRECTORY); the URL is then {place.url} with that "
                f"directory before {NAME}."
            )
    return sorted(found, key=lambda place: (place.own_disk, -place.free_bytes)), left_out


def _visible(table: list[Mount]) -> list[Mount]:
    """Each mount point once, with the mount that is visible there; without bind mounts and the system's mounts."""
    last = {mount.point: mount for mount in table}
    return [
        mount
        for mount in last.values()
        if not _is_the_systems(mount.point) and (mount.root == "/" or is_network(mount))
    ]


def _is_the_systems(point: Path) -> bool:
    return any(point.is_relative_to(place) for place in _SYSTEM)


def _place(mount: Mount, volume: Volume | None, own_disks: frozenset[str], twice: set[str | None]) -> Place | None:
    try:
        status = os.statvfs(mount.point)
        own = bool(own_disks & disks_of(mount.point))
        lasting = is_network(mount) or lifetime_of_mount(mount) is Lifetime.LASTING
    except OSError:
        return None  # gone, or closed to this user
    if not lasting:
        return None
    free = status.f_bavail * status.f_frsize
    if free < _MIN_FREE:
        return None
    directory = _writable_directory(mount.point)
    return Place(
        _url(mount, volume, directory, own, twice),
        str(mount.point),
        str(directory),
        mount.source,
        volume.names.kind if volume else mount.kind,
        volume.names.label if volume else None,
        volume.names.uuid if volume else None,
        status.f_blocks * status.f_frsize,
        free,
        own,
        promise_breakers(mount),
    )


def _writable_directory(point: Path) -> Path:
    """The mount point; or, if this user may not write there, a directory directly in it that belongs to this user."""
    if os.access(point, os.W_OK | os.X_OK):
        return point
    with suppress(OSError), os.scandir(point) as entries:
        for entry in sorted(islice(entries, _MAX_ENTRIES), key=lambda entry: entry.name):
            mine = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            if mine and not entry.name.startswith(_NOT_FOR_PEOPLE) and os.access(entry.path, os.W_OK | os.X_OK):
                return Path(entry.path)
    return point


def _url(mount: Mount, volume: Volume | None, directory: Path, own: bool, twice: set[str | None]) -> str:
    """The URL of a new backup: by label if that is unique, else by UUID. By path for the node's own disk, for one of
    two identical copies, and if this user may not read the filesystem's names (without udev, only root may)."""
    path = quote(str(directory / NAME))
    if is_network(mount) and volume is None:
        return f"nfs://{path}"
    label = volume.names.label if volume else None
    name = label if label and label not in twice else volume.names.uuid if volume else None
    if own or name is None or name in twice or mount.point == Path("/"):
        return f"file://{path}"
    return f"usb://{quote(name, safe='')}/{quote(str(directory.relative_to(mount.point) / NAME))}"


def _is_on_device(mount: Mount) -> bool:
    """Whether the mount is on a block device: a disk, or a stick that FUSE serves."""
    return mount.source.startswith("/dev/") and (mount.device[0] != 0 or mount.kind in ("btrfs", "fuseblk"))


def _own_disks(lightning_dir: Path) -> frozenset[str]:
    """The disks that hold the node's directory; or, if there is no node yet, the home directory."""
    try:
        directory = as_owner.node_directory(lightning_dir)
    except BackupError:
        directory = expanded(Path("~")).absolute()
    return disks_of(directory)


def _show(place: Place) -> None:
    called = " ".join(filter(None, (place.label, f"({place.uuid})" if place.uuid else None)))
    show_line(place.url, bold=True)
    show_line(
        f"    {printable(place.source)} at {printable(place.mounted_at)}: "
        f"{printable(' '.join(filter(None, (place.filesystem, called))))}, "
        f"{size(place.free_bytes)} of {size(place.total_bytes)} free"
    )
    if place.own_disk:
        show_line("    the node's own disk: if it dies, the backup dies with it. Choose another one")
    for line in place.warnings:
        show_line(f"    {line}")
