"""Root names a directory of its own, and another user can change what is found there."""

import os
import pwd
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.world import Said, World, command, spawned
from tests.fake_lightningd import History
from tests.other_user import NAMELESS, as_user, given_to, place_for_others, run

RACES = 20 if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN") else 1


@pytest.fixture
def place() -> Iterator[Path]:
    yield from place_for_others()


@pytest.fixture
def node(place: Path, history: History) -> World:
    """A node with some history and its backup; all of it belongs to root."""
    world = World(place / "home")
    world.init().run([history.first(), *history.notes(5)])
    return world


def cli(*arguments: object) -> Said:
    """Run `backup-cli` as root."""
    return run(*command(*arguments))


def may_write_too(directory: Path, *others: tuple[str, int]) -> None:
    """Let others write, as `setfacl -m u:NUMBER:rwx` does, or `g:`. Skips if the filesystem has no access control
    lists."""
    entries = [(0x01, 7, -1), *((0x02, 7, n) for kind, n in others if kind == "u"), (0x04, 5, -1)]
    entries += [*((0x08, 7, n) for kind, n in others if kind == "g"), (0x10, 7, -1), (0x20, 5, -1)]
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(directory, "system.posix_acl_access", data)
    except OSError:
        pytest.skip("no access control lists here")


@pytest.mark.parametrize("act", ["compact", "verify", "status", "versions"])
def test_backup_of_another_user_found_below_roots_directory_is_used_as_that_user(node: World, act: str) -> None:
    """From a real finding: the directory above was named, root worked in the backup itself and left files that its node
    could not read."""
    segment = next(iter(sorted(node.backup.glob("segment-*"))))
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(data)
    given_to(NAMELESS, node.backup)
    said = cli(act, node.backup.parent.as_uri())
    assert f"going on as {NAMELESS}" in said.err, said
    assert [path for path in node.backup.iterdir() if path.stat().st_uid == 0] == []


@pytest.mark.parametrize("other", [("u", NAMELESS), ("g", NAMELESS)], ids=["user", "group"])
def test_node_directory_opened_to_another_user_by_an_acl_is_refused(
    node: World, other: tuple[str, int], place: Path
) -> None:
    """From a real finding: owner and group are root, but an access control list lets another user write. Root read
    through a link that this user had put in place of backup.lock."""
    if other[0] == "g":
        other = ("g", _group_of_somebody())
    may_write_too(node.directory, other)
    secret = place / "secret"
    secret.write_text("only root may read this")
    lock = node.directory / "backup.lock"
    lock.unlink()
    lock.symlink_to(secret)
    os.chown(lock, NAMELESS, NAMELESS, follow_symlinks=False)
    said = cli("init", "--lightning-dir", node.directory, f"{node.url}.new")
    assert said.code == 1 and "other users may write" in said.err, said
    assert [path for path in node.directory.glob("backup.lock.*") if "only root" in path.read_text()] == []


def _group_of_somebody() -> int:
    """The group of a user who is not root: one without a name has nobody in it."""
    return next(entry.pw_gid for entry in pwd.getpwall() if entry.pw_uid and entry.pw_gid)


def test_acl_that_names_only_owner_and_root_is_accepted(node: World) -> None:
    given_to(NAMELESS, node.root)
    may_write_too(node.directory, ("u", NAMELESS), ("u", 0))
    assert cli("status", "--lightning-dir", node.directory).code == 0


def test_link_of_another_user_in_a_shared_directory_moves_nothing_of_roots(node: World, place: Path) -> None:
    """Where the kernel does not refuse to follow it (fs.protected_symlinks), root's own database was moved aside."""
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, 0, NAMELESS)
    shared.chmod(0o1775)
    link = shared / "restored.sqlite3"
    link.symlink_to(node.database)
    os.chown(link, NAMELESS, NAMELESS, follow_symlinks=False)
    before = sorted(path.name for path in node.directory.iterdir())
    said = cli("restore", "--replace", node.url, link)
    assert said.code == 1 and f"a link that belongs to the user {NAMELESS}" in said.err, said
    assert sorted(path.name for path in node.directory.iterdir()) == before
    os.chown(link, 0, 0, follow_symlinks=False)
    assert cli("restore", "--replace", node.url, link).code == 0


@pytest.mark.parametrize("whose", ["a file that everybody may write", "a link behind another user's link"])
def test_plugin_that_another_user_can_exchange_is_not_started_by_root(node: World, place: Path, whose: str) -> None:
    """Its directory was root's own, and so was the one where it really was."""
    ran, programs = place / "ran", place / "programs"
    programs.mkdir()
    program = programs / "lightningd-backup"
    program.write_text(f"#!/bin/sh\nid > {ran}\n")
    program.chmod(0o755)
    named = program
    if whose.startswith("a file"):
        program.chmod(0o777)
    else:
        theirs, named = place / "theirs", place / "links" / "lightningd-backup"
        theirs.mkdir()
        (theirs / "link").symlink_to(program)
        given_to(NAMELESS, theirs)
        named.parent.mkdir()
        named.symlink_to(theirs / "link")
    (node.directory / "config").write_text(f"important-plugin={named}\n")
    said = cli("check-config", "--lightning-dir", node.directory)
    assert not ran.exists(), said
    assert "users other than root can change" in said.out


LOOKS = """#!/bin/sh
exec 2>/dev/null
for what in mem environ maps; do head -c 1 < /proc/$PPID/$what > /dev/null && echo "$what" >> SEEN; done
ls /proc/$PPID/fd/ > /dev/null && echo fd >> SEEN
ls -l /proc/self/fd >> FILES
echo done >> FILES
"""


