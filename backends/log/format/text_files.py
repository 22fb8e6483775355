"""The bytes of a small text file: one line of JSON, and one with its checksum.

In an encrypted backup, one field is sealed, and protects the others, too.
"""

import json
import re
from typing import Any
from zlib import crc32

from backends import keyring
from backends.errors import Damaged, NotABackup
from backends.log.format.encryption import Tampered, known_key, open_fields, seal_fields, sealed_with
from backends.log.format.records import FORMAT, from_the_future

SEALED = "sealed"
"""The field that holds the private fields of an encrypted text file."""

_SEALED = re.compile(f"[0-9a-f]{{{2 * keyring.NAME_SIZE}}}:[0-9a-zA-Z+/=]+")


def sealed_by(fields: dict[str, Any]) -> str | None:
    """The public name of the key that the private fields of a decoded text file are sealed with; None without one."""
    sealed = fields.get(SEALED)
    return sealed_with(sealed) if isinstance(sealed, str) else None


def is_open(fields: dict[str, Any]) -> bool:
    """Whether the private fields of a decoded text file are there: they are not if they are sealed with a key that this
    process does not know."""
    key_id = sealed_by(fields)
    return key_id is None or keyring.find(key_id) is not None


def encode_document(
    name: str, fields: dict[str, Any], private: dict[str, Any] | None = None, key_id: str | None = None
) -> bytes:
    """The bytes of the backup's text file `name`. Under a key, the private fields are sealed, even if there are none:
    that also protects the public ones. Raises KeyNeeded."""
    public = {"lightningd-backup": FORMAT, **fields}
    if key_id is None:
        public |= private or {}
    else:
        public[SEALED] = seal_fields(known_key(key_id), name, public, private or {})
    line = json.dumps(public).encode()
    return line + b"\n%08x\n" % crc32(line)


def decode_document(name: str, data: bytes) -> dict[str, Any]:
    """The fields of the text file `name`; without the key, only those that everybody may read.

    Raises Damaged, NotABackup or FromTheFuture.
    """
    fields = _decode_line(name, data)
    if SEALED in fields and not (isinstance(fields[SEALED], str) and _SEALED.fullmatch(fields[SEALED])):
        raise Damaged(f"an impossible value of {SEALED}", name, 0)
    key_id = sealed_by(fields)
    key = None if key_id is None else keyring.find(key_id)
    if key is not None:
        public = {field: value for field, value in fields.items() if field != SEALED}
        try:
            fields |= open_fields(key, name, public, fields[SEALED])
        except Tampered:
            what = "the text was changed by somebody who does not have its key, or is another backup's,"
            raise Damaged(what, name, 0) from None
    return fields


def _decode_line(name: str, data: bytes) -> dict[str, Any]:
    line, _, rest = data.partition(b"\n")
    if not data.startswith(b"{"):
        raise Damaged("empty or overwritten content", name, 0)
    if rest != b"%08x\n" % crc32(line):
        raise Damaged("the text does not match its checksum", name, 0)
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise Damaged("the text is not JSON", name, 0) from None
    version = fields.get("lightningd-backup")
    if type(version) is not int or version < 1:
        raise NotABackup(f"{name} is not a file of lightningd-backup; nothing was changed")
    if version > FORMAT:
        raise from_the_future(name, version)
    return dict(fields)
