"""The new snapshot that is made beside the node: what its threads may do to one another."""

import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from backends.change import Change
from backends.sqlite.live_copy import CopyFailed
from plugin import renewal as module
from plugin.renewal import Renewal


def writer() -> Mock:
    return Mock(position=Mock(sequence=1, data_version=1, checksum=1), manifest=Mock(generation=1))


def change() -> Change:
    return Change(2, ["UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 1"])


def test_files_of_the_copy_are_not_closed_while_the_hook_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers could already be those of other files, and the hook would write into one."""
    copy, inside, go_on = Mock(failure=None), threading.Event(), threading.Event()
    monkeypatch.setattr(module, "LiveCopy", Mock(return_value=copy))
    tested, steps = Renewal(tmp_path, threading.Lock()), list[str]()

    def capture(*, writes: bool) -> None:
        inside.set()
        go_on.wait(5)
        steps.append("captured")

    copy.capture.side_effect, copy.close.side_effect = capture, lambda: steps.append("closed")
    ended = threading.Event()
    copy.run.side_effect = lambda between: ended.wait(5)
    tested.begin()
    tested.go_on(writer(), change(), "doubt")
    hook = threading.Thread(target=tested.capture, args=(change(),))
    hook.start()
    assert inside.wait(5)
    other = threading.Thread(target=tested.give_up)
    other.start()
    ended.set()
    other.join(0.1)
    go_on.set()
    hook.join()
    other.join()
    assert steps == ["captured", "closed"]
    tested.capture(change())  # nothing is left to use
    assert not list(tmp_path.iterdir())


def test_change_is_answered_when_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LiveCopy", Mock(return_value=Mock(failure=None)))
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    tested = Renewal(tmp_path, threading.Lock())
    tested.begin()
    with pytest.raises(CopyFailed, match="could not be started"):
        tested.go_on(writer(), change(), "doubt")
    tested.give_up()
    assert not tested.running
    assert not list(tmp_path.iterdir())
