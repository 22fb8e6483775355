"""All that protects a node, put together: the guard, and the threads around it."""

import contextlib
from pathlib import Path
from typing import Any

from pyln.client import Plugin
from pyln.client.plugin import Request

from backends.words import one_line
from plugin.before_manifest import Start
from plugin.guard import Guard
from plugin.keeper import Keeper
from plugin.notify import Notifier
from plugin.postgresql import end_unprotected
from plugin.sync_point import SyncPointThread
from plugin.watchdog import Watchdog

LEAVE_WITHIN = 20.0
"""Seconds; lightningd waits 30 for a plugin that was told to stop."""


class Protection:
    """What answers lightningd's calls for the node in the working directory. Its threads run from the first moment."""

    def __init__(self, plugin: Plugin, start: Start) -> None:
        def log(level: str, line: str) -> None:
            with contextlib.suppress(OSError, ValueError):  # lightningd may be gone already
                plugin.log(one_line(line), level)

        def report(level: str, line: str) -> None:
            log(level, line)
            self._notifier.tell(level, one_line(line))

        self._report = report
        self._notifier = Notifier(Path.cwd(), log)
        self._guard = Guard(Path.cwd(), report, start)
        self._keeper = Keeper(self._guard)
        self._watchdog = Watchdog(self._guard, report)
        self._sync_points = SyncPointThread(self._guard, self._watchdog)
        self._notifier.start()
        self._watchdog.start()
        self._keeper.start()
        self._sync_points.start()
        for level, line in start.lines:
            report(level, line)

    # The commit path

    def db_write(self, request: Request, data_version: int, writes: list[str]) -> dict[str, str]:
        """The answer to one call. The watchdog may give it in our place, through `request`."""
        self._watchdog.begin(request)
        result = self._guard.db_write(data_version, writes)
        self._watchdog.done()
        return result

    # Off the commit path

    def refuse(self, reason: str) -> dict[str, str]:
        """The answer to a call that could not be read. Nothing is acknowledged after it."""
        return self._guard.give_up(reason)

    def status(self) -> dict[str, Any]:
        """For the RPC method."""
        return self._guard.status()

    def compact(self) -> dict[str, Any]:
        """For the RPC method."""
        return self._guard.compact()

    def end_unprotected(self) -> None:
        """The node is on PostgreSQL: say so, and end the process."""
        end_unprotected(self._report, self._notifier.stop)

    def end(self) -> None:
        """The plugin ends: leave the backup in order."""
        self._watchdog.leave_within(LEAVE_WITHIN)
        self._sync_points.stop()  # first: should lightningd have died, only what is seen at once is certain
        self._keeper.stop()
        self._guard.close()
        self._notifier.stop()
        self._watchdog.stop()
