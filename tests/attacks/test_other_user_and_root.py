"""Root runs a command in another user's directory: whatever that user has put there, nothing of root's is read or
written, and nothing is run as root."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.world import Said, World, command
from tests.fake_lightningd import History
from tests.other_user import NAMELESS, as_user, given_to, place_for_others, run

RACES = 40 if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN") else 4

THIRD = 23456

SECRET = "only root may read this"


@pytest.fixture
def place() -> Iterator[Path]:
    yield from place_for_others()


@pytest.fixture
def theirs(place: Path, history: History) -> World:
    """A node with some history and its backup; all of it belongs to another user."""
    world = World(place / "home")
    world.init().run([history.first(), *history.notes(5)])
    given_to(NAMELESS, world.root)
    return world


@pytest.fixture
def roots(place: Path) -> Path:
    """A file that only root may read or write."""
    closed = place / "root"
    closed.mkdir(mode=0o700)
    file = closed / "file"
    file.write_text(SECRET)
    file.chmod(0o600)
    return file


def cli(*arguments: object, environment: dict[str, str] | None = None) -> Said:
    """Run `backup-cli` as root."""
    return run(*command(*arguments), environment=environment)


def patched(code: str, *arguments: object) -> Said:
    """Run `backup-cli` as root after `code`, which acts at a moment that an attacker would have to hit."""
    words = [str(word) for word in arguments]
    return run(sys.executable, "-c", f"{code}\nimport backup_cli.main\nbackup_cli.main.main({words!r})")


def of_root(*places: Path) -> list[Path]:
    """The paths at and below these places that belong to root."""
    return [path for place in places for path in (place, *place.rglob("*")) if path.lstat().st_uid == 0]


# Attacks that worked once


RECORDS = """#!/bin/sh
{ id -u; id -G; echo "token: $ROOTS_TOKEN"; echo "home: $HOME"; ( : </dev/tty ) 2>/dev/null && echo "terminal"
  grep -E '^(Uid|Gid|CapPrm|CapEff|CapAmb)' /proc/$PPID/status; } > RECORD
"""


def recording_plugin(theirs: World, place: Path) -> Path:
    """Configure a plugin that records as whom it runs; returns the file with the record."""
    record = place / "record"
    record.touch()
    record.chmod(0o666)
    plugin = theirs.root / "lightningd-backup"
    plugin.write_text(RECORDS.replace("RECORD", str(record)))
    plugin.chmod(0o755)
    (theirs.directory / "config").write_text(f"important-plugin={plugin}\n")
    return record


def test_important_plugin_is_started_as_the_owner_of_the_node_directory(theirs: World, place: Path) -> None:
    record = recording_plugin(theirs, place)
    said = cli("check-config", "--lightning-dir", theirs.directory, environment={"ROOTS_TOKEN": "12345"})
    assert "starts, but does not answer" in said.out, said
    told = record.read_text()
    assert told.splitlines()[:4] == [str(NAMELESS), str(NAMELESS), "token: ", "home: /"]
    assert "terminal" not in told
    ids = re.findall(r"(?:Uid|Gid):((?:\s+\d+){4})", told)
    assert [one.split() for one in ids] == [[str(NAMELESS)] * 4] * 2, "the command itself could come back"
    assert re.findall(r"Cap\w+:\s*(\w+)", told) == ["0" * 16] * 3


def test_plugin_started_by_root_has_no_terminal_to_type_into(theirs: World, place: Path) -> None:
    """Whatever it pushed into root's terminal (TIOCSTI), root's shell would run."""
    if shutil.which("script") is None:
        pytest.skip("needs script, to have a terminal")
    record = recording_plugin(theirs, place)
    line = shlex.join(command("check-config", "--lightning-dir", theirs.directory))
    run("script", "-qec", line, "/dev/null")
    assert record.read_text().splitlines()[0] == str(NAMELESS)
    assert "terminal" not in record.read_text()


def test_backup_lock_that_links_to_a_file_of_roots_is_not_copied(theirs: World, roots: Path) -> None:
    lock = theirs.directory / "backup.lock"
    lock.unlink()
    lock.symlink_to(roots)
    said = cli("init", "--lightning-dir", theirs.directory, f"{theirs.url}.new")
    copies = [path for path in theirs.directory.iterdir() if path.is_file() and path != lock and _holds_secret(path)]
    assert copies == [], said
    assert "chown" not in said.text
    assert roots.read_text() == SECRET


def _holds_secret(path: Path) -> bool:
    return SECRET.encode() in path.read_bytes()


def test_link_planted_at_a_name_that_was_just_free_is_not_written_through(theirs: World, roots: Path) -> None:
    """From a real finding: root wrote what the user wanted to where the user wanted."""
    code = (
        "import backup_cli.options as options\n"
        "free = options.free_name\n"
        "def planted(path, infix):\n"
        "    name = free(path, infix)\n"
        f"    name.symlink_to({str(roots)!r})\n"
        "    return name\n"
        "options.free_name = planted"
    )
    said = patched(code, "init", "--lightning-dir", theirs.directory, f"{theirs.url}.new")
    assert roots.read_text() == SECRET, said
    assert said.code == 1 and "Traceback" not in said.err


SWAPS = """
import os, sys, time
from pathlib import Path
directory, target, until = Path(sys.argv[1]), sys.argv[2], time.monotonic() + 60
print("ready", flush=True)
while time.monotonic() < until:
    for pattern in (".*.restoring-*", ".lightningd-backup-*/restoring.sqlite3"):
        for found in directory.glob(pattern):
            try:
                if not found.is_symlink() and not found.name.endswith(("-journal", "-wal", "-shm")):
                    link = directory / "planted"
                    link.unlink(missing_ok=True)
                    link.symlink_to(target)
                    link.rename(found)
            except OSError:
                pass
