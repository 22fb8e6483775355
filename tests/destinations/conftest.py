"""The servers and sticks, one set for each process that runs tests; and a node that backs up there."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.destinations.places import Places
from tests.end_to_end.world import World


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Started one by one, when they are first used."""
    with ExitStack() as stack:
        yield Places(tmp_path_factory.mktemp("places"), stack)


class Elsewhere(World):
    """A node whose backup lies at `place`."""

    place = ""

    @property
    def url(self) -> str:
        return self.place


WorldAt = Callable[[str], Elsewhere]


@pytest.fixture
def world_at(tmp_path: Path) -> WorldAt:
    """A node that has never started, with this URL for its backup."""

    def make(url: str) -> Elsewhere:
        world = Elsewhere(tmp_path)
        world.place = url
        return world

    return make
