"""Key slots: made, opened, added and removed; what damaged, foreign and forged ones do; the document in a place."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from backends.errors import (
    BackupError,
    DamagedSlot,
    KeyNeeded,
    Unreachable,
    WrongKey,
    WrongPassphrase,
    WrongSecret,
)
from backends.keyring import DataKey, derived
from backends.log.format.keys import (
    KEYS,
    MAX_KEYS_SIZE,
    MAX_SLOT_NUMBER,
    MAX_SLOTS,
    KeysDocument,
    PassphraseSlot,
    ScryptCost,
    Slot,
    SlotName,
)
from backends.log.key_slots import (
    DEFAULT_COST,
    new_keys,
    open_with_hsm,
    open_with_passphrase,
    publish_keys,
    read_keys,
    slots_in_words,
    with_hsm_slot,
    with_passphrase,
    without,
)
from backends.storage.local import LocalStorage
from tests.storage.test_power_cut import cuts

KEY = DataKey(bytes(range(16)), bytes(range(100, 132)))
OTHER = DataKey(bytes(16), bytes(range(32)))
HSM, OTHER_HSM = b"h" * 32, b"o" * 32
WORDS, MORE_WORDS = b"correct horse battery staple", "na\u00efve caf\u00e9".encode()
CHEAP = ScryptCost(1 << 14, 1, 1)


def three() -> KeysDocument:
    """A slot for hsm_secret, and two passphrases."""
    document = new_keys(KEY, hsm_derived=HSM, passphrase=WORDS, cost=CHEAP)
    return with_passphrase(document, KEY, MORE_WORDS, CHEAP)


THREE = three()


def read_back(document: KeysDocument) -> KeysDocument:
    return KeysDocument.decode(document.encode())


def changed(document: KeysDocument, number: int, **fields: Any) -> KeysDocument:
    """The document with other fields in one slot, as its reader sees it if the checksums are right."""

    def one(slot: Slot) -> Slot:
        return replace(slot, **fields) if slot.number == number else slot

    return read_back(replace(document, slots=tuple(map(one, document.slots))))


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def rotten(document: KeysDocument, *numbers: int) -> KeysDocument:
    """The document after these slots have changed on the disk."""
    data = document.encode()
    for slot in document.slots:
        if slot.number in numbers:
            data = data.replace(slot.wrapped.hex().encode(), flipped(slot.wrapped).hex().encode())
    return KeysDocument.decode(data)


# Making and opening


def test_every_slot_gives_the_key() -> None:
    document = read_back(THREE)
    assert [(slot.number, slot.kind) for slot in document.slots] == [(1, "hsm"), (2, "passphrase"), (3, "passphrase")]
    assert open_with_hsm(document, HSM) == KEY
    assert open_with_passphrase(document, WORDS) == KEY
    assert open_with_passphrase(document, MORE_WORDS) == KEY


def test_passphrase_costs_128_mib_unless_told_otherwise() -> None:
    document = read_back(new_keys(KEY, passphrase=WORDS))
    (slot,) = document.slots
    assert isinstance(slot, PassphraseSlot)
    assert (slot.n, slot.r, slot.p, slot.cost.memory) == (1 << 17, 8, 1, 128 << 20)
    assert slot.cost == DEFAULT_COST
    assert open_with_passphrase(document, WORDS) == KEY


def test_document_without_slots_can_get_one_later() -> None:
    empty = read_back(new_keys(KEY))
    assert empty.slots == ()
    assert open_with_hsm(with_hsm_slot(empty, KEY, HSM), HSM) == KEY


def test_wrapping_is_as_described() -> None:
    """The format, computed here from its description: whoever has only that must be able to open a slot."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    hsm, passphrase, _ = THREE.slots
    assert isinstance(passphrase, PassphraseSlot)
    bound = KEY.backup_id + bytes.fromhex(KEY.id)
    wrapping = derived(HSM, hsm.salt, b"lightningd-backup key slot")
    assert AESGCM(wrapping).decrypt(bytes(12), hsm.wrapped, bound + b"hsm") == KEY.secret
    stretched = hashlib.scrypt(WORDS, salt=passphrase.salt, n=1 << 14, r=1, p=1, dklen=32)
    wrapping = derived(stretched, passphrase.salt, b"lightningd-backup key slot")
    bound += b"passphrase scrypt 16384 1 1"
    assert AESGCM(wrapping).decrypt(bytes(12), passphrase.wrapped, bound) == KEY.secret


