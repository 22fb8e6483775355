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
    """A disk that everybody may look into; what lies there is somebody's."""
    yield from place_for_others()


def of_a_node(lived: World, *places: Path) -> None:
    """Copies of this node's backup, a nameless user's."""
    for place in places:
        shutil.copytree(lived.backup, place)
        given_to(NAMELESS, place)


def as_reader(*words: object) -> Said:
    return run(*as_user(READER), *command(*words))


def the_line(said: Said) -> list[str]:
    """What it says to type, as root."""
    (line,) = [line for line in said.err.splitlines() if "setpriv" in line]
    return line.split()


@pytest.mark.parametrize("what", ["status", "verify", "versions"])
def test_directory_of_backups_that_are_all_closed(lived: World, shared: Path, what: str) -> None:
    of_a_node(lived, *(shared / f"{n}.bkp" for n in range(6)))
    said = as_reader(what, shared.as_uri())
    assert_refused(said, rf"no backup that the user {READER} may read.*0\.bkp \(of the user {NAMELESS}\)")
    assert "there is no backup" not in said.text
    assert f"run this as the user {NAMELESS}" in said.text
    several = run(*the_line(said))
    assert_refused(several, "holds 6 backups; say which one")
    assert run(*the_line(said)[:-1], (shared / "3.bkp").as_uri()).code == 0


@pytest.mark.parametrize("above", [False, True])
def test_one_that_is_named(lived: World, shared: Path, above: bool) -> None:
    """Closed itself, or in a directory that is."""
    (shared / "nas").mkdir()
    of_a_node(lived, shared / "nas" / "lightning.bkp")
    given_to(NAMELESS, shared / "nas")
    (shared / "nas").chmod(0o700 if above else 0o755)
    said = as_reader("status", (shared / "nas" / "lightning.bkp").as_uri())
    assert_refused(said, rf"cannot be read by the user {READER}.*of the user {NAMELESS}")
    assert "fix that" not in said.text
    assert run(*the_line(said)).code == 0


def test_of_a_mixed_place_nobody_but_a_person_says_which_is_meant(lived: World, shared: Path, tmp_path: Path) -> None:
    """The only one that can be read may be an old one."""
    of_a_node(lived, shared / "newest.bkp")
    shutil.copytree(lived.backup, shared / "own.bkp")
    given_to(READER, shared / "own.bkp")
    for what in (["status"], ["verify"]):
        said = as_reader(*what, shared.as_uri())
        assert_refused(said, rf"1 backup that the user {READER} may read, and 1 more of other users.*own\.bkp")
        assert f"newest.bkp (of the user {NAMELESS})" in said.text
    assert as_reader("status", (shared / "own.bkp").as_uri()).code == 0


def test_file_of_the_older_plugin_that_is_closed(shared: Path) -> None:
    (shared / "old.bkp").write_bytes(b"\0" * 512)
    (shared / "old.bkp").chmod(0o600)
    given_to(NAMELESS, shared / "old.bkp")
    said = as_reader("status", (shared / "old.bkp").as_uri())
    assert_refused(said, rf"may not read.*of the user {NAMELESS}")


def test_what_no_backup_can_be_in_is_not_counted(lived: World, shared: Path) -> None:
    shutil.copytree(lived.backup, shared / "own.bkp")
    given_to(READER, shared / "own.bkp")
    (shared / "lost+found").mkdir(mode=0o700)
    (shared / ".Trash").mkdir(mode=0o700)
    assert as_reader("status", shared.as_uri()).code == 0


def test_own_files_with_wrong_modes_are_not_called_anothers(lived: World) -> None:
    lived.backup.chmod(0)
    try:
        said = run_mortal("status", lived.url)
    finally:
        lived.backup.chmod(0o700)
    assert_refused(said, "cannot be used: Permission denied")
    assert backup_cli("status", lived.url).code == 0


def run_mortal(*words: object) -> Said:
    return spawned(*as_mortal(), *command(*words))
