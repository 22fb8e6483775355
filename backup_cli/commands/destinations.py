"""`backup-cli destinations`: what is plugged in or mounted that would hold a backup, with its ready-made URL."""

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
from backup_cli.options import lightning_dir
from backup_cli.waiting import NoAnswer, within

NAME = "lightning.bkp"

_NEVER = frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs", "swap"})
"""Filesystems that nobody writes to."""

_SYSTEM = ("/boot", "/efi", "/snap", "/usr", "/var/lib/docker", "/var/lib/containers", "/etc")
"""Where what is mounted belongs to the system; a backup there would be in its way, or be thrown away with it."""

_ANSWER = 3.0
"""Seconds that a mount has to say how large it is: one whose server hangs must not hide the others."""

_NOT_FOR_PEOPLE = (".", "lost+found")

_MAX_ENTRIES = 1000
"""Names in a mount point among which a directory of this user's is looked for."""

_MIN_FREE = 64 << 20
"""Free bytes below which a place is not worth offering."""


@dataclass(frozen=True, slots=True)
class Place:
    """A mounted filesystem that would hold a backup. Sizes in bytes."""

    url: str
    mounted_at: str
    directory: str
    """Where the backup would lie: what is mounted there, or a directory on it that belongs to this user."""
    source: str
    """What is mounted: a device, or a server's share."""
    filesystem: str
    label: str | None
    uuid: str | None
    total_bytes: int
    free_bytes: int
    own_disk: bool
    """Whether the node's directory lies on the same disk: both would die together."""
    warnings: list[str]


@click.command(short_help="List the disks, sticks and shares that could hold a backup.")
@lightning_dir
@click.option("--json", "as_json", is_flag=True, help="The same as JSON, for programs.")
def destinations(lightning_dir: Path, as_json: bool) -> None:
    """What is mounted that would hold a backup: sticks, other disks, network shares; each with its URL."""
    found, left_out = places(_own_disks(lightning_dir))
    for line in left_out:
        say(line)
    if as_json:
        hand_out(json.dumps([asdict(place) for place in found], indent=2))
        return
    for place in found:
        _show(place)
    unmounted = [volume for volume in volumes() if not volume.mounts and volume.names.label]
    for volume in unmounted:
        say(f"Plugged in, but not mounted: {volume.describe()}. Mount it, and run this again.")
    if not found:
        nothing = "Nothing else" if left_out else "Nothing"
        say(f"{nothing} that is mounted here would do. Plug a stick in and mount it, or mount a network share.")


def places(own_disks: frozenset[str]) -> tuple[list[Place], list[str]]:
    """What would do, the best first (another disk than the node's, then the most room); and why others would not."""
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
                f"Does not answer, and is left out: {mount.describe()}. See whether its server or disk is up."
            )
            continue
        if place is not None and os.access(place.directory, os.W_OK | os.X_OK):
            found.append(place)
        elif place is not None and not place.own_disk:
            left_out.append(
                f"This user may not write there, and it is left out: {mount.describe()}. Make this user a directory on "
                f"it (as root: install -d -o USER -m 0700 DIRECTORY); the URL is then that of {place.url} with the "
                f"directory before {NAME}."
            )
    return sorted(found, key=lambda place: (place.own_disk, -place.free_bytes)), left_out


def _visible(table: list[Mount]) -> list[Mount]:
    """Each mount point once, as it is seen now; without bind mounts and what belongs to the system."""
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
    """The mount point; if this user may not write there, a directory of its own directly on it, if there is one."""
    if os.access(point, os.W_OK | os.X_OK):
        return point
    with suppress(OSError), os.scandir(point) as entries:
        for entry in sorted(islice(entries, _MAX_ENTRIES), key=lambda entry: entry.name):
            mine = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            if mine and not entry.name.startswith(_NOT_FOR_PEOPLE) and os.access(entry.path, os.W_OK | os.X_OK):
                return Path(entry.path)
    return point


def _url(mount: Mount, volume: Volume | None, directory: Path, own: bool, twice: set[str | None]) -> str:
    """By label where that is enough, else by UUID; by path for what is built in, for one of two equal copies, and
    where this user may not read what a filesystem is called (without udev only root may)."""
    path = quote(str(directory / NAME))
    if is_network(mount) and volume is None:
        return f"nfs://{path}"
    label = volume.names.label if volume else None
    name = label if label and label not in twice else volume.names.uuid if volume else None
    if own or name is None or name in twice or mount.point == Path("/"):
        return f"file://{path}"
    return f"usb://{quote(name, safe='')}/{quote(str(directory.relative_to(mount.point) / NAME))}"


def _is_on_device(mount: Mount) -> bool:
    """Whether a block device lies under it: a disk, or a stick that FUSE serves."""
    return mount.source.startswith("/dev/") and (mount.device[0] != 0 or mount.kind in ("btrfs", "fuseblk"))


def _own_disks(lightning_dir: Path) -> frozenset[str]:
    """The disks under the node's directory; under the home directory when there is no node yet."""
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
        show_line("    the node's own disk: when it dies, the backup dies with it. Better take another")
    for line in place.warnings:
        show_line(f"    {line}")
