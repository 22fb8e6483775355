"""A writer that was replaced acknowledges nothing more: no change that its successor has not read.

The two writers are threads of one process here, each with its own open files; the lock of the machine is switched off.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from backends import keyring, place_at
from backends.errors import BackupError, Fenced
from backends.log.backup import Backup
from backends.log.writer.options import LogOptions
from backends.storage import local_files
from backends.storage.base import FileFenced
from backends.storage.local import LocalStorage
from tests.log.conftest import DATABASE, SMALL
from tests.log.destinations import Maker
from tests.log.histories import CAMPAIGN, changes, silent, source
from tests.log.model import versions

ROUNDS = 25 * CAMPAIGN


class Stream:
    """A writer at full speed, from the backup's last version on, until it is refused."""

    def __init__(self, backup: Backup, name: str) -> None:
        self.writer = backup.open(silent, name)
        self.acknowledged = self.writer.position.data_version
        self.refusal: BackupError | None = None
        self._rng = random.Random(name)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._append), threading.Thread(target=self._maintain)]

    def start(self) -> "Stream":
        for thread in self._threads:
            thread.start()
        return self

    def join(self) -> None:
        """Wait until it has been refused."""
        for thread in self._threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), "it still writes although it was replaced"

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.writer.close()

    def _append(self) -> None:
        while not self._stop.is_set():
            change = changes(1, self.acknowledged, self._rng.choice([0, 300, 3000]))[0]
            try:
                self.writer.append(change)
            except BackupError as error:
                self.refusal = error
                return
            self.acknowledged = change.data_version

    def _maintain(self) -> None:
        while not self._stop.is_set() and self.refusal is None:
            self.writer.maintain()
            time.sleep(0.001)


@pytest.fixture
def options(small: LogOptions) -> LogOptions:
    """Small segments; the session marker is checked too rarely to help."""
    return replace(small, check_every=1e9)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where the backup is."""
    return (tmp_path / "lightning.bkp").as_uri()


@pytest.fixture
def created(url: str, options: LogOptions) -> Maker:
    """Returns the Backup as another process would have it; it was created at version 1."""

    def make() -> Backup:
        return Backup(place_at(url), options)

    make().create(source(DATABASE, 1, "02aa"))
    return make


def disturbed(created: Maker, rounds: int) -> int:
    """Let a new writer take over a busy one, `rounds` times; returns how many acknowledged changes are lost."""
    rng, lost = random.Random(rounds), 0
    stream = Stream(created(), "first").start()
    for number in range(rounds):
        time.sleep(rng.uniform(0.0, 0.03))
        second = Stream(created(), f"writer {number}")
        taken_over_at = second.acknowledged
        stream.join()
        lost += max(0, stream.acknowledged - taken_over_at)
        assert isinstance(stream.refusal, Fenced)
        with suppress(BackupError):
            stream.writer.close()
        stream = second.start()
    stream.end()
    assert stream.refusal is None
    assert versions(created())[-1] == stream.acknowledged
    return lost


def test_takeover_of_busy_writer_loses_nothing_acknowledged(created: Maker) -> None:
    assert disturbed(created, ROUNDS) == 0


def test_harness_sees_loss_when_file_is_not_checked_after_each_sync(
    created: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_files, "_is_ours", lambda descriptor: True)
    lost = 0
    for number in range(10):
        first = Stream(created(), f"first {number}").start()
        time.sleep(0.02)
        second = created().open(silent, f"second {number}")
        taken_over_at = second.position.data_version
        time.sleep(0.05)
        first.end()
        lost += max(0, first.acknowledged - taken_over_at)
        second.close()
    assert lost > 0


@pytest.mark.parametrize("how", ["sealed", "removed", "replaced"])
def test_write_to_file_taken_by_another_writer_is_not_acknowledged(tmp_path: Path, how: str) -> None:
    storage = LocalStorage(tmp_path)
    handle = storage.create("segment")
    handle.write_durably(0, b"ours")
    if how == "sealed":
        assert LocalStorage(tmp_path).seal("segment")
    elif how == "removed":
        (tmp_path / "segment").unlink()
    else:
        (tmp_path / "another").write_bytes(b"theirs")
        (tmp_path / "another").rename(tmp_path / "segment")
    with pytest.raises(FileFenced):
        handle.write_durably(4, b"not ours any more")
    handle.close()


@pytest.mark.parametrize("rename", ["rename", "rename_new"])
def test_file_renamed_by_its_own_writer_is_still_written_to(tmp_path: Path, rename: str) -> None:
    storage = LocalStorage(tmp_path)
    handle = storage.create("segment.tmp")
    getattr(storage, rename)("segment.tmp", "segment")
    handle.write_durably(0, b"ours")
    handle.close()


def test_mount_that_hides_write_bits_is_still_written_to(tmp_path: Path) -> None:
    """Some mounts give every file a fixed mode (fmask=0377): no fence works there, and writes must not be refused."""
    real = os.fstat

    def masked(descriptor: int) -> os.stat_result:
        mode, *others = real(descriptor)
        return os.stat_result((int(mode) & ~0o222, *others))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fstat", masked)
        handle = LocalStorage(tmp_path).create("segment")
        handle.write_durably(0, b"ours")
        handle.close()


@pytest.mark.parametrize("moment", ["before the segment is made", "while it is made", "when it has its name"])
def test_segment_made_in_advance_during_takeover_is_never_used(
    created: Maker, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The first writer is held up between two checks of the marker; meanwhile the other takes over and finishes."""
    first = created().open(silent, "first")
    first.append(changes(1, 1)[0])
    create, rename = LocalStorage.create, LocalStorage.rename_new
    second: list[int] = []

    def take_over() -> None:
        if not second:
            second.append(0)
            second[0] = created().open(silent, "second").position.data_version

    def creating(self: LocalStorage, name: str) -> object:
        if self is first.storage and name.startswith("segment-00000002-") and moment == "before the segment is made":
            take_over()
        return create(self, name)

    def renaming(self: LocalStorage, old: str, new: str) -> None:
        if self is first.storage and new == "segment-00000002" and moment == "while it is made":
            take_over()
        rename(self, old, new)
        if self is first.storage and new == "segment-00000002" and moment == "when it has its name":
            take_over()

    monkeypatch.setattr(LocalStorage, "create", creating)
    monkeypatch.setattr(LocalStorage, "rename_new", renaming)
    acknowledged = 2
    with pytest.raises(Fenced):
        while True:
            (change,) = changes(1, acknowledged, 900)
            first.append(change)
            acknowledged = change.data_version
            first.maintain()
            assert acknowledged < 100
    assert second == [acknowledged]


