"""Verifying an encrypted backup without its key: every stored byte is checked, and the contents stay unproved.

Whoever changes a byte without the key can make its checksum match. So this finds what disks, cables and interrupted
copies do, and not what an attacker does.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import click

from backends.errors import BackupError, Unrestorable
from backends.log.backup import Backup
from backends.log.ciphertext import check_ciphertext
from backends.text import counted
from backup_cli.console import moment, progress, show_line, size, warn
from backup_cli.for_programs import hand_out_result
from backup_cli.noting import damage_noted
from backup_cli.options import existing_backup
from backup_cli.seen_encryption import Encrypted
from backup_cli.verify_slots import warn_of_slots
from backup_cli.verifying import warn_of_earlier

PROVED, ENCRYPTED = "proved", "encrypted"
"""What `verify --json` says of the contents: everything was replayed, or nothing could be read."""

NOT_PROVED = (
    "the key of this backup is not here, so its contents were NOT proved: only the stored bytes were checked. Repeat "
    "this with --hsm-secret FILE, --passphrase-file FILE or --key-file FILE to prove that it can be restored"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What was checked of an encrypted backup without its key."""

    backup_id: str
    data_version: int
    last_change: int
    generation: int
    stored_bytes: int
    records: int
    torn: str | None
    end_unverified: str | None


def verify_stored(url: str, backup: Backup, members: Sequence[Encrypted], as_json: bool) -> None:
    """Check every stored byte, and say what was found. Raises Damaged and other BackupErrors.

    Ends with exit code 3 if the backup is known to be damaged: that every byte matches its checksum disproves nothing;
    and if no key slot opens it.
    """
    stored = check_stored(url, backup, note=True)
    if not as_json:
        _tell(url, stored)
    damaged = warn_of_earlier(backup, stored.generation, replayed=False)
    closed = warn_of_slots(members)
    warn(NOT_PROVED)
    if as_json:
        hand_out_result({"url": url, "contents": ENCRYPTED, **asdict(stored), "only_backup_key_opens": closed})
    if damaged or closed:
        raise click.exceptions.Exit(3)


def verify_stored_members(urls: Sequence[str], encrypted: Sequence[Encrypted], as_json: bool) -> None:
    """The same for several members of one backup. They are not compared: which belong together is encrypted, too.

    Ends with exit code 3 if one is damaged or no key slot opens the backup, with 1 if one could not be read.
    """
    members: list[dict[str, Any]] = []
    code = 0
    for given in urls:
        member: dict[str, Any] = {"url": given, "whole": False, "finding": None, "failure": None}
        members.append(member)
        try:
            url, backup = existing_backup(given)
            stored = check_stored(url, backup, note=False)  # another member may heal it
            member.update(whole=True, **asdict(stored))
            if not as_json:
                _tell(url, stored)
        except Unrestorable as error:
            member["finding"], code = error.finding, 3
            warn(f"DAMAGED: {given}: {error.finding}. Keep every disk; to see whether another one holds the good copy, "
                 "repeat this with the key")  # fmt: skip
        except BackupError as error:
            member["failure"], code = str(error), code or 1
            warn(f"NOT VERIFIED: {given}: {error}")
    closed = warn_of_slots(encrypted)
    code = 3 if closed else code
    warn(NOT_PROVED)
    if as_json:
        hand_out_result({"contents": ENCRYPTED, "members": members, "only_backup_key_opens": closed})
    if code:
        raise click.exceptions.Exit(code)


def check_stored(url: str, backup: Backup, *, note: bool) -> Stored:
    """Read every stored byte of the generation in use, and check it.

    Raises Damaged, and NotCiphertext if anything in the backup can be read without a key. With `note`, damage is
    recorded in the backup.
    """
    with backup.read() as reader, _noted(backup, reader.manifest.generation, note):
        with progress("Checking stored bytes") as show:
            total = reader.stored_bytes()
            for read in reader.snapshot.check_stored():
                show(read, total)
            scan, records = reader.scan(), 0
            for _ in scan:
                records += 1
                show(min(reader.snapshot.size() + scan.bytes_read, total), total)
            show(total, total)
        check_ciphertext(backup.storage)
        manifest, end = reader.manifest, scan.end()
        if end.torn is not None:
            warn(f"the end of the log of {url} is torn, as a power cut leaves it: {end.torn}")
        if end.end_unverified is not None:
            warn(end.end_unverified)
        return Stored(
            manifest.backup_id.hex(),
            end.position.data_version,
            end.position.time,
            manifest.generation,
            reader.stored_bytes(),
            records,
            end.torn,
            end.end_unverified,
        )


def _noted(backup: Backup, generation: int, note: bool) -> AbstractContextManager[None]:
    return damage_noted(backup, "verify", generation) if note else nullcontext()


def _tell(url: str, stored: Stored) -> None:
    show_line(
        f"{url} is encrypted, and its stored bytes are whole: version {stored.data_version}, last changed "
        f"{moment(stored.last_change)}; {size(stored.stored_bytes)} and {counted(stored.records, 'record')} read"
    )
