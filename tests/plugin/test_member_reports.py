"""What the node's log and `backup.notify` are told when the state of a member changes."""

import time
from pathlib import Path

import pytest

from backends.log.format.members import Member
from backends.members.examine import Obstacle
from plugin import member_reports
from plugin.member_events import MemberEvents
from plugin.member_reports import Told
from plugin.notify import LEVELS, NOTIFY_FILE, Notifier

NOW = 1_700_000_000.0
URL = "file:///mnt/nas/lightning.bkp"

NAS, FAR = Member("nas", URL), Member("far", "nfs://far/b", trailing=True)


def obstructed(obstacle: Obstacle, why: str, member: Member = NAS, mount: str | None = "/mnt/my nas") -> Told:
    return member_reports.obstructed(member, obstacle, why, mount, ["usb"], NOW)


EVERY: dict[str, Told] = {
    "out of sync": member_reports.out_of_sync("nas", URL, "No space left on device", ["usb"], 1, NOW),
    "back in sync": member_reports.back_in_sync("nas", int(NOW) - 7300, 412, ["nas", "usb"], NOW),
    "another backup": obstructed(Obstacle.OTHER_BACKUP, f"it holds another backup ({'ab' * 16})"),
    "the others hold a damaged file": obstructed(
        Obstacle.SOURCE_DAMAGED, "its checksum does not match in segment-00000001 at byte 64"
    ),
    "another node's work": obstructed(Obstacle.OTHER_NODE, "another node has written to it"),
    "not mounted": obstructed(Obstacle.NOT_MOUNTED, "nothing is mounted at /mnt/my nas"),
    "not mounted, nobody knows where": obstructed(Obstacle.NOT_MOUNTED, "nothing is mounted", mount=None),
    "trailing member not there": obstructed(Obstacle.NOT_THERE, "No route to host", FAR),
    "trails too far": member_reports.trails_too_far("far", "nfs://far/b", 5120, 7300, NOW),
    "caught up": member_reports.has_caught_up("far", 2, NOW),
}


@pytest.mark.parametrize("what", EVERY)
def test_report_is_one_ascii_line_with_its_time_of_a_level_that_the_notifier_passes_on(what: str) -> None:
    level, line = EVERY[what]
    assert level in LEVELS
    assert line.isascii() and line.isprintable()
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW)) in line


def test_foreign_text_in_a_report_is_escaped() -> None:
    _, line = member_reports.out_of_sync("nas", "file:///n\x1b[31mé", "Kein Platz — voll\n", ["usb"], 1, NOW)
    assert line.isascii() and line.isprintable()
    assert "file:///n\\x1b[31m\\xe9" in line and "Kein Platz \\u2014 voll\\x0a" in line


def test_out_of_sync_says_what_is_safe_and_what_the_next_failure_means() -> None:
    level, line = member_reports.out_of_sync("nas", URL, "No space left on device", ["usb"], 1, NOW)
    assert level == "unusual"
    assert line.startswith(f"nas ({URL}) went out of sync (")
    assert (
        ": No space left on device. Every change is saved in usb, and the node goes on. If usb fails as well, " in line
    )
    assert "the node stops before it commits anything unsaved" in line
    assert line.endswith("Once it is back, it is brought up to date by itself, without a restart")


@pytest.mark.parametrize(
    ("others", "need", "words"),
    [
        (["disk", "usb"], 1, "1 more member may fail before the node stops"),
        (["disk", "far", "usb"], 1, "2 more members may fail before the node stops"),
        (["disk", "usb"], 2, "If one of disk and usb fails as well, the node stops"),
    ],
)
def test_out_of_sync_counts_how_many_more_may_fail(others: list[str], need: int, words: str) -> None:
    assert words in member_reports.out_of_sync("nas", URL, "gone", others, need, NOW)[1]


