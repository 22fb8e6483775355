"""A backup whose last change is old: reported wherever it matters, and not if a node is merely off for a while."""

import json
import time
from pathlib import Path

import pytest

from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History, SeparateDatabase

DAY = 86400
DOUBT = "A running node changes its database with every block"
NEWEST = "not the newest copy"


@pytest.fixture
def ended(lived: World) -> World:
    """A backup whose node was stopped cleanly."""
    return lived


@pytest.fixture
def unended(lived: World, history: History) -> World:
    """A backup whose node's machine has died."""
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    node.die()
    return lived


def days_later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Set the clock forward by this many days."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + days * DAY)


def reports(world: World) -> dict[str, Said]:
    """Every report about the backup."""
    return {
        "status": backup_cli("status", world.url),
        "status of the node": backup_cli("status", "--lightning-dir", world.directory),
        "versions": backup_cli("versions", world.url),
        "check-config": backup_cli("check-config", "--lightning-dir", world.directory),
    }


@pytest.mark.parametrize("days", [0.9, 1.9, 2.1, 400])
@pytest.mark.parametrize("session", ["ended", "unended"])
def test_last_change_that_is_days_old_is_named_by_every_report(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, session: str, days: float
) -> None:
    world: World = request.getfixturevalue(session)
    before = reports(world)
    days_later(monkeypatch, days)
    told = days > (2 if session == "ended" else 1)
    for what, said in reports(world).items():
        assert (DOUBT in said.text and NEWEST in said.text) is told, (what, said)
        assert said.code == before[what].code, "a node may be off on purpose"
        assert not told or ("never ended its session" in said.text) is (session == "unended"), said
    seen = json.loads(backup_cli("status", "--json", world.url).out)
    assert (seen["old"] is not None) is told
    assert seen["health"] == "ok"


@pytest.mark.parametrize("days", [0.9, 1.1, 3])
@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_restore_of_a_backup_whose_last_change_is_old_warns_first(
    ended: World, place: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], days: float
) -> None:
    days_later(monkeypatch, days)
    said = backup_cli("restore", *options, ended.url, place)
    assert said.code == 0, said
    assert (DOUBT in said.text and NEWEST in said.text) is (days > 1)
    assert ("look for the newer backup first" in said.text) is (days > 1)
    if days > 1:
        assert said.err.index(DOUBT) < said.err.index("Restored version"), "before, not after"


def test_drill_with_an_own_backup_whose_last_change_is_old_warns(ended: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DOUBT not in backup_cli("drill", "--lightning-dir", ended.directory).text
    days_later(monkeypatch, 3)
    said = backup_cli("drill", "--lightning-dir", ended.directory)
    assert said.code == 0
    assert NEWEST in said.text


def test_status_of_a_backup_that_no_node_ever_wrote_to_says_so_after_days(
    old_node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_node.init()
    assert DOUBT not in backup_cli("status", old_node.url).text
    days_later(monkeypatch, 3)
    said = backup_cli("status", old_node.url)
    assert said.code == 0
    assert "no node has written to this backup since it was made, 3 days ago" in said.text
    assert "runs without the plugin" in said.text


def test_running_node_is_not_called_stopped_by_check_config(
    ended: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's own database tells more than a clock."""
    with ended.node(database=SeparateDatabase) as node:
        node.play(history.notes(2))
        days_later(monkeypatch, 3)
        assert DOUBT not in backup_cli("check-config", "--lightning-dir", ended.directory).text


def test_restore_of_an_old_version_for_looking_does_not_warn_of_its_age(
    ended: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days_later(monkeypatch, 3)
    said = backup_cli("restore", "--to-version", 3, "--not-for-a-node", ended.url, place)
    assert said.code == 0
    assert DOUBT not in said.text
