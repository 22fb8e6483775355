"""No nonce is used twice under one key, over random histories with everything that makes a writer begin again.

Each encryption is noted where the cipher is made, so whatever the code above it believes does not count. That the test
would notice is shown with products that are broken in the three ways that come to mind.
"""

import errno
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backends.errors import BackupError
from backends.log.format import encryption
from backends.log.format.encryption import Sealer
from backends.log.writer.writer import Writer
from tests.log.conftest import SMALL
from tests.log.histories import CAMPAIGN, Node, changes, noise
from tests.log.model import contents
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait", "encrypted")

HISTORIES = 40 * CAMPAIGN

CHUNK = 1 << 12
"""Bytes; so small that a record of a few kilobytes has several chunks."""


class Recorder:
    """Notes every key and nonce that something was encrypted with."""

    def __init__(self) -> None:
        self.used = set[tuple[bytes, bytes]]()
        self.twice = 0

    def cipher(self, key: bytes) -> "_Recording":
        """In place of the function that makes a cipher."""
        return _Recording(self, key)

    def note(self, key: bytes, nonce: bytes) -> None:
        """One encryption."""
        assert (len(key), len(nonce)) == (32, 12)
        self.twice += (key, nonce) in self.used
        self.used.add((key, nonce))


class _Recording:
    def __init__(self, recorder: Recorder, key: bytes) -> None:
        self._recorder, self._key, self._cipher = recorder, key, AESGCM(key)

    def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        self._recorder.note(self._key, nonce)
        return self._cipher.encrypt(nonce, data, associated)

    def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        return self._cipher.decrypt(nonce, data, associated)


class Life:
    """A random life of one node. `counts` says what happened in it."""

    def __init__(self, seed: int, scratch: Path) -> None:
        self.rng, self.disk = random.Random(seed), SimulatedDisk()
        self.faulty = FaultyStorage(SimulatedStorage(self.disk))
        self.node = Node(self.faulty, scratch, SimulatedStorage(self.disk), SMALL)
        self.counts: Counter[str] = Counter()

    def live(self, steps: int) -> None:
        """From the first start on."""
        self.node.create()
        self.node.open()
        self.node.append(self.node.history.first())
        kinds = [self.commit, self.commit, self.commit, self.large, self.maintain, self.stop, self.kill, self.snapshot,
                 self.compact, self.take_over, self.power_cut, self.power_cut, self.failing_write]  # fmt: skip
        for _ in range(steps):
            kind = self.rng.choice(kinds)
            self.counts[kind.__name__] += 1
            kind()
        self.node.close()
        assert contents(self.node.backup()) == self.node.now.contents

    def commit(self) -> None:
        self.node.note(noise(self.rng.choice((0, 50, 900)), self.node.now.version))

    def large(self) -> None:
        """A record of several chunks."""
        self.node.note(noise(self.rng.choice((5000, 13_000)), self.node.now.version))

    def maintain(self) -> None:
        """Also writes the session marker again."""
        self.node.writer.maintain()

    def stop(self) -> None:
        self.node.close()
        self.node.open("after a stop")

    def kill(self) -> None:
        self.node.open("after a kill")

    def snapshot(self) -> None:
        self.node.snapshot()

    def compact(self) -> None:
        self.node.compact(self.commit if self.rng.random() < 0.5 else lambda: None)

    def take_over(self) -> None:
        """By a second writer, while the first one goes on: it may be refused at once, or only find out later."""
        first = self.node.writer
        self.node.open("a second writer")
        self._go_on(first)
        self.commit()
        self._go_on(first)

    def _go_on(self, fenced: Writer) -> None:
        try:
            fenced.append(changes(1, fenced.position.data_version, 100)[0])
            self.counts["appended although replaced"] += 1
        except BackupError:
            self.counts["refused after a take-over"] += 1
        fenced.maintain()

    def power_cut(self) -> None:
        """In the middle of some step; what it tore is written again, perhaps with other content."""
        self.disk.crash_at(self.disk.operations + self.rng.randint(1, 12))
        step = self.rng.choice((self.commit, self.commit, self.large, self.stop, self.snapshot, self.compact))
        try:
            step()
            self.disk.is_off = True
        except PowerCut:
            self.counts["cut in the middle"] += 1
        self.disk = self.disk.crash(self.rng)
        self.faulty = FaultyStorage(SimulatedStorage(self.disk))
        self.node.storage, self.node.plain = self.faulty, SimulatedStorage(self.disk)
        self._start_again()

    def failing_write(self) -> None:
        """A commit of which the disk takes a part, or all, and says that it failed."""
        self.faulty.fail("write_durably", errno.EIO, nth=1, done=self.rng.choice((0.0, 0.5, 1.0)))
        try:
            self.commit()
        except BackupError:
            self.counts["refused"] += 1
        self.faulty.heal()
        self._start_again()

    def _start_again(self) -> None:
        self.node.go_on("after a failure")


