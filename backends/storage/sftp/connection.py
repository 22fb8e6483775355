"""Requests and answers through one process of `ssh`. Several requests are sent at once; their answers come together.

After any error the process is ended and never used again: the outcome of the current requests is then unknown, and the
caller must find it out.
"""

import os
import select
import struct
import time
from collections.abc import Sequence
from typing import NoReturn

from backends.storage.channel import Disconnected, Malformed
from backends.storage.sftp.address import Address
from backends.storage.sftp.logins import Logins
from backends.storage.sftp.packets import MAX_PACKET, Kind, Unpacker, head, number
from backends.storage.sftp.process import SshProcess
from backends.text import printable

_VERSION = 3
_LENGTH = struct.Struct(">I")
_ID = struct.Struct(">I")
_BLOCK = 1 << 16
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_WRITABLE = select.POLLOUT | select.POLLHUP | select.POLLERR

Call = tuple[Kind, bytes]
"""A request: its type, and everything after its number."""

Answer = tuple[int, Unpacker]
"""An answer: its type, and everything after its number."""


class Connection:
    """One session of SFTP; `until` is when (time.monotonic) to give up connecting. Raises Disconnected, Refused."""

    def __init__(self, address: Address, until: float, logins: Logins) -> None:
        self._address, self._logins = address, logins
        self.parts_sent = 0
        """How many parts of requests may have been sent."""
        self._next = 0
        self._unread = bytearray()
        self._expected: dict[int, Answer | None] = {}
        self._ignored: set[int] = set()
        self._postponed: list[bytes] = []
        self._ended = False
        with logins.attempt():
            self._ssh = SshProcess(address, until)
            try:
                self.extensions = self._begin(until)
            except BaseException:
                self._ssh.end()
                raise

    @property
    def software(self) -> str:
        """What the server says its SSH software is; empty if unknown."""
        return self._ssh.software

    def exchange(self, calls: Sequence[Call], until: float) -> list[Answer]:
        """Send these requests at once and return their answers, in the same order.

        `until` (time.monotonic) is when to give up waiting for them. Raises Disconnected or Malformed.
        """
        if self._ended:  # its descriptors may be those of other files by now
            raise Disconnected(f"the connection to {self._address.shown} was closed")
        first, sent = self._next, self._postponed
        self._postponed = []
        for kind, body in calls:
            sent.append(head(kind, self._next, len(body)))
            sent.append(body)
            self._expected[self._next] = None
            self._next = self._next + 1 & 0xFFFFFFFF
        try:
            self._transfer(b"".join(sent), len(calls), until)
            return [self._answer(first + each & 0xFFFFFFFF) for each in range(len(calls))]
        except BaseException:  # whatever it is: an unread answer must not be taken for that of another request
            self.close()
            raise

    def postpone(self, kind: Kind, body: bytes) -> None:
        """Send this request with the next ones, and ignore its answer."""
        self._postponed.append(head(kind, self._next, len(body)) + body)
        self._ignored.add(self._next)
        self._next = self._next + 1 & 0xFFFFFFFF

    def close(self) -> None:
        """End the process. Never raises."""
        self._ended = True
        self._ssh.end()

    def _begin(self, until: float) -> dict[str, str]:
        """Agree on the version of the protocol; returns the server's extensions, with the version of each."""
        body = number(_VERSION)
        self._send(_LENGTH.pack(len(body) + 1) + bytes([Kind.INIT]) + body, until)
        while (packet := self._packet()) is None:
            self._receive(until)
        answer = Unpacker(packet)
        if answer.byte() != Kind.VERSION:
            raise Disconnected(f"{self._address.shown} does not answer as an SFTP server does")
        version = answer.number()
        if version != _VERSION:
            raise Disconnected(f"{self._address.shown} speaks version {version} of SFTP, and version 3 is needed")
        return answer.extensions()

    def _answer(self, request: int) -> Answer:
        answer = self._expected.pop(request)
        assert answer is not None
        return answer

    def _transfer(self, data: bytes, missing: int, until: float) -> None:
        """Send the data, and receive until `missing` answers are there."""
        rest = self._send_some(memoryview(data))
        while rest or missing:
            while (packet := self._packet()) is not None:
                missing -= self._accept(packet)
            if not rest and not missing:
                return
            if self._wait(until, writing=bool(rest)):
                rest = self._send_some(rest)

    def _accept(self, packet: bytes) -> int:
        """Keep an answer; returns how many of the expected ones it is: one or none. Raises Malformed."""
        if len(packet) < 5:
            raise Malformed(f"the server sent a packet of {len(packet)} bytes")
        request = int(_ID.unpack_from(packet, 1)[0])
        if request in self._ignored:
            self._ignored.discard(request)
            return 0
        if self._expected.get(request, ...) is not None:
            raise Malformed("the server answered a request that was not made")
        self._expected[request] = (packet[0], Unpacker(packet[5:]))
        return 1

    def _packet(self) -> bytes | None:
        """The next whole packet that was received; None if there is none yet. Raises Disconnected for what is none."""
        if len(self._unread) < 4:
            return None
        length = _LENGTH.unpack_from(self._unread)[0]
        if not 0 < length <= MAX_PACKET:
            self._not_sftp()
        if len(self._unread) < 4 + length:
            return None
        packet = bytes(self._unread[4 : 4 + length])
        del self._unread[: 4 + length]
        return packet

    def _not_sftp(self) -> NoReturn:
        """Raise the error for bytes that are no packets: if it is text, the account's shell has printed it."""
        if self._next == 0 and self._unread[:4].isascii():
            text = printable(self._unread[:200].decode(errors="replace").strip())
            raise self._logins.refuse(
                f"the account on {self._address.shown} printed text where SFTP should begin ({text}): it has no shell "
                "that may be used, or its start-up files (such as .bashrc) print something. Use an account with a "
                "shell, or let sshd itself serve the files: `Subsystem sftp internal-sftp` in its sshd_config"
            )
        raise Malformed(f"the server announces a packet of {_LENGTH.unpack_from(self._unread)[0]} bytes")

    def _send(self, data: bytes, until: float) -> None:
        rest = self._send_some(memoryview(data))
        while rest:
            if self._wait(until, writing=True):
                rest = self._send_some(rest)

    def _send_some(self, data: memoryview) -> memoryview:
        """Send as much as goes without waiting; returns the rest."""
        while data:
            try:
                data = data[os.write(self._ssh.to_server, data) :]
                self.parts_sent += 1
            except BlockingIOError:
                break
            except OSError:
                self._broken()
        return data

    def _receive(self, until: float) -> None:
        self._wait(until, writing=False)

    def _wait(self, until: float, *, writing: bool) -> bool:
        """Wait until something can be received, and receive it, or until something can be sent: then return True."""
        left = until - time.monotonic()
        ready = dict(self._ssh.poll(left, writing=writing)) if left > 0 else {}
        if not ready:
            raise Disconnected(f"{self._address.shown} has not answered in time")
        self._ssh.collect_words(ready)
        if ready.get(self._ssh.from_server, 0) & _READABLE:
            try:
                block = os.read(self._ssh.from_server, _BLOCK)
            except BlockingIOError:
                return False
            if not block:
                self._broken()
            self._unread += block
        return writing and bool(ready.get(self._ssh.to_server, 0) & _WRITABLE)

    def _broken(self) -> NoReturn:
        reason = self._ssh.last_words(until=time.monotonic() + _FAREWELL, began=self._next > 0)
        raise self._logins.refuse(reason.sentence) if reason.lasting else Disconnected(reason.sentence)


_FAREWELL = 1.0
"""Seconds to wait for what `ssh` says about the end of a connection."""
