"""A command that a message prints is pasted into a shell: it runs, with the words that are meant, and nothing else.

Whoever labels a stick, names a directory or writes a backup.lock chooses words of such commands.
"""

import json
import os
import re
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backends.errors import BackupError
from backends.mounts import sticks
from backends.mounts.sticks import find_stick
from backends.mounts.superblock import Names
from backends.mounts.table import Mount
from backends.mounts.volumes import Volume
from backends.node.hand_over import restore_command
from backends.node.lockfile import read_settings
from backup_cli.commands.versions import IN_USE, REPLACED, Versions, _table
from tests.attacks.hostile_text import assert_calm, some
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History, Refused, read_recording
from tests.legacy.written import written

WORDS = {
    "a substitution": "x$(touch pwned)",
    "an old substitution": "x`touch pwned`",
    "another command": "x;touch pwned;",
    "in the background": "x&touch pwned&",
    "out of quotes": "x';touch pwned;'",
    "out of double quotes": 'x";touch pwned;"',
    "a line of its own": "x\ntouch pwned\n",
    "a redirection": "x>pwned",
    "a pattern": "x*",
    "an escape sequence": "x\x1b[2Jy\\'$(touch pwned)",
    "written backwards": "x\u202e(touch pwned)",
    "a blank": "x touch pwned",
}
each_word = some(WORDS, "a substitution", "out of quotes", "an escape sequence")

TOOLS = ("backup-cli", "umount", "udisksctl", "chmod", "chown", "mount", "sudo")


def pasted(command: str, shell: str = "bash") -> list[str]:
    """Paste a command into a shell where each tool only records its words. Returns what ran; nothing else may have
    run."""
    with tempfile.TemporaryDirectory() as place:
        tools, work, noted = Path(place, "tools"), Path(place, "work"), Path(place, "noted")
        tools.mkdir()
        work.mkdir()
        for tool in TOOLS:
            (tools / tool).write_text(f'#!/bin/sh\nprintf "%s\\0" {tool} "$@" >> {noted}\n')
            (tools / tool).chmod(0o755)
        path = f"{tools}:{os.environ['PATH']}"
        subprocess.run([shell, "-c", command], cwd=work, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL)
        assert list(work.iterdir()) == [], command
        return noted.read_text(errors="surrogateescape").split("\0")[:-1] if noted.exists() else []


def told_in(text: str, begins: str, ends: str) -> str:
    """The command in a message, between the words before and after it."""
    assert_calm(text)
    found = re.search(f"{re.escape(begins)}(.*?){re.escape(ends)}", text)
    assert found is not None, text
    return found[1]


def volume(word: str, *, mounted: bool) -> Volume:
    mount = Mount(1, (8, 1), "/", Path("/nowhere") / word, "ext4", f"/dev/{word}", frozenset())
    return Volume(f"/dev/{word}", Names("ext4", word, word), (mount,) if mounted else ())