@pytest.mark.parametrize(
    ("since", "changes", "words"),
    [
        (NOW - 7300, 1, ": it was out of sync for 2 hours and 1 change was made up for. Every"),
        (NOW - 7300, 412, ": it was out of sync for 2 hours and 412 changes were made up for. Every"),
        (NOW - 7300, None, ": it was out of sync for 2 hours. Every"),
        (None, None, "). Every change is saved in nas and usb now. Nothing needs to be done"),
    ],
)
def test_back_in_sync_says_for_how_long_it_was_out_and_what_was_made_up_for(
    since: float | None, changes: int | None, words: str
) -> None:
    began = None if since is None else int(since)
    assert words in member_reports.back_in_sync("nas", began, changes, ["nas", "usb"], NOW)[1]


def test_another_nodes_work_is_broken_and_warns_of_two_nodes() -> None:
    level, line = EVERY["another node's work"]
    assert level == "broken"
    assert "another node has written to it, one that works with a copy of this node's directory" in line
    assert "two nodes with the same keys lose money" in line and "It is not touched" in line


@pytest.mark.parametrize("what", ["another backup", "another node's work"])
def test_member_whose_place_is_taken_can_be_given_another_by_commands_to_type(what: str) -> None:
    assert "lightning-cli backup-member-remove nas, then: lightning-cli backup-member-add URL" in EVERY[what][1]


def test_unmounted_member_is_not_called_wiped_and_the_mount_can_be_typed() -> None:
    line = EVERY["not mounted"][1]
    assert ": nothing is mounted at /mnt/my nas. So nothing is written into the empty directory. Every" in line
    assert "run: mount '/mnt/my nas'. Once" in line
    assert "Mount its disk or share. Once" in EVERY["not mounted, nobody knows where"][1]


def test_member_that_was_told_to_be_out_of_sync_is_not_told_again_to_be_away() -> None:
    """The log has it, but `backup.notify` is called for the first line only."""
    level, line = obstructed(Obstacle.NOT_THERE, "the stick 'usb' is not plugged in")
    assert level not in LEVELS
    assert line == f"nas ({URL}) cannot be brought up to date yet: the stick 'usb' is not plugged in"


@pytest.mark.parametrize("obstacle", list(Obstacle))
def test_every_obstacle_has_a_report_with_its_reason(obstacle: Obstacle) -> None:
    level, line = obstructed(obstacle, "this is the reason")
    assert "this is the reason" in line and line.isascii() and level in ("info", *LEVELS)


def test_lag_is_reported_well_above_where_it_counts_as_caught_up() -> None:
    assert member_reports.LAG_WELL_AGAIN * 2 < member_reports.LAG_TOO_LARGE


def test_notifier_passes_on_a_member_that_fails_twice_within_an_hour(tmp_path: Path) -> None:
    """The same line is told once an hour only, so each line has its time."""
    heard = tmp_path / "heard"
    command = tmp_path / NOTIFY_FILE
    command.write_text(f'#!/bin/sh\necho "$2" >> {heard}\n')
    command.chmod(0o700)
    notifier = Notifier(tmp_path, lambda level, line: pytest.fail(line))
    notifier.start()
    told = [
        member_reports.out_of_sync("nas", URL, "gone", ["usb"], 1, NOW),
        member_reports.back_in_sync("nas", int(NOW), 3, ["nas", "usb"], NOW + 60),
        member_reports.out_of_sync("nas", URL, "gone", ["usb"], 1, NOW + 120),
        member_reports.back_in_sync("nas", int(NOW), 3, ["nas", "usb"], NOW + 180),
    ]
    for level, line in told:
        notifier.tell(level, line)
    until = time.monotonic() + 20
    while time.monotonic() < until and (not heard.exists() or len(heard.read_text().splitlines()) < len(told)):
        time.sleep(0.05)
    notifier.stop()
    assert sorted(heard.read_text().splitlines()) == sorted(line for _, line in told)


def test_report_of_a_member_that_is_still_out_of_sync_at_the_next_start_is_the_same() -> None:
    """A node that is restarted every half minute must not send a mail each time: the same line is told once an hour."""
    lines: list[Told] = []
    for _ in range(2):
        MemberEvents(lambda level, line: lines.append((level, line))).out_of_sync(NAS, int(NOW), "gone", ["usb"], 1)
    assert lines[0] == lines[1] == member_reports.out_of_sync("nas", URL, "gone", ["usb"], 1, NOW)
