"""A directory from an attacker's disk: links, pipes and the like in place of files; what reading really costs."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import backup_at
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.format.records import FileHeader, FileKind, segment_name, snapshot_name
from tests.log.corruption import Files
from tests.log.forge import FRAME, ID, Forged, backup, packed, records, segment, zeros, zstd_block
from tests.log.histories import silent
from tests.log.model import contents

pytestmark = pytest.mark.usefixtures("readers_do_not_wait", "time_limit")

NAMES = ["manifest", "session", snapshot_name(1), segment_name(1)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a small undamaged backup."""
    put(tmp_path / "lightning.bkp", backup())
    backup_at((tmp_path / "lightning.bkp").as_uri()).open(silent, "writer").close()
    assert {file.name for file in (tmp_path / "lightning.bkp").iterdir()} == set(NAMES)
    return tmp_path / "lightning.bkp"


def put(directory: Path, files: Files) -> None:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)


def link_to_outside(path: Path) -> None:
    """Move the file out of the backup, and leave a link to it."""
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def link_inside(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def link_to_dev_zero(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def circular_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unix_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path must be short
        server.bind(path.name)
        os.chdir(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", [link_to_outside, link_inside, link_to_dev_zero, circular_link, fifo, directory, unix_socket]
)
def test_link_or_pipe_or_directory_in_place_of_a_file_is_refused(
    place: Path, change: Callable[[Path], None], name: str
) -> None:
    change(place / name)

    def made() -> Backup:
        return backup_at(place.as_uri())

    for attempt in (lambda: contents(made()), lambda: made().open(silent, "victim")):
        with pytest.raises(BackupError):
            attempt()


def test_backup_directory_that_is_a_link_is_read(place: Path) -> None:
    """The user has chosen the path, and may choose a link."""
    link = place.parent / "link"
    link.symlink_to(place)
    assert contents(backup_at(link.as_uri())) == contents(backup_at(place.as_uri()))


def test_writer_does_not_write_through_links_with_names_it_will_use(place: Path) -> None:
    """Links with the names that the writer uses next point to a file of the user's."""
    treasure = place.parent / "treasure"
    treasure.write_bytes(b"precious")
    for name in ("session.tmp", "manifest.tmp", segment_name(1) + ".tmp", segment_name(2), segment_name(2) + ".tmp"):
        (place / name).symlink_to(treasure)
    backup_at(place.as_uri()).open(silent, "victim").close()
    assert treasure.read_bytes() == b"precious"


MEASURE = """
import sys
from pathlib import Path
from backends import backup_at
from backends.errors import BackupError

def peak():
    # ru_maxrss starts at the peak of the process that forked this one, and would hide that much growth.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak()
try:
    with backup_at(sys.argv[1]).read() as generation:
        for _ in generation.snapshot:
            pass
        for change in generation.changes():
            len(change.statements)
except BackupError as error:
    print(error, file=sys.stderr)
print(peak() - before)
"""


def grown(directory: Path) -> int:
    """By how many MiB a process grows when it reads this backup."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, directory.as_uri()], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) >> 10


def sparse(directory: Path, length: int) -> None:
    """Write a segment whose record claims `length` bytes, all of them a hole in the file."""
    (claim,) = [records([Forged(length=length, flags=FRAME, size=1 << 30)], 0, 0)]
    with (directory / segment_name(1)).open("wb") as file:
        file.write(FileHeader(FileKind.SEGMENT, ID, 1).encode() + claim)
        file.truncate(length + 200)


def test_compression_bomb_does_not_grow_the_reading_process(tmp_path: Path) -> None:
    size = 128 << 20
    bomb = Forged(zeros(size), flags=FRAME, size=size)
    put(tmp_path / "bomb", backup(segment=segment(bomb, packed())))
    assert grown(tmp_path / "bomb") < 64


def test_large_compression_window_does_not_grow_the_reading_process(tmp_path: Path) -> None:
    wide = Forged(zstd_block(b"x" * 1000, 30), flags=FRAME, size=1000)
    put(tmp_path / "window", backup(segment=segment(wide)))
    assert grown(tmp_path / "window") < 32


def test_sparse_snapshot_does_not_grow_the_reading_process(tmp_path: Path) -> None:
    put(tmp_path / "holes", backup())
    (claim,) = [records([Forged(length=1 << 29, kind=3, size=1 << 18, data_version=0)], 0, 0)]
    with (tmp_path / "holes" / snapshot_name(1)).open("wb") as file:
        file.write(FileHeader(FileKind.SNAPSHOT, ID, 1).encode() + claim)
        file.truncate(1 << 30)
    assert grown(tmp_path / "holes") < 32


def test_segment_larger_than_any_real_one_does_not_grow_the_reading_process(tmp_path: Path) -> None:
    put(tmp_path / "large", backup())
    sparse(tmp_path / "large", (1 << 32) - 1)
    assert grown(tmp_path / "large") < 32
