"""What answers lightningd's calls for the node in the working directory, and the threads that work around it.

At first it holds only what was found before the manifest. What saves changes (the commit gate and everything below it)
is imported and started with the first call, because all of lightningd waits for the manifest. If that fails, because a
package is missing or broken, the call is refused, and so is each that follows.
"""

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.node.sync_point import look
from backends.text import one_line
from plugin.at_start import Start
from plugin.before_manifest import before_manifest
from plugin.pyln_client import Plugin, Request

if TYPE_CHECKING:
    from plugin.commit_gate import CommitGate
    from plugin.maintenance import MaintenanceThread
    from plugin.notify import Notifier
    from plugin.sync_point import SyncPointThread
    from plugin.watchdog import Watchdog

LEAVE_WITHIN = 20.0
"""Seconds that the plugin has to end; lightningd waits 30 for a plugin that was told to stop."""


@dataclass(frozen=True, slots=True)
class _Running:
    """What protects the node from the first call on. The threads run as long as the handler holds this."""

    gate: "CommitGate"
    watchdog: "Watchdog"
    maintenance: "MaintenanceThread"
    sync_points: "SyncPointThread"
    notifier: "Notifier"


class HookHandler:
    """Answers the calls of the hook and of the RPC methods, from any thread."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._start = before_manifest(Path.cwd())
        self._running: _Running | None = None
        self._beginning = threading.Lock()
        self.called = False
        """Whether the hook was called, so that lightningd's database is one that it shows to plugins."""

    # The commit path

    def db_write(self, request: Request, data_version: int, writes: list[str]) -> dict[str, str]:
        """The answer to one call. The watchdog may answer in our place, through `request`."""
        self.called = True
        try:
            running = self._running or self._begin()
        except Exception as error:  # whatever is wrong with the packages, the call must be refused
            return _not_whole(error)
        running.watchdog.begin(request)
        result = running.gate.db_write(data_version, writes)
        running.watchdog.done()
        return result

    # Off the commit path

    def _begin(self) -> _Running:
        """Import what protects the node, and start its threads. Raises whatever the imports raise."""
        with self._beginning:
            if self._running is None:
                from plugin.commit_gate import CommitGate
                from plugin.maintenance import MaintenanceThread
                from plugin.notify import Notifier
                from plugin.sync_point import SyncPointThread
                from plugin.watchdog import Watchdog

                notifier = Notifier(Path.cwd(), self._log, lambda: gate.encrypted)

                def report(level: str, line: str) -> None:
                    self._log(level, line)
                    notifier.tell(level, one_line(line))

                gate = CommitGate(Path.cwd(), report, self._start)
                watchdog = Watchdog(gate, report)
                running = _Running(gate, watchdog, MaintenanceThread(gate), SyncPointThread(gate, watchdog), notifier)
                for thread in (notifier, watchdog, running.maintenance, running.sync_points):
                    thread.start()
                for level, line in self._start.lines:
                    report(level, line)
                self._running = running
            return self._running

    def _log(self, level: str, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # lightningd may be gone already
            self._plugin.log(one_line(line), level)

    def refuse(self, reason: str) -> dict[str, str]:
        """The answer to a call that could not be read. No change is acknowledged after it."""
        self.called = True
        try:
            return self._begin().gate.give_up(reason)
        except Exception as error:
            return _not_whole(error)

    def status(self) -> dict[str, Any]:
        """For the RPC method backup-status. Raises whatever prevents the plugin from being loaded."""
        return self._begin().gate.status()

    def compact(self) -> dict[str, Any]:
        """For the RPC method backup-compact. Raises whatever prevents the plugin from being loaded."""
        return self._begin().gate.compact()

    def add_member(self, url: str, name: str | None) -> dict[str, Any]:
        """For the RPC method backup-member-add. Raises BackupError, or what prevents the plugin from being loaded."""
        return self._begin().gate.add_member(url, name)

    def remove_member(self, name: str) -> dict[str, Any]:
        """For the RPC method backup-member-remove. Raises like `add_member`."""
        return self._begin().gate.remove_member(name)

    def ask_for_wallet(self, rpc_file: Path) -> None:
        """After `init`: find out whether the node's database is one that lightningd shows to no plugin."""
        if not self.called:
            from plugin.postgresql import WalletQuestion

            WalletQuestion(rpc_file, lambda: self.called, self._end_unprotected).start()

    def _end_unprotected(self) -> None:
        """The node uses PostgreSQL: say so, and end the process."""
        from plugin.postgresql import end_unprotected

        running = self._begin()
        end_unprotected(running.gate.report, running.notifier.stop)

    def close(self) -> None:
        """The plugin is ending: end the session cleanly. If another call comes, the handler starts again."""
        running, self._running = self._running, None
        if running is not None:
            running.watchdog.leave_within(LEAVE_WITHIN)
            running.sync_points.stop()  # first: if lightningd has died, only what is read at once is certain
            running.maintenance.stop()
            running.gate.close()
            running.notifier.stop()
            running.watchdog.stop()
            self._start = Start(look(Path.cwd()))
        elif self._start.copy is not None:
            self._start.copy.close()


def _not_whole(error: Exception) -> dict[str, str]:
    return {
        "result": "fail",
        "message": f"backup: lightningd-backup is not completely installed ({error!a}). "
        "Nothing was committed, and the backup is unchanged; reinstall it, then start the node again",
    }
