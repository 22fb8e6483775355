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
    if name.startswith("test_") and test is not suite.test_a_directory_is_unmade_with_its_files
)

BEYOND_FUSEFAT = {
    suite.test_writes_may_leave_a_gap_of_zeros_and_overwrite.__name__,
    suite.test_a_durable_write_is_a_write.__name__,
    suite.test_a_file_is_cut_and_grown.__name__,
    suite.test_a_file_is_an_array_of_bytes.__name__,
    suite.test_a_writer_follows_its_file_through_a_rename.__name__,
    suite.test_new_name_that_a_file_has_leaves_its_writer_and_the_other_one_alone.__name__,
}
"""fusefat grows a file only by writing at its very end, and whole clusters after a rename; Linux's own vfat is not so.

The log does no more than that: its own conformance suite passes there as a whole.
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


def test_a_directory_is_unmade_with_its_closed_files(storage: Storage, opener: Opener) -> None:
    """Without an open file: FUSE keeps that one's name until it is closed."""
    storage.create("snapshot.tmp").close()
    storage.publish("manifest", b"old")
    with closing(storage.open("manifest")) as reader:
        storage.remove("manifest")
        assert reader.read(0, 10) == b"old"
    storage.unmake()
    assert not opener().exists()
    storage.make()
    assert storage.names() == []
