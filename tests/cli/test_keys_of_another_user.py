"""Root works with an encrypted backup of another user's: it reads what that user may read, and leaves files of his."""

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.node.key_file import KEY_FILE
from tests.cli.cli_asserts import assert_refused
from tests.cli.encrypted import Safe, encrypt
from tests.end_to_end.world import World, command
from tests.known_secret import NODE_ID
from tests.other_user import NAMELESS, given_to, only_root, place_for_others, run

pytestmark = only_root


@pytest.fixture
def shared() -> Iterator[Path]:
    """A place that every user may traverse."""
    yield from place_for_others()


@pytest.fixture
def theirs(shared: Path) -> tuple[World, Safe]:
    """A node of another user with an encrypted backup, and root's own copies of what opens it."""
    world = World(shared / "theirs")
    safe = encrypt(world)
    given_to(NAMELESS, shared / "theirs")
    given_to(0, safe.directory)
    shutil.move(safe.directory, shared / "roots")
    (shared / "roots").chmod(0o700)
    return world, safe


def test_root_opens_backup_with_what_its_owner_has(theirs: tuple[World, Safe]) -> None:
    world, _ = theirs
    said = run(*command("status", "--lightning-dir", world.directory))
    assert said.code == 0, said
    assert NODE_ID in said.out


def test_resume_by_root_leaves_backup_key_of_directorys_owner(theirs: tuple[World, Safe], shared: Path) -> None:
    world, _ = theirs
    place = shared / "theirs" / "new" / "regtest"
    place.mkdir(parents=True)
    shutil.copy(world.directory / "hsm_secret", place)
    given_to(NAMELESS, place.parent)
    said = run(*command("restore", "--resume", world.url, place))
    assert said.code == 0, said
    found = (place / KEY_FILE).stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (NAMELESS, 0o400)


@pytest.mark.parametrize(
    ("option", "name"), [("--key-file", KEY_FILE), ("--hsm-secret", "hsm_secret"), ("--passphrase-file", "passphrase")]
)
def test_file_that_only_root_may_read_is_not_read_for_another_user(
    theirs: tuple[World, Safe], shared: Path, option: str, name: str
) -> None:
    world, _ = theirs
    path = shared / "roots" / name
    said = run(*command("status", "--lightning-dir", world.directory, option, path))
    assert_refused(said, r"(?i)permission denied|another user")
    assert str(path) in said.err
    said = run(*command("status", "--json", "--lightning-dir", world.directory, option, path))
    assert json.loads(said.out)["error"]["kind"] in ("key_needed", "refused")
