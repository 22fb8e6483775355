"""A copied node is what a node would be that had lived in its place: hundreds of tests begin with one."""

import json
from pathlib import Path

import pytest

from backends.node.lockfile import read_settings
from backends.node.session import were_here
from backends.node.sync_point import look, read_sync_point
from plugin.before_manifest import _left_cleanly
from tests.conftest import be_taken_over, live
from tests.end_to_end.world import World, said_at
from tests.fake_lightningd import History


@pytest.fixture(params=["lived", "taken_over"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
    """A copied node, and one that has really lived where it is."""
    real = World(tmp_path_factory.mktemp("real"))
    {"lived": live, "taken_over": be_taken_over}[request.param](real, History())
    return request.getfixturevalue(request.param), real


def files(world: World) -> dict[str, int]:
    """Each file and directory with its mode."""
    return {str(path.relative_to(world.root)): path.stat().st_mode for path in world.root.rglob("*")}


def marker(world: World) -> dict[str, object]:
    """The backup's session marker, without what is new in each session."""
    document = json.loads((world.backup / "session").read_text().splitlines()[0])
    return {name: value for name, value in document.items() if name not in ("writer", "session_id", "pid", "started")}


def test_copied_node_has_the_files_of_one_that_lived_there(pair: tuple[World, World]) -> None:
    copied, real = pair
    assert files(copied) == files(real)
    assert copied.database.read_bytes() == real.database.read_bytes()
    assert marker(copied) == marker(real)
    for world in pair:
        settings, sync_point = read_settings(world.directory), read_sync_point(world.directory)
        assert settings.url == world.url
        assert sync_point is not None and sync_point.data_version == world.version
        assert settings.backup_id == sync_point.backup_id
        assert were_here(world.directory, sync_point.backup_id)
        assert _left_cleanly(world.directory, settings, look(world.directory))


def test_copied_node_goes_on_like_one_that_lived_there(pair: tuple[World, World]) -> None:
    logs = []
    for world in pair:
        node = world.run(History(world.version).notes(2))
        assert said_at(node, "unusual") == said_at(node, "broken") == []
        logs.append([(level, line.replace(str(world.root), "ROOT")) for level, line in node.logs])
        world.assert_restored_equals_the_nodes()
    assert logs[0] == logs[1]


def test_copied_node_shares_no_file_with_another_test(lived: World, lived_once: World) -> None:
    def inodes(root: Path) -> set[int]:
        return {path.stat().st_ino for path in root.rglob("*")}

    assert not inodes(lived.root) & inodes(lived_once.root)
