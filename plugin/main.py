"""`lightningd-backup`, the executable that lightningd starts from its `important-plugin` line.

At once it loads only what it takes to answer `getmanifest`, for which all of lightningd waits. What saves changes is
loaded with the first call (plugin/hook_handler.py). If that fails, because a package is gone or broken, the call is
refused; a plugin that died at its start would, as a plain `plugin`, leave the node running without a backup.
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

from pyln.client import Plugin
from pyln.client.plugin import Request

from backends.text import unexpected
from plugin.answers import answer, refuse
from plugin.hook_handler import HookHandler
from plugin.input import Input


def register(plugin: Plugin, handler: HookHandler, calls: Input) -> None:
    """Have lightningd's calls brought to the handler."""

    def db_write(request: Request, data_version: Any = None, writes: Any = None, *_: Any, **__: Any) -> None:
        """Answered through `request`, so that the watchdog can answer in our place when the destination hangs."""
        answer(request, handler.db_write(request, data_version, writes))

    db_write.__signature__ = _ByName(list(inspect.signature(db_write).parameters.values()))  # type: ignore[attr-defined]

    def init(options: dict[str, Any], configuration: dict[str, Any], **_: Any) -> None:
        """With SQLite all has been decided by now, at the first db_write; without one, it may not be SQLite."""
        handler.ask_for_wallet(Path(configuration["lightning-dir"], configuration["rpc-file"]))

    def shutdown(*_: Any, **__: Any) -> None:
        """lightningd gives us 30 seconds to leave things in order, and may go on committing meanwhile."""
        calls.leave_when_quiet()

    plugin.add_hook("db_write", db_write, background=True)
    for name, description, work in (
        ("backup-status", "What the backup holds, and how it is", handler.status),
        ("backup-compact", "Begin a compaction of the backup now", handler.compact),
    ):
        plugin.add_method(name, _without_parameters(name, description, work), background=True, description=description)
    plugin.child_init = init
    plugin.add_subscription("shutdown", shutdown)


def _without_parameters(name: str, description: str, work: Callable[[], dict[str, Any]]) -> Callable[..., None]:
    """An RPC method that takes no parameters, and answers whatever it is given without a traceback."""

    def method(request: Request, *given: Any, **named: Any) -> None:
        if given or named:
            refuse(request, -32602, f"{name} takes no parameters. Nothing was done; type: lightning-cli {name}")
            return
        try:
            result = work()
        except Exception as error:
            refuse(
                request, -32603, f"{name} failed ({type(error).__name__}: {error}); saving changes goes on as before"
            )
        else:
            answer(request, result)

    method.__doc__ = f"{description}."  # pyln-client asks for it, and under PYTHONOPTIMIZE=2 there is no other
    return method


class _ByName(inspect.Signature):
    """The signature of a hook whose parameters come by their names.

    pyln-client asks for it at each call, and working it out takes longer than saving a change (without the sync); then
    it takes the parameters apart by it, in as many steps, only to pass all of them on.
    """

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        return super().bind(*args, **kwargs) if args else _Named(self, OrderedDict(kwargs))


class _Named(inspect.BoundArguments):
    """Parameters that are passed on as they came; a function misses what is missing by itself."""

    args = ()

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.arguments


BY_HAND = """This is a plugin of lightningd's: it saves each change to a backup before lightningd commits it.
lightningd starts it by this line in its config file, once `backup-cli init URL` has made the backup:

important-plugin={path}

With `plugin=` instead, the node would go on without a backup should this program ever fail. Whether a node is really
protected says: backup-cli check-config"""


def main() -> None:
    """Answer lightningd until it closes our stdin."""
    if os.environ.get("LIGHTNINGD_PLUGIN") != "1":  # as pyln-client asks, whose advice is not for this plugin
        print(BY_HAND.format(path=Path(sys.argv[0]).absolute()))
        sys.exit(2)
    without_tracebacks()
    stay_until_lightningd_ends()
    plugin = Plugin(dynamic=False, autopatch=True)
    handler, calls = HookHandler(plugin), Input()
    plugin.stdin = calls
    register(plugin, handler, calls)
    code = 1
    try:
        code = answer_until_the_end(plugin, handler, calls)
    except OSError:  # lightningd is gone, and whatever was to be said to it
        pass
    except Exception as error:
        with suppress(OSError, ValueError):
            plugin.log(f"lightningd-backup ends: {unexpected(error)}", "broken")
    finally:
        with suppress(Exception):
            handler.close()
        os._exit(code)  # nothing is left to be done, and whatever hangs in another thread must not keep us


def without_tracebacks() -> None:
    """None in the node's log, nor in an answer: one line says what there is to say.

    Without it pyln-client also takes down the whole stack at each answer, in case somebody answers twice: half of all
    the processor time of a call, and the next one waits for it. `answer` tells for itself whether a call is answered.
    """
    sys.tracebacklimit = 0


def stay_until_lightningd_ends() -> None:
    """Signals that are meant for all of the node's processes end lightningd, and it then ends us.

    Ctrl-C and a service manager send them to every process at once. lightningd goes on committing until it has stopped,
    and aborts when a plugin leaves within a call; without an `important-plugin` line it would commit unprotected.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)  # SIG_IGN would be inherited by what we start


def answer_until_the_end(plugin: Plugin, handler: HookHandler, calls: Input) -> int:
    """Until lightningd hangs up, or has said `shutdown` and nothing more comes, not even while we leave: 0.

    Then the output is closed at once, by which lightningd sees that we have left: a process takes milliseconds to end,
    and a call that came meanwhile would be left without an answer. 1 when something came that leaves no other way.
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
