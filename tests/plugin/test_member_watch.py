"""Low space at a member, and a member that trails too far, are reported once each time."""

from dataclasses import replace

from backends.log.member_status import MemberState, MemberStatus
from plugin.member_watch import PERSISTS, MemberWatch

NOW = 1_700_000_000.0
NAS = MemberStatus("nas", "file:///nas", MemberState.IN_SYNC, free_bytes=1 << 40, total_bytes=1 << 41)
FAR = MemberStatus("far", "nfs://far/b", MemberState.TRAILING, lag_changes=9, lag_seconds=1.0, trailing=True)


class Watched:
    """A watch, and what it has reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._watch = MemberWatch(lambda level, line: self.lines.append(f"{level}: {line}"))

    def look(self, *members: MemberStatus, after: float = 0.0) -> list[str]:
        self._watch.look(members, 1000, NOW + after)
        lines, self.lines = self.lines, []
        return lines


def test_low_space_at_a_member_is_reported_once_until_there_is_space_again() -> None:
    watched, full = Watched(), replace(NAS, free_bytes=1 << 20)
    assert watched.look(NAS, FAR) == []
    (line,) = watched.look(full, FAR)
    assert line.startswith("unusual: only 1 MiB are free at nas, and 256 MiB should be")
    assert watched.look(full) == []
    assert watched.look(NAS) == []
    assert len(watched.look(full)) == 1


def test_large_lag_is_reported_once_if_it_persists_and_so_is_its_end() -> None:
    watched, behind = Watched(), replace(FAR, lag_seconds=7300.0, lag_changes=5120)
    assert watched.look(behind) == []
    (line,) = watched.look(behind, after=PERSISTS)
    assert line.startswith("unusual: far (nfs://far/b) trails by 5120 changes and 2 hours (")
    assert watched.look(behind, after=2 * PERSISTS) == []
    assert watched.look(replace(FAR, lag_seconds=3000.0), after=3 * PERSISTS) == [], "not yet well"
    (line,) = watched.look(replace(FAR, lag_seconds=20.0), after=4 * PERSISTS)
    assert line.startswith("unusual: far has caught up (")
    assert watched.look(FAR, after=5 * PERSISTS) == []


def test_lag_of_an_hour_that_is_over_at_the_next_look_is_not_reported() -> None:
    """After a quiet hour, one new change makes a member trail by an hour, for a moment."""
    watched, behind = Watched(), replace(FAR, lag_seconds=7300.0)
    for number in range(4):
        assert watched.look(behind if number % 2 else FAR, after=number * PERSISTS) == []


def test_lag_that_nobody_can_count_in_changes_is_reported_in_time() -> None:
    watched, behind = Watched(), replace(FAR, lag_seconds=7300.0, lag_changes=None)
    watched.look(behind)
    (line,) = watched.look(behind, after=PERSISTS)
    assert "trails by 2 hours (" in line
