"""An NFSv4.1 session (RFC 8881) with one slot. It tells the server who is calling, and which call comes next.

The session only numbers calls; it holds no open files: reading and writing use the anonymous state id. So a session
that is lost (the server restarted, or the node was idle for longer than a lease) is simply replaced by a new one.
"""

import errno
import os
from collections.abc import Sequence

from backends.storage.channel import Disconnected, Malformed, TryLater
from backends.storage.nfs import xdr
from backends.storage.nfs.protocol import check
from backends.storage.nfs.rpc import Connection, Refused
from backends.storage.nfs.xdr import Unpacker, long, number, opaque
from backends.storage.pieces import SECTOR

_NFS, _COMPOUND = 100003, 1
_SEQUENCE, _EXCHANGE_ID, _CREATE_SESSION, _RECLAIM_COMPLETE = 53, 42, 43, 58
_NO_PARALLEL_NFS = 0x10000
_MINOR_VERSION_UNKNOWN = 10021
_OVER = frozenset({10011, 10022, 10052, 10078})
"""Errors that mean: the server no longer knows this session (or client); it did nothing, and will do none of its
calls."""
_OUT_OF_STEP = frozenset({10053, 10055, 10063, 10076})
"""Errors that mean: nothing was done, but the session may still exist, and a call of it may still arrive."""


class SessionLost(Disconnected):
    """The session cannot be used any more; `status` is the NFS error that the server gave as the reason."""

    def __init__(self, status: int) -> None:
        super().__init__("the server no longer knows this session")
        self.status = status


_FALSE_RETRY, _UNCACHED = 10076, 10068
"""Errors that mean: the sequence number was used, by another call, or by one whose answer the server has not kept."""

HEADS = 1024
"""Bytes reserved in a call for everything except the data."""

_MAX_MESSAGE = (1 << 20) + 4096
_LIST_OF_OPERATIONS = 16
_MAX_OPERATIONS_USED = 6


class Operation:
    """One operation of a compound call, encoded."""

    def __init__(self, code: int, arguments: bytes = b"") -> None:
        self.code, self.encoded = code, number(code) + arguments


class Session:
    """Compound calls over `connection`, in sequence. Raises Refused if the server does not speak NFS 4.1."""

    def __init__(self, connection: Connection, until: float) -> None:
        self.fences = True
        """Whether it is certain that the server will carry out no call of an earlier connection any more."""
        self._start(connection, until)

    def _start(self, connection: Connection, until: float) -> None:
        self.connection = connection
        self.owner = b"lightningd-backup-" + os.urandom(12).hex().encode()
        self.client_id, client_sequence = self._introduce(until)
        self._id, self.largest = self._begin(client_sequence, until)
        self._sequence = 0
        self.call([Operation(_RECLAIM_COMPLETE, number(0))], "", until)

    def resume(self, connection: Connection, until: float, why: Disconnected) -> None:
        """Continue on a new connection. Afterwards the server cannot carry out a call that was cut off (`fences`).

        The sequence number of the last call is sent again, alone. If that call arrived, the number is used, and the
        call has been carried out. If it did not, this uses the number, and the server ignores the call when it arrives
        late. If the server does not know the session, the session and all calls sent in it are over.
        """
        self.connection = connection
        if isinstance(why, SessionLost):
            status, carried_out = why.status, frozenset[int]()
        else:
            status, carried_out = self._sequence_alone(until), frozenset({_FALSE_RETRY})
        if status in (_OVER | _OUT_OF_STEP) - carried_out:
            self.fences = self.fences and status in _OVER
            self._start(connection, until)
        elif status not in (_FALSE_RETRY, _UNCACHED):
            check(status, "")

    def _sequence_alone(self, until: float) -> int:
        sequence = self._id + number(self._sequence) + number(0) + number(0) + number(0)
        answer = self._compound([Operation(_SEQUENCE, sequence)], until)
        if answer.number() != _SEQUENCE:
            raise Malformed("the server answered an operation that was not requested")
        return answer.number()

    def call(self, operations: Sequence[Operation], what: str, until: float) -> Unpacker:
        """Carry out the operations and return their results.

        Each result begins with the operation's code and status, which the caller reads with `expect`: it raises for
        the first operation that failed.
        """
        self._count(1)
        sequence = self._id + number(self._sequence) + number(0) + number(0) + number(0)
        answer = self._compound([Operation(_SEQUENCE, sequence), *operations], until)
        try:
            expect(answer, _SEQUENCE, what)
        except TryLater:
            self._count(-1)  # the server has not counted the call
            raise
        answer.fixed(36)
        return answer

    def _count(self, calls: int) -> None:
        self._sequence = self._sequence + calls & 0xFFFFFFFF  # the number wraps to 0

    def _introduce(self, until: float) -> tuple[int, int]:
        owner = os.urandom(8) + opaque(self.owner)
        request = owner + number(_NO_PARALLEL_NFS) + number(0) + number(0)
        answer = self._compound([Operation(_EXCHANGE_ID, request)], until)
        expect(answer, _EXCHANGE_ID, "")
        return answer.long(), answer.number()

    def _begin(self, client_sequence: int, until: float) -> tuple[bytes, int]:
        """Create the session. Returns its id and the most bytes in one call."""
        channel = b"".join(map(number, (0, _MAX_MESSAGE, _MAX_MESSAGE, 4096, _LIST_OF_OPERATIONS, 1, 0)))
        no_security = xdr.numbers([0])
        request = long(self.client_id) + number(client_sequence) + number(0) + channel * 2 + number(0) + no_security
        answer = self._compound([Operation(_CREATE_SESSION, request)], until)
        expect(answer, _CREATE_SESSION, "")
        ident = answer.fixed(16)
        answer.fixed(8)
        answer.number()
        largest = min(answer.number(), answer.number())
        answer.number()
        operations = answer.number()
        if largest < HEADS + SECTOR or operations < _MAX_OPERATIONS_USED:
            raise Refused(
                errno.EPROTONOSUPPORT,
                f"the server takes calls of {largest} bytes and {operations} operations in an NFS 4.1 session, but a "
                f"backup needs {HEADS + SECTOR} and {_MAX_OPERATIONS_USED} (version=3 may work)",
            )
        return ident, largest

    def _compound(self, operations: Sequence[Operation], until: float) -> Unpacker:
        request = b"".join((opaque(b""), number(1), number(len(operations)), *(each.encoded for each in operations)))
        answer = self.connection.call(_NFS, 4, _COMPOUND, request, until)
        if answer.number() == _MINOR_VERSION_UNKNOWN:
            raise Refused(errno.EPROTONOSUPPORT, "the server does not speak NFS 4.1")
        answer.opaque()
        answer.number()
        return answer


def expect(answer: Unpacker, code: int, what: str) -> None:
    """Read an operation's code and status from the start of its result. Raises the error that the status means."""
    if answer.number() != code:
        raise Malformed("the server answered an operation that was not requested")
    status = answer.number()
    if status in _OVER | _OUT_OF_STEP:
        raise SessionLost(status)
    check(status, what)
