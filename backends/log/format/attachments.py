"""The documents that hold a whole small file of the node: `emergency.recover`, and perhaps `hsm_secret`.

Each has the form of the other text files, with the file's content in base64. Neither belongs to a generation.
"""

import base64
import binascii
from dataclasses import dataclass
from enum import Enum

from backends.errors import BackupError, Damaged, NotEncrypted
from backends.log.format.text_files import decode_document, encode_document, sealed_by
from backends.text import counted
from backends.times import believed


class Attachment(Enum):
    """A file of the node that travels with the backup. The value is its name there, and the document's in the backup.

    lightningd finds both in the directory of its database.
    """

    EMERGENCY = "emergency.recover"
    """lightningd's static channel backup, encrypted by lightningd: which channels there are, and with whom."""
    SECRET = "hsm_secret"
    """The node's keys: only ever in an encrypted backup."""

    @property
    def limit(self) -> int:
        """The most bytes that the file may have to be stored."""
        return 1 << 20 if self is Attachment.EMERGENCY else 1024


ATTACHMENTS = tuple(each.value for each in Attachment)
"""The names of these documents."""

MAX_DOCUMENT = 2 << 20
"""The most bytes of such a document: the largest content, in base64 twice if it is encrypted."""

_CONTENT = "content"


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """One such document."""

    which: Attachment
    content: bytes | None
    """What is in the file; None if that is encrypted, and this process does not know the key."""
    size: int
    """Bytes of the content."""
    time: int
    """When it was copied into the backup, in seconds since 1970."""
    sealed: bool = False
    """Whether the content is encrypted."""

    def encode(self, key_id: str | None) -> bytes:
        """The bytes of the document, for a backup that is encrypted with this key (None: not encrypted).

        Raises KeyNeeded, NotEncrypted if a secret would be readable, BackupError for content that may not be stored.
        """
        name, content = self.which.value, self.content
        if self.which is Attachment.SECRET and key_id is None:
            raise NotEncrypted(
                f"{name} is never stored in a backup that is not encrypted: whoever reads the backup could spend all. "
                "Nothing was stored; keep copies of it elsewhere"
            )
        if not content or len(content) > self.which.limit:
            raise BackupError(f"{name} cannot be stored in the backup: {why_unfit(self.which, len(content or b''))}")
        public, private = {"size": self.size, "time": self.time}, {_CONTENT: base64.b64encode(content).decode()}
        data = encode_document(name, public, private, key_id)
        if key_id is not None and f'"{_CONTENT}"'.encode() in data:  # not even if the code above is wrong
            raise NotEncrypted(f"{name} would have been readable in an encrypted backup, so it was not stored there")
        return data

    @classmethod
    def decode(cls, which: Attachment, data: bytes) -> "AttachedFile":
        """The document in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
        fields = decode_document(which.value, data)
        size, text, sealed = fields.get("size"), fields.get(_CONTENT), sealed_by(fields) is not None
        if type(size) is not int or not 0 < size <= which.limit:
            raise Damaged("an impossible value of size", which.value, 0)
        content = None if text is None and sealed else _content(which, text)
        if content is not None and len(content) != size:
            raise Damaged(f"{counted(len(content), 'byte')} of content, and not {size},", which.value, 0)
        return cls(which, content, size, believed(fields.get("time")), sealed)


def why_unfit(which: Attachment, size: int) -> str | None:
    """Why a file of that size is not stored, as a clause; None if it is."""
    if not size:
        return "it is empty"
    if size > which.limit:
        return f"it has {counted(size, 'byte')}, and no more than {which.limit} are stored"
    return None


def _content(which: Attachment, text: object) -> bytes:
    if isinstance(text, str):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise Damaged("an impossible value of content", which.value, 0)
