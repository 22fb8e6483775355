"""The lock in the backup keeps the processes of one machine apart, whatever container or PID namespace they run in."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backends import backup_at, keyring
from backends.errors import BackupError
from backends.log.writer.writer import Writer
from backends.storage.base import Lock
from backends.storage.local import LocalStorage
from backends.system.locks import FileLock, NoLocks
from tests.log.conftest import DATABASE
from tests.log.histories import changes, silent, source
from tests.log.model import versions

_WRITER = """
import json, sys
from backends import backup_at, keyring
keyring.take(json.loads(sys.stdin.readline()))
writer = backup_at(sys.argv[1]).open(lambda level, line: None, "another process")
print("open", flush=True)
sys.stdin.read()
"""

_REAL_LOCK = LocalStorage.lock


@pytest.fixture(autouse=True)
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the lock back on for these tests."""
    monkeypatch.setattr(LocalStorage, "lock", _REAL_LOCK)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A new backup at version 1."""
    url = (tmp_path / "lightning.bkp").as_uri()
    backup_at(url).create(source(DATABASE, 1, "02aa"))
    return url


@contextmanager
def another_process(url: str, *prefix: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that has the backup open."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", _WRITER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(keyring.export()) + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "open\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def files(url: str) -> dict[str, bytes]:
    storage = LocalStorage(Path(url.removeprefix("file://")))
    return {name: storage.read_small(name) for name in storage.names()}


def opened(url: str) -> Writer:
    return backup_at(url).open(silent, "this one")


@pytest.mark.parametrize(
    "namespace",
    [[], ["unshare", "--pid", "--fork", "--mount-proc"]],
    ids=["same PID namespace", "another PID namespace"],
)
def test_second_process_on_locked_backup_is_refused_and_changes_nothing(url: str, namespace: list[str]) -> None:
    if namespace and subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no PID namespace")
    with another_process(url, *namespace):
        before = files(url)
        with pytest.raises(BackupError, match=r"another process \(pid \d+, -c\) is writing to the backup"):
            opened(url)
        with pytest.raises(BackupError, match="another process"):
            backup_at(url).open_anew(silent, "this one")
        assert files(url) == before
        assert backup_at(url).end().data_version == 1
        assert versions(backup_at(url)) == []


def test_lock_of_killed_process_is_free(url: str) -> None:
    with another_process(url) as process:
        process.kill()
        process.wait()
        writer = opened(url)
        writer.append(changes(1, 1)[0])
        writer.close()
    assert versions(backup_at(url)) == [2]


def test_lock_is_released_after_failed_open(url: str) -> None:
    segment = next(Path(url.removeprefix("file://")).glob("segment-*"))
    whole = segment.read_bytes()
    segment.write_bytes(b"")
    with pytest.raises(BackupError):
        opened(url)
    segment.write_bytes(whole)
    opened(url).close()


def test_place_that_has_no_locks_is_opened_without_lock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: FileLock) -> None:
        raise NoLocks

    monkeypatch.setattr(FileLock, "acquire", none)
    locks: list[Lock | None] = [LocalStorage(Path(url.removeprefix("file://"))).lock("test")]
    assert locks == [None]
    opened(url).close()


def test_lock_file_that_is_a_link_is_not_followed(url: str, tmp_path: Path) -> None:
    target = tmp_path / "somebody's file"
    target.write_bytes(b"precious")
    lock = Path(url.removeprefix("file://")) / "lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(target)
    with pytest.raises(BackupError):
        opened(url)
    assert target.read_bytes() == b"precious"
    lock.unlink()
    with suppress(FileNotFoundError):
        opened(url).close()
