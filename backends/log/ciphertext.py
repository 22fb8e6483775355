"""Are the stored bytes of an encrypted backup really ciphertext? Found out from the bytes alone.

Another backup program once wrote plain text although a key was configured, and nobody looked. So this knows nothing of
how a backup is written or which key it has: it looks for what must not be there. Everything that it judges as random
may still be anything; what it calls readable is. Bytes that a good cipher wrote fail less than once in 10^12 backups.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from backends.errors import NotCiphertext
from backends.log.format.codec import Decompressor, StreamError
from backends.log.format.encryption import SALT, TAG
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    Flag,
    RecordHeader,
    RecordKind,
    decode_record_header,
    segment_index,
    snapshot_generation,
)
from backends.log.format.text_files import SEALED
from backends.log.known_damage import SEEN
from backends.storage.base import LOCK, TEMPORARY, ReadHandle, Storage
from backends.storage.unreachable import reaching

ENOUGH = 1 << 10
"""Bytes from which their distribution is judged."""

LIMIT = 660
"""The most that chi-square (255 degrees of freedom) may be. ENOUGH random bytes exceed it less than once in 10^22, and
more bytes less often; a backup has at most some 10^9 payloads. zstd's output reaches thousands: it repeats itself."""

_BLOCK, _SAMPLE = 1 << 16, 1 << 14
"""Of each block of a payload so many bytes are counted: all of a small payload, a quarter of a large one."""

_BEGINNING = 3
"""Bytes of a zstd block's header, which differ little from block to block: these are also judged by themselves."""

_PRIVATE = re.compile(
    rb'"(?:node_id|host|pid|trouble|what|name|session|in_sync|members|need|out|url|trailing|history|floor|content)"\s*:'
)
"""The names of the fields that an encrypted backup hides, in whatever document."""

_SHORTEST_TEXT = 32
"""So many random bytes are all printable less than once in 10^13."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at."""

    files: int
    payloads: int
    payload_bytes: int


def check_ciphertext(storage: Storage) -> Looked:
    """Look at every file of the backup. Raises NotCiphertext if anything in it can be read without a key.

    Raises Unreachable, too. Needs no key, and memory for one record of up to 1 MiB. A file that a running writer
    removes meanwhile does not count. What is damaged is not judged: checksums tell that.
    """
    files, payloads, size = 0, 0, 0
    with reaching(storage):
        for name in storage.names():
            if name == LOCK:
                continue
            try:
                if _has_records(name):
                    look = _Records(storage, name)
                    payloads, size = payloads + look.count, size + look.size
                elif name.startswith("torn-"):
                    _check_torn(storage, name)
                elif not name.endswith(TEMPORARY):
                    _check_document(name, storage.read_small(name, 4 << 20))
            except FileNotFoundError:
                continue
            files += 1
    return Looked(files, payloads, size)


def _has_records(name: str) -> bool:
    stem = name.removesuffix(TEMPORARY)
    stem = stem if stem == name else re.sub(r"(-compaction)?-[0-9a-f]+$", "", stem.partition(".")[0])
    return segment_index(stem) is not None or snapshot_generation(stem) is not None


def _readable(name: str, offset: int, what: str) -> NotCiphertext:
    return NotCiphertext(
        f"the backup is meant to be encrypted, and {what} in {name} at byte {offset}: whoever holds the destination "
        "can read it. No change is lost. Stop the node, move the backup to a place that only you can read, keep it, "
        "and report this; then make a new backup elsewhere: backup-cli init --encrypt"
    )


