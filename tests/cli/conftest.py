"""Fixtures for the tests of `backup-cli`."""

import json
from pathlib import Path
from typing import Any

import pytest

from backends.confined.jobs import JOBS
from tests.cli.encrypted import Safe, encrypt
from tests.end_to_end.world import World
from tests.fake_lightningd import History


@pytest.fixture
def old_node(world: World, history: History) -> World:
    """A node with a database and without a backup."""
    world.run_without_plugin([history.first(), *history.notes(5)])
    return world


@pytest.fixture
def no_node_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user that runs the tests has no node in ~/.lightning: a key there would be found, too."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def safe(world: World) -> Safe:
    """What the operator of the node with the encrypted backup keeps elsewhere."""
    return encrypt(world)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to restore a lost node into."""
    path = tmp_path / "new"
    path.mkdir()
    return path


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    """An empty directory: a copy that follows a backup is kept there, and the node that is to be starts there."""
    path = tmp_path / "warm"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command leaves to a process with limits is done in this one, which takes a fraction of the time."""

    def run(job: str, arguments: dict[str, Any], *_: object, **__: object) -> dict[str, Any]:
        done: dict[str, Any] = json.loads(json.dumps(JOBS[job](**arguments)))
        return done

    monkeypatch.setattr("backends.confined.work.run", run)