_NODE = """
import json, sys
from backends import backup_at, keyring
from tests.log.histories import changes
keyring.take(json.loads(sys.stdin.readline()))
backup = backup_at(sys.argv[1])
backup.storage.lock = lambda what: None
writer = backup.open(lambda level, line: None, "first")
version = writer.position.data_version
print(version, flush=True)
while True:
    (change,) = changes(1, version, 300)
    writer.append(change)
    version = change.data_version
    print(version, flush=True)
"""


def test_writer_frozen_in_middle_of_write_is_fenced_when_it_wakes_up(
    created: Maker, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process (a suspended virtual machine, a debugger) wakes up after the takeover is complete."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    said = tmp_path / "said"
    for number in range(5 * CAMPAIGN):
        complaint = tmp_path / "complaint"
        with said.open("w") as out, complaint.open("w") as err:
            command = [sys.executable, "-c", _NODE, url]
            first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err, text=True)
        assert first.stdin is not None
        with first.stdin as keys:
            keys.write(json.dumps(keyring.export()) + "\n")
        while not said.read_text().endswith("\n") or said.read_text().count("\n") < 20:
            assert first.poll() is None
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)
        time.sleep(0.01)
        second = created().open(silent, f"second {number}")
        taken_over_at = second.position.data_version
        second.append(changes(1, taken_over_at)[0])
        first.send_signal(signal.SIGCONT)
        assert first.wait(30) == 1
        assert "Fenced: another" in complaint.read_text()
        assert int(said.read_text().split()[-1]) <= taken_over_at
        second.close()


@pytest.mark.parametrize("options", [SMALL], ids=["marker checked each time"])
def test_writer_notices_offline_command_by_session_marker_alone(
    created: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files cannot be sealed, only the marker shows a takeover; the node must stop while a command is writing."""
    monkeypatch.setattr(LocalStorage, "seal", lambda self, name: False)
    monkeypatch.setattr(local_files, "_is_ours", lambda descriptor: True)
    node = created().open(silent, "the node")
    node.append(changes(1, 1)[0])
    command = created().open(silent)
    node.maintain()
    with pytest.raises(Fenced):
        node.append(changes(1, 2)[0])
    command.close()
    last = created().last_writer()
    assert last is not None
    assert last.session_id == "the node"  # so the node may continue with its backup at its next start


def test_replaced_writer_that_rewrites_its_marker_gets_no_new_segment(created: Maker, options: LogOptions) -> None:
    """It was held up while writing its note, and its segment is full: the next segment would not be a sealed one."""
    first = created().open(silent, "first")
    fence = first.storage.read_small("session")
    version = 1
    while first.sizes().segments < options.segment_size:
        (change,) = changes(1, version, 900)
        first.append(change)
        version = change.data_version
    second = created().open(silent, "second")
    assert second.position.data_version == version
    first.storage.publish("session", fence)
    with pytest.raises(Fenced):
        first.append(changes(1, version)[0])
    second.close()
