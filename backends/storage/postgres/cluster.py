"""Connections to the one server of a cluster that may be written to, which is not always the same one.

A server is refused that could lose what it confirms: one that does not sync its disk, or (unless the URL says
`single-server`) one that does not wait for a synchronous standby. An old primary that comes back after another server
took over is recognised by its timeline, which grows with each promotion. It could confirm nothing anyway, because its
standby follows the new one; but what it holds is old.
"""

import errno
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, repeat

from backends.storage.postgres.address import Address, Host
from backends.storage.postgres.connection import Answer, Connection, Statement
from backends.storage.postgres.errors import Disconnected, NotNow, Unsafe
from backends.storage.postgres.resolving import addresses_of
from backends.storage.postgres.unix_socket import why_no_socket

_FIRST_CONNECTION = 10.0
"""Seconds to wait for a server that has never answered: the URL is probably wrong."""

_ONE_OF_SEVERAL = 3.0
"""Seconds to wait for one of several servers before the next one is tried."""

_TO_RESOLVE = 6.0
"""Seconds to wait for a server's address: after 5, the system asks the next name server."""

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between rounds over all servers; the last value is used for all further ones."""

_OLDEST = 130000

_MAX_IDLE = 2
"""Connections that are kept for the next use: one for commits and one for what goes on beside them."""

_SETTINGS = {
    # "on" means that the standby has it on its disk. Also what a server's own configuration may weaken.
    "synchronous_commit": ("on", "remote_apply"),
    # A warning says that a commit was not replicated: it must arrive.
    "client_min_messages": ("warning",),
    # Nothing may interrupt a commit that waits for the standby: it would then count as committed without it.
    "statement_timeout": ("0",),
    "lock_timeout": ("0",),
    "transaction_timeout": ("0",),
    "idle_session_timeout": ("0",),
    "idle_in_transaction_session_timeout": ("0",),
    "client_connection_check_interval": ("0",),
    "default_transaction_isolation": ("read committed",),
    "default_transaction_read_only": ("off",),
}
"""What every session here is set to, and other values that are as good. Some are unknown to older servers."""

_SET = Statement(
    "SELECT set_config(s.name, wanted.value, false) FROM pg_settings s JOIN (VALUES "
    + ", ".join(f"('{name}', '{values[0]}', '{values[-1]}')" for name, values in _SETTINGS.items())
    + ") AS wanted (name, value, also) USING (name) WHERE s.setting <> wanted.also"
)
_CHECK = Statement(
    "SELECT name, setting FROM pg_settings WHERE name IN ("
    + ", ".join(f"'{name}'" for name in (*_SETTINGS, "fsync", "full_page_writes"))
    + ")"
)
_FACTS = Statement(
    "SELECT pg_is_in_recovery()::text, current_setting('synchronous_standby_names'), pg_backend_pid()::text, "
    "CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_walfile_name(pg_current_wal_lsn()) END, "
    "(SELECT count(*) FROM pg_stat_replication)::text, current_setting('server_version')"
)

PROOF = Statement("SELECT pg_logical_emit_message(true, 'lightningd-backup', '')::text")
"""Writes a few bytes into the server's log of writes, and nothing into any table. Once this is confirmed, so is
everything that was committed before it, because a standby receives that log in order."""

_STANDBYS = Statement("SELECT current_setting('synchronous_standby_names'), pg_conf_load_time()::text")
"""Run after a commit. If the names are emptied, commits that wait for a standby are confirmed without one and without
a warning. A session notices a change of the configuration between two statements, and so before this one."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server said of itself. `timeline` is 0 on a standby; `standbys` counts those connected of all kinds."""

    in_recovery: bool
    standby_names: str
    process: int
    timeline: int
    standbys: int
    version: str


