"""`backup-cli verify` for several members: each is verified alone, then all are compared, and mended if so wanted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from backends import backup_at
from backends.errors import BackupError, Damaged, NotABackup, Unrestorable
from backends.log.backup import Backup
from backends.log.ciphertext import check_ciphertext
from backends.members.compare import compare_members
from backends.members.comparison import Comparison, GenerationChanged
from backends.members.peers import Peer, peer_at
from backends.members.repair import mend
from backends.members.urls import named
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.storage.unreachable import reaching
from backends.system.interrupts import deferred
from backends.system.scratch import scratch_directory, scratch_place
from backup_cli import as_owner
from backup_cli.dry_run import held
from backup_cli.finding_keys import find_key
from backup_cli.key_options import KeyOptions
from backup_cli.options import existing_backup
from backup_cli.ownership import alone
from backup_cli.seen_encryption import look_for_encryption
from backup_cli.verified_members import Findings, VerifiedMember, tell_findings, tell_mending
from backup_cli.verify_stored import verify_stored_members
from backup_cli.verifying import Accept, rebuild

_ATTEMPTS = 5

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for on the command line."""

    scratch: Path | None
    accept: Accept
    as_json: bool
    repair: bool
    take_over: bool
    dry_run: bool


def verify_members(urls: Sequence[str], directory: Path | None, wishes: Wishes, key: KeyOptions) -> None:
    """Verify and compare the members at these URLs; `directory` is that of the node whose backup it is, if known.

    Raises BackupError; ends with exit code 3 while a member is damaged, and with 1 if one could not be verified.
    """
    if directory is None:
        _become_owner(urls)
    as_owner.refuse_anothers(wishes.scratch)
    encryption = look_for_encryption(urls, patient=False)
    find_key(encryption, key, [] if directory is None else [directory], needed=wishes.repair, ask=True)
    if encryption.is_closed:
        verify_stored_members(urls, encryption.members, wishes.as_json)
        return
    members = _opened(urls)
    if not wishes.repair:
        _verify_each(members, wishes)
        found = _left(members, _compare(members))
        found.encrypted = look_for_encryption(urls).members
        tell_findings(found, repaired=False, as_json=wishes.as_json)
        return
    with _stopped(directory, members, wishes):
        found = _left(members, _compare(members))
        if wishes.dry_run:
            tell_mending(found, as_json=wishes.as_json)
            return
        peers = _peers(members)
        with deferred():
            found.mended = mend(found.comparison, peers, running=False)
        _verify_each(members, wishes)
        again = _left(members, _compare(members))
        again.mended, again.encrypted = found.mended, look_for_encryption(urls).members
    tell_findings(again, repaired=True, as_json=wishes.as_json)


def _become_owner(urls: Sequence[str]) -> None:
    for url in urls:
        with suppress(BackupError):
            if as_owner.backup(url):
                return


def _opened(urls: Sequence[str]) -> list[VerifiedMember]:
    """The members at these URLs. Raises BackupError if they are not members of one backup."""
    members = [VerifiedMember(each.name, each.url) for each in named(tuple(urls))]
    ids: dict[str, str] = {}
    for member in members:
        try:
            member.url, member.backup = _existing(member.url)
            with reaching(member.backup.storage):
                document = peer_at(member.name, member.backup.storage).document
            if document is not None:
                member.name = document.name
                ids.setdefault(document.backup_id, member.url)
        except BackupError as error:
            member.failure = error
    _refuse_strangers(members, ids)
    return members


def _existing(url: str) -> tuple[str, Backup]:
    """The backup at this URL, even if its manifest is damaged or gone: another member may have a good one."""
    try:
        return existing_backup(url)
    except (Damaged, NotABackup):
        backup = backup_at(url)
        with reaching(backup.storage):
            if peer_at("", backup.storage).document is None:
                raise
        return url, backup


def _refuse_strangers(members: Sequence[VerifiedMember], ids: Mapping[str, str]) -> None:
    if not ids:
        failures = [member for member in members if member.failure is not None]
        if failures and failures[0].failure is not None:
            raise failures[0].failure
        raise NotABackup("these are not members of one backup: none of them says so. Nothing was changed")
    if len(ids) > 1:
        one, other, *_ = ids.values()
        raise BackupError(
            f"{one} and {other} hold two different backups, not two members of one. Nothing was changed; name the "
            "members of one backup only"
        )
    names = [member.name for member in members if member.backup is not None]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BackupError(
            f"two of these hold the member {twice}: one is a copy of the other. Nothing was changed; name only the one "
            "that backup.lock names"
        )


@contextmanager
def _stopped(directory: Path | None, members: Sequence[VerifiedMember], wishes: Wishes) -> Iterator[None]:
    """Refuse while a node, or another command, writes to the backup; keep them out until the block has ended."""
    with ExitStack() as locks:
        if directory is not None:
            refuse_if_running(directory)
            locks.enter_context(held(WriterLock(directory), wishes.dry_run))
        for member in members:
            if member.backup is not None:
                locks.enter_context(
                    alone(member.url, member.backup, "verify --repair", wishes.take_over, wishes.dry_run)
                )
        yield


def _verify_each(members: Sequence[VerifiedMember], wishes: Wishes) -> None:
    """Verify each member alone. What is wrong with one is remembered, not raised."""
    for member in members:
        if member.backup is None:
            continue
        member.verified = member.damage = member.failure = None
        try:
            with scratch_directory(wishes.scratch or scratch_place()) as directory:
                made = directory / "verified.sqlite3"
                member.verified = rebuild(
                    member.url, member.backup, made, wishes.accept, note=False, what=f"Verifying {member.name}"
                )
            if look_for_encryption(member.backup).members:
                check_ciphertext(member.backup.storage)
        except Unrestorable as error:
            member.damage = error
        except BackupError as error:
            member.failure = error


def _peers(members: Sequence[VerifiedMember]) -> list[Peer]:
    peers = []
    for member in members:
        if member.backup is not None:
            try:
                with reaching(member.backup.storage):
                    peers.append(peer_at(member.name, member.backup.storage))
            except BackupError as error:
                member.failure = error
    return peers


def _compare(members: Sequence[VerifiedMember]) -> Comparison:
    def once() -> Comparison:
        return compare_members(_peers(members), unpack=False)

    return _again_if_changed(once)


def _again_if_changed(work: Callable[[], _Result]) -> _Result:
    for _ in range(_ATTEMPTS - 1):
        with suppress(GenerationChanged):
            return work()
    return work()


def _left(members: list[VerifiedMember], comparison: Comparison) -> Findings:
    return Findings(members, comparison, (), list(comparison.faults))
