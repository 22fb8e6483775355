"""What `backup-cli verify` says of several members, to people and to programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from backends.confined.work import Outcome
from backends.errors import BackupError, Unrestorable
from backends.log.backup import Backup
from backends.members.comparison import ComparedFile, Comparison
from backends.members.repair import Mended, Mending
from backends.text import counted, printable
from backup_cli.console import show_line, warn
from backup_cli.dry_run import tell_steps
from backup_cli.for_programs import hand_out_result
from backup_cli.noting import note_damage
from backup_cli.seen_encryption import Encrypted
from backup_cli.verify_slots import warn_of_slots
from backup_cli.verify_stored import PROVED
from backup_cli.verifying import tell_whole


@dataclass(slots=True)
class VerifiedMember:
    """One member, and what was found out about it alone."""

    name: str
    url: str
    backup: Backup | None = None
    verified: Outcome | None = None
    damage: Unrestorable | None = None
    failure: BackupError | None = None
    """Why it could not be verified."""


@dataclass(slots=True)
class Findings:
    """What was found out about all members."""

    members: list[VerifiedMember]
    comparison: Comparison
    mended: tuple[Mended, ...] = ()
    left: list[ComparedFile] = field(default_factory=list)
    """The files of which some copy is damaged and was not mended."""
    encrypted: Sequence[Encrypted] = ()
    """The members that could be read, if the backup is encrypted."""


def tell_mending(found: Findings, *, as_json: bool) -> None:
    """Say what --repair would mend."""
    steps = [
        f"replace {file.name} in the member {bad.member} ({bad.what} at byte {bad.offset}) by the good copy of "
        f"{file.good[0]}"
        for file in found.left
        for bad in file.bad
        if file.good
    ]
    hopeless = [file.name for file in found.left if not file.good]
    if hopeless:
        warn(f"no member holds a good copy of {', '.join(hopeless)}: that cannot be mended")
    tell_steps(steps, as_json)


def tell_findings(found: Findings, *, repaired: bool, as_json: bool) -> None:
    """Say what was found. Ends with exit code 3 if a member is damaged or no key slot opens the backup, with 1 if
    a member could not be verified."""
    damaged = _damaged(found)
    _note(found)
    if not as_json:
        for line in _lines(found):
            show_line(line)
    for line in _doubts(found):
        warn(line)
    failed = any(member.failure is not None for member in found.members)
    if damaged:
        _advise(found, damaged, repaired=repaired)
    elif failed:
        warn("not every member could be verified, and nothing was changed in those")
    closed = warn_of_slots(found.encrypted)
    if as_json:
        hand_out_result({**_document(found, damaged), "only_backup_key_opens": closed})
    if damaged or failed or closed:
        raise click.exceptions.Exit(3 if damaged or closed else 1)


def _damaged(found: Findings) -> list[str]:
    """The names of the damaged members."""
    files = {bad.member for file in found.left for bad in file.bad}
    return [member.name for member in found.members if member.damage is not None or member.name in files]


def _note(found: Findings) -> None:
    """Record in every member that is in the newest epoch that none can be restored, if no other one can heal it.

    What another member can heal is not recorded: the node would take a new snapshot for it.
    """
    compared = [member for member in found.members if member.name in found.comparison.compared]
    if not compared or any(member.damage is None for member in compared):
        return
    if all(file.good for file in found.left) and found.left:
        return
    for member in compared:
        if member.backup is not None and member.damage is not None:
            note_damage(member.backup, "verify", member.damage.finding, found.comparison.generation)


def _lines(found: Findings) -> Iterator[str]:
    for member in found.members:
        if member.verified is not None:
            tell_whole(member.url, member.verified)
        elif member.damage is not None:
            yield f"DAMAGED: {member.name} ({member.url}): {member.damage.finding}"
        elif member.failure is not None:
            yield f"NOT VERIFIED: {member.name} ({member.url}): {member.failure}"
    for mended in found.mended:
        yield _line_of(mended)
    for file in found.left:
        where = f"the good copy is in {' and '.join(file.good)}" if file.good else "no member holds a good copy"
        for bad in file.bad:
            what = printable(bad.what)
            yield f"DAMAGED: {file.name} in the member {bad.member}, at byte {bad.offset}: {what}; {where}"
    files, compared = found.comparison.files, found.comparison.compared
    if len(compared) > 1 and not found.left:
        yield f"{' and '.join(compared)} hold the same: {counted(len(files), 'file')} compared"


def _line_of(mended: Mended) -> str:
    if mended.outcome is Mending.MENDED:
        return f"mended: {mended.file} in the member {mended.member}, from {mended.source}"
    return f"NOT MENDED: {mended.file} in the member {mended.member}: {printable(mended.why)}"


def _doubts(found: Findings) -> Iterator[str]:
    comparison = found.comparison
    for name in comparison.behind:
        yield f"the member {name} holds an earlier state, and was not compared: the running node catches it up"
    for name in comparison.unknown:
        yield (
            f"the member {name} does not say in which epoch it is, and was not compared or touched: the next start of "
            "the node brings it up to date, or says why not"
        )
    for name, why in comparison.unreachable.items():
        yield f"the member {name} could not be compared: {why}"
    for file in comparison.lost_of_kept:
        yield (
            f"{file.name} is damaged at {' and '.join(bad.member for bad in file.bad)}. It belongs to the earlier "
            "generation that is kept for a week (backup-cli versions); the current state does not need it"
        )


def _advise(found: Findings, damaged: Sequence[str], *, repaired: bool) -> None:
    curable = any(file.good for file in found.left)
    if curable and not repaired:
        warn(
            f"{' and '.join(damaged)}: damaged. Another member holds the good copy, so nothing is lost: keep every "
            "disk, and add --repair with the node stopped; a running node mends it by itself within a week"
        )
    else:
        warn(
            f"{' and '.join(damaged)}: damaged, and no member holds a good copy of everything. Keep every disk; if the "
            "node's own database is alive, run: backup-cli resync"
        )


def _document(found: Findings, damaged: Sequence[str]) -> dict[str, Any]:
    """The result for programs."""
    return {
        "contents": PROVED,
        "backup_id": found.comparison.backup_id,
        "epoch": found.comparison.epoch.number,
        "generation": found.comparison.generation,
        "damaged": list(damaged),
        "members": [_member_document(member) for member in found.members],
        "compared": list(found.comparison.compared),
        "behind": list(found.comparison.behind),
        "unknown": list(found.comparison.unknown),
        "files": [
            {
                "name": file.name,
                "good": list(file.good),
                "bad": [
                    {"member": bad.member, "state": bad.state.value, "what": bad.what, "offset": bad.offset}
                    for bad in file.bad
                ],
            }
            for file in found.left
        ],
        "mended": [
            {
                "file": each.file,
                "member": each.member,
                "outcome": each.outcome.value,
                "source": each.source,
                "why": each.why,
            }
            for each in found.mended
        ],
    }


def _member_document(member: VerifiedMember) -> dict[str, Any]:
    verified = member.verified
    return {
        "name": member.name,
        "url": member.url,
        "verified": verified is not None,
        "data_version": None if verified is None else verified.rebuilt.data_version,
        "last_change": None if verified is None else verified.rebuilt.last_time,
        "finding": None if member.damage is None else member.damage.finding,
        "failure": None if member.failure is None else str(member.failure),
    }