def test_plugin_started_from_root_sees_neither_roots_environment_nor_its_files(node: World, place: Path) -> None:
    """The plugin runs as the user that the command has become; that process still has root's environment and files."""
    seen, files = place / "seen", place / "files"
    for each in (seen, files):
        each.touch()
        each.chmod(0o666)
    plugin = node.root / "lightningd-backup"
    plugin.write_text(LOOKS.replace("SEEN", str(seen)).replace("FILES", str(files)))
    plugin.chmod(0o755)
    (node.directory / "config").write_text(f"important-plugin={plugin}\n")
    given_to(NAMELESS, node.root)
    secret = place / "secret"
    secret.touch(mode=0o600)
    line = shlex.join(command("check-config", "--lightning-dir", node.directory))
    said = run("sh", "-c", f'exec 7< "$0"; {line}', secret)
    assert f"going on as {NAMELESS}" in said.err, said
    assert seen.read_text() == ""
    assert "done" in files.read_text() and str(secret) not in files.read_text()


EXCHANGES = """
import ctypes, sys
libc = ctypes.CDLL(None)
one, other = (name.encode() for name in sys.argv[1:])
if not hasattr(libc, "renameat2") or libc.renameat2(-100, one, -100, other, 2):
    sys.exit("no exchange here")
print("ready", flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
"""


def test_node_exchanged_with_a_link_to_roots_node_leaves_no_foreign_file(node: World, place: Path) -> None:
    """Whichever of the two each step meets, root leaves no file with the user, and the user none with root."""
    theirs = World(place / "theirs")
    shutil.copytree(node.root, theirs.root, dirs_exist_ok=True)
    link = theirs.root / "link"
    link.symlink_to(node.directory)
    given_to(NAMELESS, theirs.root)
    before = {path: path.read_bytes() for path in node.root.rglob("*") if path.is_file()}
    words = [*as_user(NAMELESS), sys.executable, "-c", EXCHANGES, str(theirs.directory), str(link)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as attacker:
        try:
            assert attacker.stdout is not None
            if attacker.stdout.readline() != "ready\n":
                pytest.skip("names cannot be exchanged here")
            for count in range(RACES):
                cli("init", "--lightning-dir", theirs.directory, f"{theirs.url}.{count}")
                cli("restore", "--replace", "--resume", "--take-over", theirs.url, theirs.directory)
                cli("resync", "--lightning-dir", theirs.directory)
        finally:
            attacker.kill()
    assert [path for path in (theirs.root, *theirs.root.rglob("*")) if path.lstat().st_uid == 0] == []
    assert {path: path.read_bytes() for path in node.root.rglob("*") if path.is_file()} == before


# Legitimate setups


@pytest.mark.parametrize("named", ["directory above", "network directory"])
def test_container_root_in_a_users_volume_gets_a_command_that_works(node: World, place: Path, named: str) -> None:
    """From a real report: root was told to run this as the user that lightningd runs as, which it was."""
    home = node.directory.parent
    os.chown(home, NAMELESS, NAMELESS)
    node.directory.chmod(0o700)
    said = cli("status", "--lightning-dir", home if named == "directory above" else node.directory)
    assert said.code == 1 and str(NAMELESS) in said.err and "Nothing was touched" in said.err, said
    if named == "directory above":
        assert f"chown -h root {home}" in said.err
    home.parent.chmod(0o1777)  # now the user can put anything else there, to be given to root
    assert "chown" not in cli("status", "--lightning-dir", home).text
    home.parent.chmod(0o755)
    os.chown(home, 0, 0)
    assert cli("status", "--lightning-dir", home).code == 0


def test_user_without_name_and_home_can_use_commands(node: World) -> None:
    """A supervisor may set neither. Every command used to fail, each with another error."""
    given_to(NAMELESS, node.root)
    nameless = [*as_user(NAMELESS), "env", "-u", "HOME", *command()]
    for code, *words in (
        (1, "check-config", "--lightning-dir", node.directory),
        (0, "status", "--lightning-dir", node.directory),
        (0, "init", "--lightning-dir", node.directory, f"{node.url}.new"),
        (0, "restore", node.url, node.root / "restored.sqlite3"),
        (0, "destinations"),
        (1, "status"),
    ):
        said = spawned(*nameless, *words)
        assert said.code == code and "unexpected" not in said.err, said
    assert "no home directory" in said.err and "--lightning-dir" in said.err


SQUASHED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
"""As on a server that maps root to nobody: what only its owner may read, root may not read."""


@pytest.mark.parametrize("act", ["status", "verify", "restore", "restore to a file", "check-config"])
def test_root_squashed_by_a_share_can_use_commands(node: World, act: str) -> None:
    """The commands used to refuse what is unreadable before root had become the user who may read it."""
    home = node.directory.parent
    words: dict[str, list[object]] = {
        "status": ["status", "--lightning-dir", home],
        "verify": ["verify", "--lightning-dir", home, node.url],
        "restore": ["restore", "--replace", node.url, node.directory],
        "restore to a file": ["restore", node.url, home / "restored.sqlite3"],
        "check-config": ["check-config", "--lightning-dir", home],
    }
    given_to(NAMELESS, node.root)
    home.chmod(0o700)
    said = run(*SQUASHED, *command(*words[act]))
    assert f"going on as {NAMELESS}" in said.err, said
    assert said.code == (1 if act == "check-config" else 0), said


def test_command_typed_in_a_deleted_directory_says_so(node: World, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    said = run("sh", "-c", 'rmdir "$0" && exec "$@"', gone, *command("status", "--lightning-dir", "x"), directory=gone)
    assert said.code == 1 and "no longer exists" in said.err, said
