"""A long log is read by a process of its own, while this process executes what that one has read.

Reading, checking and unpacking take a fifth of a restore. A second thread would gain nothing: it is Python that reads,
and SQLite gives up the interpreter for a few microseconds at a time.

The reading process only saves time, and is never believed when something is unusual. It is a fork, so it reads the same
open files. Damage, a change that is too large to pass on, its death or its silence all just end what it sends. This
process then reads the log itself, from the beginning, and so reports exactly what it would have reported without help.
"""

import fcntl
import gc
import marshal
import os
import select
import signal
import struct
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from backends.base import Position
from backends.log.reader.generation import Reader
from backends.log.reader.passes import Changes, EndOfLog, StoredChange
from backends.sqlite.limits import end_with_the_parent
from backends.system.overlap import may_overlap
from backends.system.pulse import pulse
from backends.times import UNKNOWN_TIME

WORTH_IT = 4 << 20
"""Stored bytes of a log that takes long enough to read, half a second in all, for a second process to be worth it."""

SILENCE = 60.0
"""Seconds without a message after which the reading process counts as lost."""

_AT_ONCE = 64
"""Changes in a message. Each is of at most SMALL bytes, so a message has at most 4 MiB; usually it has 200 KiB."""

_MAX_MESSAGE = 64 << 20
_PIPE = 1 << 20
"""Bytes that the pipe holds: how far the reading process may be ahead, with a message in each process."""

_GONE_WITHIN = 1.0
_LENGTH = struct.Struct("<I")


class ReadLog(Protocol):
    """The changes of a log, being read: what a rebuild needs of `Changes`."""

    segment: int
    bytes_read: int
    base_time: int

    def __iter__(self) -> Iterator[StoredChange]: ...

    def end(self) -> EndOfLog:
        """How the log ends. Raises RuntimeError until all of it was read."""


@contextmanager
def reading(reader: Reader, worth_it: int | None = None) -> Iterator[ReadLog]:
    """The changes of this generation's log, read by another process if the log has at least `worth_it` (WORTH_IT) bytes
    and a processor is free for it. Iterating may raise Damaged."""
    if not _can_help(reader, WORTH_IT if worth_it is None else worth_it):
        yield reader.changes()
        return
    changes = ChangesAhead(reader)
    try:
        yield changes
    finally:
        changes.close()


def _can_help(reader: Reader, worth_it: int) -> bool:
    log = reader.log
    return (
        may_overlap()
        and log.stored_bytes() >= worth_it
        and _processors() > 1
        and _load() < (os.cpu_count() or 1)
        and all(handle.survives_fork for _, handle in log.segments)
    )


def _processors() -> int:
    with suppress(AttributeError, OSError):  # not Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float:
    """How many processes have wanted a processor lately. Where none is free, each of the two would wait for the other
    to be given one, and a restore would take longer than with one process."""
    with suppress(OSError):
        return os.getloadavg()[0]
    return 0.0


class ChangesAhead:
    """The changes of a log, as `Changes` would yield them. Iterate it once, then `close` it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.segment, self.bytes_read, self.base_time = 0, 0, UNKNOWN_TIME
        self._end: EndOfLog | None = None
        self._process = _start(reader)
        self._each = self._changes()

    def __iter__(self) -> Iterator[StoredChange]:
        return self._each

    def end(self) -> EndOfLog:
        """How the log ends. Raises RuntimeError until all of it was read."""
        if self._end is None:
            raise RuntimeError("the log was not read to its end")
        return self._end

    def close(self) -> None:
        """End the reading process."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _changes(self) -> Iterator[StoredChange]:
        last = self._reader.manifest.base.sequence
        for change in self._sent():
            if change.sequence != last + 1:
                break  # something is wrong: `_own` finds out what
            last += 1
            yield change
        self.close()
        if self._end is None:
            yield from self._own(last)

    def _sent(self) -> Iterator[StoredChange]:
        """What the reading process sends. Sets `_end` if it has read the whole log and has found nothing unusual."""
        while self._process is not None and (message := self._process.message()) is not None:
            changes, self.segment, self.bytes_read, self.base_time, end = message
            for fields in changes:
                yield StoredChange(*fields)
            if end is not None:
                position, torn, end_unverified, log_bytes = end
                self._end = EndOfLog(Position(*position), torn, end_unverified, log_bytes)
                return

    def _own(self, last: int) -> Iterator[StoredChange]:
        """The changes after the record with the sequence `last`, read by this process."""
        own = self._reader.changes()
        for change in own:
            if change.sequence <= last:
                pulse.signs += 1
                continue
            self._note(own)
            yield change
        self._note(own)
        self._end = own.end()

    def _note(self, own: Changes) -> None:
        self.segment, self.bytes_read, self.base_time = own.segment, own.bytes_read, own.base_time


