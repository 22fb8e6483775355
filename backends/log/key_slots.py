"""Key slots: the data key of an encrypted backup, wrapped so that `hsm_secret` or a passphrase gets it back.

A slot's wrapping key is HKDF(input, the slot's random salt). The input is, for `hsm_secret`, what lightningd itself
derives from it (`lightning-cli makesecret` with MAKESECRET_INFO), and for a passphrase, scrypt of it. As each salt is
used for one wrapping only, so is each wrapping key, and the nonce is zero.

Removing a slot does not revoke it for somebody who has kept a copy of the file.
"""

import errno
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from backends.errors import BackupError, DamagedSlot, KeyNeeded, WrongKey, WrongPassphrase, WrongSecret
from backends.keyring import KEY_SIZE, DataKey, derived
from backends.log.format.keys import (
    KEYS,
    MAX_KEYS_SIZE,
    MAX_SLOT_NUMBER,
    MAX_SLOTS,
    SALT_SIZE,
    HsmSlot,
    KeysDocument,
    PassphraseSlot,
    ScryptCost,
    Slot,
    SlotName,
    nothing_readable,
)
from backends.log.format.records import time_now
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backends.times import moment

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAKESECRET_INFO = b"lightningd-backup key slot"
"""The "info" with which lightningd derives the input of an hsm slot."""

DEFAULT_COST = ScryptCost()

_PURPOSE = b"lightningd-backup key slot"
_NONCE = bytes(12)

_WORDS = {HsmSlot.kind: "hsm_secret", PassphraseSlot.kind: "passphrase"}


def new_keys(
    key: DataKey,
    *,
    hsm_derived: bytes | None = None,
    passphrase: bytes | None = None,
    cost: ScryptCost = DEFAULT_COST,
) -> KeysDocument:
    """The slots of a new backup, for what is given: the secret that lightningd derives, a passphrase, both or none."""
    document = KeysDocument(key.backup_id, key.id)
    if hsm_derived is not None:
        document = with_hsm_slot(document, key, hsm_derived)
    if passphrase is not None:
        document = with_passphrase(document, key, passphrase, cost)
    return document


def with_hsm_slot(document: KeysDocument, key: DataKey, hsm_derived: bytes) -> KeysDocument:
    """The document with a slot for this node's hsm_secret; unchanged if it already has one that works.

    Raises WrongKey if `key` is not this backup's, BackupError if no slot can be added.
    """
    _demand_own_key(document, key)
    if len(hsm_derived) != KEY_SIZE:
        raise BackupError(
            f"lightningd derives secrets of {KEY_SIZE} bytes, and this one has {len(hsm_derived)}; no key slot was "
            "made and nothing was changed: name the node's own file with --hsm-secret FILE"
        )
    if any(_unwrapped(document, slot, hsm_derived) == key for slot in document.slots if isinstance(slot, HsmSlot)):
        return document
    return _with(document, HsmSlot(_free_number(document), time_now(), _new_salt(), b""), key, hsm_derived)


def with_passphrase(
    document: KeysDocument, key: DataKey, passphrase: bytes, cost: ScryptCost = DEFAULT_COST
) -> KeysDocument:
    """The document with a further passphrase. Takes 128 MiB of memory and up to a second or two with the default cost.

    Raises WrongKey if `key` is not this backup's, BackupError if no slot can be added.
    """
    _demand_own_key(document, key)
    if not passphrase:
        raise BackupError(
            "the passphrase is empty, and anybody could open the backup with that; nothing was changed: choose a "
            "longer one, for example six random words, and write it on paper"
        )
    if not cost.allowed:
        raise ValueError(f"{cost} would be refused by every reader")
    slot = PassphraseSlot(_free_number(document), time_now(), _new_salt(), cost.n, cost.r, cost.p, b"")
    return _with(document, slot, key, _stretched(slot, passphrase))


def without(document: KeysDocument, number: int) -> KeysDocument:
    """The document without the slot of this number, which may be a damaged one.

    Raises BackupError if there is no such slot, or if no usable slot would be left.
    """
    if all(name.number != number for name in document.names):
        raise BackupError(
            f"this backup has no key slot {number}; nothing was changed. It has {_enumerated(document.names)}; to see "
            "them, run: backup-cli keys URL"
        )
    left = tuple(slot for slot in document.slots if slot.number != number)
    if not left:
        raise BackupError(
            f"without slot {number}, no usable key slot would be left, and if backup.key were lost nothing could open "
            "this backup; nothing was changed. First add another one, with: backup-cli keys --add-passphrase URL"
        )
    return replace(document, slots=left, lost=tuple(name for name in document.lost if name.number != number))


