"""lightningd's messages, whole from any pieces; and the moment at which the plugin leaves."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from plugin import input as module
from plugin.input import QUIET, Input


class Pipe:
    """Both ends, and what has been read from it so far."""

    def __init__(self) -> None:
        self.descriptor, self._end = os.pipe()
        self.input = Input(self.descriptor)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._end, data) :]

    def close(self) -> None:
        if self._end >= 0:
            os.close(self._end)
        self._end = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()
    os.close(made.descriptor)


MESSAGES = [b'{"id": %d, "text": "a\\nb"}\n\n' % number for number in range(5)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 25, 1000])
def test_messages_arrive_whole_from_pieces_of_any_size(pipe: Pipe, size: int) -> None:
    sent = b"".join(MESSAGES)

    def send() -> None:
        for begin in range(0, len(sent), size):
            pipe.send(sent[begin : begin + size])
            time.sleep(0.001)
        pipe.close()

    sending = threading.Thread(target=send)
    sending.start()
    found = list(pipe.input.buffer)
    sending.join()
    assert b"".join(found) == sent
    assert all(piece.endswith(b"\n\n") for piece in found)
    assert pipe.input.ended


def test_message_larger_than_a_pipe_arrives_whole(pipe: Pipe) -> None:
    sent = b"x" * (5 << 20) + b"\n\n"
    sending = threading.Thread(target=pipe.send, args=[sent])
    sending.start()
    assert next(iter(pipe.input)) == sent
    sending.join()


def test_message_cut_off_at_the_end_of_input_is_dropped(pipe: Pipe) -> None:
    """lightningd died while it wrote."""
    pipe.send(MESSAGES[0] + MESSAGES[1][:10])
    pipe.close()
    assert list(pipe.input) == MESSAGES[:1]


def test_input_ends_when_no_call_has_come_for_a_while(pipe: Pipe) -> None:
    calls = iter(pipe.input)
    pipe.send(MESSAGES[0])
    assert next(calls) == MESSAGES[0]
    pipe.input.leave_when_quiet()
    for message in MESSAGES[1:4]:
        threading.Timer(QUIET / 2, pipe.send, [message]).start()
        assert next(calls) == message
    began = time.monotonic()
    assert list(calls) == []
    assert time.monotonic() - began >= QUIET
    assert not pipe.input.ended
    assert not pipe.input.unread()


def test_input_ends_at_once_when_lightningd_hangs_up(pipe: Pipe) -> None:
    pipe.input.leave_when_quiet()
    pipe.close()
    began = time.monotonic()
    assert list(pipe.input) == []
    assert time.monotonic() - began < QUIET / 2
    assert pipe.input.ended
    assert not pipe.input.unread()


def test_call_that_arrives_while_leaving_is_read_later(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.01)
    pipe.input.leave_when_quiet()
    assert list(pipe.input) == []
    pipe.send(MESSAGES[0])
    assert pipe.input.unread()
    assert list(pipe.input) == MESSAGES[:1]


def test_input_does_not_end_in_the_middle_of_a_message(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the timeout."""
    monkeypatch.setattr(module, "TIMEOUT", 0.0)
    pipe.send(MESSAGES[0][:10])
    pipe.input.leave_when_quiet()
    threading.Timer(QUIET / 2, pipe.send, [MESSAGES[0][10:]]).start()
    assert next(iter(pipe.input)) == MESSAGES[0]


def test_input_ends_between_two_calls_of_an_endless_stream(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """lightningd waits 30 seconds and then kills, perhaps within a call."""
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.02):
            pipe.send(MESSAGES[0])

    sending = threading.Thread(target=send)
    sending.start()
    began = time.monotonic()
    pipe.input.leave_when_quiet()
    assert b"".join(pipe.input).endswith(MESSAGES[0])
    over.set()
    sending.join()
    assert 0.3 <= time.monotonic() - began < 5
