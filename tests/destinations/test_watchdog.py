"""A commit that waits for its destination: the node's log says so, and after the deadline another thread refuses it."""

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from pyln.client import Plugin

from plugin import watchdog as module
from plugin.watchdog import Watchdog

TICK = 0.01


class FakeCommitGate:
    """A commit gate with an invented destination."""

    def __init__(self, commit_timeout: float) -> None:
        self.commit_timeout = commit_timeout
        self.given_up: list[str] = []

    def where(self) -> str:
        return "/mnt/nas/lightning.bkp"

    def give_up(self, reason: str) -> dict[str, str]:
        self.given_up.append(reason)
        return {"result": "fail", "message": f"backup: {reason}"}


class Call:
    """A request that remembers its answers."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def set_result(self, result: Any) -> None:
        self.answers.append(result)


class Watching:
    """A running watchdog whose time passes a hundred times as fast."""

    def __init__(self, commit_timeout: float) -> None:
        self.gate = FakeCommitGate(commit_timeout)
        self.said: list[tuple[str, str]] = []
        self.ended: list[int] = []
        self.over = threading.Event()
        self.dog = Watchdog(self.gate, lambda level, line: self.said.append((level, line)), end=self._end, tick=TICK)
        self.dog.start()

    def _end(self, code: int) -> None:
        self.ended.append(code)
        self.over.set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the watchdog's 5 s to 50 ms."""
    monkeypatch.setattr(module, "FIRST_WORD", 0.05)
    monkeypatch.setattr(module, "AGAIN_EVERY", 0.1)
    monkeypatch.setattr(module, "_UNTIL_READ", 0.0)


@pytest.fixture
def watching() -> Iterator[Watching]:
    watching = Watching(commit_timeout=0.4)
    yield watching
    watching.dog.stop()


def test_watchdog_says_nothing_of_quick_commits(watching: Watching) -> None:
    for _ in range(50):
        watching.dog.begin(Call())
        time.sleep(0.004)
        watching.dog.done()
    time.sleep(0.2)
    assert watching.said == []
    assert watching.ended == []


def test_watchdog_repeats_that_a_slow_commit_waits(watching: Watching) -> None:
    call = Call()
    watching.dog.begin(call)
    time.sleep(0.3)
    watching.dog.done()
    time.sleep(0.3)
    assert 2 <= len(watching.said) <= 3
    assert all("waiting for /mnt/nas/lightning.bkp" in line and level == "unusual" for level, line in watching.said)
    assert call.answers == []
    assert watching.ended == []


def test_watchdog_counts_the_time_of_each_commit_by_itself(watching: Watching) -> None:
    for _ in range(4):
        watching.dog.begin(Call())
        time.sleep(0.15)
        watching.dog.done()
    assert watching.ended == []


def test_watchdog_refuses_commit_beyond_timeout_and_ends_the_process(watching: Watching) -> None:
    call = Call()
    watching.dog.begin(call)
    assert watching.over.wait(5)
    (answer,) = call.answers
    assert answer["result"] == "fail"
    assert "has not answered" in answer["message"]
    assert "everything before it is safe" in answer["message"]
    assert len(watching.gate.given_up) == 1
    assert watching.ended == [1]


def test_watchdog_ends_the_process_though_the_hook_answered_at_last_moment(watching: Watching) -> None:
    class Answered(Call):
        def set_result(self, result: Any) -> None:
            raise ValueError("not pending")

    watching.dog.begin(Answered())
    assert watching.over.wait(5)
    assert watching.ended == [1]


def test_watchdog_ends_the_process_when_leaving_takes_too_long(watching: Watching) -> None:
    watching.dog.leave_within(0.05)
    assert watching.over.wait(5)
    assert watching.ended == [0]


def test_pyln_sends_watchdog_answer_while_the_hook_is_stuck() -> None:
    """The watchdog depends on this public feature of pyln-client."""
    out = io.TextIOWrapper(io.BytesIO())
    plugin = Plugin(autopatch=False, dynamic=False)
    plugin.stdout = out
    watching, stuck = Watching(commit_timeout=0.05), threading.Event()

    def db_write(data_version: int, writes: list[str], request: Any, **_: Any) -> dict[str, str]:
        watching.dog.begin(request)
        stuck.wait(10)
        return {"result": "continue"}

    plugin.add_hook("db_write", db_write)
    call = {"jsonrpc": "2.0", "id": "cln:db_write#7", "method": "db_write", "params": {"data_version": 1, "writes": []}}

    def dispatch() -> None:
        with suppress(ValueError):  # already answered; the real process would have ended by then
            plugin._multi_dispatch([json.dumps(call).encode(), b""])

    dispatched = threading.Thread(target=dispatch, daemon=True)
    dispatched.start()
    assert watching.over.wait(5)
    out.flush()
    raw = out.buffer
    assert isinstance(raw, io.BytesIO)
    answer = json.loads(raw.getvalue().split(b"\n\n")[0])
    assert answer["id"] == "cln:db_write#7"
    assert answer["result"]["result"] == "fail"
    stuck.set()
    dispatched.join(5)