@each_word
def test_umount_command_for_a_pulled_out_stick_quotes_hostile_labels(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = case
    monkeypatch.setattr(sticks, "volumes", lambda: [volume(word, mounted=True)])
    with pytest.raises(BackupError) as caught:
        find_stick(word)
    command = told_in(str(caught.value), "is safe; run: ", ", plug it in again")
    assert pasted(command) == ["umount", f"/nowhere/{word}"]
    monkeypatch.setattr(sticks, "volumes", list)
    monkeypatch.setattr(sticks, "dead_mounts", lambda: [volume(word, mounted=True).mounts[0]])
    with pytest.raises(BackupError) as caught:
        find_stick("LOST")
    command = told_in(str(caught.value), "is safe; run: ", ", plug it in again")
    assert pasted(command) == ["umount", f"/nowhere/{word}"]


@each_word
def test_mount_command_for_a_stick_quotes_hostile_labels(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    word = case
    monkeypatch.setattr(sticks, "volumes", lambda: [volume(word, mounted=False)])
    with pytest.raises(BackupError) as caught:
        find_stick(word)
    command = str(caught.value).partition("for instance with: ")[2]
    assert_calm(command, 1)
    assert pasted(command) == ["udisksctl", "mount", "-b", f"/dev/{word}"]


@each_word
def test_mount_command_for_a_device_url_quotes_hostile_names(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    word = case
    device = tmp_path / word
    device.touch()
    monkeypatch.setattr("backends.mounts.unfit.stat.S_ISBLK", lambda mode: True)
    with pytest.raises(BackupError) as caught:
        backup_at(device.as_uri()).check_new()
    command = told_in(str(caught.value), "for instance with: ", ", and use: file")
    assert pasted(command) == ["mount", str(device), "/mnt/backup"]


@each_word
def test_restore_command_quotes_hostile_urls_and_directories(case: str, lived: World) -> None:
    """Whoever wrote backup.lock has chosen the URL, and somebody has chosen the directory's name, too."""
    word = case
    url, directory = f"file:///{word}", lived.root / word
    for replace in (False, True):
        asked = ["--resume", "--replace"] if replace else ["--resume"]
        expected = ["backup-cli", "restore", *asked, url, str(directory)]
        assert pasted(restore_command(url, directory, replace=replace)) == expected
        assert_calm(restore_command(url, directory, replace=replace), 1)


@each_word
def test_restore_command_in_the_plugins_refusal_quotes_hostile_directories(
    case: str, world: World, history: History
) -> None:
    """End to end: the plugin's refusal in the node's log, for a backup and a node in directories with hostile names."""
    word = case
    there = world.root / word.replace("/", "")
    there.mkdir()
    own = World(there)
    own.init().run([history.first(), *history.notes(2)])
    old = own.database.read_bytes()
    own.run(history.notes(3))
    own.database.write_bytes(old)
    with closing(sqlite3.connect(own.database)) as other:  # so that it cannot be brought forward
        other.execute("CREATE TABLE more (x)")
    lock = own.directory / "backup.lock"
    with pytest.raises(Refused) as caught, own.node() as node:
        node.play([History(own.version).note()])
    command = "backup-cli restore" + str(caught.value).partition("backup-cli restore")[2]
    assert_calm(command, 1)
    for _, line in node.logs:
        assert_calm(line, 1)
    url = json.loads(lock.read_bytes())["backend_url"]
    assert pasted(command) == ["backup-cli", "restore", "--resume", "--replace", url, str(own.directory)]
    said = backup_cli("check-config", "--lightning-dir", own.directory)
    command = "backup-cli restore" + said.out.partition("backup-cli restore")[2].partition("\n")[0]
    assert pasted(command)[:6] == ["backup-cli", "restore", "--resume", "--replace", url, str(own.directory)]


@each_word
def test_restore_kept_command_of_versions_quotes_hostile_urls(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The URL is the one that was given, and may have been copied from anywhere."""
    word = case
    url = f"file:///{word}"
    one = Versions(url, 1, REPLACED, "init", 1, 9, 1, 1, 1, 1, None, None)
    two = Versions(url, 2, IN_USE, "resync", 1, 5, 1, 1, 1, None, None, None)
    _table(url, [one, two])
    command = capsys.readouterr().out.partition("and restore it with: ")[2].rstrip("\n")
    assert_calm(command, 1)
    assert pasted(command) == ["backup-cli", "restore", "--kept", "--replace", f"file:///{word}", "DEST"]


@each_word
def test_chmod_and_chown_commands_of_check_config_quote_hostile_directories(case: str, tmp_path: Path) -> None:
    word = case
    there = tmp_path / word
    there.mkdir()
    own = World(there)
    own.init()
    secret, notify = own.directory / "hsm_secret", own.directory / "backup.notify"
    secret.write_bytes(bytes(32))
    secret.chmod(0o644)
    notify.write_text("#!/bin/sh\n")
    notify.chmod(0o777)
    said = backup_cli("check-config", "--lightning-dir", own.directory)
    assert_calm(said.out)
    commands = [line[line.index("chmod ") :] for line in said.out.splitlines() if "chmod " in line]
    assert [pasted(command) for command in commands] == [["chmod", "400", str(secret)], ["chmod", "700", str(notify)]]


@each_word
def test_restore_command_for_a_legacy_backup_quotes_hostile_paths(case: str, world: World) -> None:
    """`init` refuses, and says how to restore the state of the legacy backup."""
    word = case
    calls = list(read_recording(limit=30))
    place = world.root / word
    place.mkdir()
    file = written(calls).save(place / "file.bkp")
    world.run_without_plugin(calls[:20])
    (world.directory / "backup.lock").write_text(json.dumps({"backend_url": file.as_uri()}))
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1, said
    assert_calm(said.err)
    command = told_in(said.err, "Bring it back first: ", " (docs")
    assert pasted(command) == ["backup-cli", "restore", read_settings(world.directory).url, "DEST"]
