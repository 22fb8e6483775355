"""The document `keys`: the data key of an encrypted backup, wrapped once in each of its key slots.

Everything in it is public, and nothing in it says whose backup this is. How slots are made and opened is in
backends/log/key_slots.py.

The file has the form of the other documents: a line of JSON and its CRC-32. But these few hundred bytes may be all that
opens a backup when the node's machine is gone, so one changed byte must not cost more than one slot. Therefore each
slot has a CRC of its own and repeats all that it needs (whose key it holds, which slots there are), and no object in
the file contains another one but the outermost: a slot can be found and believed whatever the bytes around it are.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple
from zlib import crc32

from backends import keyring
from backends.errors import Damaged, DamagedSlot
from backends.keyring import KEY_SIZE, NAME_SIZE
from backends.log.format.text_files import decode_document, encode_document, is_open, sealed_by
from backends.times import believed

KEYS = "keys"
"""The document's name."""

MAX_SLOTS = 32

MAX_SLOT_NUMBER = 1 << 16
"""Slot numbers are smaller than this."""

MAX_KEYS_SIZE = 1 << 16
"""The most bytes of the file: 32 slots take less."""

ID_SIZE = 16
SALT_SIZE = 32
WRAPPED_SIZE = KEY_SIZE + 16
"""Bytes of a wrapped key: the key, encrypted, and the tag."""

MAX_SCRYPT_MEMORY = 1 << 30
"""Bytes. Whoever can write to the destination chooses the parameters, and must not be able to stop a machine with
them. `p` counts, too, although it costs time and no memory: so a slot takes eight times as long as ours at most."""


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """How much one guess at a passphrase costs: 128 MiB and up to a second or two, unless said otherwise."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1

    @property
    def memory(self) -> int:
        """Bytes that scrypt takes for its table."""
        return 128 * self.n * self.r

    @property
    def allowed(self) -> bool:
        """Whether these parameters are neither too weak nor too expensive."""
        return (
            self.n in _SCRYPT_N and 1 <= self.r <= 16 and 1 <= self.p <= 8 and self.memory * self.p <= MAX_SCRYPT_MEMORY
        )


_SCRYPT_N = frozenset(1 << power for power in range(14, 21))


@dataclass(frozen=True, slots=True)
class HsmSlot:
    """The data key, wrapped with a secret that lightningd derives from the node's `hsm_secret`."""

    kind: ClassVar[str] = "hsm"

    number: int
    created: int
    """Seconds since 1970, or UNKNOWN_TIME."""
    salt: bytes
    wrapped: bytes

    @property
    def bound(self) -> bytes:
        """What the wrapping authenticates, beside the backup and the key."""
        return b"hsm"


@dataclass(frozen=True, slots=True)
class PassphraseSlot:
    """The data key, wrapped with a passphrase. `n`, `r` and `p` are the parameters of scrypt."""

    kind: ClassVar[str] = "passphrase"

    number: int
    created: int
    """Seconds since 1970, or UNKNOWN_TIME."""
    salt: bytes
    n: int
    r: int
    p: int
    wrapped: bytes

    @property
    def cost(self) -> ScryptCost:
        """The parameters of scrypt."""
        return ScryptCost(self.n, self.r, self.p)

    @property
    def bound(self) -> bytes:
        """What the wrapping authenticates, beside the backup and the key."""
        return b"passphrase scrypt %d %d %d" % (self.n, self.r, self.p)


Slot = HsmSlot | PassphraseSlot


class SlotName(NamedTuple):
    """What a document says of a slot everywhere, so that it can be named when it is damaged."""

    number: int
    kind: str


_KINDS = frozenset({HsmSlot.kind, PassphraseSlot.kind})


@dataclass(frozen=True, slots=True)
class KeysDocument:
    """The key slots of one backup. It may have none: before its first start, a node has no hsm_secret."""

    backup_id: bytes
    key_id: str
    """The public name of the key that all slots hold (`DataKey.id`)."""
    slots: tuple[Slot, ...] = ()
    """Those that can be used, in the order of their numbers."""
    lost: tuple[SlotName, ...] = ()
    """Those that are damaged, in the order of their numbers."""
    next: int = 1
    """The number of the next slot that is added. A number is never used a second time: what an operator has written
    down about slot 2 must not come to mean another passphrase."""
    intact: bool = field(default=True, compare=False)
    """Whether the file was as it had been written. If not, all slots may be usable nevertheless."""
    authentic: bool = field(default=False, compare=False)
    """Whether the holder of the key is known to have written the file: the key is known, and the file is sealed with
    it. Otherwise somebody else may have put it there, with slots that hold nothing."""

    @property
    def damaged(self) -> tuple[int, ...]:
        """The numbers of the slots that are damaged."""
        return tuple(name.number for name in self.lost)

    @property
    def names(self) -> tuple[SlotName, ...]:
        """All slots, usable or not, in the order of their numbers."""
        return tuple(sorted((*(SlotName(slot.number, slot.kind) for slot in self.slots), *self.lost)))

    def encode(self) -> bytes:
        """The bytes of the file. A damaged slot keeps its number, until it is removed; what was left of it goes.

        If this process knows the key, the file is sealed with it: nothing in it is hidden, but every change is noticed.
        """
        common = _Common(self.backup_id, self.key_id, self.next, self.names)
        slots = [_entry(common, _slot_fields(slot)) for slot in self.slots]
        fields = {"list": _entry(common, {}), "slots": slots}
        if keyring.find(self.key_id) is None:
            return encode_document(KEYS, fields)
        return encode_document(KEYS, fields, {"number of slots": len(slots)}, self.key_id)

    @classmethod
    def decode(cls, data: bytes) -> "KeysDocument":
        """The document in the bytes of its file.

        Raises DamagedSlot if not a single part of it can be believed, NotABackup or FromTheFuture.
        """
        if len(data) > MAX_KEYS_SIZE:
            raise nothing_readable()
        intact, sealed = True, None
        try:
            document = decode_document(KEYS, data)
            sealed = sealed_by(document) if is_open(document) else None
        except Damaged:
            intact = False
        entries = list(_entries(data))
        if not entries:
            raise nothing_readable()
        common = entries[0][0]
        found: dict[int, Slot] = {}
        for about, fields in entries:
            slot = _slot_of(fields)
            # A slot that is whole but says something else of the backup was put there from another one, or is old.
            if slot is not None and about == common and (slot.number, slot.kind) in common.names:
                found.setdefault(slot.number, slot)
        lost = tuple(name for name in common.names if name.number not in found)
        slots = tuple(found[number] for number in sorted(found))
        authentic = sealed == common.key_id
        return cls(common.backup_id, common.key_id, slots, lost, common.next, intact, authentic)