def test_no_salt_and_no_wrapped_key_is_used_twice() -> None:
    made = [slot for _ in range(5) for slot in three().slots]
    assert len({slot.salt for slot in made}) == len({slot.wrapped for slot in made}) == len(made)


def test_document_holds_neither_key_nor_what_opens_it() -> None:
    data = THREE.encode()
    for secret in (KEY.secret, HSM, WORDS, MORE_WORDS):
        assert secret not in data
        assert secret.hex().encode() not in data
    assert KEY.secret.hex() not in repr(THREE)


def test_second_slot_for_the_same_hsm_secret_is_not_made() -> None:
    assert with_hsm_slot(THREE, KEY, HSM) == THREE
    both = with_hsm_slot(THREE, KEY, OTHER_HSM)
    assert [slot.number for slot in both.slots] == [1, 2, 3, 4]
    assert open_with_hsm(both, HSM) == open_with_hsm(both, OTHER_HSM) == KEY


def test_slot_is_not_made_with_another_backups_key() -> None:
    for key in (OTHER, DataKey(KEY.backup_id, OTHER.secret), DataKey(OTHER.backup_id, KEY.secret)):
        with pytest.raises(WrongKey, match="not the one that the key slots of this backup hold"):
            with_passphrase(THREE, key, WORDS, CHEAP)
        with pytest.raises(WrongKey):
            with_hsm_slot(THREE, key, HSM)


def test_empty_passphrase_and_short_secret_are_refused() -> None:
    with pytest.raises(BackupError, match=r"the passphrase is empty"):
        new_keys(KEY, passphrase=b"")
    for secret in (b"", b"h" * 31, b"h" * 33):
        with pytest.raises(BackupError, match="32 bytes"):
            new_keys(KEY, hsm_derived=secret)


def test_slot_that_no_reader_would_accept_is_not_made() -> None:
    with pytest.raises(ValueError, match="would be refused"):
        new_keys(KEY, passphrase=WORDS, cost=ScryptCost(1 << 13))


def test_slot_beyond_the_last_is_refused() -> None:
    document = new_keys(KEY)
    for number in range(MAX_SLOTS):
        document = with_hsm_slot(document, KEY, bytes([number]) * 32)
    with pytest.raises(BackupError, match=r"already has 32 key slots.*backup-cli keys --remove SLOT"):
        with_hsm_slot(document, KEY, HSM)
    assert len(document.encode()) <= MAX_KEYS_SIZE
    assert read_back(document) == document


def test_used_up_numbers_are_refused_and_slots_stay_usable() -> None:
    document = replace(THREE, next=MAX_SLOT_NUMBER - 2)
    document = read_back(with_hsm_slot(document, KEY, OTHER_HSM))
    with pytest.raises(BackupError, match="numbers for new key slots are used up"):
        with_passphrase(document, KEY, WORDS, CHEAP)
    assert open_with_hsm(read_back(document), OTHER_HSM) == KEY


# Removing


def test_number_of_removed_slot_is_never_used_again() -> None:
    document = read_back(without(THREE, 3))
    assert [slot.number for slot in document.slots] == [1, 2]
    again = with_passphrase(document, KEY, MORE_WORDS, CHEAP)
    assert [slot.number for slot in again.slots] == [1, 2, 4]


