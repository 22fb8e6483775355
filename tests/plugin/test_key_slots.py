"""Which key slots a start makes, by what each member of the backup holds."""

from pathlib import Path

import pytest

from backends.errors import BackupError, Unreachable
from backends.keyring import DataKey
from backends.log.format.keys import KEYS, HsmSlot, KeysDocument, PassphraseSlot, ScryptCost
from backends.log.key_slots import (
    MAKESECRET_INFO,
    new_keys,
    open_with_hsm,
    publish_keys,
    read_keys,
    with_passphrase,
    without,
)
from backends.node.hsm_seed import derived_secret
from backends.storage.base import Storage
from plugin.key_slots import Slots, slots_at_start
from tests.known_secret import SECRET
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

KEY = DataKey(bytes(16), bytes(range(32)))
DERIVED = derived_secret(SECRET, MAKESECRET_INFO)
NONE, HSM = new_keys(KEY), new_keys(KEY, hsm_derived=DERIVED)
PASSPHRASE = new_keys(KEY, passphrase=b"six random words", cost=ScryptCost(1 << 14, 8, 1))
BOTH = with_passphrase(HSM, KEY, b"six random words", ScryptCost(1 << 14, 8, 1))
OTHER = new_keys(DataKey.new(bytes(16)), hsm_derived=DERIVED)


def member(document: KeysDocument | None) -> Storage:
    storage = SimulatedStorage(SimulatedDisk())
    storage.make()
    if document is not None:
        publish_keys(storage, document)
    return storage


class Unanswering(SimulatedStorage):
    """A destination whose files cannot be read."""

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "hsm_secret").write_bytes(SECRET)
    return tmp_path


def stored(node: Path, *documents: KeysDocument | None, first: bool = False) -> tuple[Slots, list[list[str]]]:
    """What a start decides for members with these documents, and the kinds of slots that each holds afterwards."""
    members = {f"m{number}": member(document) for number, document in enumerate(documents)}
    slots = slots_at_start(node, members, KEY, first=first)
    for storage in members.values():
        slots.store(storage)
    after = [read_keys(storage) for storage in members.values()]
    for document in after:
        if any(name.kind == HsmSlot.kind for name in document.names):
            assert open_with_hsm(document, DERIVED) == KEY
    return slots, [[name.kind for name in document.names] for document in after]


@pytest.mark.parametrize(
    ("documents", "published", "kinds"),
    [
        ([HSM], False, ["hsm"]),
        ([BOTH, BOTH], False, ["hsm", "passphrase"]),
        ([NONE], True, ["hsm"]),
        ([NONE, NONE], True, ["hsm"]),
        ([HSM, NONE], True, ["hsm"]),  # a crash after the first of two members
        ([NONE, HSM], True, ["hsm"]),
        ([HSM, BOTH], True, ["hsm", "passphrase"]),
        ([None, BOTH], True, ["hsm", "passphrase"]),
        ([PASSPHRASE], True, ["passphrase", "hsm"]),
        ([None], True, ["hsm"]),
        ([OTHER, HSM], True, ["hsm"]),
        ([OTHER], True, ["hsm"]),
    ],
)
def test_every_member_ends_with_the_same_slots_and_one_of_them_for_hsm_secret(
    node: Path, documents: list[KeysDocument | None], published: bool, kinds: list[str]
) -> None:
    slots, after = stored(node, *documents)
    assert slots.publish is published
    assert after == [kinds] * len(documents)
    assert all(line.isascii() for _, line in slots.lines)


def test_slots_that_are_whole_are_written_again_in_a_file_that_is_not(node: Path) -> None:
    storage = member(BOTH)
    data = storage.read_small(KEYS)
    storage.publish(KEYS, data[:-2] + bytes([data[-2] ^ 1]) + b"\n")
    assert not read_keys(storage).intact
    slots_at_start(node, {"m": storage}, KEY, first=False).store(storage)
    assert read_keys(storage).intact
    assert read_keys(storage) == BOTH


def test_damaged_slot_is_told_and_left(node: Path) -> None:
    storage = member(BOTH)
    data = storage.read_small(KEYS)
    at = data.rindex(b'"wrapped": "') + 20
    storage.publish(KEYS, data[:at] + (b"f" if data[at : at + 1] != b"f" else b"0") + data[at + 1 :])
    damaged = read_keys(storage)
    assert damaged.damaged
    slots = slots_at_start(node, {"m": storage}, KEY, first=False)
    assert not slots.publish
    [(level, line)] = slots.lines
    assert level == "unusual" and "is damaged" in line and "backup-cli keys" in line


def test_slot_for_hsm_secret_that_was_removed_is_not_made_again(node: Path) -> None:
    slots, after = stored(node, without(BOTH, 1))
    assert not slots.publish
    assert after == [["passphrase"]]


def test_slots_that_cannot_be_read_stop_only_the_first_start(node: Path) -> None:
    storage = Unanswering(SimulatedDisk())
    storage.make()
    slots = slots_at_start(node, {"m": storage}, KEY, first=False)
    assert not slots.publish and slots.lines[0][0] == "unusual"
    with pytest.raises(Unreachable):
        slots_at_start(node, {"m": storage}, KEY, first=True)


def test_hsm_secret_in_no_form_that_lightningd_accepts_is_named(node: Path) -> None:
    (node / "hsm_secret").write_bytes(b"short")
    with pytest.raises(BackupError, match=r"no hsm_secret that lightningd accepts.*--add-passphrase"):
        slots_at_start(node, {"m": member(NONE)}, KEY, first=True)
    slots = slots_at_start(node, {"m": member(PASSPHRASE)}, KEY, first=True)
    assert [name.kind for name in slots.document.names] == [PassphraseSlot.kind]
