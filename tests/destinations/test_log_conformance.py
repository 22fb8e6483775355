"""The conformance suite of the log, over NFS, on a mounted share and on sticks."""

from collections.abc import Iterator

import pytest

from backends import place_at
from backends.log.backup import Backup
from backends.log.writer.options import LogOptions
from tests.destinations.places import KINDS, Places
from tests.log import test_backup as test_backend
from tests.log import test_backup_restarts as test_backend_restarts
from tests.log.conftest import created, no_lock, options, readers_do_not_wait, small, tiny, writer
from tests.log.destinations import Maker

__all__ = ["created", "no_lock", "options", "readers_do_not_wait", "small", "tiny", "writer"]

globals().update(
    (name, test)
    for suite in (test_backend, test_backend_restarts)
    for name, test in vars(suite).items()
    if name.startswith("test_")
)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, places: Places, options: LogOptions) -> Iterator[Maker]:
    """Returns the Backup at a destination where no backup has been created yet, a new object each time."""
    url = places.url(request.param)
    yield lambda: Backup(place_at(url), options)
