"""The document `keys`: read back as written, slot by slot when it is damaged, and never believed beyond its limits."""

import json
import random
from dataclasses import replace
from itertools import product
from typing import Any
from zlib import crc32

import pytest

from backends.errors import BackupError, DamagedSlot, FromTheFuture, NotABackup
from backends.keyring import DataKey
from backends.log.format.keys import (
    MAX_KEYS_SIZE,
    MAX_SLOT_NUMBER,
    MAX_SLOTS,
    HsmSlot,
    KeysDocument,
    PassphraseSlot,
    ScryptCost,
    SlotName,
)

KEY = DataKey(bytes(range(16)), bytes(range(100, 132)))
HSM = HsmSlot(1, 1_764_000_000, b"s" * 32, b"w" * 48)
PASS = PassphraseSlot(2, 1_764_000_001, b"t" * 32, 1 << 14, 8, 1, b"v" * 48)
LAST = PassphraseSlot(5, 1_764_000_002, b"u" * 32, 1 << 17, 8, 1, b"x" * 48)
DOCUMENT = KeysDocument(KEY.backup_id, KEY.id, (HSM, PASS, LAST), (), 7)

Fields = dict[str, Any]


def sealed(fields: Fields) -> Fields:
    """The entry with the checksum that belongs to it."""
    own = {name: value for name, value in fields.items() if name != "crc" and value is not ...}
    return {**own, "crc": f"{crc32(json.dumps(own, sort_keys=True).encode()):08x}"}


def forged(whole: Fields) -> bytes:
    """A file whose outer checksum is right."""
    line = json.dumps(whole).encode()
    return line + b"\n%08x\n" % crc32(line)


def fields_of(document: KeysDocument) -> Fields:
    fields: Fields = json.loads(document.encode().split(b"\n")[0])
    return fields


def with_slot(index: int, /, **changed: Any) -> bytes:
    """DOCUMENT, with its slot at this index changed by somebody who can compute checksums."""
    whole = fields_of(DOCUMENT)
    whole["slots"][index] = sealed({**whole["slots"][index], **changed})
    return forged(whole)


def with_all(**changed: Any) -> bytes:
    """DOCUMENT, with the part that every entry repeats changed everywhere."""
    whole = fields_of(DOCUMENT)
    whole["list"] = sealed({**whole["list"], **changed})
    whole["slots"] = [sealed({**slot, **changed}) for slot in whole["slots"]]
    return forged(whole)


@pytest.mark.parametrize(
    "document",
    [DOCUMENT, KeysDocument(KEY.backup_id, KEY.id), replace(DOCUMENT, slots=(HSM,), lost=(SlotName(4, "passphrase"),))],
    ids=["three", "none", "one damaged"],
)
def test_keys_document_is_read_back_as_written(document: KeysDocument) -> None:
    found = KeysDocument.decode(document.encode())
    assert (found, found.intact) == (document, True)


def test_largest_keys_document_is_read_back() -> None:
    first = MAX_SLOT_NUMBER - 1 - MAX_SLOTS
    slots = tuple(replace(LAST, number=first + index, created=(1 << 32) - 1) for index in range(MAX_SLOTS))
    document = KeysDocument(KEY.backup_id, KEY.id, slots, (), MAX_SLOT_NUMBER - 1)
    assert len(document.encode()) <= MAX_KEYS_SIZE
    assert KeysDocument.decode(document.encode()) == document


def test_keys_document_holds_public_fields_only() -> None:
    whole = fields_of(DOCUMENT)
    common = {"backup_id", "key_id", "next", "all", "crc"}
    assert set(whole) == {"lightningd-backup", "list", "slots"}
    assert set(whole["list"]) == common
    own = {"number", "kind", "created", "salt", "wrapped"}
    assert [set(slot) - common for slot in whole["slots"]] == [own, own | set("nrp"), own | set("nrp")]


# Damage


