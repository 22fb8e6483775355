"""`lightningd-backup`, the executable that lightningd starts from its `important-plugin` line."""

import contextlib
import inspect
import sys
from pathlib import Path
from typing import Any

from pyln.client import Plugin
from pyln.client.plugin import Request

from plugin.guard import Guard
from plugin.keeper import Keeper
from plugin.notify import Notifier
from plugin.watchdog import Watchdog

LEAVE_WITHIN = 20.0
"""Seconds; lightningd waits 30 for a plugin that was told to stop."""


def build(plugin: Plugin) -> tuple[Guard, Keeper, Notifier, Watchdog]:
    """Hook the guard into the plugin. The working directory is the node's network directory."""

    def log(level: str, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # lightningd may be gone already
            plugin.log(line.encode(errors="replace").decode(), level)

    notifier = Notifier(Path.cwd(), log)

    def report(level: str, line: str) -> None:
        log(level, line)
        notifier.tell(level, line)

    guard = Guard(Path.cwd(), report)
    keeper = Keeper(guard)

    watchdog = Watchdog(guard, report)

    def db_write(request: Request, data_version: int, writes: list[str], **_: Any) -> None:
        """Answered through `request`, so that the watchdog can answer in our place when the destination hangs."""
        watchdog.begin(request)
        result = guard.db_write(data_version, writes)
        watchdog.done()
        answer(request, result)

    # pyln-client asks for it at each call, and working it out takes longer than saving a change (without the sync).
    db_write.__signature__ = inspect.signature(db_write)  # type: ignore[attr-defined]

    def status(**_: Any) -> dict[str, Any]:
        """What the backup holds: version, age of the last change, sizes, health."""
        return guard.status()

    def compact(**_: Any) -> dict[str, Any]:
        """Begin a compaction beside the running node; it reports to the log."""
        return guard.compact()

    def init(options: dict[str, Any], configuration: dict[str, Any], **_: Any) -> None:
        """All is decided at the first db_write: when that has not come yet there is nothing to protect."""

    def shutdown(**_: Any) -> None:
        """lightningd gives us 30 seconds to leave things in order."""
        sys.exit(0)

    plugin.add_hook("db_write", db_write, background=True)
    plugin.add_method("backup-status", status, description="What the backup holds, and how it is")
    plugin.add_method("backup-compact", compact, description="Begin a compaction of the backup now")
    plugin.child_init = init
    plugin.add_subscription("shutdown", shutdown)
    return guard, keeper, notifier, watchdog


def answer(request: Request, result: dict[str, str]) -> None:
    """Write the answer; `continue` lets lightningd commit.

    pyln-client then takes down the whole stack, in case somebody answers twice: half of all the processor time of a
    call, and the next one waits for it. Our watchdog tells for itself whether a call is answered.
    """
    sys.tracebacklimit = 0
    try:
        request.set_result(result)
    finally:
        del sys.tracebacklimit


def main() -> None:
    """Answer lightningd until it closes our stdin."""
    plugin = Plugin(dynamic=False, autopatch=True)
    guard, keeper, notifier, watchdog = build(plugin)
    notifier.start()
    watchdog.start()
    keeper.start()
    try:
        plugin.run()
    finally:
        watchdog.leave_within(LEAVE_WITHIN)
        keeper.stop()
        guard.close()
        notifier.stop()


if __name__ == "__main__":
    main()