class _Distribution:
    """How often each byte occurs in what was added."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0

    def add(self, data: bytes) -> None:
        self._counts.update(data)
        self._total += len(data)

    def chi_square(self) -> float:
        """How far the bytes are from all values being equally frequent: about 255 for random ones."""
        expected = self._total / 256
        return sum((self._counts[value] - expected) ** 2 for value in range(256)) / expected

    def is_random(self) -> bool:
        """Whether random bytes may look like this; True if there are too few to tell."""
        return self._total < ENOUGH or self.chi_square() <= LIMIT


class _Records:
    """The payloads of one file of records, judged one by one and together."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.count = self.size = 0
        self._name = name
        self._unpacked = 0
        together, beginnings = _Distribution(), _Distribution()
        with closing(storage.open(name)) as handle:
            for header, offset in _headers(handle):
                start = offset + RECORD_HEADER_SIZE
                self.count, self.size = self.count + 1, self.size + header.length
                first = handle.read(start, min(header.length, _SAMPLE))
                self._check_unpacked(handle, header, start, first)
                beginnings.add(first[:_BEGINNING])
                self._check_one(handle, header, start, first, together)
        for judged in (together, beginnings):
            if not judged.is_random():
                raise _readable(name, FILE_HEADER_SIZE, "its records together do not look like encrypted bytes")

    def _check_one(
        self, handle: ReadHandle, header: RecordHeader, start: int, first: bytes, together: _Distribution
    ) -> None:
        alone = _Distribution()
        for at in range(0, header.length, _BLOCK):
            sample = first if at == 0 else handle.read(start + at, min(_SAMPLE, header.length - at))
            alone.add(sample)
            together.add(sample)
        if not alone.is_random():
            raise _readable(self._name, start, "a record does not look like encrypted bytes")

    def _check_unpacked(self, handle: ReadHandle, header: RecordHeader, start: int, first: bytes) -> None:
        """Raise NotCiphertext if the record can be read without any key, in whatever way it may have been padded."""
        if header.kind == RecordKind.END:
            size = self._unpacked.to_bytes(8, "little")
            if self._unpacked and first[: SALT + 8].find(size) in (0, TAG, SALT):
                raise _readable(self._name, start, "a database's size can be read")
            return
        self._unpacked += header.size
        begins = bool(header.flags & Flag.FRAME) or (header.kind == RecordKind.PIECE and header.sequence == 1)
        if not begins or header.length > 1 << 20:
            return
        payload = first if header.length <= len(first) else handle.read(start, header.length)
        for before in (0, TAG, SALT):
            for after in (0, TAG, SALT, SALT + TAG):
                if _unpacks(payload[before : len(payload) - after], header.size):
                    raise _readable(self._name, start, "a record can be unpacked without a key")


_MAGIC = b"\x28\xb5\x2f\xfd"
"""Begins every zstd stream."""


def _unpacks(data: bytes, size: int) -> bool:
    if not data.startswith(_MAGIC):
        return False
    try:
        found = Decompressor().whole(data, min(size, 1 << 24))
    except StreamError:
        return False
    return len(set(found)) > 4  # random bytes that look like a stream at all are most likely one byte, repeated


def _headers(handle: ReadHandle) -> Iterator[tuple[RecordHeader, int]]:
    """The headers of the records that are all there, each with its offset."""
    offset, size = FILE_HEADER_SIZE, handle.size()
    while offset < size:
        header = decode_record_header(handle.read(offset, RECORD_HEADER_SIZE))
        if header is None or offset + RECORD_HEADER_SIZE + header.length > size:
            return
        yield header, offset
        offset += RECORD_HEADER_SIZE + header.length


def _check_torn(storage: Storage, name: str) -> None:
    """A record's beginning, with sectors of it missing."""
    with closing(storage.open(name)) as handle:
        data = handle.read(RECORD_HEADER_SIZE, _BLOCK)
    judged = _Distribution()
    judged.add(re.sub(rb"\0{32,}", b"", data))
    if not judged.is_random() or any(_MAGIC in data[at : at + 4] for at in (0, SALT)):
        raise _readable(name, RECORD_HEADER_SIZE, "what was cut off the log does not look like encrypted bytes")


def _check_document(name: str, data: bytes) -> None:
    found = _PRIVATE.search(data)
    if found is not None:
        field = found.group().partition(b":")[0].strip().decode()
        raise _readable(name, found.start(), f"the private field {field} is")
    try:
        fields = json.loads(data.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return
    if not isinstance(fields, dict):
        return
    sealed = fields.pop(SEALED, None)
    for field, value in fields.items():
        if field == SEEN:  # what a reader without the key has found
            continue
        if isinstance(value, str) and re.search(r"[/@\\]|\(", value):  # a URL, a path, or the details of a `reason`
            raise _readable(name, 0, f"the field {field} is more than a public word")
    if isinstance(sealed, str) and not _looks_sealed(sealed):
        raise _readable(name, 0, f"the field {SEALED} holds what anybody can read")


def _looks_sealed(text: str) -> bool:
    try:
        data = base64.b64decode(text.partition(":")[2])
    except (binascii.Error, ValueError):
        return True  # it is damaged
    judged = _Distribution()
    judged.add(data)
    places = (data[SALT : len(data) - TAG], data[: max(len(data) - SALT - TAG, 0)], data[SALT + TAG :])
    return judged.is_random() and not any(len(each) >= _SHORTEST_TEXT and _is_text(each) for each in places)


def _is_text(data: bytes) -> bool:
    return all(0x20 <= value < 0x7F for value in data)