class Session:
    """A connection to a server that may be written to, whose every commit is checked."""

    def __init__(self, connection: Connection, host: Host, facts: Facts, single_server: bool) -> None:
        self.connection, self.host, self.facts = connection, host, facts
        self._single_server = single_server
        self._configured = b""

    def commit(self, *statements: Statement, until: float, silent: Callable[[], None]) -> list[Answer]:
        """Run the statements, each a transaction; when this returns they are on a synchronous standby, too.

        That holds for a statement that changes something. After one that only reads, add PROOF: then what it has seen
        is on the standby. Raises as Connection.run does, and Disconnected if nobody can say whether a standby has it.
        """
        *answers, check = self.connection.run((*statements, _STANDBYS), until, silent)
        while self._reconfigured(check):
            _, check = self.connection.run((PROOF, _STANDBYS), until, silent)
        return answers

    def _reconfigured(self, check: Answer) -> bool:
        """Whether the server's configuration was read again since it was last looked at: once more, then."""
        names, configured = (value or b"" for value in check.rows[0])
        if not names and not self._single_server:
            self.connection.close()
            raise Disconnected(f"{self.host} no longer has a synchronous standby")
        before, self._configured = self._configured, configured
        return before != configured and not self._single_server


class Cluster:
    """The servers of a URL. Its methods may be called from several threads at once."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._last: Host | None = None
        self.timeline = 0
        """The highest that was seen on a server that may be written to; 0 if none has been reached."""
        self._checked = 0  # the highest of a server that was found to hold what others had confirmed
        self._closed = False

    def session(self, until: float, check: Callable[[Session], None]) -> Session:
        """A session that nobody else uses; give it back with `give_back`.

        `check` is called when a server with a higher timeline than before was reached, and raises what is wrong with
        it. Raises Unsafe, TimeoutError if none can be reached until `until` (or at once if none ever was).
        """
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the connections to the server were closed")
            while self._idle:
                session = self._idle.pop()
                if not session.connection.closed and session.facts.timeline >= self.timeline:
                    return session
                session.connection.close()
        return self._connect(until, check)

    def give_back(self, session: Session) -> None:
        """Keep the session for the next caller, unless it is closed or old."""
        with self._lock:
            usable = not session.connection.closed and session.facts.timeline >= self.timeline
            if usable and not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(session)
                return
        session.connection.close()

    def leave_if_replaced(self, session: Session, until: float) -> None:
        """Raise Disconnected if another server of the URL has taken over from the one of this session, which is silent.

        Does not look for longer than `until`.

        A primary that hangs keeps its connections; what waits there would wait for as long as it hangs.
        """
        for host in self._address.hosts:
            if host == session.host:
                continue
            try:
                other = self._reach(host, min(until, time.monotonic() + _ONE_OF_SEVERAL))
            except OSError:
                continue
            other.connection.close()
            if other.facts.timeline > session.facts.timeline:
                with self._lock:
                    self.timeline, self._last = max(self.timeline, other.facts.timeline), host
                raise Disconnected(f"{host} has taken over from {session.host}")

    def why_silent(self, until: float) -> str:
        """Why a commit got no answer, as far as another look at the servers tells, as a clause."""
        names = []
        for host in self._in_order():
            try:
                session = self._reach(host, until)
            except OSError as error:
                names.append(f"{host}: {error}")
                continue
            session.connection.close()
            if session.facts.standbys:
                return f"{host} answers, but its standby has not confirmed the commit: is its disk full or slow?"
            return (
                f"{host} answers, but no standby is connected to it, and a commit waits for one "
                f"({session.facts.standby_names}): start the standby"
            )
        return f"no server can be used: {'; '.join(names)}"

    def close(self) -> None:
        """Close all connections that nobody uses; no new ones are made."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.connection.close()

    def _connect(self, until: float, check: Callable[[Session], None]) -> Session:
        first = self._last is None
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            reasons: list[str] = []
            unsafe: list[Unsafe] = []
            for host in self._in_order():
                try:
                    return self._accepted(host, until, check)
                except (NotNow, Disconnected) as error:
                    reasons.append(f"{host}: {error}")
                except Unsafe as error:
                    unsafe.append(error)
            if unsafe:
                raise unsafe[0]
            if first or time.monotonic() + pause >= until:
                raise TimeoutError(errno.ETIMEDOUT, f"no server can be used: {'; '.join(reasons)}")
            time.sleep(pause)
        raise AssertionError

    def _accepted(self, host: Host, until: float, check: Callable[[Session], None]) -> Session:
        limit = _ONE_OF_SEVERAL if len(self._address.hosts) > 1 else _FIRST_CONNECTION
        addresses = _addresses(host, min(until, time.monotonic() + _TO_RESOLVE))
        session = self._reach(host, min(until, time.monotonic() + limit), addresses)
        try:
            self._accept(session, check)
        except BaseException:
            session.connection.close()
            raise
        return session

    def _in_order(self) -> list[Host]:
        """The servers, beginning with the one that was used last."""
        return sorted(self._address.hosts, key=lambda host: host != self._last)

    def _reach(self, host: Host, until: float, addresses: tuple[str, ...] | None = None) -> Session:
        """A session with this server, as it has to be set, if it may be written to. Raises NotNow, Unsafe."""
        if addresses is None:
            addresses = _addresses(host, until)
        connection = Connection(self._address.connection_string(host, addresses), until)
        try:
            if connection.server_version < _OLDEST:
                raise Unsafe(f"{host} runs PostgreSQL {connection.server_version // 10000}; 13 or newer is needed")
            _, settings, facts = connection.run((_SET, _CHECK, _FACTS), until)
            known = _facts(facts)
            _check_settings(host, settings)
            if known.process != connection.process:
                raise Unsafe(
                    f"there is a connection pooler (pgbouncer or the like) at {host}, which mixes up sessions and may "
                    "hide warnings. Name the server itself in the URL"
                )
            if known.in_recovery:
                raise NotNow("it is a standby")
            if not known.standby_names and not self._address.single_server:
                raise NotNow(_NO_STANDBY)
        except TimeoutError as error:
            raise NotNow("it does not answer") from error
        except BaseException:
            connection.close()
            raise
        return Session(connection, host, known, self._address.single_server)

    def _accept(self, session: Session, check: Callable[[Session], None]) -> None:
        """Check a server's timeline against those seen before. Raises NotNow, and what `check` raises."""
        timeline = session.facts.timeline
        if timeline < self.timeline:
            raise NotNow(
                f"another server took over from it (it is on timeline {timeline}, and {self.timeline} exists): stop "
                "it, and make it a standby of the other one"
            )
        if self._address.single_server and timeline > self._checked:
            # However late it is: an old primary would confirm everything.
            self.leave_if_replaced(session, math.inf)
        if timeline > self._checked > 0:
            check(session)
        with self._lock:
            self.timeline = self._checked = max(timeline, self.timeline)
            self._last = session.host


