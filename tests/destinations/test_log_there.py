"""The conformance suite of all backends, over NFS, on a mounted share and on sticks."""

from collections.abc import Iterator

import pytest

from backends import backend_for
from tests.destinations.places import KINDS, Places
from tests.log import test_backend, test_backend_restarts
from tests.log.conftest import backend, created, impatient, no_lock, small, tiny
from tests.log.destinations import Maker

__all__ = ["backend", "created", "impatient", "no_lock", "small", "tiny"]

globals().update(
    (name, test)
    for suite in (test_backend, test_backend_restarts)
    for name, test in vars(suite).items()
    if name.startswith("test_")
)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, places: Places) -> Iterator[Maker]:
    """Makes the backend of a destination where there is no backup yet."""
    url = places.url(request.param)
    yield lambda: backend_for(url)
