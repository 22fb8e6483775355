"""Objects in a table of PostgreSQL: one row each, made by one INSERT, which is one round trip."""

import errno
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from backends.storage.deadline import limited
from backends.storage.objects.presence import MARKER
from backends.storage.objects.store import Changed, Content, Exists, Listed, ObjectStore
from backends.storage.postgres.address import Address
from backends.storage.postgres.cluster import PROOF, Cluster, Session
from backends.storage.postgres.connection import Answer, Statement
from backends.storage.postgres.errors import Disconnected, Lost, MissingTable
from backends.storage.postgres.statements import Table

_PAGE = 1000
_MAX_KEYS = 500
_PAUSE = 0.1

_TO_EXPLAIN = 1.0
"""Seconds before the end of the commit timeout that are kept for finding out why nothing was confirmed."""


class PostgresStore(ObjectStore):
    """The objects of one backup.

    Each has a random version, chosen here before it is sent. So whether a write whose answer was lost was carried out
    is told by one look at the row, and it is repeated until an answer comes or the commit timeout is over.

    What a server returns may be on that server only: a commit whose wait for the standby was cut off is seen by
    everybody. So wherever a decision rests on what was read, the reading ends with a commit of our own (`PROOF`), and
    counts only when a standby has that.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._cluster = Cluster(address)
        self._table = Table(address.schema)
        self._lock = threading.Lock()
        self._newest: tuple[str, str] | None = None  # key and version of the last creation that was confirmed

    def describe(self) -> str:
        return str(self._address)

    def about(self) -> list[str]:
        with self._session(self._until()) as session:
            facts, encrypted = session.facts, session.connection.encrypted
        names = f"synchronous standby: {facts.standby_names}" if facts.standby_names else "no synchronous standby"
        return [
            f"PostgreSQL {facts.version.split()[0]} at {session.host}, {'over TLS' if encrypted else 'not encrypted'}",
            f"database {self._address.database}, schema {self._address.schema}; {names}",
        ]

    # Writing

    def would_end(self) -> float:
        return time.monotonic() + self._address.commit_timeout

    def create(self, key: str, data: bytes) -> str:
        path, version = self._path(key), secrets.token_hex(8)
        insert = self._table.insert(path, data, version)
        try:
            self._write(insert, path, version, Exists(key))
        except MissingTable:
            if key != MARKER:
                raise
            self._make_table()
            self._write(insert, path, version, Exists(key))
        with self._lock:
            self._newest = path, version
        return version

    def replace(self, key: str, data: bytes, version: str) -> str:
        path, new = self._path(key), secrets.token_hex(8)
        self._write(self._table.update(path, data, new, version), path, new, Changed(key))
        return new

    def delete(self, keys: Sequence[str]) -> None:
        paths = [self._path(key) for key in keys]
        with self._lock:
            if self._newest is not None and self._newest[0] in paths:
                self._newest = None
        for start in range(0, len(paths), _MAX_KEYS):
            self._commit(self._table.delete(paths[start : start + _MAX_KEYS]))

    def _write(self, write: Statement, path: str, version: str, refusal: OSError) -> None:
        """Carry out a conditional write. Raises `refusal` if its condition is not met."""
        until = self._until()
        while True:
            (answer,) = self._commit(write, until=until)
            if answer.count:
                return
            # Either the condition is not met, or an earlier attempt was carried out and only its answer was lost.
            found, _ = self._commit(self._table.version(path), PROOF, until=until)
            if found.rows and found.rows[0][0] == version.encode():
                return
            if found.rows or not isinstance(refusal, Exists):
                raise refusal

    # Reading

    def get(self, key: str) -> Content:
        answer, _ = self._commit(self._table.whole(self._path(key)), PROOF)
        if not answer.rows:
            raise _no_object(key)
        data, version = answer.rows[0]
        return Content(data or b"", (version or b"").decode())

    def read(self, key: str, offset: int, length: int) -> bytes:
        (answer,) = self._commit(self._table.part(self._path(key), offset, length))
        if not answer.rows:
            raise _no_object(key)
        return answer.rows[0][0] or b""

    def read_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        start = 0
        while start < len(keys):
            (answer,) = self._commit(self._table.several([self._path(key) for key in keys[start : start + _MAX_KEYS]]))
            for (data,) in answer.rows:
                if data is None:
                    raise _no_object(keys[start])
                yield data
                start += 1

    def prefixes(self, prefix: str) -> list[str]:
        path, found, after = self._path(prefix), list[str](), ""
        while True:
            answer, _ = self._commit(self._table.next_component(path, after), PROOF)
            if not answer.rows:
                return found
            found.append((answer.rows[0][0] or b"").decode())
            after = f"{path}{found[-1]}/~"

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        above = len(self._address.backup)
        while True:
            page = self._table.page(self._path(prefix), self._path(after) if after else "", _PAGE)
            answer, _ = self._commit(page, PROOF)
            for path, size, modified in answer.rows:
                after = (path or b"").decode()[above:]
                yield Listed(after, int(size or b"0"), float(modified or b"0"))
            if len(answer.rows) < _PAGE:
                return

    def close(self) -> None:
        self._cluster.close()

    # The schema

    def _make_table(self) -> None:
        """Make the schema and the table, as far as they do not exist."""
        try:
            (there,) = self._commit(self._table.has_schema())
            if not there.rows:
                self._commit(self._table.make_schema())
            self._commit(self._table.make())
        except PermissionError as error:
            raise PermissionError(errno.EACCES, self._rights_wanted()) from error

    def why_unwritable(self) -> str | None:
        """Why this role could not write; None if it can, or if there is no schema yet."""
        (answer,) = self._commit(self._table.rights())
        if not answer.rows:
            return None
        use, create, write, _ = ((value or b"").decode() for value in answer.rows[0])
        return (
            None
            if use == "true" and (write == "true" or (write, create) == ("none", "true"))
            else self._rights_wanted()
        )

    def _rights_wanted(self) -> str:
        role = self._address.user or "ROLE"
        return (
            f"the role may not use the schema {self._address.schema}. In the database {self._address.database}, its "
            f'administrator types: CREATE SCHEMA {self._address.schema} AUTHORIZATION "{role}";  or, if that schema '
            f'exists: GRANT USAGE, CREATE ON SCHEMA {self._address.schema} TO "{role}";'
        )

    # Sessions

    def _commit(self, *statements: Statement, until: float | None = None) -> Sequence[Answer]:
        """Run the statements until their outcome is known. They may be carried out more than once."""
        until = self._until() if until is None else until
        if time.monotonic() >= until:  # a working connection that is used now would be given up, and closed, at once
            raise TimeoutError(errno.ETIMEDOUT, "there was no time left to ask the server")
        while True:
            try:
                with self._session(until) as session:
                    try:
                        return session.commit(*statements, until=until, silent=self._silent(session, until))
                    except TimeoutError as error:
                        why = self._cluster.why_silent(limited(time.monotonic() + _TO_EXPLAIN))
                        raise TimeoutError(errno.ETIMEDOUT, why) from error
            except Disconnected as error:
                if time.monotonic() + _PAUSE >= until:
                    raise TimeoutError(errno.ETIMEDOUT, str(error)) from error
                time.sleep(_PAUSE)

    @contextmanager
    def _session(self, until: float) -> Iterator[Session]:
        session = self._cluster.session(until, lambda session: self._check_newest(session, until))
        try:
            yield session
        finally:
            self._cluster.give_back(session)

    def _silent(self, session: Session, until: float) -> Callable[[], None]:
        return lambda: self._cluster.leave_if_replaced(session, until)

    def _check_newest(self, session: Session, until: float) -> None:
        """Raise Lost if the server that took over lacks the last creation that was confirmed."""
        with self._lock:
            newest = self._newest
        if newest is None:
            return
        path, version = newest
        (answer,) = session.connection.run((self._table.version(path),), until)
        if not answer.rows or answer.rows[0][0] != version.encode():
            raise Lost(
                f"{session.host} has taken over from another server, and lacks what that server had confirmed (or "
                "another process removed it just now)"
            )

    def _until(self) -> float:
        """When a call of this thread that begins now is given up: what is left then is for finding out why."""
        return limited(self.would_end()) - _TO_EXPLAIN

    def _path(self, key: str) -> str:
        return self._address.backup + key


def _no_object(key: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "there is no such object", key)