def test_removed_passphrase_opens_nothing() -> None:
    with pytest.raises(WrongPassphrase):
        open_with_passphrase(read_back(without(THREE, 2)), WORDS)


def test_last_slot_is_not_removed() -> None:
    document = without(without(THREE, 1), 3)
    with pytest.raises(
        BackupError, match=r"without slot 2, no usable .*nothing was changed.*keys --add-passphrase URL"
    ):
        without(document, 2)


def test_last_usable_slot_is_not_removed_although_damaged_ones_are_left() -> None:
    with pytest.raises(BackupError, match="no usable key slot would be left"):
        without(rotten(THREE, 1, 2), 3)


def test_damaged_slot_can_be_removed_and_its_number_is_not_used_again() -> None:
    document = rotten(THREE, 3)
    assert document.damaged == (3,)
    left = without(document, 3)
    assert (left.damaged, left.names) == ((), (SlotName(1, "hsm"), SlotName(2, "passphrase")))
    assert with_passphrase(read_back(left), KEY, MORE_WORDS, CHEAP).slots[-1].number == 4


def test_unknown_slot_is_not_removed() -> None:
    expected = r"no key slot 9; nothing was changed. It has slot 1 \(hsm_secret\), slot 2 \(passphrase\)"
    with pytest.raises(BackupError, match=expected):
        without(THREE, 9)


# Three sentences: wrong secret, wrong passphrase, damaged slot


def test_secret_of_another_node_is_named() -> None:
    with pytest.raises(WrongSecret, match=r"slot 1 \(hsm_secret\) was made with another node's") as error:
        open_with_hsm(THREE, OTHER_HSM)
    assert (error.value.kind, error.value.exit_code) == ("wrong_secret", 1)
    assert "untouched; repeat this with" in str(error.value)
    assert "--key-file FILE) or a passphrase (--passphrase-file FILE)" in str(error.value)


def test_wrong_passphrase_is_named() -> None:
    expected = r"the passphrase is wrong: it does not open slot 2 \(passphrase\), slot 3 \(passphrase\)"
    with pytest.raises(WrongPassphrase, match=expected) as error:
        open_with_passphrase(THREE, WORDS + b"\n")
    assert (error.value.kind, error.value.exit_code) == ("wrong_passphrase", 1)
    assert "untouched" in str(error.value)
    assert "type it again" in str(error.value)
    assert "--hsm-secret FILE" in str(error.value)


def test_damaged_slot_is_named_with_number_and_kind() -> None:
    with pytest.raises(DamagedSlot, match=r"^slot 1 \(hsm_secret\) of this backup is damaged") as error:
        open_with_hsm(rotten(THREE, 1), HSM)
    assert (error.value.kind, error.value.exit_code, error.value.slots) == ("damaged_slot", 3, (1,))
    assert "a passphrase (--passphrase-file FILE)" in str(error.value)
    assert "backup-cli keys --add-passphrase URL" in str(error.value)


def test_passphrase_that_fits_no_whole_slot_is_not_called_wrong_while_another_slot_is_damaged() -> None:
    document = rotten(THREE, 3)
    assert open_with_passphrase(document, WORDS) == KEY
    with pytest.raises(DamagedSlot, match=r"^slot 3 \(passphrase\) .*does not open slot 2 \(passphrase\)") as error:
        open_with_passphrase(document, MORE_WORDS)
    assert error.value.slots == (3,)


def test_way_without_a_slot_names_the_slots_that_there_are() -> None:
    with pytest.raises(KeyNeeded, match=r"no key slot for a passphrase: it has slot 1 \(hsm_secret\)"):
        open_with_passphrase(new_keys(KEY, hsm_derived=HSM), WORDS)
    with pytest.raises(KeyNeeded, match=r"no key slot for an hsm_secret: it has slot 1 \(passphrase\)"):
        open_with_hsm(new_keys(KEY, passphrase=WORDS, cost=CHEAP), HSM)
    with pytest.raises(KeyNeeded, match=r"it has no key slot at all.*--key-file FILE"):
        open_with_hsm(new_keys(KEY), HSM)


