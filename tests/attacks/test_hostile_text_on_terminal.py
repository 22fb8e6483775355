"""A stranger's text reaches a person's terminal, the node's log and a mail: as text, in the line that quotes it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupError
from backends.log.format.documents import SESSION
from backends.log.format.text_files import decode_document, encode_document
from backends.mounts import sticks, table
from backends.mounts.sticks import find_stick
from backends.mounts.superblock import Names
from backends.mounts.table import mounts
from backends.mounts.volumes import Volume
from backends.sqlite.error_text import sqlite_words
from backends.sqlite.statement_outline import outline
from backends.text import one_line
from backup_cli.main import cli
from tests.attacks.hostile_text import EVERY_SEQUENCE, SEQUENCES, append_change, assert_calm, quoted, some
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History, Refused
from tests.log.histories import CAMPAIGN

each_sequence = some(EVERY_SEQUENCE, "all")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a temporary directory: a statement that is really executed (`ATTACH`) makes its file there."""
    monkeypatch.chdir(tmp_path)


def calm(said: Said, *codes: int) -> Said:
    assert said.code in codes, said
    assert_calm(said.out)
    assert_calm(said.err)
    return said


# What a backup holds

STATEMENTS = {
    "a table that is not there": "UPDATE {name} SET x = 1",
    "bad syntax": "UPDATE vars SETT {text}",
    "an unknown function": "SELECT {name}(1)",
    "a comment": "/* {text} */ DELETE FROM nowhere",
    "a file to attach": "ATTACH '{text}' AS x",
    "an unknown setting": "PRAGMA {name} = 1",
    "nothing but it": "{text}",
}


@some(STATEMENTS, "a table that is not there", "nothing but it")
def test_hostile_statement_is_one_line_of_text(lived: World, case: str) -> None:
    text = "".join(SEQUENCES.values())
    append_change(lived, case.format(text=text, name=quoted(text)))
    for command in (["verify"], ["verify", "--show-statements"], ["compact"], ["status"], ["status", "--json"]):
        calm(backup_cli(*command, lived.url), 3)
    calm(backup_cli("restore", "--show-statements", lived.url, lived.root / "new.sqlite3"), 3)
    calm(backup_cli("check-config", "--lightning-dir", lived.directory), 1)


@each_sequence
def test_hostile_names_of_tables_are_one_line_of_text(lived: World, history: History, case: str) -> None:
    """In what differs, and in what refers to missing rows."""
    text = case
    history.version = lived.version
    child = f"CREATE TABLE {quoted('c' + text)} (x, FOREIGN KEY (x) REFERENCES {quoted('p' + text)} (y))"
    parent = f"CREATE TABLE {quoted('p' + text)} (y PRIMARY KEY)"
    row = f"INSERT INTO {quoted('c' + text)} VALUES (1)"
    lived.run([history.foreign_keys(on=False), history.transaction(parent, child, row), history.foreign_keys(on=True)])
    assert "refers to a missing row of" in calm(backup_cli("verify", lived.url), 0).err
    lived.run_without_plugin([history.transaction(f"DELETE FROM {quoted('c' + text)}")])
    said = calm(backup_cli("verify", "--lightning-dir", lived.directory, lived.url), 1)
    assert "DIFFERENT: " in said.out


@each_sequence
def test_hostile_fields_of_a_session_marker_are_one_line_of_text(lived: World, history: History, case: str) -> None:
    """The marker seems to be another node's: commands and the node's log name it."""
    text = case
    path = lived.backup / SESSION
    fields = decode_document(SESSION, path.read_bytes())
    del fields["lightningd-backup"]
    theirs = {"host": text, "session_id": "theirs", "trouble": text, "node_id": text}
    path.write_bytes(encode_document(path.name, {**fields, **theirs}))
    calm(backup_cli("status", lived.url), 0)
    assert "another node (" in calm(backup_cli("check-config", "--lightning-dir", lived.directory), 1).out
    calm(backup_cli("resync", "--lightning-dir", lived.directory), 1)
    with pytest.raises(Refused, match=r"another node \(") as caught, lived.node() as node:
        node.play([history.note()])
    assert_calm(str(caught.value), 1)
    for _, line in node.logs:
        assert_calm(line, 1)


# Names of files


