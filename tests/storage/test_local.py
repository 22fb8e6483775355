"""What can go wrong only with a directory on a real filesystem."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backends.storage.base import NO_LINKS, FileFenced
from backends.storage.local import LocalStorage

UMASKS = [0o022, 0o077, 0o000, 0o777]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "lightning.bkp"


@pytest.fixture
def storage(directory: Path) -> LocalStorage:
    storage = LocalStorage(directory)
    storage.make()
    return storage


@pytest.fixture(params=UMASKS, ids=[f"{umask:03o}" for umask in UMASKS])
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    assert tmp_path.exists()  # made before the umask is changed
    before = os.umask(request.param)
    yield
    os.umask(before)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.usefixtures("umask")
def test_directory_and_files_are_readable_by_owner_only_under_any_umask(directory: Path) -> None:
    storage = LocalStorage(directory)
    storage.make()
    storage.publish("manifest", b"channel secrets")
    assert mode(directory) == 0o700
    assert mode(directory / "manifest") == 0o600


def test_published_file_does_not_inherit_mode_of_leftover_file(storage: LocalStorage, directory: Path) -> None:
    (directory / "manifest.tmp").touch()
    (directory / "manifest.tmp").chmod(0o666)
    storage.publish("manifest", b"channel secrets")
    assert mode(directory / "manifest") == 0o600


def test_make_without_parent_directory_is_refused_and_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalStorage(tmp_path / "share" / "lightning.bkp").make()
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_the_directory_is_refused(directory: Path) -> None:
    directory.write_bytes(b"a backup of the older plugin")
    storage = LocalStorage(directory)
    with pytest.raises(NotADirectoryError):
        storage.exists()
    with pytest.raises(FileExistsError):
        storage.make()
    with pytest.raises(NotADirectoryError):
        LocalStorage(directory / "lightning.bkp").exists()


def test_unmake_removes_no_subdirectory(storage: LocalStorage, directory: Path) -> None:
    storage.publish("manifest", b"ours")
    (directory / "holiday").mkdir()
    (directory / "holiday" / "photo").write_bytes(b"not ours")
    with pytest.raises(OSError):
        storage.unmake()
    assert (directory / "holiday" / "photo").read_bytes() == b"not ours"


def test_path_that_is_a_link_is_resolved_once(tmp_path: Path, storage: LocalStorage) -> None:
    storage.publish("manifest", b"here")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "lightning.bkp")
    through = LocalStorage(link)
    assert through.exists()
    assert through.read_small("manifest") == b"here"
    assert through.describe() == str(link)
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    assert through.read_small("manifest") == b"here", "the link was resolved once"


def test_link_put_in_place_of_the_directory_is_refused(tmp_path: Path, directory: Path) -> None:
    storage = LocalStorage(directory)
    (tmp_path / "elsewhere").mkdir()
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        storage.exists()
    with pytest.raises(FileExistsError):
        storage.make()
    with pytest.raises(OSError):
        storage.sync_names()


def test_link_inside_the_directory_is_not_followed(tmp_path: Path, storage: LocalStorage, directory: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"precious")
    (directory / "manifest").symlink_to(secret)
    (directory / "manifest.tmp").symlink_to(secret)
    assert storage.names() == []
    with pytest.raises(OSError) as caught:
        storage.open("manifest")
    assert caught.value.errno == errno.ELOOP
    storage.publish("manifest", b"ours")
    assert storage.read_small("manifest") == b"ours"
    assert secret.read_bytes() == b"precious"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def subdirectory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [fifo, subdirectory], ids=["fifo", "directory"])
def test_fifo_or_subdirectory_is_not_opened_as_a_file(
    storage: LocalStorage, directory: Path, make: Callable[[Path], None]
) -> None:
    make(directory / "segment")
    before = descriptors()
    with pytest.raises(OSError, match="not a regular file"):
        storage.open("segment")
    assert descriptors() == before
    assert storage.names() == []


def test_hidden_files_are_not_listed(storage: LocalStorage, directory: Path) -> None:
    (directory / ".nfs0001").touch()
    (directory / "._manifest").touch()
    storage.create("manifest").close()
    assert storage.names() == ["manifest"]


def test_open_files_are_not_inherited_by_child_process(storage: LocalStorage) -> None:
    count = "import os; print(len(os.listdir('/proc/self/fd')))"
    without = subprocess.check_output([sys.executable, "-c", count], close_fds=False)
    with closing(storage.create("segment")), closing(storage.open("segment")):
        assert subprocess.check_output([sys.executable, "-c", count], close_fds=False) == without


def test_operations_leak_no_descriptors(storage: LocalStorage) -> None:
    before = descriptors()
    for _ in range(3):
        storage.publish("manifest", b"x")
        storage.read_small("manifest")
        storage.names()
        storage.exists()
        storage.space()
    assert descriptors() == before


def test_second_close_of_a_handle_does_not_close_another_file(storage: LocalStorage) -> None:
    handle = storage.create("segment")
    handle.close()
    with closing(storage.create("another")) as another:
        handle.close()
        another.write_durably(0, b"still open")
    assert storage.read_small("another") == b"still open"


def test_directories_that_hold_a_given_file_are_found(tmp_path: Path) -> None:
    above = LocalStorage(tmp_path)
    assert above.directories_with("manifest") == []
    for name in ("two", "one", ".hidden"):
        storage = LocalStorage(tmp_path / name)
        storage.make()
        storage.publish("manifest", b"data")
    (tmp_path / "empty").mkdir()
    (tmp_path / "manifest").touch()
    (tmp_path / "link").symlink_to(tmp_path / "one")
    (tmp_path / "with-a-link").mkdir()
    (tmp_path / "with-a-link" / "manifest").symlink_to(tmp_path / "manifest")
    (tmp_path / "deeper" / "manifest").mkdir(parents=True)
    assert above.directories_with("manifest") == ["one", "two"]


def test_shared_disk_is_recognised_before_the_directory_is_made(tmp_path: Path, directory: Path) -> None:
    storage = LocalStorage(directory)
    assert storage.shares_disk_with(tmp_path) and not storage.shares_disk_with(Path("/dev/shm"))
    storage.make()
    assert storage.shares_disk_with(tmp_path) and not storage.shares_disk_with(Path("/dev/shm"))


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="needs root and btrfs-progs, to make subvolumes"
)
def test_two_subvolumes_count_as_one_disk(tmp_path: Path) -> None:
    """Many systems are set up with two (/ and /home), and each reports a device number of its own."""
    image, point = tmp_path / "image", tmp_path / "point"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    point.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        for name in ("home", "backups"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", point / name], check=True)
        assert (point / "home").stat().st_dev != (point / "backups").stat().st_dev
        assert LocalStorage(point / "backups" / "lightning.bkp").shares_disk_with(point / "home")
        assert not LocalStorage(point / "backups" / "lightning.bkp").shares_disk_with(tmp_path)
    finally:
        subprocess.run(["umount", point], check=True)


# New names


@pytest.mark.parametrize("refusal", sorted(NO_LINKS))
def test_rename_new_works_and_replaces_nothing_where_there_are_no_hard_links(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refused)
    storage.publish("another.tmp", b"another")
    with closing(storage.create("segment.tmp")) as handle:
        storage.rename_new("segment.tmp", "segment")
        handle.write_durably(0, b"record")
    with pytest.raises(FileExistsError):
        storage.rename_new("another.tmp", "segment")
    with pytest.raises(FileNotFoundError):
        storage.rename_new("nothing.tmp", "segment")
    assert storage.names() == ["another.tmp", "segment"]
    assert storage.read_small("segment") == b"record"


def test_io_error_of_link_is_not_taken_for_missing_hard_links(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    storage.publish("segment.tmp", b"data")
    monkeypatch.setattr(os, "link", fails)
    with pytest.raises(OSError) as caught:
        storage.rename_new("segment.tmp", "segment")
    assert caught.value.errno == errno.EIO
    assert storage.names() == ["segment.tmp"]


def test_link_that_was_made_but_reported_as_taken_is_recognised_as_ours(storage: LocalStorage, directory: Path) -> None:
    """The kernel's NFS client repeats the call, and is told that the name is taken."""
    storage.publish("segment.tmp", b"data")
    os.link(directory / "segment.tmp", directory / "segment")
    storage.rename_new("segment.tmp", "segment")
    assert storage.names() == ["segment"]


