"""`lightningd-backup`, the executable that lightningd starts from its `important-plugin` line.

At first it imports only what is needed to answer `getmanifest`, for which all of lightningd waits. What saves changes
is imported with the first call (plugin/hook_handler.py). If that fails, because a package is missing or broken, the
call is refused; a plugin that died at its start would, under plain `plugin`, leave the node running without a backup.
"""

import inspect
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.text import unexpected
from plugin.answers import answer, refuse
from plugin.hook_handler import HookHandler
from plugin.input import Input
from plugin.pyln_client import Plugin, Request


def register(plugin: Plugin, handler: HookHandler, calls: Input) -> None:
    """Pass lightningd's calls to the handler."""

    def db_write(request: Request, data_version: Any = None, writes: Any = None, *_: Any, **__: Any) -> None:
        """Answer through `request`, so that the watchdog can answer in our place when the destination hangs."""
        answer(request, handler.db_write(request, data_version, writes))

    db_write.__signature__ = _ByName(list(inspect.signature(db_write).parameters.values()))  # type: ignore[attr-defined]

    def init(options: dict[str, Any], configuration: dict[str, Any], **_: Any) -> None:
        """With SQLite all was decided at the first db_write; if none has come, it may not be SQLite."""
        handler.ask_for_wallet(Path(configuration["lightning-dir"], configuration["rpc-file"]))

    def shutdown(*_: Any, **__: Any) -> None:
        """lightningd gives us 30 seconds to end cleanly, and may go on committing meanwhile."""
        calls.leave_when_quiet()

    plugin.add_hook("db_write", db_write, background=True)
    for name, description, work in (
        ("backup-status", "What the backup holds, and its health", handler.status),
        ("backup-compact", "Begin a compaction of the backup now", handler.compact),
    ):
        plugin.add_method(name, _without_parameters(name, description, work), background=True, description=description)

    def add(request: Request, url: Any, name: Any = None) -> None:
        """Add a member."""
        _answered(
            request, "backup-member-add", lambda: handler.add_member(str(url), None if name is None else str(name))
        )

    def remove(request: Request, name: Any) -> None:
        """Remove a member."""
        _answered(request, "backup-member-remove", lambda: handler.remove_member(str(name)))

    for name, description, method in (
        ("backup-member-add", "Add a destination at {url} to the backup, with the name {name}", add),
        ("backup-member-remove", "Remove the destination {name} from the backup; its files stay", remove),
    ):
        method.__doc__ = f"{description}."  # as below
        plugin.add_method(name, method, background=True, description=description)
    plugin.child_init = init
    plugin.add_subscription("shutdown", shutdown)


def _without_parameters(name: str, description: str, work: Callable[[], dict[str, Any]]) -> Callable[..., None]:
    """An RPC method that takes no parameters, and answers any call without a traceback."""

    def method(request: Request, *given: Any, **named: Any) -> None:
        if given or named:
            refuse(request, -32602, f"{name} takes no parameters. Nothing was done; type: lightning-cli {name}")
            return
        _answered(request, name, work)

    method.__doc__ = f"{description}."  # pyln-client needs it, and PYTHONOPTIMIZE=2 removes any other
    return method


def _answered(request: Request, name: str, work: Callable[[], dict[str, Any]]) -> None:
    try:
        result = work()
    except Exception as error:
        from backends.errors import BackupError

        why = str(error) if isinstance(error, BackupError) else f"{type(error).__name__}: {error}"
        refuse(request, -32603, f"{name} failed ({why}); changes are still saved")
    else:
        answer(request, result)


class _ByName(inspect.Signature):
    """The signature of a hook whose parameters come by name.

    pyln-client asks for the signature at each call, and computing it takes longer than saving a change (without the
    sync). Then it binds the parameters one by one, only to pass all of them on.
    """

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        return super().bind(*args, **kwargs) if args else _Named(self, OrderedDict(kwargs))


class _Named(inspect.BoundArguments):
    """Parameters that are passed on as they came; the function itself fails if one is missing."""

    args = ()

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.arguments


BY_HAND = """This is a plugin for lightningd: it saves each change to a backup before lightningd commits it.
lightningd starts it by this line in its config file, once `backup-cli init URL` has made the backup:

important-plugin={path}

With `plugin=` instead, the node would go on without a backup if this program ever failed. To see whether a node is
really protected, run: backup-cli check-config"""


def main() -> None:
    """Answer lightningd until it closes our stdin."""
    if os.environ.get("LIGHTNINGD_PLUGIN") != "1":  # pyln-client checks this, but its advice does not fit here
        print(BY_HAND.format(path=Path(sys.argv[0]).absolute()))
        sys.exit(0)  # reckless runs a plugin by hand, and takes anything else for broken
    without_tracebacks()
    stay_until_lightningd_ends()
    plugin = Plugin(dynamic=False, autopatch=True)
    handler, calls = HookHandler(plugin), Input()
    plugin.stdin = calls
    register(plugin, handler, calls)
    code = 1
    try:
        code = answer_until_the_end(plugin, handler, calls)
    except OSError:  # lightningd is gone: nobody is left to be told
        pass
    except Exception as error:
        with suppress(OSError, ValueError):
            plugin.log(f"lightningd-backup ends: {unexpected(error)}", "broken")
    finally:
        with suppress(Exception):
            handler.close()
        os._exit(code)  # nothing is left to do, and a thread that hangs must not keep us


def without_tracebacks() -> None:
    """Keep tracebacks out of the node's log and out of answers: one line says what happened.

    Otherwise pyln-client also records the whole stack at each answer, in case somebody answers twice: half of all the
    processor time of a call, and the next one waits for it. `answer` finds out by itself whether a call is answered.
    """
    sys.tracebacklimit = 0


def stay_until_lightningd_ends() -> None:
    """Ignore the signals that are sent to all of the node's processes: they end lightningd, which then ends us.

    Ctrl-C and a service manager send them to every process at once. lightningd goes on committing until it has stopped,
    and aborts when a plugin leaves within a call; without an `important-plugin` line it would commit unprotected.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)  # SIG_IGN would be inherited by our children


def answer_until_the_end(plugin: Plugin, handler: HookHandler, calls: Input) -> int:
    """Answer until lightningd hangs up, or has sent `shutdown` and nothing more comes, even while we leave: returns 0.

    Then the output is closed at once, which shows lightningd that we have left: a process takes milliseconds to end,
    and a call that came meanwhile would be left without an answer. Returns 1 when a message came that leaves no other
    way.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    while True:
        try:
            plugin.run()
        except OSError:
            raise
        except Exception as error:
            from plugin.misread import deal_with

            if not deal_with(calls.message, error, plugin, calls, handler.refuse):
                return 1
            continue
        handler.close()
        if not calls.unread():
            os.dup2(nowhere, 1)
            return 0


if __name__ == "__main__":
    main()
