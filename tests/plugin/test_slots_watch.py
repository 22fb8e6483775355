"""The key slots of an encrypted backup beside the running node: what is lost is found, told and written again."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from backends.keyring import DataKey
from backends.log.format.keys import KEYS, HsmSlot, KeysDocument, PassphraseSlot, ScryptCost
from backends.log.key_slots import (
    MAKESECRET_INFO,
    new_keys,
    open_with_passphrase,
    publish_keys,
    read_keys,
    with_passphrase,
    without,
)
from backends.log.status import TroubleKind
from backends.node.hsm_seed import derived_secret
from plugin import slots_watch
from plugin.slots_watch import SlotsWatch, mended
from tests.end_to_end.encrypted import HSM_SECRET
from tests.known_secret import SECRET
from tests.log.histories import backup_in, changes, silent, source
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

DERIVED = derived_secret(SECRET, MAKESECRET_INFO)
CHEAP = ScryptCost(1 << 14, 8, 1)
PASSPHRASE, NEW_PASSPHRASE = b"six random words", b"another, because the file was lost"


class Watched:
    """A watch over an encrypted backup with a slot for hsm_secret and one for a passphrase, and what it has said."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.lines = directory, list[tuple[str, str]]()
        (directory / HSM_SECRET).write_bytes(SECRET)
        self.storage = FaultyStorage(SimulatedStorage(SimulatedDisk()))
        backup_in(self.storage).create(source(), encrypt=self._made)
        self.writer = backup_in(self.storage).open(silent, "one")
        self.start()

    def _made(self, key: DataKey) -> None:
        self.key = key
        self.both = with_passphrase(new_keys(key, hsm_derived=DERIVED), key, PASSPHRASE, CHEAP)
        publish_keys(self.storage, self.both)

    def start(self) -> None:
        """As after another start of the node: nothing is remembered."""
        self.watch = SlotsWatch(self.directory, lambda level, line: self.lines.append((level, line)))

    def tick(self, looks: int = 2) -> list[str]:
        """Look this often; the levels of what was said."""
        for _ in range(looks):
            self.watch.tick(self.writer, None)
        levels, self.said = [level for level, _ in self.lines], [line for _, line in self.lines]
        self.lines.clear()
        assert all(line.isascii() for line in self.said)
        return levels

    def put(self, data: bytes) -> None:
        self.storage.storage.publish(KEYS, data)

    @property
    def stored(self) -> KeysDocument:
        return read_keys(self.storage.storage)

    @property
    def trouble(self) -> TroubleKind | None:
        assert self.watch.health is not None
        return None if self.watch.health.trouble is None else self.watch.health.trouble.kind


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    for name in ("LOOK_EVERY", "LOOK_AT_COSTLY_EVERY", "LOOK_AGAIN"):
        monkeypatch.setattr(slots_watch, name, 0.0)
    return Watched(tmp_path)


def test_slots_that_are_whole_cost_one_read_a_look(watched: Watched) -> None:
    watched.storage.calls.clear()
    assert watched.tick(3) == []
    assert watched.storage.calls == {"open": 3, "size": 3, "read": 3}
    assert (watched.trouble, watched.watch.health and watched.watch.health.usable) == (None, 2)


def test_look_waits_its_time_and_longer_where_requests_cost_money(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_watch, "LOOK_AT_COSTLY_EVERY", 3600.0)
    monkeypatch.setattr(type(watched.storage), "costly", True)
    watched.storage.calls.clear()
    watched.tick(50)
    assert watched.storage.calls["read"] == 1


@pytest.mark.parametrize("damage", ["missing", "rubbish", "another backup's", "one byte of a slot", "unsealed"])
def test_lost_slots_are_written_again_with_their_passphrases(watched: Watched, damage: str) -> None:
    watched.tick()
    data = watched.storage.storage.read_small(KEYS)
    if damage == "missing":
        watched.storage.storage.remove(KEYS)
    elif damage == "rubbish":
        watched.put(b"\0" * 100)
    elif damage == "another backup's":
        watched.put(new_keys(DataKey.new(bytes(16)), hsm_derived=DERIVED).encode())
    elif damage == "one byte of a slot":
        at = data.rindex(b'"wrapped": "') + 20
        watched.put(data[:at] + (b"f" if data[at : at + 1] != b"f" else b"0") + data[at + 1 :])
    else:  # by somebody who does not have the key
        watched.put(without(watched.both, 1).encode().replace(b"seal", b"seel"))
    assert watched.tick(1) == [], "a command may be changing the slots just now"
    assert watched.tick(1) == ["unusual"]
    assert "written again as this node had last seen it, passphrases included" in watched.said[0]
    assert watched.stored == watched.both and watched.stored.authentic
    assert open_with_passphrase(watched.stored, PASSPHRASE) == watched.key
    assert watched.trouble is None
    assert watched.tick() == []


