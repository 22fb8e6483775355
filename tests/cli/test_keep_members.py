"""Members whose URLs say other times for `?keep=`: the longest counts for all."""

import pytest

from backends import backup_at
from backends.keep import Keep
from backends.node.lockfile import read_settings
from tests.cli.cli_asserts import assert_refused
from tests.cli.several import place_of, url_of
from tests.end_to_end.test_compaction import ended, wait
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History

pytestmark = [pytest.mark.usefixtures("jobs_here"), pytest.mark.plain_unless_told]

DAY = 86400


def kept_at(world: World, *names: str) -> set[Keep]:
    """How much these members say is kept."""
    return {backup_at(url_of(world, name)).history().keep for name in names}


def add(world: World, name: str, keep: str) -> Said:
    return backup_cli("member-add", "--lightning-dir", world.directory, f"{url_of(world, name)}?keep={keep}")


@pytest.fixture
def three_days(world: World, history: History) -> World:
    """A node with a member that keeps the history for 3 days."""
    said = backup_cli("init", "--lightning-dir", world.directory, f"{url_of(world, 'disk')}?keep=3d")
    assert said.code == 0, said
    world.run([history.first(), *history.notes(3)])
    return world


def test_added_member_that_keeps_longer_makes_all_keep_longer_and_one_that_keeps_shorter_changes_nothing(
    three_days: World, history: History
) -> None:
    assert kept_at(three_days, "disk") == {Keep(3 * DAY, 10 << 30)}
    assert add(three_days, "nas", "9d,2G").code == 0
    three_days.run(history.notes(2))
    assert kept_at(three_days, "disk", "nas") == {Keep(9 * DAY, 2 << 30)}
    assert add(three_days, "far", "0").code == 0
    three_days.run(history.notes(2))
    assert kept_at(three_days, "disk", "nas", "far") == {Keep(9 * DAY, 2 << 30)}
    assert [member.url.partition("?")[2] for member in read_settings(three_days.directory).members] == [
        *("keep=3d", "keep=9d,2G", "keep=0")
    ]
    assert backup_cli("member-remove", "--lightning-dir", three_days.directory, "nas").code == 0
    three_days.run(history.notes(2))
    assert kept_at(three_days, "disk", "far") == {Keep(3 * DAY, 10 << 30)}


def test_member_with_a_wrong_keep_or_at_the_same_place_with_another_one_is_refused(three_days: World) -> None:
    assert_refused(add(three_days, "nas", "9"), "keep=9 is not a time", code=2)
    assert not place_of(three_days, "nas").exists()
    assert add(three_days, "disk", "9d").code != 0
    assert len(read_settings(three_days.directory).urls) == 1


def test_running_node_keeps_as_long_as_a_member_says_that_is_added_to_it(three_days: World, history: History) -> None:
    with three_days.node() as node:
        node.play(history.notes(20))
        for name, days in (("nas", 9), ("far", 20)):
            node.rpc("backup-member-add", {"url": f"{url_of(three_days, name)}?keep={days}d"})
        node.rpc("backup-compact")
        wait(node, lambda: ended(node) > 0)
        assert kept_at(three_days, "disk") == {Keep(20 * DAY, 10 << 30)}
        assert len(backup_at(url_of(three_days, "disk")).held()) == 1
        node.rpc("backup-member-remove", {"name": "far"})
        wait(node, lambda: kept_at(three_days, "disk") == {Keep(9 * DAY, 10 << 30)})
