"""A backup of another user: who owns it and what to type, instead of "there is none" or "Permission denied"."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.world import Said, World, as_mortal, backup_cli, command, spawned
from tests.other_user import NAMELESS, as_user, given_to, place_for_others, run

READER = NAMELESS + 1


@pytest.fixture
def shared() -> Iterator[Path]:
    """A disk that everybody may list; the backups on it belong to single users."""
    yield from place_for_others()


def make_copies_of_another_user(lived: World, *places: Path) -> None:
    """Make copies of this node's backup that belong to a user without a name."""
    for place in places:
        shutil.copytree(lived.backup, place)
        given_to(NAMELESS, place)


def as_reader(*words: object) -> Said:
    return run(*as_user(READER), *command(*words))


def suggested_command(said: Said) -> list[str]:
    """The command that the message tells root to type."""
    (line,) = [line for line in said.err.splitlines() if "setpriv" in line]
    return line.split()


@pytest.mark.parametrize("what", ["status", "verify", "versions"])
def test_directory_of_unreadable_backups_names_their_owner_and_the_command(
    lived: World, shared: Path, what: str
) -> None:
    make_copies_of_another_user(lived, *(shared / f"{n}.bkp" for n in range(6)))
    said = as_reader(what, shared.as_uri())
    assert_refused(said, rf"no backup that the user {READER} may read.*0\.bkp \(of the user {NAMELESS}\)")
    assert "there is no backup" not in said.text
    assert f"run this as the user {NAMELESS}" in said.text
    several = run(*suggested_command(said))
    assert_refused(several, "holds 6 backups; say which one")
    assert run(*suggested_command(said)[:-1], (shared / "3.bkp").as_uri()).code == 0


@pytest.mark.parametrize("above", [False, True])
def test_unreadable_backup_named_in_full_names_its_owner_and_the_command(
    lived: World, shared: Path, above: bool
) -> None:
    """The backup itself is unreadable, or a directory above it is."""
    (shared / "nas").mkdir()
    make_copies_of_another_user(lived, shared / "nas" / "lightning.bkp")
    given_to(NAMELESS, shared / "nas")
    (shared / "nas").chmod(0o700 if above else 0o755)
    said = as_reader("status", (shared / "nas" / "lightning.bkp").as_uri())
    assert_refused(said, rf"cannot be read by the user {READER}.*of the user {NAMELESS}")
    assert "fix that" not in said.text
    assert run(*suggested_command(said)).code == 0


def test_readable_and_unreadable_backups_side_by_side_must_be_chosen_by_name(
    lived: World, shared: Path, tmp_path: Path
) -> None:
    """The only readable one may be an old copy."""
    make_copies_of_another_user(lived, shared / "newest.bkp")
    shutil.copytree(lived.backup, shared / "own.bkp")
    given_to(READER, shared / "own.bkp")
    for what in (["status"], ["verify"]):
        said = as_reader(*what, shared.as_uri())
        assert_refused(said, rf"1 backup that the user {READER} may read, and 1 more of other users.*own\.bkp")
        assert f"newest.bkp (of the user {NAMELESS})" in said.text
    assert as_reader("status", (shared / "own.bkp").as_uri()).code == 0


def test_unreadable_legacy_backup_names_its_owner(shared: Path) -> None:
    (shared / "old.bkp").write_bytes(b"\0" * 512)
    (shared / "old.bkp").chmod(0o600)
    given_to(NAMELESS, shared / "old.bkp")
    said = as_reader("status", (shared / "old.bkp").as_uri())
    assert_refused(said, rf"may not read.*of the user {NAMELESS}")


def test_unreadable_directories_that_hold_no_backup_are_not_counted(lived: World, shared: Path) -> None:
    shutil.copytree(lived.backup, shared / "own.bkp")
    given_to(READER, shared / "own.bkp")
    (shared / "lost+found").mkdir(mode=0o700)
    (shared / ".Trash").mkdir(mode=0o700)
    assert as_reader("status", shared.as_uri()).code == 0


def test_own_backup_with_wrong_modes_is_not_called_another_users(lived: World) -> None:
    lived.backup.chmod(0)
    try:
        said = run_mortal("status", lived.url)
    finally:
        lived.backup.chmod(0o700)
    assert_refused(said, "cannot be used: Permission denied")
    assert backup_cli("status", lived.url).code == 0


def run_mortal(*words: object) -> Said:
    return spawned(*as_mortal(), *command(*words))
