"""How an epoch is changed, so that at no moment two members can each believe to hold the newest state alone.

1. The node notes the number of the new epoch as an intent, durably.
2. Each member that remains, or joins, gets its document of the new epoch, durably. If one fails, all of this begins
   again without it, under a further number.
3. The node notes the epoch as done, durably. Only then may anything be acknowledged under it.

A crash between 1 and 3 leaves an intent. A start with every member in sync resolves it by a further epoch; a start with
one of them away is refused, because the one that is away may carry the epoch of the intent.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backends.errors import BackupError
from backends.log.format.members import MAX_HISTORY, Epoch, Member, MembersDocument, OutOfSync
from backends.node.lockfile import Settings
from backends.node.members_note import MembersNote, write_members_note
from backends.storage.base import FileFenced
from backends.text import counted, printable

Publish = Callable[[Mapping[str, bytes]], Mapping[str, Exception]]
"""Writes the document of each member named, durably, all at once. Returns what went wrong, by member."""


class NeedNotMet(BackupError):
    """Fewer members remain than the node needs."""

    kind = "need_not_met"


@dataclass(slots=True)
class Epochs:
    """The epochs of the backup of the node in `directory`, changed by its session `session` only.

    `note` is what the node knows. The caller sees to it that no two changes happen at once.
    """

    directory: Path
    settings: Settings
    note: MembersNote
    session: str
    goes_on_from: Collection[str] = ()
    """The members that a person has decided to go on from, where none of the last epoch is left."""
    key: str | None = None
    """The public name of the key that the backup is encrypted with, as its manifest has it: every document is sealed
    with it. Whoever makes this object sees to it that `key` is right before the first document is made."""

    @property
    def waited_for(self) -> tuple[Member, ...]:
        """The members that do not trail."""
        return tuple(member for member in self.settings.members if not member.trailing)

    def change(self, in_sync: Collection[str], publish: Publish, why: Mapping[str, str]) -> Mapping[str, Exception]:
        """Begin a new epoch with these members in sync. `why` says of others why they are not, as a clause.

        Returns the members that failed meanwhile, which are not in the new epoch. Raises NeedNotMet, or OSError if the
        node cannot note it; then nothing may be acknowledged any more.
        """
        failed: dict[str, Exception] = {}
        while True:
            remaining = tuple(each.name for each in self.waited_for if each.name in in_sync and each.name not in failed)
            if remaining and set(remaining).isdisjoint({*self.note.in_sync, *self.goes_on_from}):
                raise BackupError(
                    f"{', '.join(remaining)} had only begun to join, and no member of the last epoch can be reached. "
                    "Another node may have taken those over. What was saved until now is safe; stop any other node "
                    "that has this node's keys, then start this one again"
                )
            if len(remaining) < self.settings.need:
                raise self._need_not_met(remaining, {**why, **{name: clause(error) for name, error in failed.items()}})
            epoch = Epoch(self.note.newest + 1, self.session)
            history = {**self.note.history, epoch.session: epoch.number}
            self._write(replace(self.note, intent=epoch, history=history))
            out = self._out(remaining, {**why, **{name: clause(error) for name, error in failed.items()}})
            wrong = publish({name: self.document(name, epoch, remaining, out).encode() for name in remaining})
            if not wrong:
                self._write(replace(self.note, epoch=epoch, in_sync=remaining, intent=None, out=out))
                self.goes_on_from = ()
                return failed
            failed |= wrong

    def document(
        self, name: str, epoch: Epoch, in_sync: tuple[str, ...], out: Mapping[str, OutOfSync]
    ) -> MembersDocument:
        """The document of the member `name` in that epoch."""
        history = dict(sorted(self.note.history.items(), key=lambda entry: entry[1])[-MAX_HISTORY:])
        dropped = [number for session, number in self.note.history.items() if session not in history]
        floor = max([self.note.adopted, *dropped])
        return MembersDocument(
            self.note.backup_id, name, epoch, in_sync, self.settings.members, self.settings.need, out, history, floor,
            self.key,
        )  # fmt: skip

    def current_document(self, name: str) -> MembersDocument:
        """The document of the member `name` in the epoch that is done."""
        return self.document(name, self.note.epoch, self.note.in_sync, self.note.out)

    def note_mount(self, name: str, mount: str) -> None:
        """Remember where the filesystem of a member's directory is mounted. Raises OSError."""
        if self.note.mounts.get(name) != mount:
            self._write(replace(self.note, mounts={**self.note.mounts, name: mount}))

    def _out(self, in_sync: Collection[str], why: Mapping[str, str]) -> dict[str, OutOfSync]:
        """Since when, and why, each member is out of sync that is neither in sync nor trailing."""
        now, unknown = int(time.time()), OutOfSync(int(time.time()), "it was not there")
        return {
            each.name: self.note.out.get(each.name) or OutOfSync(now, why.get(each.name, unknown.why))
            for each in self.waited_for
            if each.name not in in_sync
        }

    def _write(self, note: MembersNote) -> None:
        write_members_note(self.directory, note)
        self.note = note

    def _need_not_met(self, remaining: Collection[str], why: Mapping[str, str]) -> NeedNotMet:
        reasons = "; ".join(f"{name}: {printable(text)}" for name, text in why.items())
        there = f"{counted(len(remaining), 'member')} of the backup can be written ({', '.join(remaining) or 'none'})"
        return NeedNotMet(
            f"only {there}, and the node needs {self.settings.need}. {reasons}. What was saved until now is safe. Fix "
            "one of them (space, disk, mount, server), then start the node again"
        )


def clause(error: BaseException) -> str:
    """An error of a member as a clause in the middle of a sentence."""
    if isinstance(error, FileFenced):
        return "its files were removed, replaced or made read-only"
    if isinstance(error, BackupError) and error.clause:
        return printable(error.clause)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return printable(text)