def open_with_hsm(document: KeysDocument, hsm_derived: bytes) -> DataKey:
    """The data key, by the secret that lightningd derives from hsm_secret with MAKESECRET_INFO.

    Raises WrongSecret, DamagedSlot, or KeyNeeded if there is no slot for it.
    """

    def wrong(tried: str) -> WrongKey:
        return WrongSecret(
            f"this hsm_secret does not open the backup: {tried} was made with another node's. The backup is "
            "untouched; repeat this with the hsm_secret of the node that the backup is of (--hsm-secret FILE), "
            f"or with {_other_ways(document, HsmSlot.kind)}"
        )

    return _opened(document, HsmSlot, lambda _: hsm_derived, wrong)


def open_with_passphrase(document: KeysDocument, passphrase: bytes) -> DataKey:
    """The data key, by a passphrase, which is tried on each slot that has one.

    Raises WrongPassphrase, DamagedSlot, or KeyNeeded if there is no slot for one.
    """

    def wrong(tried: str) -> WrongKey:
        return WrongPassphrase(
            f"the passphrase is wrong: it does not open {tried} of this backup. The backup is untouched, and you may "
            "try as often as you like: repeat this and type it again (mind capital letters and the keyboard's "
            f"language), or with {_other_ways(document, PassphraseSlot.kind)}"
        )

    return _opened(document, PassphraseSlot, lambda slot: _stretched(slot, passphrase), wrong)


def read_keys(storage: Storage) -> KeysDocument:
    """The key slots of the backup in this storage.

    Raises KeyNeeded if the backup has no such document, DamagedSlot if none of it can be read, NotABackup,
    FromTheFuture, or Unreachable.
    """
    with reaching(storage):
        try:
            data = storage.read_small(KEYS, MAX_KEYS_SIZE)
        except FileNotFoundError:
            if not storage.exists():
                raise
            raise KeyNeeded(
                f"the file `keys`, which holds the key slots, is missing in {storage.describe()}: neither hsm_secret "
                "nor a passphrase opens this backup now. Nothing else of the backup is affected, and the file "
                "backup.key in the node's directory still opens it: keep a copy of that file, and name it with "
                "--key-file FILE. To make new key slots with it, run: backup-cli keys --add-passphrase URL"
            ) from None
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise nothing_readable() from error
            raise
    return KeysDocument.decode(data)


def publish_keys(storage: Storage, document: KeysDocument) -> None:
    """Put the key slots into the backup, in place of those that are there; durable when this returns.

    Raises Unreachable; then the earlier slots are still there or, if only the last sync failed, the new ones.
    """
    with reaching(storage):
        storage.publish(KEYS, document.encode())


def slots_in_words(document: KeysDocument) -> tuple[str, ...]:
    """A line about each slot, for a person: `slot 2: passphrase, made 2026-11-26`."""
    made = {slot.number: f"made {moment(slot.created, '%Y-%m-%d')}" for slot in document.slots}
    return tuple(
        f"slot {number}: {_WORDS[kind]}, {made.get(number, 'damaged, cannot be used')}"
        for number, kind in document.names
    )


def _opened(
    document: KeysDocument,
    wanted: type[HsmSlot] | type[PassphraseSlot],
    secret_for: Callable[..., bytes],
    wrong: Callable[[str], WrongKey],
) -> DataKey:
    """The data key, from the first of the wanted slots that the secret opens."""
    tried = sorted((slot for slot in document.slots if isinstance(slot, wanted)), key=_memory)
    lost = [name for name in document.lost if name.kind == wanted.kind]
    for slot in tried:
        try:
            key = _unwrapped(document, slot, secret_for(slot))
        except _AnotherKey:
            lost.append(_name(slot))
            continue
        if key is not None:
            return key
    if lost:
        raise _damaged(document, wanted.kind, lost, tried)
    if not tried:
        raise _no_slot(document, wanted.kind)
    raise wrong(_enumerated(list(map(_name, tried))))


def _memory(slot: Slot) -> int:
    """The memory that opening takes: a slot that somebody else has made too expensive must not keep out the others."""
    return slot.cost.memory if isinstance(slot, PassphraseSlot) else 0


def _damaged(document: KeysDocument, kind: str, lost: list[SlotName], tried: Sequence[Slot]) -> DamagedSlot:
    whole = [_name(slot) for slot in tried if _name(slot) not in lost]
    others = f" (the {_WORDS[kind]} that was given does not open {_enumerated(whole)})" if whole else ""
    verb = "is" if len(lost) == 1 else "are"
    return DamagedSlot(
        f"{_enumerated(lost)} of this backup {verb} damaged, so it cannot be told whether the {_WORDS[kind]} that was "
        f"given is the right one{others}. Nothing else of the backup is affected; repeat this with "
        f"{_other_ways(document, kind)}. Once the key is known again, make a new slot: backup-cli keys "
        "--add-passphrase URL",
        tuple(name.number for name in lost),
    )