def test_every_changed_byte_of_keys_document_costs_one_slot_at_most_and_names_it() -> None:
    data = DOCUMENT.encode()
    all_lost: set[SlotName] = set()
    for offset, new in product(range(len(data)), (None, *b'{}"\n ')):
        byte = data[offset] ^ 1 if new is None else new
        if byte == data[offset]:
            continue
        found = KeysDocument.decode(data[:offset] + bytes([byte]) + data[offset + 1 :])
        assert not found.intact
        assert len(found.lost) <= 1, offset
        assert found.names == DOCUMENT.names, offset
        assert set(found.slots) == {slot for slot in DOCUMENT.slots if slot.number not in found.damaged}, offset
        assert (found.backup_id, found.key_id, found.next) == (KEY.backup_id, KEY.id, 7)
        all_lost.update(found.lost)
    assert all_lost == set(DOCUMENT.names)


def test_lost_sector_of_keys_document_costs_slots_in_it_only() -> None:
    document = replace(DOCUMENT, slots=tuple(replace(PASS, number=number) for number in range(1, 7)), next=7)
    data = document.encode()
    for start in range(0, len(data), 512):
        found = KeysDocument.decode(data[:start] + bytes(512) + data[start + 512 :])
        assert len(found.slots) >= 3
        assert set(found.slots) <= set(document.slots)
        assert found.names == document.names


def test_keys_document_cut_off_anywhere_names_what_is_lost() -> None:
    data = DOCUMENT.encode()
    first = data.index(b"}") + 1
    for length in range(len(data)):
        if length < first:
            with pytest.raises(DamagedSlot):
                KeysDocument.decode(data[:length])
        else:
            found = KeysDocument.decode(data[:length])
            assert (found.names, found.intact) == (DOCUMENT.names, False)


def test_damaged_slot_keeps_its_number_when_document_is_written_again() -> None:
    data = DOCUMENT.encode()
    offset = data.index(PASS.wrapped.hex().encode())
    found = KeysDocument.decode(data[:offset] + b"0" + data[offset + 1 :])
    assert (found.damaged, found.lost) == ((2,), (SlotName(2, "passphrase"),))
    again = KeysDocument.decode(found.encode())
    assert (again, again.intact) == (found, True)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\0" * 4096, b"{}" * 1000, b"{" * MAX_KEYS_SIZE, b'{"a":' * 5000, b"x" * (MAX_KEYS_SIZE + 1)]
)
def test_keys_document_without_a_readable_part_says_what_opens_the_backup(data: bytes) -> None:
    with pytest.raises(DamagedSlot, match=r"backup\.key .* still opens it.*backup-cli keys --add-passphrase") as error:
        KeysDocument.decode(data)
    assert (error.value.kind, error.value.exit_code, error.value.slots) == ("damaged_slot", 3, ())


def test_keys_document_of_too_many_bytes_is_not_looked_through() -> None:
    data = DOCUMENT.encode()
    assert KeysDocument.decode(data + b" " * (MAX_KEYS_SIZE - len(data))).slots == DOCUMENT.slots
    with pytest.raises(DamagedSlot):
        KeysDocument.decode(data + b" " * (MAX_KEYS_SIZE - len(data) + 1))


def test_keys_document_of_later_release_is_refused() -> None:
    with pytest.raises(FromTheFuture):
        KeysDocument.decode(forged({**fields_of(DOCUMENT), "lightningd-backup": 1000}))


def test_document_of_another_program_is_refused() -> None:
    with pytest.raises(NotABackup):
        KeysDocument.decode(forged({"keys": 1}))


# Attacks: every checksum is right


@pytest.mark.parametrize(
    ("n", "r", "p", "allowed"),
    [
        (1 << 14, 1, 1, True),
        (1 << 17, 8, 1, True),
        (1 << 17, 8, 8, True),
        (1 << 20, 8, 1, True),
        (1 << 19, 16, 1, True),
        (1 << 20, 16, 1, False),
        (1 << 20, 8, 2, False),
        (1 << 21, 1, 1, False),
        (1 << 13, 8, 1, False),
        ((1 << 17) + 1, 8, 1, False),
        (1 << 14, 17, 1, False),
        (1 << 14, 8, 9, False),
        (1 << 14, 0, 1, False),
        (1 << 14, 8, 0, False),
        (-(1 << 17), -8, 1, False),
    ],
)
def test_scrypt_parameters_have_limits(n: int, r: int, p: int, allowed: bool) -> None:
    assert ScryptCost(n, r, p).allowed is allowed
    found = KeysDocument.decode(with_slot(1, n=n, r=r, p=p))
    assert found.damaged == (() if allowed else (2,))


