"""Filesystems that fail, do only half of what they are asked, or offer less than POSIX demands."""

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from backends.storage.local import LocalStorage
from tests.storage.test_local import descriptors


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "lightning.bkp"


@pytest.fixture
def storage(directory: Path) -> LocalStorage:
    storage = LocalStorage(directory)
    storage.make()
    return storage


def failing(call: str, number: int, monkeypatch: pytest.MonkeyPatch, directories: bool = False) -> None:
    """Let a function of `os` fail; with `directories`, for directories only."""
    real = getattr(os, call)

    def fail(descriptor: int, *rest: object) -> None:
        if directories and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            real(descriptor, *rest)
            return
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)


def test_short_writes_are_continued(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:7], offset))
    with closing(storage.create("segment")) as handle:
        handle.write(3, b"twenty bytes of text")
        handle.write_durably(23, b"and a record")
        handle.extend(35, 10)
    assert storage.read_small("segment") == b"\0\0\0twenty bytes of textand a record" + bytes(10)


def test_short_reads_are_continued(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.publish("manifest", b"twenty bytes of text")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 7), offset))
    assert storage.read_small("manifest") == b"twenty bytes of text"


def test_write_that_writes_nothing_is_an_error(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with closing(storage.create("segment")) as handle, pytest.raises(OSError) as caught:
        handle.write_durably(0, b"record")
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS])
def test_filesystem_that_cannot_sync_directories_is_accepted(
    directory: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing("fsync", number, monkeypatch, directories=True)
    storage = LocalStorage(directory)
    storage.make()
    storage.publish("manifest", b"data")
    assert storage.read_small("manifest") == b"data"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])
def test_failed_sync_of_directory_is_raised(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing("fsync", number, monkeypatch, directories=True)
    with pytest.raises(OSError) as caught:
        storage.sync_names()
    assert caught.value.errno == number


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EBADF])
def test_failed_sync_of_a_file_is_always_raised(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing("fsync", number, monkeypatch)
    failing("fdatasync", number, monkeypatch)
    with closing(storage.create("segment")) as handle:
        for call in (handle.sync, lambda: handle.write_durably(0, b"record"), lambda: handle.extend(0, 10)):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == number


def test_directory_that_cannot_be_synced_is_removed_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing("fsync", errno.EIO, monkeypatch)
    with pytest.raises(OSError):
        LocalStorage(directory).make()
    assert not directory.exists()


def test_filesystem_without_modes_is_accepted(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    storage = LocalStorage(directory)
    storage.make()
    storage.publish("manifest", b"data")
    assert storage.read_small("manifest") == b"data"


def test_failed_chmod_leaks_no_descriptor(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    failing("fchmod", errno.EIO, monkeypatch)
    before = descriptors()
    with pytest.raises(OSError):
        storage.create("segment")
    assert descriptors() == before


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_durable_write_makes_exactly_the_calls_pwrite_fdatasync_fstat(
    directory: Path, storage: LocalStorage, tmp_path: Path
) -> None:
    assert storage.exists()
    program = (
        "import sys, os; from pathlib import Path; from backends.storage.local import LocalStorage\n"
        f"handle = LocalStorage(Path({str(directory)!r})).create('segment')\n"
        "handle.extend(0, 1 << 16)\n"
        "os.write(1, b'BEGIN')\n"
        "for number in range(3): handle.write_durably(number * 512, b'x' * 512)\n"
        "os.write(1, b'END')\n"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-o", str(trace), sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ptrace" in ran.stderr.lower():
        pytest.skip("strace may not trace here")
    assert ran.returncode == 0, ran.stderr
    calls = [line.split("(")[0] for line in trace.read_text().split('"BEGIN"')[1].split('"END"')[0].splitlines()[1:-1]]
    assert [re.sub("newfstatat|fstat64", "fstat", call) for call in calls] == ["pwrite64", "fdatasync", "fstat"] * 3