@pytest.mark.parametrize("what", ["a directory", "a link to nothing"])
def test_rename_new_to_name_of_directory_or_dead_link_is_refused(
    storage: LocalStorage, directory: Path, what: str
) -> None:
    storage.publish("segment.tmp", b"data")
    if what == "a directory":
        (directory / "segment").mkdir()
    else:
        (directory / "segment").symlink_to("nothing")
    with pytest.raises(FileExistsError):
        storage.rename_new("segment.tmp", "segment")


def test_rename_new_leaves_nothing_open_under_the_old_name(storage: LocalStorage, directory: Path) -> None:
    """The kernel's NFS client would keep a hidden name for the open file, forever if the machine dies."""
    before = descriptors()
    with closing(storage.create("segment.tmp")):
        storage.rename_new("segment.tmp", "segment")
        opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert opened.count(str(directory / "segment")) == 2
        assert not [name for name in opened if "segment.tmp" in name]
    assert descriptors() == before


@pytest.mark.parametrize("taken", ["removed", "replaced"])
def test_rename_new_overtaken_by_another_writer_is_fenced(
    storage: LocalStorage, directory: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    link, before = os.link, descriptors()

    def linked(here: str, there: str, **how: Any) -> None:
        link(here, there, **how)
        (directory / there).unlink()
        if taken == "replaced":
            (directory / there).write_bytes(b"theirs")

    monkeypatch.setattr(os, "link", linked)
    with closing(storage.create("segment.tmp")), pytest.raises(FileFenced):
        storage.rename_new("segment.tmp", "segment")
    assert descriptors() == before
    assert taken == "removed" or storage.read_small("segment") == b"theirs"
