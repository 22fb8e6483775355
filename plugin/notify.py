"""The operator's own command, called when there is trouble: `backup.notify` in the node's directory.

The hook fires before `init`, so no plugin option is known when it matters most. As with backup.lock, what is on disk is
the configuration: an executable file of that name is called; without one, nothing happens. Its arguments are the level
(`unusual` or `broken`) and the sentence that the node's log shows. A file that somebody else could have written is not
called, and the log says so already at the start.

Nobody waits for the command: `tell` puts the sentence into a queue, a separate thread starts the command, and the rest
is the command's business. The command outlives a plugin that ends because lightningd does, for that is the worst
trouble.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from backends.base import Report
from backends.node.files import read_small_file, replace_file
from backends.node.trusted import Untrusted, trusted_program

NOTIFY_FILE = "backup.notify"

TOLD_FILE = "backup.told"
"""Remembers what was told: a node that is restarted every half minute must not send a mail each time."""

LEVELS = ("unusual", "broken")
"""The levels of lightningd's log that count as trouble."""

TIMEOUT = 60.0
"""Seconds that the command may take; then it is killed (if the plugin is still alive)."""

REPEAT_AFTER = 3600.0
"""Seconds after which the same sentence is told again."""

MAX_CALLS, WITHIN = 10, 600.0
"""At most this many calls in so many seconds: a disk that comes and goes must not send a thousand mails."""

# A service manager ends what is left of a service with SIGTERM; the command ignores that, and so can finish.
_DETACHED = ["/bin/sh", "-c", 'trap "" HUP INT TERM; exec "$0" "$@"']


class Notifier:
    """Calls the command in `directory`; `log` is told when that does not work."""

    def __init__(self, directory: Path, log: Report, encrypted: Callable[[], bool | None] = lambda: None) -> None:
        """`encrypted` says whether the backup is; None if that is not known (yet)."""
        self._directory, self._log, self._encrypted = directory, log, encrypted
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(maxsize=100)
        self._running: list[tuple[subprocess.Popen[bytes], float]] = []
        self._calls: deque[float] = deque()
        self._complaint: str | None = None
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        """Start the thread; what was told before is reported now."""
        self._thread.start()

    def tell(self, level: str, sentence: str) -> None:
        """Have the command called soon. Never waits, never raises; may be called from any thread."""
        if level in LEVELS:
            with suppress(queue.Full):
                self._waiting.put_nowait((level, sentence))

    def stop(self) -> None:
        """Start the command for what was told last, and do not wait for it to end."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _run(self) -> None:
        self._command()  # if it will not be called, somebody should know before there is trouble
        while True:
            try:
                told = self._waiting.get(timeout=1.0 if self._running else None)
            except queue.Empty:
                self._look_after()
                continue
            if told is None:
                return
            try:
                self._call(*told)
            except (OSError, ValueError) as error:
                self._complain(f"{NOTIFY_FILE} could not be started ({error}); fix it or remove it")

    def _call(self, level: str, sentence: str) -> None:
        command = self._command()
        if command is None or not self._due(level, sentence):
            return
        sentence = sentence.replace("\0", " ")[:4000]
        encrypted = {None: "unknown", True: "yes", False: "no"}[self._encrypted()]
        given = {"LEVEL": level, "SENTENCE": sentence, "DIRECTORY": str(self._directory), "ENCRYPTED": encrypted}
        environment = {name: value for name, value in os.environ.items() if name != "LIGHTNINGD_PLUGIN"}
        process = subprocess.Popen(
            [*_DETACHED, str(command), level, sentence],
            cwd=self._directory,
            env=environment | {f"LIGHTNINGD_BACKUP_{name}": value for name, value in given.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # our own leads to lightningd
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running.append((process, time.monotonic() + TIMEOUT))

    def _command(self) -> Path | None:
        """The command, if it may be run; None when there is none, or none that can be trusted."""
        try:
            return trusted_program(self._directory / NOTIFY_FILE, os.geteuid())
        except FileNotFoundError:
            return None
        except Untrusted as why:
            self._complain(f"{NOTIFY_FILE} is not called, so nobody is told of trouble: {why}")
        except OSError as error:
            self._complain(f"{NOTIFY_FILE} is not called, because it cannot be examined ({error}); fix it or remove it")
        return None

    def _due(self, level: str, sentence: str) -> bool:
        """Whether this is news, and there was not too much of it lately; `broken` is never too much."""
        now = time.time()
        while self._calls and now - self._calls[0] > WITHIN:
            self._calls.popleft()
        told = self._told(now)
        if sentence in told or (len(self._calls) >= MAX_CALLS and level != "broken"):
            return False
        self._calls.append(now)
        with suppress(OSError):
            text = json.dumps({**told, sentence: now})
            replace_file(self._directory / TOLD_FILE, text.encode() + b"\n", durably=False)
        return True

    def _told(self, now: float) -> dict[str, float]:
        """What was told lately, and when, by this plugin or an earlier one. A malformed file counts as empty."""
        try:
            document = json.loads(read_small_file(self._directory / TOLD_FILE))
            return {line: then for line, then in document.items() if 0 <= now - then < REPEAT_AFTER}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _look_after(self) -> None:
        """Note which commands have ended, and kill those that hang."""
        for process, until in list(self._running):
            if process.poll() is None and time.monotonic() < until:
                continue
            self._running.remove((process, until))
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self._complain(f"{NOTIFY_FILE} did not end within {TIMEOUT:.0f} seconds and was killed")
            elif process.returncode != 0:
                self._complain(
                    f"{NOTIFY_FILE} ended with {process.returncode}: perhaps nobody has heard of the trouble"
                )

    def _complain(self, line: str) -> None:
        """Log the line once, until it changes: to the log only, not through the command again."""
        if line != self._complaint:
            self._complaint = line
            self._log("unusual", line)
