"""The maintenance thread: what the end of the process waits for."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.commit_gate import CONTINUE, CommitGate
from plugin.maintenance import END_WITHIN, MaintenanceThread
from tests.plugin.gate_states import LIFE, NEXT, Node, call_hook


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[CommitGate]:
    """A gate that has saved a change."""
    node = Node(tmp_path)
    node.live(*LIFE)
    gate = node.start()
    assert call_hook(gate, NEXT) == CONTINUE
    yield gate
    gate.close()


class Request:
    """A request to the destination: `begun` when the thread has made it, answered when `answer` is set."""

    def __init__(self) -> None:
        self.begun, self.answer = threading.Event(), threading.Event()
        self.answered = False

    def __call__(self) -> None:
        self.begun.set()
        self.answered = self.answer.wait(60)


@pytest.fixture
def request_in_flight(gate: CommitGate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Request]:
    """What the thread asks of the destination first, and waits for."""
    request = Request()
    assert gate.writer is not None
    monkeypatch.setattr(gate.writer, "maintain", request)
    yield request
    request.answer.set()


def test_request_begun_before_a_refusal_is_not_waited_for_after_it(
    gate: CommitGate, request_in_flight: Request
) -> None:
    thread = MaintenanceThread(gate)
    thread.start()
    assert request_in_flight.begun.wait(60)
    gate.give_up("the destination does not answer")
    before = time.monotonic()
    thread.stop()
    assert not request_in_flight.answered
    assert time.monotonic() - before < END_WITHIN


def test_request_in_flight_is_waited_for_at_a_stop(gate: CommitGate, request_in_flight: Request) -> None:
    thread = MaintenanceThread(gate)
    thread.start()
    assert request_in_flight.begun.wait(60)
    threading.Timer(0.2, request_in_flight.answer.set).start()
    thread.stop()
    assert request_in_flight.answered
