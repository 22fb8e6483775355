"""An hsm slot is made from what lightningd derives, and opened by what lightning-hsmtool derives, too."""

from dataclasses import replace

import pytest

from backends.errors import DamagedSlot, KeyNeeded, WrongSecret
from backends.keyring import DataKey
from backends.log.format.keys import KeysDocument, SlotName
from backends.log.key_slots import new_keys, open_with_hsm, with_hsm_slot
from backends.node.hsm_seed import derived_secret
from backends.node.hsm_slots import open_with_seed, slot_secret

KEY = DataKey(bytes(range(16)), bytes(range(100, 132)))
SEED = bytes(range(64))
"""A mnemonic's."""
OTHER_SEED = SEED[:32] + bytes(32)
STRANGER = bytes(64)


def made_from(seed: bytes, key: DataKey = KEY) -> KeysDocument:
    """Key slots with one for this secret, derived here as the format says."""
    return new_keys(key, hsm_derived=derived_secret(seed, b"lightningd-backup key slot"))


def impostor(seed: bytes) -> KeysDocument:
    """A slot for this secret that holds another key than its document names."""
    forged = replace(new_keys(DataKey(KEY.backup_id, bytes(32))), key_id=KEY.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backends.log.key_slots._demand_own_key", lambda *_: None)
        return with_hsm_slot(forged, DataKey(KEY.backup_id, bytes(32)), slot_secret(seed))


@pytest.mark.parametrize("seed", [SEED, SEED[:32]], ids=["mnemonic", "plain"])
def test_slot_is_made_from_whole_secret(seed: bytes) -> None:
    assert open_with_hsm(made_from(seed), slot_secret(seed)) == KEY
    assert open_with_seed(made_from(seed), seed) == KEY


def test_slot_made_from_first_half_of_mnemonics_secret_is_opened() -> None:
    assert open_with_seed(made_from(SEED[:32]), SEED) == KEY


@pytest.mark.parametrize("half", [SEED[32:], SEED[:31], SEED[:16]], ids=["second half", "31 bytes", "a quarter"])
def test_no_other_part_of_mnemonics_secret_opens_a_slot(half: bytes) -> None:
    with pytest.raises(WrongSecret):
        open_with_seed(made_from(half), SEED)


def test_half_of_a_plain_secret_opens_nothing() -> None:
    with pytest.raises(WrongSecret):
        open_with_seed(made_from(SEED[:16]), SEED[:32])


def test_slots_of_whole_and_of_half_are_both_opened() -> None:
    both = with_hsm_slot(made_from(SEED), KEY, slot_secret(SEED[:32]))
    assert open_with_seed(both, SEED) == open_with_seed(both, OTHER_SEED) == KEY


def test_half_opens_its_slot_beside_a_damaged_one() -> None:
    document = replace(made_from(SEED[:32]), lost=(SlotName(9, "hsm"),))
    assert open_with_seed(document, SEED) == KEY
    with pytest.raises(DamagedSlot) as error:
        open_with_seed(document, STRANGER)
    assert error.value.slots == (9,)


@pytest.mark.parametrize("part", [SEED, SEED[:32]], ids=["whole", "half"])
def test_slot_that_holds_another_key_is_called_damaged(part: bytes) -> None:
    with pytest.raises(DamagedSlot) as error:
        open_with_seed(impostor(part), SEED)
    assert error.value.slots == (1,)


def test_backup_without_hsm_slot_says_so() -> None:
    with pytest.raises(KeyNeeded, match="no key slot for an hsm_secret"):
        open_with_seed(new_keys(KEY), SEED)