def lives(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[tuple[Recorder, Life]]:
    """So many lives, each with what was encrypted in it."""
    monkeypatch.setattr(encryption, "CHUNK", CHUNK)
    for seed in range(count):
        recorder = Recorder()
        monkeypatch.setattr(encryption, "_aead", recorder.cipher)
        with tempfile.TemporaryDirectory() as scratch:
            life = Life(seed, Path(scratch))
            life.live(25)
        yield recorder, life


def test_no_nonce_is_used_twice_in_random_histories(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    counts: Counter[str] = Counter()
    for recorder, life in lives(monkeypatch, HISTORIES):
        assert recorder.twice == 0
        counts.update(life.counts)
        counts["encryptions"] += len(recorder.used)
        counts["keys"] += len({key for key, _ in recorder.used})
    for what, number in counts.items():
        record_property(what, number)
    print(dict(counts))
    assert counts["encryptions"] > 1.3 * counts["keys"]
    for what in ("cut in the middle", "refused", "refused after a take-over", "compact", "snapshot", "large"):
        assert counts[what] > HISTORIES // 2, what


@contextmanager
def fixed_salt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every stream and every text file begins with the same salt."""
    with monkeypatch.context() as patch:
        patch.setattr(encryption, "secrets", _Fixed)
        yield


class _Fixed:
    @staticmethod
    def token_bytes(size: int) -> bytes:
        return bytes(size)


@contextmanager
def counter_restarted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The nonce counts within a record, and not within the stream."""
    seal = Sealer.seal

    def restarting(self: Sealer, *args: Any, **named: Any) -> bytes:
        self._chunk = 0
        return seal(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Sealer, "seal", restarting)
        yield


@contextmanager
def salt_of_the_last_stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stream that begins in a segment after a restart has the key of the one before it there."""
    salts: dict[bytes, bytes] = {}
    begin = Sealer._begin

    def beginning(self: Sealer, salt: bytes) -> None:
        begin(self, salts.setdefault(self._about, salt))

    with monkeypatch.context() as patch:
        patch.setattr(Sealer, "_begin", beginning)
        yield


BROKEN = {"salt fixed": fixed_salt, "counter restarted": counter_restarted, "last salt": salt_of_the_last_stream}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_product_is_noticed(
    monkeypatch: pytest.MonkeyPatch, broken: str, record_property: Callable[[str, object], None]
) -> None:
    """A product that cannot read back what it wrote is noticed as well, so a life may end with an error."""
    found, tried = 0, HISTORIES // 2
    with BROKEN[broken](monkeypatch):
        for seed in range(tried):
            recorder = Recorder()
            monkeypatch.setattr(encryption, "CHUNK", CHUNK)
            monkeypatch.setattr(encryption, "_aead", recorder.cipher)
            with tempfile.TemporaryDirectory() as scratch, suppress(BackupError, AssertionError):
                Life(seed, Path(scratch)).live(25)
            found += recorder.twice > 0
    record_property("found", f"{found} of {tried}")
    print(broken, f"found in {found} of {tried} histories")
    assert found > tried * 9 // 10
