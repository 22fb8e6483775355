"""The hsm slots of an encrypted backup, by the secret in `hsm_secret` (of `hsm_seed.read_seed`).

Slots are made from the whole secret, as lightningd does for `makesecret`. A mnemonic's has 64 bytes, and
`lightning-hsmtool` derives from the first 32 only. As lightningd's own programs disagree, a slot that was made from
these 32 is opened, too.
"""

from contextlib import suppress

from backends.errors import DamagedSlot, WrongSecret
from backends.keyring import DataKey
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import MAKESECRET_INFO, open_with_hsm
from backends.node.hsm_secret import SECRET_SIZE
from backends.node.hsm_seed import derived_secret


def slot_secret(seed: bytes) -> bytes:
    """What an hsm slot is made with, and opened with: the secret that lightningd derives from this one for it."""
    return derived_secret(seed, MAKESECRET_INFO)


def open_with_seed(document: KeysDocument, seed: bytes) -> DataKey:
    """The data key, by the secret in hsm_secret; for a mnemonic, also by the first half of its secret.

    Raises WrongSecret, DamagedSlot, or KeyNeeded if there is no slot for it.
    """
    try:
        return open_with_hsm(document, slot_secret(seed))
    except (WrongSecret, DamagedSlot):
        if len(seed) > SECRET_SIZE:
            with suppress(WrongSecret):
                return open_with_hsm(document, slot_secret(seed[:SECRET_SIZE]))
        raise
