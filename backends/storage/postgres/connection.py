"""One connection to a PostgreSQL server, with deadlines of its own.

It is driven without blocking, by libpq's own functions, for two reasons. A server that hangs keeps its connections, so
only a clock of ours notices it. And nothing here may ever cancel what the server is doing (psycopg's own connections do
at Ctrl-C): a commit whose wait for the standby is cancelled counts as committed although it is on one server only. A
connection that is given up is closed; the server then finishes by itself what it had begun.
"""

import errno
import re
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.errors import BackupError
from backends.storage.postgres.errors import Disconnected, NotNow, of_state
from backends.storage.postgres.libpq import Error as LibpqError
from backends.storage.postgres.libpq import pq
from backends.text import printable

_OLDEST_LIBPQ = 140000
_BINARY = int(pq.Format.BINARY)
_TICK = 3.0
"""Seconds of silence after which `silent` is called, and between its calls."""

Value = bytes | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of SQL with `$1`, `$2`, ... and its values. Each is a transaction of its own."""

    sql: str
    values: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: how many rows a statement changed or found, and the values of each row, in binary."""

    count: int
    rows: tuple[tuple[Value, ...], ...]


class Connection:
    """A connection that has been made, until it breaks or is closed. For one thread at a time.

    Raises NotNow if none can be made before `until` (time.monotonic).
    """

    def __init__(self, connection_string: bytes, until: float) -> None:
        if pq.version() < _OLDEST_LIBPQ:
            raise BackupError(
                f"postgres:// needs libpq 14 or newer, and psycopg uses {pq.version() // 10000}. Nothing was changed; "
                "pip install 'psycopg[binary]' brings a newer one"
            )
        self._statements: dict[str, bytes] = {}
        self._notices: list[str] = []
        self._pg = pq.PGconn.connect_start(connection_string)
        try:
            self._connect(until)
            self._pg.nonblocking = 1
            self._pg.enter_pipeline_mode()
            # Nothing here refers to this object: so the connection ends with whoever drops it.
            notices = self._notices
            self._pg.notice_handler = lambda result: notices.append(_said(result))
        except BaseException:
            self.close()
            raise

    @property
    def process(self) -> int:
        """The server's process for this connection, as the server itself announced it."""
        return self._pg.backend_pid

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return bool(self._pg.ssl_in_use)

    @property
    def server_version(self) -> int:
        """The server's version, e.g. 150006 for 15.6."""
        return self._pg.server_version

    def run(
        self, statements: Sequence[Statement], until: float, silent: Callable[[], None] = lambda: None
    ) -> list[Answer]:
        """Send the statements together, and return the answers when all of them are committed.

        `silent` is called while the server is silent; what it raises ends the waiting. Raises Disconnected if the
        outcome is unknown or the server warned of anything, TimeoutError at `until`, otherwise OSError for what the
        server refused. After any error the connection is closed.
        """
        try:
            self._send(statements)
            results = self._receive(len(statements), until, silent)
        except LibpqError as error:
            self.close()
            raise Disconnected(f"the connection broke: {_in_one_line(str(error))}") from error
        except BaseException:
            self.close()
            raise
        return [_answer(each) for each in results]

    def close(self) -> None:
        """Close the connection, whatever it is doing. Never raises, never cancels anything on the server."""
        self._pg.finish()

    @property
    def closed(self) -> bool:
        """Whether it can no longer be used."""
        return self._pg.status != pq.ConnStatus.OK

    def _connect(self, until: float) -> None:
        waiting = pq.PollingStatus.WRITING
        while waiting != pq.PollingStatus.OK:
            if self._pg.status == pq.ConnStatus.BAD or waiting == pq.PollingStatus.FAILED:
                raise NotNow(self._why_refused())
            for_writing = waiting == pq.PollingStatus.WRITING
            if not _ready(self._pg.socket, for_writing, until - time.monotonic()):
                raise NotNow("it does not answer")
            waiting = pq.PollingStatus(self._pg.connect_poll())

    def _why_refused(self) -> str:
        said = why_not_connected(self._pg.get_error_message())
        if self._pg.needs_password:
            return "it asks for a password, and ~/.pgpass of this user has none for it (or is readable to others)"
        if self._pg.used_password:
            return f"{said}. The password comes from ~/.pgpass of this user"
        return said

    def _send(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            name = self._statements.get(statement.sql)
            if name is None:
                name = self._statements[statement.sql] = f"s{len(self._statements)}".encode()
                self._pg.send_prepare(name, statement.sql.encode())
            values = list(statement.values)
            self._pg.send_query_prepared(name, values, [_BINARY] * len(values), _BINARY)
            self._pg.pipeline_sync()

    def _receive(self, count: int, until: float, silent: Callable[[], None]) -> list["pq.abc.PGresult"]:
        """One result for each transaction, when all are over.

        The result of a statement comes before its commit. Only the synchronization point after it says that it is
        committed; a warning in between says that it may be on this server only.
        """
        results: list[pq.abc.PGresult] = []
        failed, last, points = None, None, 0
        while points < count:
            result = self._next(until, silent)
            if self.closed:
                raise Disconnected(_said(result) if result else "the server closed the connection")
            if result is None:  # all results of one statement were there
                continue
            status = result.status
            if status == pq.ExecStatus.PIPELINE_SYNC:
                points += 1
                if last is not None:
                    results.append(last)
                last = None
            elif status == pq.ExecStatus.FATAL_ERROR:
                failed = failed or result
            elif status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                last = result
        if self._notices:
            raise Disconnected(f"the server warned: {self._notices[0]}")
        if failed is not None:
            self._refuse(failed)
        return results

    def _refuse(self, failed: "pq.abc.PGresult") -> None:
        """Raise what the server answered."""
        state = failed.error_field(pq.DiagnosticField.SQLSTATE) or b""
        raise of_state(state.decode(errors="replace"), _said(failed))

    def _next(self, until: float, silent: Callable[[], None]) -> "pq.abc.PGresult | None":
        silent_at = time.monotonic() + _TICK
        while True:
            unsent = self._pg.flush()
            if not unsent and not self._pg.is_busy():
                return self._pg.get_result()
            now = time.monotonic()
            if now >= until:
                raise TimeoutError(errno.ETIMEDOUT, "the server has not confirmed it in time")
            if now >= silent_at:
                silent()
                silent_at = time.monotonic() + _TICK
            if _ready(self._pg.socket, bool(unsent), min(until, silent_at) - now):
                self._pg.consume_input()


def _ready(descriptor: int, for_writing: bool, seconds: float) -> bool:
    """Whether something arrives, or can be sent, within that time."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN | (select.POLLOUT if for_writing else 0))
    return bool(waiting.poll(max(0.0, seconds) * 1000))


def _answer(result: "pq.abc.PGresult") -> Answer:
    rows = tuple(
        tuple(result.get_value(row, column) for column in range(result.nfields)) for row in range(result.ntuples)
    )
    return Answer(result.command_tuples or 0, rows)


def _said(result: "pq.abc.PGresult") -> str:
    """The server's message, without its details: they could show what is stored."""
    said = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    return _in_one_line(said.decode(errors="replace"))


def why_not_connected(text: str) -> str:
    """The reasons in what libpq says of a connection that failed; which server it was is said by whoever asks."""
    reasons = [_ASKED_BACK.sub("", _in_one_line(each)).strip() for each in _ATTEMPT.split(text)]
    return "; ".join(dict.fromkeys(each for each in reasons if each))


_ATTEMPT = re.compile(r"^connection to server (?:at|on) [^\n]{1,300}? failed: ", re.MULTILINE)
_ASKED_BACK = re.compile(
    r"Is the server running (?:on that host and accepting TCP/IP connections|locally and accepting connections on that "
    r"socket)\?$"
)


def _in_one_line(text: str) -> str:
    """What a server or libpq says, often in several lines, for the middle of a sentence."""
    return printable(" ".join(text.split()), 300)