def _no_slot(document: KeysDocument, kind: str) -> KeyNeeded:
    has = f"it has {_enumerated(document.names)}" if document.names else "it has no key slot at all"
    return KeyNeeded(
        f"this backup has no key slot for {'an' if kind == HsmSlot.kind else 'a'} {_WORDS[kind]}: {has}. The backup is "
        f"untouched; repeat this with {_other_ways(document, kind)}"
    )


def _other_ways(document: KeysDocument, but: str) -> str:
    """How else this backup can be opened, for the end of "repeat this with ..."."""
    usable = {slot.kind for slot in document.slots} - {but}
    ways = ["the node's backup.key (--key-file FILE)"]
    if HsmSlot.kind in usable:
        ways.append("the node's hsm_secret (--hsm-secret FILE)")
    if PassphraseSlot.kind in usable:
        ways.append("a passphrase (--passphrase-file FILE)")
    return " or ".join(ways)


def _enumerated(names: Sequence[SlotName]) -> str:
    """Slots with their kinds, for the middle of a sentence."""
    return ", ".join(f"slot {number} ({_WORDS[kind]})" for number, kind in sorted(names)) or "no slots"


def _name(slot: Slot) -> SlotName:
    return SlotName(slot.number, slot.kind)


class _AnotherKey(Exception):
    """A slot was opened and holds another key than the one that its document names."""


def _unwrapped(document: KeysDocument, slot: Slot, secret: bytes) -> DataKey | None:
    """The key in this slot; None if the secret does not open it. Raises _AnotherKey."""
    from cryptography.exceptions import InvalidTag

    try:
        key = DataKey(document.backup_id, _cipher(slot, secret).decrypt(_NONCE, slot.wrapped, _bound(document, slot)))
    except InvalidTag:
        return None
    if key.id != document.key_id:
        raise _AnotherKey
    return key


def _with(document: KeysDocument, slot: Slot, key: DataKey, secret: bytes) -> KeysDocument:
    """The document with this slot, which does not hold the key yet."""
    filled = replace(slot, wrapped=_cipher(slot, secret).encrypt(_NONCE, key.secret, _bound(document, slot)))
    return replace(document, slots=(*document.slots, filled), next=slot.number + 1)


def _cipher(slot: Slot, secret: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # here, because a plain backup needs none of it

    return AESGCM(derived(secret, slot.salt, _PURPOSE))


def _bound(document: KeysDocument, slot: Slot) -> bytes:
    """What is authenticated with the wrapped key, so that it opens in its own place only."""
    return document.backup_id + bytes.fromhex(document.key_id) + slot.bound


def _stretched(slot: PassphraseSlot, passphrase: bytes) -> bytes:
    cost = slot.cost
    limit = cost.memory + 128 * cost.r * (cost.p + 2)  # all that scrypt takes, to the byte
    try:
        return hashlib.scrypt(passphrase, salt=slot.salt, n=cost.n, r=cost.r, p=cost.p, maxmem=limit, dklen=KEY_SIZE)
    except (MemoryError, ValueError) as error:
        raise BackupError(
            f"the passphrase could not be tried on slot {slot.number}: this machine could not give it "
            f"{cost.memory >> 20} MiB of memory. Nothing was changed; stop other programs and repeat this, or use "
            "another machine"
        ) from error


def _free_number(document: KeysDocument) -> int:
    if len(document.names) >= MAX_SLOTS:
        raise BackupError(
            f"this backup already has {MAX_SLOTS} key slots, and cannot have more; nothing was changed: remove one "
            "that is no longer needed, with: backup-cli keys --remove SLOT URL"
        )
    if document.next >= MAX_SLOT_NUMBER - 1:
        raise BackupError(
            "the numbers for new key slots are used up, which never happens by itself: somebody has changed the "
            "file `keys` of this backup. Nothing was changed; the slots that it has can be used: backup-cli keys URL"
        )
    return document.next


def _new_salt() -> bytes:
    return secrets.token_bytes(SALT_SIZE)


def _demand_own_key(document: KeysDocument, key: DataKey) -> None:
    if (key.backup_id, key.id) != (document.backup_id, document.key_id):
        raise WrongKey(
            "the key at hand is not the one that the key slots of this backup hold: it belongs to another backup, or "
            "the file `keys` does. No slot was changed; name the right key with --key-file FILE, or open a slot of "
            "this backup with --hsm-secret FILE or --passphrase-file FILE"
        )