def test_no_message_contains_what_was_given() -> None:
    def texts() -> list[str]:
        found = []
        attempts: list[Callable[[], object]] = [
            lambda: open_with_hsm(THREE, OTHER_HSM),
            lambda: open_with_passphrase(THREE, b"guessed words"),
            lambda: open_with_passphrase(rotten(THREE, 2), b"guessed words"),
            lambda: with_passphrase(THREE, OTHER, b"guessed words"),
        ]
        for attempt in attempts:
            with pytest.raises(BackupError) as error:
                attempt()
            found.append(str(error.value))
        return found

    for text in texts():
        assert "guessed" not in text
        assert OTHER_HSM.hex() not in text
        assert text.isascii()


def test_slots_in_words_name_kind_day_and_damage() -> None:
    document = rotten(changed(THREE, 2, created=0), 3)
    first, second, third = slots_in_words(document)
    assert first.startswith("slot 1: hsm_secret, made 20")
    assert second == "slot 2: passphrase, made (time unknown)"
    assert third == "slot 3: passphrase, damaged, cannot be used"


# Damage of every byte


def test_every_changed_byte_leaves_all_slots_usable_or_names_one_and_leaves_the_others() -> None:
    document = with_hsm_slot(with_hsm_slot(new_keys(KEY), KEY, HSM), KEY, OTHER_HSM)
    data, outcomes = document.encode(), set()
    for offset in range(len(data)):
        for bit in range(8):
            found = KeysDocument.decode(data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :])
            for number, secret in ((1, HSM), (2, OTHER_HSM)):
                if number in found.damaged:
                    with pytest.raises(DamagedSlot) as error:
                        open_with_hsm(found, secret)
                    assert error.value.slots == (number,)
                else:
                    assert open_with_hsm(found, secret) == KEY
            outcomes.add(found.damaged)
    assert outcomes == {(), (1,), (2,)}


# Attacks


def test_field_of_a_slot_changed_with_right_checksums_opens_nothing() -> None:
    for changes in ({"salt": flipped(THREE.slots[1].salt)}, {"wrapped": flipped(THREE.slots[1].wrapped)}, {"p": 2}):
        document = changed(THREE, 2, **changes)
        assert document.damaged == ()
        with pytest.raises(WrongPassphrase):
            open_with_passphrase(document, WORDS)
        assert open_with_passphrase(document, MORE_WORDS) == KEY


def test_swapped_wrapped_keys_open_nothing() -> None:
    hsm, one, other = THREE.slots
    document = read_back(
        replace(THREE, slots=(hsm, replace(one, wrapped=other.wrapped), replace(other, wrapped=one.wrapped)))
    )
    for words in (WORDS, MORE_WORDS):
        with pytest.raises(WrongPassphrase):
            open_with_passphrase(document, words)
    assert open_with_hsm(document, HSM) == KEY


def test_slots_of_another_backup_with_the_same_secrets_open_nothing() -> None:
    theirs = new_keys(OTHER, hsm_derived=HSM, passphrase=WORDS, cost=CHEAP)
    document = read_back(replace(THREE, slots=theirs.slots, next=3))
    with pytest.raises(WrongSecret):
        open_with_hsm(document, HSM)
    with pytest.raises(WrongPassphrase):
        open_with_passphrase(document, WORDS)


def test_slot_copied_from_another_backups_file_counts_as_damaged() -> None:
    theirs = json.loads(new_keys(OTHER, hsm_derived=HSM).encode().split(b"\n")[0])
    whole = json.loads(THREE.encode().split(b"\n")[0])
    whole["slots"][0] = theirs["slots"][0]
    line = json.dumps(whole).encode()
    document = KeysDocument.decode(line + b"\n%08x\n" % crc32(line))
    assert document.damaged == (1,)
    assert open_with_passphrase(document, WORDS) == KEY


