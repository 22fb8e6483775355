"""How what is kept for its history ages: a clock that jumps removes nothing at once."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from backends.log.format.history import HISTORY
from backends.log.format.records import snapshot_name, time_now
from backends.log.format.text_files import encode_document
from backends.log.writer.options import LogOptions
from tests.log.histories import Node
from tests.log.keeping import MONTH, generations, lived, reachable
from tests.log.model import contents

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

DAY = 86400


@dataclass
class WallClock:
    """A clock that a test sets, in seconds since 1970."""

    now: int


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The clock by which generations are kept."""
    clock = WallClock(time_now())
    monkeypatch.setattr("backends.log.writer.keeping.time_now", lambda: clock.now)
    return clock


def lives_on(node: Node, clock: WallClock, days: float, wall: float | None = None) -> None:
    """The writer lives for so many days, and tidies at their end; the wall clock goes on by `wall` days."""
    clock.now += int((days if wall is None else wall) * DAY)
    node.writer._aged -= days * DAY
    node.writer._next_tidying = 0.0
    node.writer.maintain()


def test_generations_go_when_their_time_is_over(new: Callable[[LogOptions], Node], clock: WallClock) -> None:
    node = lived(new(MONTH))
    lives_on(node, clock, 29)
    assert generations(node.backup()) == [1, 2, 3]
    lives_on(node, clock, 2)
    assert generations(node.backup()) == []
    assert snapshot_name(1) not in node.storage.names()
    assert contents(node.backup()) == node.now.contents
    assert reachable(node.backup())[-1] == node.now.version


@pytest.mark.parametrize("wall", [-20_000, -1, 0, 2, 40, 20_000])
def test_wall_clock_that_jumps_by_days_removes_nothing_for_half_the_time_and_keeps_nothing_forever(
    new: Callable[[LogOptions], Node], clock: WallClock, wall: int
) -> None:
    """20,000 days: a board without a battery that begins in 1970, or a clock that was set to 2080."""
    node = lived(new(MONTH))
    lives_on(node, clock, 1 / 24, wall)
    assert generations(node.backup()) == [1, 2, 3], "within an hour"
    lives_on(node, clock, 14)
    node.close()
    clock.now += wall * DAY
    node.open("two")
    node.compact()
    assert generations(node.backup()) == [1, 2, 3, 4]
    lives_on(node, clock, 17)
    assert set(generations(node.backup())) <= {4}


def test_wall_clock_that_was_wrong_when_a_generation_was_kept_does_not_remove_it(
    new: Callable[[LogOptions], Node], clock: WallClock
) -> None:
    right, clock.now = clock.now, 0
    node = lived(new(MONTH))
    clock.now = right
    lives_on(node, clock, 14)
    assert generations(node.backup()) == [1, 2, 3]
    lives_on(node, clock, 2)
    assert generations(node.backup()) == []


def test_time_without_a_writer_is_caught_up_at_double_speed(
    new: Callable[[LogOptions], Node], clock: WallClock
) -> None:
    node = lived(new(MONTH))
    node.close()
    clock.now += 60 * DAY
    node.open("two")
    lives_on(node, clock, 14)
    assert generations(node.backup()) == [1, 2, 3]
    lives_on(node, clock, 2)
    assert generations(node.backup()) == []


@pytest.mark.plain_unless_told  # it writes a plain list by hand
def test_list_of_the_first_release_with_keep_has_no_clock_and_is_read(
    new: Callable[[LogOptions], Node], clock: WallClock
) -> None:
    node = lived(new(MONTH))
    node.close()
    fields = json.loads(node.storage.read_small(HISTORY).split(b"\n")[0])
    del fields["clock"]
    node.storage.publish(HISTORY, encode_document(HISTORY, fields, {}, None))
    node.open("two")
    assert generations(node.backup()) == [1, 2, 3]
    lives_on(node, clock, 31)
    assert generations(node.backup()) == []
