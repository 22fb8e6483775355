"""Fixtures for the tests of a node whose backup is encrypted."""

import pytest

from tests.end_to_end.encrypted import EncryptedWorld
from tests.fake_lightningd import History


@pytest.fixture(scope="session")
def encrypted_once(tmp_path_factory: pytest.TempPathFactory) -> EncryptedWorld:
    """What `lived` copies in tests of encrypted backups; it is never changed."""
    world, history = EncryptedWorld(tmp_path_factory.mktemp("encrypted")), History()
    world.init().run([history.first(), *history.notes(5)])
    return world