def test_slot_that_holds_another_key_than_its_document_names_is_damaged() -> None:
    """Made by somebody who knows the secret: the key would be a wrong one."""
    impostor = replace(new_keys(OTHER), backup_id=KEY.backup_id, key_id=KEY.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backends.log.key_slots._demand_own_key", lambda *_: None)
        document = read_back(with_hsm_slot(impostor, OTHER, HSM))
    assert document.damaged == ()
    with pytest.raises(DamagedSlot) as error:
        open_with_hsm(document, HSM)
    assert error.value.slots == (1,)
    assert open_with_passphrase(with_passphrase(document, KEY, WORDS, CHEAP), WORDS) == KEY


def test_slot_with_huge_scrypt_parameters_is_damaged_and_never_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, scrypt = [], hashlib.scrypt

    def watched(password: bytes, **parameters: Any) -> bytes:
        tried.append(parameters["n"])
        return scrypt(password, **parameters)

    monkeypatch.setattr(hashlib, "scrypt", watched)
    document = changed(THREE, 2, n=1 << 29, r=8)
    with pytest.raises(DamagedSlot):
        open_with_passphrase(document, WORDS)
    assert open_with_passphrase(document, MORE_WORDS) == KEY
    assert tried == [1 << 14, 1 << 14]


def test_expensive_slot_is_tried_last(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    document = changed(THREE, 2, n=1 << 20, r=8)

    def scrypt(*_: object, n: int, **__: object) -> bytes:
        tried.append(n)
        return b"x" * 32

    monkeypatch.setattr("hashlib.scrypt", scrypt)
    with pytest.raises(WrongPassphrase):
        open_with_passphrase(document, WORDS)
    assert tried == [1 << 14, 1 << 20]


@pytest.mark.parametrize("error", [MemoryError(), ValueError("memory limit exceeded")])
def test_machine_without_enough_memory_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def scrypt(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr("hashlib.scrypt", scrypt)
    with pytest.raises(
        BackupError, match=r"slot 2: this machine could not give it 2 MiB of memory. Nothing was changed"
    ):
        open_with_passphrase(THREE, WORDS)


# The document in a place


def test_published_keys_are_read_back_and_replaced(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    publish_keys(storage, THREE)
    assert read_keys(storage) == THREE
    publish_keys(storage, without(THREE, 3))
    assert read_keys(storage) == without(THREE, 3)
    assert [path.name for path in tmp_path.iterdir()] == [KEYS]


def test_missing_keys_say_what_still_opens_the_backup(tmp_path: Path) -> None:
    with pytest.raises(KeyNeeded, match=r"`keys`.* is missing in .*backup\.key in the node's directory still opens it"):
        read_keys(LocalStorage(tmp_path))


def test_missing_backup_is_not_mistaken_for_missing_keys(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="there is no backup at"):
        read_keys(LocalStorage(tmp_path / "missing"))


def test_huge_keys_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / KEYS).write_bytes(bytes(MAX_KEYS_SIZE + 1))
    with pytest.raises(DamagedSlot, match="none of its key slots can be read"):
        read_keys(LocalStorage(tmp_path))


def test_keys_that_are_a_link_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(THREE.encode())
    (tmp_path / KEYS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackupError):
        read_keys(LocalStorage(tmp_path))


def test_power_cut_while_keys_are_published_leaves_old_or_new() -> None:
    old, new = THREE, without(THREE, 3)
    points = cuts(lambda storage: publish_keys(storage, new), lambda storage: publish_keys(storage, old))
    found = [[KeysDocument.decode(files[KEYS]) for files in outcomes] for outcomes in points]
    assert all(document in (old, new) and document.intact for outcomes in found for document in outcomes)
    assert {len(document.slots) for outcomes in found for document in outcomes} == {2, 3}
    assert all(document == new for document in found[-1])