class _ReadingProcess:
    """The other process, and the pipe from it."""

    def __init__(self, number: int, pipe: int) -> None:
        self._number, self._pipe = number, pipe
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def message(self) -> Any | None:
        """The next message; None when there is none, for whatever reason."""
        length = self._read(_LENGTH.size)
        if length is None or (size := _LENGTH.unpack(length)[0]) > _MAX_MESSAGE:
            return None
        message = self._read(size)
        return None if message is None else marshal.loads(message)  # made by this very program, a moment ago

    def end(self) -> None:
        """Kill it, and do not wait for long: its disk may hang."""
        os.close(self._pipe)
        with suppress(OSError):
            os.kill(self._number, signal.SIGKILL)
            until = time.monotonic() + _GONE_WITHIN
            while os.waitpid(self._number, os.WNOHANG)[0] == 0 and time.monotonic() < until:
                time.sleep(0.001)

    def _read(self, length: int) -> bytearray | None:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            if not self._poll.poll(SILENCE * 1000):
                return None
            count = os.readv(self._pipe, [rest])
            if not count:
                return None
            rest = rest[count:]
        return data


def _start(reader: Reader) -> _ReadingProcess | None:
    """Start the process that reads; None if none can be started."""
    receiving, sending = os.pipe()
    parent = os.getpid()
    try:
        with warnings.catch_warnings():
            # Python warns of a fork where there are threads. The other threads here only watch, and the fork takes no
            # lock that one of them may hold; if it hung all the same, its silence would be noticed.
            warnings.simplefilter("ignore", DeprecationWarning)
            number = os.fork()
    except OSError:
        os.close(receiving)
        os.close(sending)
        return None
    if number == 0:
        try:
            os.close(receiving)
            end_with_the_parent(parent)
            gc.freeze()  # or the first collection would copy all that both processes share
            _send_all(reader.changes(), sending)
        finally:
            os._exit(0)
    os.close(sending)
    with suppress(AttributeError, OSError):  # not Linux, or the user has many pipes
        fcntl.fcntl(receiving, fcntl.F_SETPIPE_SZ, _PIPE)
    return _ReadingProcess(number, receiving)


def _send_all(changes: Changes, pipe: int) -> None:
    """Send all changes, and how the log ends. Whatever is unusual ends this early."""
    batch: list[Any] = []
    segment = 0
    for change in changes:
        if len(batch) == _AT_ONCE or changes.segment != segment:
            _send(pipe, changes, segment, batch, None)
            batch.clear()
            segment = changes.segment
        if not isinstance(change.statements, list):
            return  # it is too large for memory, and is in a file
        batch.append(tuple(change))
    end = changes.end()
    position = (end.position.data_version, end.position.sequence, end.position.checksum, end.position.time)
    _send(pipe, changes, changes.segment, batch, (position, end.torn, end.end_unverified, end.log_bytes))


def _send(pipe: int, changes: Changes, segment: int, batch: list[Any], end: tuple[Any, ...] | None) -> None:
    message = marshal.dumps((batch, segment, changes.bytes_read, changes.base_time, end))
    for data in (_LENGTH.pack(len(message)), message):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(pipe, rest) :]
