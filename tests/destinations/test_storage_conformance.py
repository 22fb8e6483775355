"""The conformance suite of all storages, over NFS, on a mounted share and on sticks."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from backends import place_at
from backends.storage.base import Storage
from tests.destinations.places import KINDS, Places
from tests.storage import test_storage as suite
from tests.storage.places import Opener

globals().update(
    (name, test)
    for name, test in vars(suite).items()
    if name.startswith("test_") and test is not suite.test_unmake_removes_directory_and_its_files
)

BEYOND_FUSEFAT = {
    suite.test_write_past_end_leaves_zeros_and_may_overwrite.__name__,
    suite.test_durable_write_is_read_back.__name__,
    suite.test_truncate_shortens_and_lengthens_a_file.__name__,
    suite.test_random_writes_and_resizes_behave_like_an_array_of_bytes.__name__,
    suite.test_writer_follows_its_file_through_rename.__name__,
    suite.test_refused_rename_new_disturbs_neither_writer.__name__,
}
"""Tests that fusefat fails: it grows a file only by a write at its end, and by whole clusters after a rename.

Linux's own vfat has no such limits. fusefat is enough for the log: its whole conformance suite passes there.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "opener" in metafunc.fixturenames:
        name = metafunc.function.__name__
        kinds = [kind for kind in KINDS if kind != "fat" or name not in BEYOND_FUSEFAT]
        metafunc.parametrize("opener", kinds, indirect=True)


@pytest.fixture
def opener(request: pytest.FixtureRequest, places: Places) -> Iterator[Opener]:
    url = places.url(request.param)

    yield lambda: place_at(url).storage


@pytest.fixture
def storage(opener: Opener) -> Storage:
    storage = opener()
    storage.make()
    return storage


def test_unmake_removes_directory_and_its_closed_files(storage: Storage, opener: Opener) -> None:
    """The file is closed before: FUSE keeps the name of an open file until it is closed."""
    storage.create("snapshot.tmp").close()
    storage.publish("manifest", b"old")
    with closing(storage.open("manifest")) as reader:
        storage.remove("manifest")
        assert reader.read(0, 10) == b"old"
    storage.unmake()
    assert not opener().exists()
    storage.make()
    assert storage.names() == []
