"""The key slots of an encrypted backup as `backup-cli keys` lists them, for people and programs."""

from collections.abc import Sequence
from typing import Any

from backends.log.format.keys import HsmSlot, KeysDocument
from backends.node.hsm_secret import HSM_SECRET
from backends.times import moment
from backup_cli.console import show_line
from backup_cli.shared_slots import SharedSlots
from backup_cli.trying_slots import State, Tried, untried

_WORDS = {
    State.OPENS: "opens",
    State.DOES_NOT_OPEN: "does not open",
    State.DAMAGED: "DAMAGED",
    State.NOT_TRIED: "not tried",
}


def show_slots(urls: Sequence[str], shared: SharedSlots, document: KeysDocument, tried: Tried) -> None:
    """Show which key slots the backup at these URLs has, and what became of trying them."""
    show_line(f"backup  {' and '.join(urls)} ({document.backup_id.hex()})")
    show_line(f"key     {shared.members[0].key_id}")
    made = {slot.number: f"made {moment(slot.created, '%Y-%m-%d %H:%M')}" for slot in document.slots}
    for number, kind in document.names:
        what = HSM_SECRET if kind == HsmSlot.kind else "passphrase"
        show_line(f"slot {number}  {what:10}  {made.get(number, 'time unknown'):21}  {_WORDS[tried.states[number]]}")
    if not document.names:
        show_line("no key slot: nothing but backup.key opens this backup. To add one: backup-cli keys --add-passphrase")
    if tried.backup_key is not None:
        show_line(tried.backup_key)


def slots_document(
    urls: Sequence[str], shared: SharedSlots, document: KeysDocument, tried: Tried | None = None
) -> dict[str, Any]:
    """The same for programs. Without `tried`, no slot was."""
    states = (tried or untried(document)).states
    created = {slot.number: slot.created for slot in document.slots}
    result: dict[str, Any] = {
        "urls": list(urls),
        "unreachable": list(shared.away),
        "backup_id": document.backup_id.hex(),
        "key_id": document.key_id,
        "slots": [
            {"number": number, "kind": kind, "created": created.get(number), "state": states[number].value}
            for number, kind in document.names
        ],
    }
    return result if tried is None or tried.backup_key is None else {**result, "backup_key": tried.backup_key}
