"""The maintenance thread: everything that must happen from time to time, so that no commit waits for it."""

import threading
import time
from typing import TYPE_CHECKING

from backends.log.status import low_space
from backends.log.writer.writer import Writer
from backends.members.live_status import live_statuses
from plugin.attachments import AttachmentWatch
from plugin.commit_gate import CommitGate
from plugin.member_reports import cannot_be_mended
from plugin.member_watch import MemberWatch
from plugin.scrub import Scrub

if TYPE_CHECKING:
    from plugin.slots_watch import SlotsWatch

TICK = 0.2
"""Seconds; the preallocated space must last for one tick of the busiest node (1,000 changes a second make 70 kB)."""

SPACE_EVERY = 60.0
"""Seconds between two checks of the free space."""

END_WITHIN = 5.0
"""Seconds that the end of the process waits for what the thread is doing."""

END_AFTER_REFUSAL_WITHIN = 0.5
"""The same after a refusal. The destination may be what failed, and a request that began before the refusal would be
waited for in vain: with PostgreSQL, for one more timeout. Every step can be cut off anywhere, as by a kill."""

FREE_FOR_COMMITS = 64 << 20
"""Bytes at the destination below which generations are given up that are only kept for their history."""


class MaintenanceThread:
    """Maintains the backup while the node runs."""

    def __init__(self, gate: CommitGate) -> None:
        self._gate = gate
        self._stop = threading.Event()
        self._next_look, self._low = 0.0, False
        self._watch = MemberWatch(gate.report)
        self._attachments = AttachmentWatch(gate.directory, gate.report)
        self._slots: SlotsWatch | None = None
        self._scrub = Scrub(gate.directory, gate.report, self._damaged)
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread; the backup may be opened later."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread: wait for what it is doing, but not for a destination that hangs."""
        self._stop.set()
        self._thread.join(timeout=END_WITHIN if self._gate.refusal is None else END_AFTER_REFUSAL_WITHIN)
        self._scrub.stop()

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            writer = self._gate.writer
            if writer is None:
                continue
            try:
                writer.maintain()
                if self._stop.is_set() or writer.failure is not None:
                    continue  # a destination that does not answer would hold up the end of the process once more
                self._check_space(writer)
                if self._gate.compaction is not None and self._gate.refusal is None:
                    self._gate.damage.tick(writer)
                    self._gate.compaction.tick(writer)
                    self._maintain_members()
                    self._tend_small_files(writer)
            except Exception as error:  # whatever went wrong, this thread must go on
                self._gate.report("unusual", f"maintenance: {error}")

    def _maintain_members(self) -> None:
        if self._gate.members is not None:
            self._scrub.tick(tuple(self._gate.members.mirror.in_sync))

    def _tend_small_files(self, writer: Writer) -> None:
        """Not while a new snapshot is taken, or about to be: the commit that does it removes unfinished files."""
        if self._gate.saved and self._gate.damage.heal is None:
            self._attachments.tick(writer, self._gate.members)
            if writer.manifest.key is not None:
                self._look_at_key_slots(writer)

    def _look_at_key_slots(self, writer: Writer) -> None:
        if self._slots is None:
            from plugin.slots_watch import SlotsWatch  # here, because a plain backup needs none of it

            self._slots = SlotsWatch(self._gate.directory, self._gate.report)
        self._slots.tick(writer, self._gate.members)
        self._gate.slots_health = self._slots.health

    def _damaged(self, name: str, file: str, what: str) -> None:
        """The scrub has found a damaged file that it may not mend: the member is to be caught up from the others."""
        members = self._gate.members
        if members is None or not members.damaged(name, f"{what} in {file}"):
            self._gate.report(*cannot_be_mended(name, file, what))

    def _check_space(self, writer: Writer) -> None:
        """Warn in the node's log when a destination fills up, or trails too far: once each time that this happens."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + SPACE_EVERY
        writer.give_up_history(FREE_FOR_COMMITS)
        sizes = writer.sizes()
        stored = sizes.snapshot + sizes.segments
        if self._gate.members is not None:
            self._gate.members.look_at_space()
            self._watch.look(live_statuses(self._gate.members), stored, time.time())
            return
        low = low_space(writer.space(), stored)
        if low is not None and not self._low:
            self._gate.report("unusual", low)
        self._low = low is not None
