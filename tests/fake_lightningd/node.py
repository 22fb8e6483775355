"""The node: it runs each call's statements, asks the plugin, and commits only on "continue"; it can die anywhere."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from tests.fake_lightningd.calls import Call
from tests.fake_lightningd.database import Database, NodeDatabase
from tests.fake_lightningd.ends import Aborted, LeftInCall, Moment, PluginDied, Refused, RpcError, Victim, message_of
from tests.fake_lightningd.wire import Delivery, Eof, Wire, at_once

_CONTINUE = {"result": "continue"}


class Node:
    """One run of a lightningd in its network directory; the next run on the same directory is another Node.

    As a context manager it starts, and stops cleanly; if an exception is raised, it dies instead.
    """

    def __init__(
        self,
        directory: Path,
        command: Sequence[str],
        *,
        database: Callable[[Path], NodeDatabase] = Database,
        important: bool = True,
        network: str = "regtest",
        delivery: Delivery = at_once,
        environment: dict[str, str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Nothing runs before `start`.

        `important` as in `important-plugin`: otherwise the node continues without a plugin that died between calls.
        `timeout` in seconds, for each reply.
        """
        self.directory, self._command, self._open_database = directory, command, database
        self._important, self._network = important, network
        self._delivery, self._environment, self._timeout = delivery, environment, timeout
        self._wire: Wire | None = None
        self._database: NodeDatabase | None = None
        self.manifest: dict[str, Any] = {}
        self.initialised = False

    # A run, from start to stop

    def start(self) -> dict[str, Any]:
        """Start the plugin, get its manifest, then open the database. Returns the manifest."""
        self._wire = Wire(
            self.directory,
            self._command,
            environment=self._environment,
            delivery=self._delivery,
            timeout=self._timeout,
        )
        try:
            self.manifest = self.rpc("getmanifest", {"allow-deprecated-apis": False})
            assert "disable" not in self.manifest, "a plugin that disables itself leaves the node unprotected"
            assert "db_write" in [hook["name"] for hook in self.manifest["hooks"]]
            self._database = self._open_database(self.directory)
        except BaseException:
            self.die()
            raise
        return self.manifest

    def init(self, options: dict[str, Any] | None = None) -> Any:
        """Send `init` with the options' defaults and these options. Returns the plugin's answer."""
        defaults = {option["name"]: option["default"] for option in self.manifest["options"] if "default" in option}
        configuration = {
            "lightning-dir": str(self.directory),
            "rpc-file": "lightning-rpc",
            "startup": True,
            "network": self._network,
            "feature_set": {"init": "08a0000a8a5961", "node": "88a0000a8a5961", "channel": "", "invoice": "02024100"},
        }
        self.initialised = True
        return self.rpc("init", {"options": defaults | (options or {}), "configuration": configuration})

    def play(self, calls: Iterable[Call], early: int = 3) -> None:
        """Make these calls; the first `early` calls of a run come before `init`, as migrations do."""
        for number, call in enumerate(calls):
            if number >= early and not self.initialised:
                self.init()
            self.db_write(call)
        if not self.initialised:
            self.init()

    def stop(self, late: Iterable[Call] = ()) -> int:
        """Stop cleanly; returns the plugin's exit code. `late` calls come after the plugin has been stopped.

        lightningd's end of the pipe is closed at once, so that no plugin waits for calls that no test makes. A test
        of how a plugin leaves uses `shut_down`.
        """
        code = self.wire.hang_up() if self._says_shutdown() else self._kill_plugin()
        return self._end(code, late)

    def shut_down(self, during: Iterable[Call] = (), late: Iterable[Call] = (), timeout: float = 30.0) -> int:
        """Stop cleanly as lightningd does; returns the plugin's exit code.

        It sends `shutdown` and waits for the plugin to leave. Meanwhile it makes the calls of `during` (an iterator may
        pause between them), each through the hook as long as the plugin is there; one that the plugin does not answer
        raises LeftInCall. The calls of `late` come after it has left. AssertionError if it is still there after
        `timeout` seconds, when lightningd would kill it.
        """
        deadline = time.monotonic() + timeout
        if not self._says_shutdown():
            return self._end(self._kill_plugin(), [*during, *late])
        for call in during:
            self.execute(call)
            if not self.wire.has_left():
                self.ask(call)
            self.commit()
        left = self.wire.listen(deadline - time.monotonic(), self.wire.has_left)
        assert left, f"the plugin is still there {timeout} s after `shutdown`; its last logs: {self.logs[-3:]}"
        return self._end(self.wire.hang_up(), late)

    def _says_shutdown(self) -> bool:
        """Send `shutdown` if the plugin subscribes to it; returns whether it does."""
        wanted = "shutdown" in self.manifest.get("subscriptions", ())
        if wanted:
            self.notify("shutdown", {})
        return wanted

    def _kill_plugin(self) -> int:
        """A plugin that does not subscribe to `shutdown` is killed at once."""
        self.wire.kill()
        return self.wire.process.wait()

    def _end(self, code: int, late: Iterable[Call]) -> int:
        for call in late:
            self.execute(call)
            self.commit()
        if self._database is not None:
            self._database.close()
            self._database = None
        return code

    def __enter__(self) -> "Node":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._database is not None:
            self.stop()
        else:
            self.die()

    # A call, whole or step by step

    def db_write(self, call: Call) -> float:
        """Run, ask, commit. Returns the seconds that the plugin took; Refused or PluginDied if the node aborts."""
        self.execute(call)
        seconds = self.ask(call)
        self.commit()
        return seconds

    def execute(self, call: Call) -> None:
        """Run the call's statements, in a transaction unless it is a lone PRAGMA."""
        self.database.execute(call.writes, transaction=not call.outside_transaction)

    def post(self, call: Call, *, hold: bool = False) -> str:
        """Ask the plugin without waiting; `hold` as in `notify`. Returns the id, for `wire.reply`."""
        params = {"data_version": call.data_version, "writes": call.writes}
        return self.wire.post("db_write", params, hold=hold)

    def ask(self, call: Call) -> float:
        """Ask the plugin and wait. Returns the seconds from the first byte sent to the answer."""
        if not self._important and not self.wire.alive:
            return 0.0
        ident = self.post(call, hold=True)
        began = time.perf_counter()
        try:
            self.wire.flush()
            reply = self.wire.reply(ident)
        except Eof as error:
            self._abort(LeftInCall(f"Plugin terminated before replying to hook call db_write ({error})"))
        seconds = time.perf_counter() - began
        if reply.get("result") != _CONTINUE:
            self._abort(Refused(message_of(reply), reply))
        return seconds

    def commit(self) -> None:
        """Commit what `execute` has run."""
        self.database.commit()

    def _abort(self, error: Aborted) -> NoReturn:
        """Abort as lightningd does: nothing is committed, and the plugin finds its stdin closed."""
        self.die(Victim.NODE)
        raise error

    # Death

    def die(self, victim: Victim = Victim.BOTH) -> None:
        """Die by SIGKILL. What the node has not committed is lost; a plugin that survives must end by itself."""
        if victim is Victim.PLUGIN:
            self.wire.kill()
            return
        if self._database is not None:
            self._database.die()
            self._database = None
        if self._wire is not None and victim is Victim.BOTH:
            self._wire.kill()
        elif self._wire is not None:
            self._wire.hang_up()

    def die_at(self, moment: Moment, call: Call, victim: Victim = Victim.BOTH, delay: float = 0.0) -> None:
        """Begin this call and let somebody die during it, `delay` seconds after the moment.

        If only the plugin dies, lightningd continues the call: before or in the hook it aborts with PluginDied (the
        plugin is important), after the hook it commits.
        """
        self.execute(call)
        if moment is Moment.IN_HOOK:
            self.post(call)
        elif moment is Moment.BEFORE_COMMIT:
            self.ask(call)
        time.sleep(delay)
        self.die(victim)
        if victim is Victim.PLUGIN and moment is Moment.BEFORE_COMMIT:
            self.commit()
        elif victim is Victim.PLUGIN:
            self._abort(PluginDied("Plugin terminated before replying to hook call db_write"))

    # Everything else that goes over the wire

    def rpc(self, method: str, params: Any = None) -> Any:
        """Call a method as lightning-cli does. RpcError if it fails, PluginDied if the plugin dies."""
        origin = "cln" if method in ("getmanifest", "init") else f"cli:{method}#{os.getpid()}/cln"
        try:
            reply = self.wire.reply(self.wire.post(method, {} if params is None else params, origin=origin))
        except Eof as error:
            self._abort(PluginDied(f"Plugin terminated before replying to RPC call {method} ({error})"))
        if "error" in reply:
            raise RpcError(reply["error"]["code"], reply["error"]["message"])
        return reply["result"]

    def notify(self, topic: str, params: Any, *, hold: bool = False) -> None:
        """Send a notification. With `hold` it is sent in one write with the next message."""
        self.wire.notify(topic, params, hold=hold)

    def wait_for_log(self, text: str, seconds: float = 10.0) -> str:
        """Wait for a log message that contains `text`, and return the first; AssertionError if none comes."""

        def found() -> list[str]:
            return [message for _, message in self.logs if text in message]

        assert self.wire.listen(seconds, lambda: bool(found())), f"no log says {text!r}: {self.logs}"
        return found()[0]

    @property
    def wire(self) -> Wire:
        """The plugin's process and the messages to and from it."""
        assert self._wire is not None, "the node has not been started"
        return self._wire

    @property
    def database(self) -> NodeDatabase:
        """The open database."""
        assert self._database is not None, "the node does not run"
        return self._database

    @property
    def logs(self) -> list[tuple[str, str]]:
        """What the plugin has logged so far, as pairs of level and message."""
        return self.wire.logs

    @property
    def stderr(self) -> str:
        """What the plugin has written to its stderr so far."""
        return self.wire.stderr

    @property
    def pid(self) -> int:
        """The PID of the plugin."""
        return self.wire.process.pid


def run_without_plugin(
    directory: Path, calls: Iterable[Call], database: Callable[[Path], NodeDatabase] = Database
) -> None:
    """Run the node without its plugin: the calls are committed, and no backup gets them."""
    opened = database(directory)
    try:
        for call in calls:
            opened.execute(call.writes, transaction=not call.outside_transaction)
            opened.commit()
    finally:
        opened.close()