def nothing_readable() -> DamagedSlot:
    """The error for a document of which nothing is left."""
    return DamagedSlot(
        "the file `keys` of this backup is damaged, and none of its key slots can be read: neither hsm_secret nor a "
        "passphrase opens this backup now. Nothing else of the backup is affected, and the file backup.key in the "
        "node's directory still opens it: keep a copy of that file, and name it with --key-file FILE. To make new key "
        "slots with it, run: backup-cli keys --add-passphrase URL",
        (),
    )


@dataclass(frozen=True, slots=True)
class _Common:
    """What every entry of the file repeats."""

    backup_id: bytes
    key_id: str
    next: int
    names: tuple[SlotName, ...]

    def fields(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "backup_id": self.backup_id.hex(),
            "key_id": self.key_id,
            "next": self.next,
            "all": [list(name) for name in self.names],
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "_Common":
        """The inverse of `fields`. Raises _Impossible."""
        upcoming, listed = _number(fields, "next", MAX_SLOT_NUMBER), fields.get("all")
        if not isinstance(listed, list) or len(listed) > MAX_SLOTS:
            raise _Impossible
        names = tuple(map(_name, listed))
        numbers = [0, *(name.number for name in names), upcoming]
        if any(one >= another for one, another in pairwise(numbers)):
            raise _Impossible
        key_id = _bytes(fields, "key_id", NAME_SIZE).hex()
        return cls(_bytes(fields, "backup_id", ID_SIZE), key_id, upcoming, names)


class _Impossible(Exception):
    """The fields have a checksum that matches, and yet no writer made them."""


_FLAT_OBJECT = re.compile(rb"\{[^{}]*\}")


def _entries(data: bytes) -> Iterator[tuple[_Common, dict[str, Any]]]:
    """All parts of the file that match their own checksum, with what they say of the whole."""
    for found in _FLAT_OBJECT.findall(data):
        try:
            fields = json.loads(found)
            if fields.pop("crc", None) == _checksum(fields):
                yield _Common.from_fields(fields), fields
        except (ValueError, RecursionError, _Impossible):
            continue


def _entry(common: _Common, own: dict[str, Any]) -> dict[str, Any]:
    fields = {**common.fields(), **own}
    return {**fields, "crc": _checksum(fields)}


def _checksum(fields: dict[str, Any]) -> str:
    """The CRC-32 of an entry, in hex. It is that of the values and not of the text, so a blank more does not matter."""
    return f"{crc32(json.dumps(fields, sort_keys=True).encode()):08x}"


def _slot_fields(slot: Slot) -> dict[str, Any]:
    own = {"n": slot.n, "r": slot.r, "p": slot.p} if isinstance(slot, PassphraseSlot) else {}
    return {
        "number": slot.number,
        "kind": slot.kind,
        "created": slot.created,
        "salt": slot.salt.hex(),
        **own,
        "wrapped": slot.wrapped.hex(),
    }


def _slot_of(fields: dict[str, Any]) -> Slot | None:
    """The slot in an entry; None if it is no slot, or one that no writer made."""
    try:
        number, created = _number(fields, "number", MAX_SLOT_NUMBER), believed(fields.get("created"))
        salt, wrapped = _bytes(fields, "salt", SALT_SIZE), _bytes(fields, "wrapped", WRAPPED_SIZE)
        if fields.get("kind") == HsmSlot.kind:
            return HsmSlot(number, created, salt, wrapped)
        if fields.get("kind") == PassphraseSlot.kind:
            n, r, p = (_number(fields, name, 1 << 21) for name in "nrp")
            return PassphraseSlot(number, created, salt, n, r, p, wrapped) if ScryptCost(n, r, p).allowed else None
    except _Impossible:
        return None
    return None


def _name(listed: Any) -> SlotName:
    if not isinstance(listed, list) or len(listed) != 2 or type(listed[0]) is not int:
        raise _Impossible
    if not isinstance(listed[1], str) or listed[1] not in _KINDS:
        raise _Impossible
    return SlotName(listed[0], listed[1])


def _number(fields: dict[str, Any], key: str, below: int) -> int:
    value = fields.get(key)
    if type(value) is not int or not 1 <= value < below:
        raise _Impossible
    return value


def _bytes(fields: dict[str, Any], key: str, size: int) -> bytes:
    value = fields.get(key)
    if not isinstance(value, str) or len(value) != 2 * size:
        raise _Impossible
    try:
        found = bytes.fromhex(value)
    except ValueError:
        raise _Impossible from None
    if len(found) != size:  # blanks between the digits
        raise _Impossible
    return found