@pytest.mark.parametrize(
    "changed",
    [
        {"n": True},
        {"n": 131072.0},
        {"n": "131072"},
        {"n": 10**4000},
        {"r": None},
        {"p": ...},
        {"salt": ""},
        {"salt": "ab" * 31},
        {"salt": "ab" * 31 + "  "},
        {"salt": "zz" * 32},
        {"salt": 7},
        {"wrapped": "ab" * 47},
        {"wrapped": "ab" * 4800},
        {"wrapped": "\udcff" * 96},
        {"kind": "hsm"},
        {"kind": "tpm"},
        {"kind": None},
        {"kind": ["hsm"]},
        {"number": 1},
        {"number": 3},
        {"number": 0},
        {"number": "2"},
        {"number": 1 << 70},
        {"backup_id": "00" * 16},
        {"key_id": "00" * 8},
        {"next": 8},
        {"all": [[2, "passphrase"]]},
    ],
    ids=str,
)
def test_forged_slot_counts_as_damaged_and_others_stay(changed: Fields) -> None:
    found = KeysDocument.decode(with_slot(1, **changed))
    assert (found.slots, found.damaged) == ((HSM, LAST), (2,))


@pytest.mark.parametrize("created", [-1, 0, 1 << 33, "yesterday", None, 1.5, ...])
def test_impossible_time_of_a_slot_counts_as_unknown(created: Any) -> None:
    found = KeysDocument.decode(with_slot(1, created=created))
    assert found.slots[1] == replace(PASS, created=0)


@pytest.mark.parametrize(
    "changed",
    [
        {"backup_id": "00" * 15},
        {"backup_id": None},
        {"key_id": "00" * 9},
        {"key_id": 7},
        {"next": 5},
        {"next": 0},
        {"next": MAX_SLOT_NUMBER},
        {"next": 7.0},
        {"all": None},
        {"all": 7},
        {"all": [[number + 1, "hsm"] for number in range(MAX_SLOTS + 1)], "next": 100},
        {"all": [[2, "hsm"], [1, "hsm"]]},
        {"all": [[1, "hsm"], [1, "hsm"]]},
        {"all": [[1, "tpm"]]},
        {"all": [[1, ["hsm"]]]},
        {"all": [[True, "hsm"]]},
        {"all": [[1]]},
        {"all": [1, 2, 5]},
        {"all": [[0, "hsm"]]},
        {"all": [[-1, "hsm"]]},
    ],
    ids=str,
)
def test_document_that_contradicts_itself_everywhere_is_damaged(changed: Fields) -> None:
    with pytest.raises(DamagedSlot):
        KeysDocument.decode(with_all(**changed))


def test_slot_that_is_not_listed_is_ignored() -> None:
    whole = fields_of(DOCUMENT)
    whole["slots"].append(sealed({**whole["slots"][0], "number": 4}))
    assert KeysDocument.decode(forged(whole)) == DOCUMENT


def test_second_slot_with_one_number_is_ignored() -> None:
    whole = fields_of(DOCUMENT)
    whole["slots"].append(sealed({**whole["slots"][0], "salt": "00" * 32}))
    assert KeysDocument.decode(forged(whole)) == DOCUMENT


@pytest.mark.parametrize("depth", [100, 10_000, 20_000])
def test_deep_json_in_a_slot_counts_as_damaged(depth: int) -> None:
    data = DOCUMENT.encode()
    deep = b'"salt": ' + b"[" * depth + b"]" * depth
    changed = data.replace(b'"salt": "' + PASS.salt.hex().encode() + b'"', deep)
    assert changed != data
    found = KeysDocument.decode(changed)
    assert (found.slots, found.damaged) == ((HSM, LAST), (2,))
    line = changed.split(b"\n")[0]
    assert KeysDocument.decode(line + b"\n%08x\n" % crc32(line)).damaged == (2,)


def test_random_bytes_in_keys_document_never_cause_another_error() -> None:
    rng, data = random.Random(7), DOCUMENT.encode()
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 40)):
            changed[rng.randrange(len(changed))] = (
                rng.choice(b'{}[]",:0a\\\n\xff') if rng.random() < 0.7 else rng.randrange(256)
            )
        try:
            found = KeysDocument.decode(bytes(changed))
        except BackupError:
            continue
        assert set(found.slots) <= set(DOCUMENT.slots)
        assert found.names == DOCUMENT.names
