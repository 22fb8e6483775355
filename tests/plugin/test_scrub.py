"""The weekly scrub: when it comes, the process that does it, and what is done about its findings."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import backup_at
from backends.log.backup import Backup
from backends.log.format.records import segment_index
from plugin import scrub as module
from plugin.scrub import SCRUB_FILE, Schedule, Scrub
from plugin.scrubber import scrub
from tests.fake_lightningd import History
from tests.log.histories import change, silent
from tests.log.model import contents
from tests.members.world import MembersWorld

AT_ONCE = Schedule(every=7 * 86400.0, spread=0.0, settle=0.0, retry=3600.0)
MEMBERS = ("nas", "stick")


@pytest.fixture
def world(tmp_path: Path) -> MembersWorld:
    """Two members that hold the same changes, in a segment that is full and one that is not."""
    world = MembersWorld(tmp_path).init()
    first = backup_at(world.members[0].url)
    history = History()
    writer = first.open(silent, "one")
    for call in [history.first(), *(history.note("x" * 5000) for _ in range(20))]:
        writer.append(change(call))
    writer._segments.prepare()  # as when the segment is half full
    writer._segments.go_on()
    for _ in range(20):
        writer.append(change(history.note("y" * 100)))
    writer.close()
    for name in first.storage.names():
        if name not in ("members", "lock"):
            world.place("stick").joinpath(name).write_bytes(world.place("nas").joinpath(name).read_bytes())
    return world


class Watched:
    """A scrub of the members of this world, what was reported of it, and what it handed on."""

    def __init__(self, world: MembersWorld, schedule: Schedule = AT_ONCE) -> None:
        self.told: list[tuple[str, str]] = []
        self.found: list[tuple[str, str, str]] = []
        self.scrub = Scrub(world.directory, self.report, self.hand_on, schedule)

    def report(self, level: str, line: str) -> None:
        self.told.append((level, line))

    def hand_on(self, member: str, file: str, what: str) -> None:
        self.found.append((member, file, what))

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.told
            self.scrub.tick(MEMBERS)
            time.sleep(0.02)

    def run(self) -> None:
        self.until(lambda: self.scrub.running)
        self.until(lambda: not self.scrub.running)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def due_in(world: MembersWorld) -> float:
    """Seconds until the next scrub is due, as noted."""
    return float(json.loads((world.directory / SCRUB_FILE).read_bytes())["due"]) - time.time()


def backups(world: MembersWorld) -> list[Backup]:
    return [backup_at(member.url) for member in world.members]


def test_flipped_bit_in_sealed_file_of_each_member_is_mended_by_the_process(world: MembersWorld) -> None:
    expected = contents(backups(world)[0])
    for bad, good in (MEMBERS, MEMBERS[::-1]):
        for name in ("snapshot-00000001", "segment-00000001"):
            flip(world.place(bad) / name, 90)
            (world.directory / SCRUB_FILE).unlink(missing_ok=True)
            watched = Watched(world)
            watched.run()
            assert watched.found == []
            assert any(level == "unusual" and f"{name} in the member {bad}" in line for level, line in watched.told)
            assert any(f"the good copy of {good}" in line for _, line in watched.told)
            assert (world.place(bad) / name).read_bytes() == (world.place(good) / name).read_bytes()
    assert [contents(backup) for backup in backups(world)] == [expected, expected]


def test_flipped_bit_in_open_segment_or_document_is_handed_on_and_the_file_left(world: MembersWorld) -> None:
    last = max(name for name in backups(world)[0].storage.names() if segment_index(name) is not None)
    for name in (last, "manifest", "session"):
        path = world.place("nas") / name
        original = path.read_bytes()
        flip(path, 70)
        rotten = path.read_bytes()
        (world.directory / SCRUB_FILE).unlink(missing_ok=True)
        watched = Watched(world)
        watched.run()
        assert [each[:2] for each in watched.found] == [("nas", name)]
        assert path.read_bytes() == rotten
        path.write_bytes(original)


def test_file_that_is_damaged_at_every_member_is_reported_as_broken(world: MembersWorld) -> None:
    for name in MEMBERS:
        flip(world.place(name) / "segment-00000001", 90)
    watched = Watched(world)
    watched.run()
    assert [level for level, line in watched.told if "no other member holds a good copy" in line] == ["broken"] * 2
    assert watched.found == []


def test_member_of_other_epoch_is_not_touched(world: MembersWorld) -> None:
    flip(world.place("nas") / "segment-00000001", 90)
    (world.place("nas") / "members").unlink()
    comparison, mended = scrub(world.directory, MEMBERS)
    assert (comparison.unknown, mended) == (("nas",), ())


def test_scrub_of_node_that_restarts_daily_comes_weekly(world: MembersWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[float] = []
    now = [time.time()]
    monkeypatch.setattr("plugin.scrub.time.time", lambda: now[0])
    begin = now[0]

    def start(self: Scrub, in_sync: object) -> None:
        started.append(now[0] - begin)
        self._set_due(self._schedule.every)

    monkeypatch.setattr(Scrub, "_start", start)
    for _ in range(30):
        watched = Watched(world, Schedule(settle=0.0, spread=0.0))
        for _ in range(24):
            watched.scrub.tick(MEMBERS)
            watched.scrub._not_before = 0.0
            now[0] += 3600
        watched.scrub.stop()
    assert [round(each / 86400) for each in started] == [0, 7, 14, 21, 28]


def test_scrub_waits_for_the_start_to_settle_and_for_a_second_member(world: MembersWorld) -> None:
    for schedule, members in ((Schedule(spread=0.0), MEMBERS), (AT_ONCE, MEMBERS[:1])):
        watched = Watched(world, schedule)
        watched.scrub.tick(members)
        assert not watched.scrub.running
        assert watched.told == []


def test_note_of_a_clock_that_was_wrong_does_not_put_the_scrub_off_for_years(world: MembersWorld) -> None:
    for data in (b'{"due": 99999999999}', b"[", b"{}", b'{"due": "x"}', b'{"due": NaN}'):
        (world.directory / SCRUB_FILE).write_bytes(data)
        watched = Watched(world)
        watched.until(lambda watched=watched: watched.scrub.running)  # type: ignore[misc]
        watched.scrub.stop()


def test_scrub_that_fails_is_tried_again_in_hours_and_one_that_ends_in_a_week(world: MembersWorld) -> None:
    watched = Watched(world)
    watched.run()
    assert 6.9 * 86400 < due_in(world) < 7.1 * 86400
    assert watched.told[-1][0] == "info"
    (world.directory / SCRUB_FILE).unlink()
    lock = world.directory / "backup.lock"
    lock.write_bytes(lock.read_bytes()[:-20])
    watched = Watched(world)
    watched.run()
    assert 0.9 * 3600 < due_in(world) < 1.1 * 3600
    assert "could not be scrubbed" in watched.told[-1][1]


@pytest.mark.parametrize("code", ["print('{')", "print('nothing')", "print('{}')", "pass", "import os; os._exit(9)"])
def test_nonsense_from_the_process_is_a_failure(
    world: MembersWorld, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(module, "_SCRUBBER", code)
    watched = Watched(world)
    watched.run()
    assert "could not be scrubbed" in watched.told[-1][1]


def test_process_ends_when_the_plugin_dies_and_when_it_stops(
    world: MembersWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCRUBBER", "import os; os.read(0, 1)")
    watched = Watched(world)
    watched.until(lambda: watched.scrub.running)
    process = watched.scrub._process
    assert process is not None
    watched.scrub.stop()
    assert process.wait(10) != 0
    assert not watched.scrub.running
