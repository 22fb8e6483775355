"""The maintenance thread: everything that must happen from time to time, so that no commit waits for it."""

import threading
import time

from backends.log.status import low_space
from backends.log.writer.writer import Writer
from plugin.commit_gate import CommitGate
from plugin.member_maintenance import MemberMaintenance

TICK = 0.2
"""Seconds; the preallocated space must last for one tick of the busiest node (1,000 changes a second make 70 kB)."""

SPACE_EVERY = 60.0
"""Seconds between two checks of the free space."""


class MaintenanceThread:
    """Maintains the backup while the node runs."""

    def __init__(self, gate: CommitGate) -> None:
        self._gate = gate
        self._stop = threading.Event()
        self._next_look, self._low = 0.0, False
        self._members: MemberMaintenance | None = None
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread; the backup may be opened later."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread: wait for what it is doing, but not for a destination that hangs."""
        self._stop.set()
        self._thread.join(timeout=5)
        if self._members is not None:
            self._members.stop()

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            writer = self._gate.writer
            if writer is None:
                continue
            try:
                writer.maintain()
                self._check_space(writer)
                if self._gate.compaction is not None and self._gate.refusal is None:
                    self._gate.damage.tick(writer)
                    self._gate.compaction.tick(writer)
                    self._maintain_members()
            except Exception as error:  # whatever went wrong, this thread must go on
                self._gate.report("unusual", f"maintenance: {error}")

    def _maintain_members(self) -> None:
        members = self._gate.members
        if members is None:
            return
        if self._members is None or self._members.members is not members:
            self._members = MemberMaintenance(self._gate.directory, self._gate.report, members)
        self._members.tick()

    def _check_space(self, writer: Writer) -> None:
        """Warn in the node's log when the destination fills up: once each time that this happens."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + SPACE_EVERY
        sizes = writer.sizes()
        low = low_space(writer.space(), sizes.snapshot + sizes.segments)
        if low is not None and not self._low:
            self._gate.report("unusual", low)
        self._low = low is not None