def _addresses(host: Host, until: float) -> tuple[str, ...]:
    """What the host's name stands for; nothing for a Unix socket, which must be there. Raises NotNow."""
    if not host.is_socket:
        return addresses_of(host.name, until)
    missing = why_no_socket(host.name, host.port)
    if missing is not None:
        raise NotNow(missing)
    return ()


def _facts(answer: Answer) -> Facts:
    in_recovery, names, process, walfile, standbys, version = ((value or b"").decode() for value in answer.rows[0])
    return Facts(in_recovery == "true", names, int(process), int(walfile[:8] or "0", 16), int(standbys), version)


def _check_settings(host: Host, answer: Answer) -> None:
    found = {(name or b"").decode(): (value or b"").decode() for name, value in answer.rows}
    for name, values in _SETTINGS.items():
        if name in found and found[name] not in values:
            raise Unsafe(f"{host} keeps {name} at {found[name]!r}, and {values[0]!r} is needed")
    for name in ("fsync", "full_page_writes"):
        if found.get(name) != "on":
            raise Unsafe(
                f"{host} runs with {name} = {found.get(name, 'unknown')}: it would lose in a power cut what it has "
                f"confirmed. Set {name} = on in its postgresql.conf"
            )


_NO_STANDBY = (
    "it waits for no synchronous standby (its synchronous_standby_names is empty): what it confirms would be lost "
    "together with its disk. Set up a synchronous standby; or, if one server is what you want, add single-server to "
    "the URL (postgres://...?single-server)"
)