"""


def test_restored_file_exchanged_for_a_link_to_roots_database_does_not_alter_it(place: Path, history: History) -> None:
    theirs = World(place / "home")
    theirs.run_without_plugin([history.first(), *(history.big(2 << 20) for _ in range(4))])
    own = place / "root" / "lightningd.sqlite3"
    own.parent.mkdir(mode=0o700)
    shutil.copyfile(theirs.database, own)
    before = own.read_bytes()
    theirs.init().run(history.notes(20))
    given_to(NAMELESS, theirs.root)
    words = [*as_user(NAMELESS), sys.executable, "-c", SWAPS, str(theirs.directory), str(own)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as attacker:
        try:
            assert attacker.stdout is not None and attacker.stdout.readline() == "ready\n"
            for _ in range(RACES):
                said = cli("restore", "--replace", theirs.url, theirs.directory)
                assert own.read_bytes() == before, "root's own database was altered"
                assert "Traceback" not in said.err
        finally:
            attacker.kill()
    assert of_root(theirs.directory) == []


def test_hard_link_to_a_file_of_roots_is_not_overwritten(theirs: World, roots: Path) -> None:
    """Kernels without fs.protected_hardlinks let any user make such a link, and the lock's text would overwrite the
    file."""
    for name in ("backup.pid", "backup.witness"):
        (theirs.directory / name).unlink(missing_ok=True)
        os.link(roots, theirs.directory / name)
    (theirs.backup / "lock").unlink(missing_ok=True)
    os.link(roots, theirs.backup / "lock")
    for arguments in (("resync", "--lightning-dir", theirs.directory), ("compact", theirs.url)):
        assert "Traceback" not in cli(*arguments).err
        assert roots.read_text() == SECRET


# All commands


COMMANDS: dict[str, list[str]] = {
    "init": ["init", "--lightning-dir", "NODE", "URL.new"],
    "resync": ["resync", "--lightning-dir", "NODE"],
    "compact": ["compact", "URL"],
    "verify": ["verify", "URL"],
    "verify with the node": ["verify", "URL", "--lightning-dir", "NODE"],
    "status": ["status", "URL"],
    "status of the node": ["status", "--lightning-dir", "ABOVE"],
    "versions": ["versions", "URL"],
    "drill": ["drill", "PARENT"],
    "drill of the node": ["drill", "--lightning-dir", "NODE"],
    "restore": ["restore", "--replace", "--resume", "URL", "NODE"],
    "restore to a new directory": ["restore", "URL", "HOME/new/bitcoin"],
    "restore to a file": ["restore", "URL", "HOME/restored.sqlite3"],
    "destinations": ["destinations", "--lightning-dir", "NODE"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_of_root_leaves_no_file_of_roots_in_another_users_directory(theirs: World, name: str) -> None:
    new = theirs.root / "new"
    new.mkdir()
    given_to(NAMELESS, new)
    places = {
        "URL": theirs.url,
        "PARENT": theirs.backup.parent.as_uri(),
        "NODE": str(theirs.directory),
        "ABOVE": str(theirs.directory.parent),
        "HOME": str(theirs.root),
    }
    words = [re.sub("^(URL|PARENT|NODE|ABOVE|HOME)", lambda found: places[found[1]], word) for word in COMMANDS[name]]
    said = cli(*words)
    assert said.code == 0, said
    assert f"going on as {NAMELESS}" in said.err
    assert "chown" not in said.text
    assert of_root(theirs.root) == []


def test_command_of_root_on_its_own_node_stays_root(place: Path, history: History) -> None:
    own = World(place)
    own.init().run([history.first(), *history.notes(2)])
    for arguments in (("resync", "--lightning-dir", own.directory), ("verify", own.url), ("compact", own.url)):
        said = cli(*arguments)
        assert said.code == 0 and "going on as" not in said.err
    assert cli("restore", own.url, place / "x.sqlite3").code == 0
    assert (place / "x.sqlite3").stat().st_uid == 0


# Who could exchange the directory


def refused(said: Said) -> str:
    """Assert that the command was refused; returns the command to type instead."""
    assert said.code == 1 and "Nothing was touched" in said.err, said
    found = re.search(r"Run this as that user: (.*?)(?: \(in a container.*)?$", said.err.strip())
    assert found is not None, said
    return found[1]


def test_node_below_a_third_users_directory_is_refused_with_a_working_command(theirs: World) -> None:
    os.chown(theirs.directory.parent, THIRD, THIRD)
    line = refused(cli("resync", "--lightning-dir", theirs.directory))
    assert line.startswith(f"setpriv --reuid={NAMELESS} --regid={NAMELESS} --clear-groups ")
    done = run("sh", "-c", line)
    assert done.code == 0, done
    assert of_root(theirs.directory) == []


@pytest.mark.parametrize("url", [True, False])
def test_node_or_backup_below_a_world_writable_directory_is_refused(theirs: World, url: bool) -> None:
    above = theirs.backup.parent if url else theirs.directory.parent
    above.chmod(0o777)
    arguments = ["verify", theirs.url] if url else ["status", "--lightning-dir", theirs.directory]
    said = cli(*arguments)
    assert refused(said) and f"other users may write in {above} (mode 0777)" in said.err
    above.chmod(0o1777)
    assert cli(*arguments).code == 0, "as in /tmp"


def test_link_of_a_third_user_in_a_sticky_directory_is_refused(theirs: World, place: Path) -> None:
    open_to_all = place / "tmp"
    open_to_all.mkdir()
    open_to_all.chmod(0o1777)
    link = open_to_all / "node"
    link.symlink_to(theirs.directory)
    os.lchown(link, THIRD, THIRD)
    assert refused(cli("resync", "--lightning-dir", link))
    os.lchown(link, NAMELESS, NAMELESS)
    assert cli("resync", "--lightning-dir", link).code == 0, "the owner's own link"


def test_node_of_a_third_user_below_the_named_directory_is_refused(theirs: World) -> None:
    given_to(THIRD, theirs.directory)
    line = refused(cli("status", "--lightning-dir", theirs.directory.parent))
    assert f"--reuid={THIRD} " in line


def test_roots_directory_below_another_users_is_refused(theirs: World) -> None:
    given_to(0, theirs.directory)
    said = cli("check-config", "--lightning-dir", theirs.directory)
    assert said.code == 1 and "root does not work in" in said.err and str(NAMELESS) in said.err


def test_roots_database_linked_into_another_users_directory_is_refused(place: Path, history: History) -> None:
    own = World(place / "own")
    own.init().run([history.first(), *history.notes(2)])
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    own.database.rename(elsewhere / "db.sqlite3")
    own.database.symlink_to(elsewhere / "db.sqlite3")
    assert cli("resync", "--lightning-dir", own.directory).code == 0
    given_to(NAMELESS, elsewhere)
    for arguments in (["resync", "--lightning-dir", own.directory], ["restore", "--replace", own.url, own.directory]):
        said = cli(*arguments)
        assert said.code == 1 and "root does not work in" in said.err


def test_scratch_directory_of_another_user_is_refused(place: Path, history: History) -> None:
    own = World(place / "own")
    own.init().run([history.first()])
    scratch = place / "scratch"
    scratch.mkdir()
    given_to(NAMELESS, scratch)
    for name in ("verify", "compact"):
        said = cli(name, own.url, "--scratch", scratch)
        assert said.code == 1 and f"root does not work in {scratch}" in said.err


def test_config_of_another_user_starts_nothing_as_root(place: Path, history: History) -> None:
    own = World(place / "own")
    own.init().run([history.first()])
    theirs = place / "theirs"
    theirs.mkdir()
    (theirs / "lightningd-backup").write_text(f"#!/bin/sh\nid -u > {theirs}/ran\n")
    (theirs / "lightningd-backup").chmod(0o755)
    (theirs / "config").write_text(f"important-plugin={theirs}/lightningd-backup\n")
    given_to(NAMELESS, theirs)
    said = cli("check-config", "--lightning-dir", own.directory, "--conf", theirs / "config")
    assert said.code == 1 and "root does not work in" in said.err
    (own.directory / "config").write_text(f"important-plugin={theirs}/lightningd-backup\n")
    said = cli("check-config", "--lightning-dir", own.directory)
    assert "was not started here" in said.out
    assert not (theirs / "ran").exists()


def test_files_of_roots_in_the_node_directory_are_named_without_a_chown_command(theirs: World) -> None:
    """A chown would also give away the target of a link that was put in their place after anybody looked."""
    for name in ("backup.witness", "lightningd.sqlite3"):
        os.chown(theirs.directory / name, 0, 0)
    said = cli("check-config", "--lightning-dir", theirs.directory)
    (line,) = [line for line in said.out.splitlines() if line.startswith("problem") and " owner " in line]
    assert "lightningd.sqlite3, backup.witness" in line and f"the node's user, {NAMELESS}" in line
    assert "chown" not in said.text


# Where root cannot become the owner


@pytest.mark.parametrize(
    "prefix",
    [["setpriv", "--bounding-set=-setuid,-setgid", "--inh-caps=-all"], ["unshare", "--user", "--map-root-user"]],
    ids=["no capability", "user namespace"],
)
def test_process_that_cannot_become_the_owner_refuses(theirs: World, prefix: list[str]) -> None:
    if shutil.which(prefix[0]) is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip(f"{prefix[0]} does not do that here")
    for path in (theirs.directory, theirs.directory.parent, theirs.root):
        path.chmod(0o755)
    before = sorted(path.name for path in theirs.directory.iterdir())
    said = run(*prefix, *command("resync", "--lightning-dir", theirs.directory))
    assert refused(said) and "--user" in said.err
    assert sorted(path.name for path in theirs.directory.iterdir()) == before


def test_process_that_could_become_root_again_refuses(theirs: World) -> None:
    """For example with the securebit that keeps capabilities across a change of user."""
    securebits = "--securebits=+no_setuid_fixup"
    if subprocess.run(["setpriv", securebits, "true"], capture_output=True).returncode:
        pytest.skip("setpriv cannot set that here")
    said = run("setpriv", securebits, *command("resync", "--lightning-dir", theirs.directory))
    assert refused(said) and "could become root again" in said.err
    assert of_root(theirs.directory) == []


# Where only root may write


def test_destination_writable_by_root_only_is_refused_with_a_working_command(theirs: World, place: Path) -> None:
    mount = place / "mnt"
    mount.mkdir()
    said = cli("init", "--lightning-dir", theirs.directory, f"{mount.as_uri()}/lightning.bkp")
    assert said.code == 1 and "Nothing was made" in said.err
    found = re.search(r"for this user \((.*?)\), and make the backup in it: (install -d .*), or choose", said.err)
    assert found is not None, said
    assert run("sh", "-c", found[2]).code == 0
    said = cli("init", "--lightning-dir", theirs.directory, f"{Path(found[1]).as_uri()}/lightning.bkp")
    assert said.code == 0, said
    assert of_root(mount / str(NAMELESS)) == []


def test_program_unreadable_for_the_owner_is_named_and_nothing_is_touched(theirs: World) -> None:
    code = "import os, backup_cli.as_owner as a; a.__file__ = '/proc/1/environ'"
    said = patched(code, "resync", "--lightning-dir", theirs.directory)
    assert said.code == 1 and "may not read it: /proc/1/environ. Nothing was touched" in said.err
