"""Servers and sticks, one set for each test process, and a node that backs up to them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.destinations.buckets import Proxied, proxied
from tests.destinations.places import Places
from tests.end_to_end.world import World


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Servers and sticks, each started when it is first used."""
    with ExitStack() as stack:
        yield Places(tmp_path_factory.mktemp("places"), stack)


@pytest.fixture
def bucket(places: Places) -> Iterator[Proxied]:
    """A fresh prefix in a bucket of the S3 server, behind a proxy."""
    with proxied(places) as made:
        yield made


class Elsewhere(World):
    """A node whose backup is at the URL `place`."""

    place = ""

    @property
    def url(self) -> str:
        return self.place


WorldAt = Callable[[str], Elsewhere]


@pytest.fixture
def world_at(tmp_path: Path) -> WorldAt:
    """Makes a node that has never started, with this URL for its backup."""

    def make(url: str) -> Elsewhere:
        world = Elsewhere(tmp_path)
        world.place = url
        return world

    return make