def test_slots_that_were_never_seen_whole_become_one_for_hsm_secret(watched: Watched) -> None:
    watched.storage.storage.remove(KEYS)
    assert watched.tick() == ["unusual"]
    assert "Passphrases must be added again: backup-cli keys --add-passphrase" in watched.said[0]
    assert [name.kind for name in watched.stored.names] == [HsmSlot.kind]
    assert watched.trouble is None


def test_slots_that_cannot_be_made_again_are_a_trouble_that_is_told_once(watched: Watched) -> None:
    (watched.directory / HSM_SECRET).unlink()
    watched.put(new_keys(watched.key).encode())
    watched.tick()
    watched.start()
    watched.tick()
    watched.storage.storage.remove(KEYS)
    watched.watch._known = None
    assert watched.tick(4) == ["broken"]
    assert f"nothing but backup.key in {watched.directory} opens it" in watched.said[0]
    assert watched.trouble is TroubleKind.NO_KEY_SLOT
    publish_keys(watched.storage, watched.both)
    assert watched.tick() == [] and watched.trouble is None


def test_first_look_repeats_nothing_that_the_start_has_told(watched: Watched) -> None:
    (watched.directory / HSM_SECRET).unlink()
    watched.storage.storage.remove(KEYS)
    assert watched.tick(4) == []
    assert watched.trouble is TroubleKind.NO_KEY_SLOT


def test_what_a_person_has_changed_stays(watched: Watched) -> None:
    watched.tick()
    removed = without(watched.both, 1)
    publish_keys(watched.storage, removed)
    assert watched.tick() == [] and watched.stored == removed
    anew = new_keys(watched.key, passphrase=NEW_PASSPHRASE, cost=CHEAP)
    assert anew.next < removed.next
    publish_keys(watched.storage, anew)
    assert watched.tick() == [] and watched.stored == anew
    watched.storage.storage.remove(KEYS)
    assert watched.tick() == ["unusual"]
    assert open_with_passphrase(watched.stored, NEW_PASSPHRASE) == watched.key
    assert [name.kind for name in watched.stored.names] == [PassphraseSlot.kind, HsmSlot.kind], "not the earlier ones"


def test_damaged_slot_that_was_added_since_the_last_look_is_told_and_the_others_are_kept(watched: Watched) -> None:
    watched.tick()
    third = with_passphrase(watched.both, watched.key, b"a third", CHEAP)
    lost = replace(third, slots=third.slots[:1], lost=third.names[1:])
    damaged = bytearray(lost.encode())
    damaged[-3] ^= 1
    watched.put(bytes(damaged))
    assert watched.tick() == ["unusual", "unusual"]
    assert "key slot 3 of this backup is damaged" in watched.said[1]
    assert watched.stored.damaged == (3,)
    assert open_with_passphrase(watched.stored, PASSPHRASE) == watched.key
    assert watched.trouble is TroubleKind.KEY_SLOT_DAMAGED


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_names"])
def test_slots_that_cannot_be_written_are_told_once_tried_again_and_the_log_goes_on(
    watched: Watched, operation: str
) -> None:
    watched.tick()
    watched.storage.storage.remove(KEYS)
    watched.storage.fail(operation, errno.ENOSPC, sticky=True)  # type: ignore[arg-type]
    assert watched.tick(2) == ["unusual"]
    assert "No space left on device. It is tried again; changes are saved as before" in watched.said[0]
    assert watched.trouble is TroubleKind.NO_KEY_SLOT
    watched.storage.heal()
    for change in changes(3):
        watched.writer.append(change)
    watched.tick()
    assert watched.stored == watched.both and watched.trouble is None


def test_writer_that_was_replaced_writes_no_slots(watched: Watched) -> None:
    watched.tick()
    watched.storage.storage.remove(KEYS)
    backup_in(watched.storage.storage).open(silent, "another")
    assert watched.tick(4) == []
    assert KEYS not in watched.storage.storage.names()


def test_mended_document_is_what_is_known_where_nothing_can_be_read() -> None:
    document = new_keys(DataKey(bytes(16), bytes(range(32))), hsm_derived=DERIVED)
    assert mended(None, None) is None
    assert mended(document, None) == mended(None, document) == document