@each_sequence
def test_hostile_names_of_files_are_one_line_of_text(lived: World, tmp_path: Path, case: str) -> None:
    text = case
    disk = tmp_path / text
    disk.mkdir()
    (disk / "lost").write_text("x")
    for command in ("verify", "status", "versions", "compact"):
        calm(backup_cli(command, disk.as_uri()), 1)
    calm(backup_cli("init", "--lightning-dir", disk, f"file://{tmp_path}/{text}"), 0, 1, 2)
    calm(backup_cli("restore", lived.url, disk / "missing" / "db"), 1)
    (disk / "regtest").mkdir()
    said = backup_cli("restore", lived.url, disk / "regtest")
    assert said.out == f"{disk / 'regtest' / 'lightningd.sqlite3'}\n"  # for a program, as it is
    assert_calm(said.err)
    lived.backup.rename(disk / f"one{text}")
    backup_cli("init", "--lightning-dir", lived.directory, (disk / f"two{text}").as_uri())
    said = calm(backup_cli("verify", disk.as_uri()), 1)
    assert "holds 2 backups" in said.err
    assert len([line for line in said.err.splitlines() if line.startswith("  file:///")]) == 2


def test_path_that_is_no_utf8_prints_no_traceback(lived: World, tmp_path: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b"))
    place.mkdir()
    calm(backup_cli("verify", place.as_uri()), 1)
    assert "not in UTF-8" in calm(backup_cli("restore", lived.url, place / "db"), 1).err
    calm(backup_cli("init", "--lightning-dir", place, lived.url + "2"), 0, 1)


def test_ascii_terminal_gets_no_traceback(lived: World) -> None:
    words = [sys.executable, "-m", "backup_cli.main", "verify", lived.url]
    said = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert said.returncode == 0, said
    assert_calm((said.stdout + said.stderr).decode("ascii"))


# What is typed, or pasted


@each_sequence
def test_hostile_arguments_are_one_line_of_text(case: str) -> None:
    text = case
    for words in ([text], ["verify", f"--{text}"], ["verify", text], ["verify"] + [text] * 3, ["drill", text]):
        calm(backup_cli(*words), 2)
    calm(backup_cli("verify", "--scratch", text, "file:///x"), 2)


# Sticks and mounts


@pytest.fixture
def sticks_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A table of mounts and devices whose names are all hostile; returns such a name."""
    words = "".join(SEQUENCES.values())
    octal = "".join(f"\\{byte:03o}" for byte in words.encode())
    root = "35 1 98:1 / / rw - ext4 /dev/root rw\n"
    line = f"36 35 98:0 / /mnt/{octal} rw,noatime - ext4 /dev/{octal} rw\n"
    (tmp_path / "mountinfo").write_text(root + line)
    monkeypatch.setattr(table, "MOUNTINFO", tmp_path / "mountinfo")
    mount = mounts()[-1]
    assert words in str(mount.point)
    assert words in mount.source
    volume = Volume(mount.source, Names(words, words, words), (mount,))
    monkeypatch.setattr(sticks, "volumes", lambda: [volume, volume])
    monkeypatch.setattr("backup_cli.commands.destinations.volumes", lambda: [volume, volume])
    return words


def test_hostile_labels_and_mount_points_are_one_line_of_text(
    sticks_called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nowhere", sticks_called):
        with pytest.raises(BackupError) as caught:
            find_stick(name)
        assert_calm(str(caught.value), 1)
    mount = mounts()[-1]
    assert_calm(mount.describe(), 1)
    for there in ([], [mount]):
        monkeypatch.setattr(sticks, "volumes", lambda there=there: [Volume("/dev/x\x1b", Names("a", "b", "c"), there)])
        with pytest.raises(BackupError) as caught:
            find_stick("b")
        assert_calm(str(caught.value), 1)
    calm(backup_cli("destinations"), 0)


# Processes


@each_sequence
def test_hostile_name_of_a_process_is_one_line_of_text(lived: World, case: str) -> None:
    """Any user may name a process as they like, and open a database that they may read."""
    text = case
    code = (
        "import sys; open('/proc/self/comm', 'w').write(sys.argv[2]); f=open(sys.argv[1]); print(flush=True); input()"
    )
    words = [sys.executable, "-c", code, str(lived.database), text]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        said = calm(backup_cli("init", "--lightning-dir", lived.directory, lived.url + "2"), 1)
        assert f"process {process.pid} (" in said.err
        process.communicate(b"\n")


# The node's own files


@each_sequence
def test_hostile_config_is_one_line_of_text(lived: World, case: str) -> None:
    text = case
    config = lived.directory.parent / "config"
    config.write_bytes(
        f"network={text}\nwallet={text}://x\nplugin=/x/{text}/backup.py\nplugin=/y/{text}/lightningd-backup\n"
        f"disable-plugin={text}\n".encode()
    )
    calm(backup_cli("check-config", "--lightning-dir", lived.directory), 1)
    config.write_bytes(f"include {text}/missing\n".encode())
    calm(backup_cli("check-config", "--lightning-dir", lived.directory), 1)


URLS = (
    "file:///x{}",
    "{}",
    "usb://{}/lightning.bkp",
    "nfs:///mnt/{}/lightning.bkp?share={}",
    "x{}://y",
    "file:///x?a={}",
)


@some({url: url for url in URLS}, *URLS[:2])
def test_hostile_backup_lock_is_one_line_in_output_log_and_mail(lived: World, history: History, case: str) -> None:
    lock = lived.directory / "backup.lock"
    text = "".join(SEQUENCES.values())
    document = json.loads(lock.read_bytes())
    lock.write_text(json.dumps({**document, "backend_url": case.replace("{}", text)}))
    mail = lived.directory / "backup.notify"
    mail.write_text('#!/bin/sh\nprintf "%s\\0" "$@" "$LIGHTNINGD_BACKUP_SENTENCE" > mail.part && mv mail.part mail\n')
    mail.chmod(0o700)
    calm(backup_cli("check-config", "--lightning-dir", lived.directory), 1)
    for command in ("status", "resync", "drill"):
        calm(backup_cli(command, "--lightning-dir", lived.directory), 1, 2)
    said = backup_cli("status", "--prometheus", "--lightning-dir", lived.directory)
    assert_calm(said.out)
    with pytest.raises(Refused) as caught, lived.node() as node:
        node.play([history.note()])
    assert_calm(str(caught.value), 1)
    for _, line in node.logs:
        assert_calm(line, 1)
    assert_calm(_mail(lived, "mail"), 1)


def test_newline_in_a_statement_begins_no_line_in_the_log_or_a_mail(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lightningd itself sends a statement that this release does not know, with a peer's text in it."""
    monkeypatch.chdir(lived.root)  # the node itself attaches the file
    mail = lived.directory / "backup.notify"
    mail.write_text('#!/bin/sh\nprintf "%s\\0" "$@" "$LIGHTNINGD_BACKUP_SENTENCE" > mail.part && mv mail.part mail\n')
    mail.chmod(0o700)
    with pytest.raises(Refused) as caught, lived.node() as node:
        node.play([history.transaction("ATTACH 'x\n**BROKEN** plugin: forged\x1b[2J' AS y")])
    assert_calm(str(caught.value), 1)
    for _, line in node.logs:
        assert_calm(line, 1)
    assert_calm(_mail(lived, "mail"), 1)


def _mail(world: World, name: str) -> str:
    path, until = world.directory / name, time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    return path.read_text().replace("\0", " ")


# The last line of defence, and what is told before it, with any text

PIECES = ("INSERT ", "INTO ", "UPDATE ", '"', "'", "[", "]", "--", "/*", "*/", "\n", "OR ")
WORDS = (
    "{}",
    'near "{}": syntax error',
    "no such table: {}",
    "UNIQUE constraint failed: {}.{}",
    "table {} already exists",
)
foreign = st.text(st.characters(), max_size=300) | st.sampled_from(list(SEQUENCES.values()))


@settings(max_examples=100 * CAMPAIGN, deadline=None)
@given(foreign, foreign)
def test_any_text_in_an_error_is_harmless_on_a_terminal(text: str, other: str) -> None:
    @click.command()
    @click.argument("words", nargs=-1)
    def fails(words: str) -> None:
        if not words:
            raise BackupError(f"something about {text}")
        raise OSError(5, other, text)

    cli.add_command(fails, "fails")
    try:
        calm(backup_cli("fails"), 1)
        calm(backup_cli("fails", "x"), 1)
        calm(backup_cli(f"{text}x".replace("\0", "")), 2)
    finally:
        del cli.commands["fails"]


@settings(max_examples=300 * CAMPAIGN, deadline=None)
@given(
    st.lists(
        foreign | st.sampled_from(["INSERT ", "INTO ", "UPDATE ", '"', "'", "[", "]", "--", "/*", "*/", "\n", "OR"])
    )
)
def test_outline_of_any_statement_is_one_harmless_line(parts: list[str]) -> None:
    said = outline("".join(parts))
    assert_calm(said, 1)
    assert len(said) < 80
    assert one_line(said) == said


@settings(max_examples=300 * CAMPAIGN, deadline=None)
@given(
    foreign, st.sampled_from(["{}", 'near "{}": syntax error', "no such table: {}", "UNIQUE constraint failed: {}.{}"])
)
def test_any_message_of_sqlite_is_one_harmless_line(text: str, form: str) -> None:
    assert_calm(sqlite_words(ValueError(form.replace("{}", text))), 1)
