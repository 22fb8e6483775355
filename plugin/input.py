"""What lightningd sends, read so that the plugin can leave between two calls and never within one.

The thread that reads the calls also answers them. So only that thread can tell that no call is unanswered: when it
reads again, and nothing is unread. A timer in another thread could only guess.
"""

import os
import select
import time
from collections import deque
from collections.abc import Iterator

QUIET = 0.5
"""Seconds without a call after which the plugin leaves, once lightningd has sent `shutdown`. lightningd goes on
committing while it waits for its plugins, and aborts when one of them leaves a call unanswered."""

TIMEOUT = 8.0
"""Seconds after `shutdown` from which the plugin leaves at the first moment without a call. lightningd waits 30 s, and
what the plugin does at its end may take most of them."""

_END = b"\n\n"
_PIECE = 1 << 20


class Input:
    """Replaces `sys.stdin` in pyln-client, which only iterates over its `buffer`."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._partial = bytearray()
        self._whole: deque[bytes] = deque()
        self.message = b""
        """The message that was yielded last."""
        self._told_to_leave: float | None = None
        self.ended = False
        """Whether lightningd has closed its end, or has died."""

    @property
    def buffer(self) -> "Input":
        """This object: pyln-client expects a text stream's `buffer`."""
        return self

    def __iter__(self) -> Iterator[bytes]:
        """Whole messages, one at a time: if one cannot be read, those that came with it are not lost.

        Ends when lightningd hangs up, or when it is time to leave. A new iteration continues after the last message
        yielded.
        """
        while True:
            while self._whole:
                self.message = self._whole.popleft()
                yield self.message
            data = self._read()
            if not data:
                return
            if not self._partial and data.find(_END) == len(data) - len(_END) > 0:  # nearly always: nothing is copied
                self.message = data
                yield data
                continue
            begin = max(len(self._partial) - 1, 0)
            self._partial += data
            end = self._partial.rfind(_END, begin) + len(_END)
            if end >= len(_END):
                messages = bytes(self._partial[:end]).split(_END)
                del self._partial[:end]
                self._whole.extend(message + _END for message in messages if message.strip())

    def _read(self) -> bytes:
        """The bytes that have come; empty when lightningd has hung up, or it is time to leave."""
        if self._told_to_leave is not None and self._nothing_comes(self._told_to_leave):
            return b""
        data = os.read(self._descriptor, _PIECE)
        self.ended = not data
        return data

    def _nothing_comes(self, since: float) -> bool:
        wait = QUIET if time.monotonic() - since < TIMEOUT or self._partial else 0.0
        return not self._poll.poll(wait * 1000)

    def leave_when_quiet(self) -> None:
        """From now on, the iteration ends when no call has come for QUIET seconds."""
        self._told_to_leave = self._told_to_leave or time.monotonic()

    def unread(self) -> bool:
        """Whether a call came that nobody has read, while the plugin was leaving."""
        return bool(self._whole) or (not self.ended and bool(self._poll.poll(0)))
