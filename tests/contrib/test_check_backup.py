"""`backup-cli check-config`: what it says about the backup, and about a node that runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends.node.lockfile import read_settings, write_settings
from backends.node.sync_point import read_sync_point, write_sync_point
from backup_cli.node_config import read_config
from tests.cli.cli_asserts import assert_refused
from tests.contrib.checking import check, configure, the_problem
from tests.end_to_end.world import backup_cli

# The backup


@pytest.mark.usefixtures("quick")
def test_check_config_reports_a_backup_lock_that_fits_no_backup(node: Path, tmp_path: Path) -> None:
    settings = read_settings(node)
    write_settings(node, type(settings)(settings.url, "11" * 16))
    assert "another node, or was recreated" in the_problem(node)
    write_settings(node, settings)
    (tmp_path / "lightning.bkp").rename(tmp_path / "away")
    assert "mounted" in the_problem(node)
    write_settings(node, type(settings)("gopher://x/y", None))
    assert "gopher" in the_problem(node)
    (node / "backup.lock").write_text("{")
    assert "not JSON" in the_problem(node)
    (node / "backup.lock").unlink()
    assert "backup-cli init" in the_problem(node)


@pytest.mark.usefixtures("quick")
def test_check_config_reports_a_read_only_destination(node: Path, tmp_path: Path) -> None:
    """As a stick is after an error: it can be read, so everything else looks well, and the node would stop."""
    backup = tmp_path / "lightning.bkp"
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", backup, backup]).returncode:
        pytest.skip("needs root, to mount the destination read-only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", backup], check=True)
        assert "is mounted read-only. Mount it writable" in the_problem(node)
    finally:
        subprocess.run(["umount", backup], check=True)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("url", ["file://{}/file.bkp", "socket:nas:8700"])
def test_check_config_reports_a_lock_of_a_legacy_backup(node: Path, tmp_path: Path, url: str) -> None:
    url = url.format(tmp_path)
    (tmp_path / "file.bkp").write_bytes(b"\0\0\0\1" + bytes(508))
    (node / "backup.lock").write_text(json.dumps({"backend_url": url}))
    line = the_problem(node)
    assert (
        f"was written by the older backup plugin and names {url}" in line
        and "run: backup-cli init URL, with a new" in line
    )
    assert_refused(backup_cli("resync", "--lightning-dir", node), "run: backup-cli init URL, with a new URL")


@pytest.mark.usefixtures("quick")
def test_check_config_reports_a_damaged_backup(node: Path, tmp_path: Path) -> None:
    (tmp_path / "lightning.bkp" / "manifest").write_bytes(b"\0" * 100)
    assert "damaged" in the_problem(node)


@pytest.mark.usefixtures("quick")
def test_check_config_reports_a_database_that_disagrees_with_its_backup(node: Path) -> None:
    def bump(by: int) -> None:
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sqlite3; c = sqlite3.connect({str(node / 'lightningd.sqlite3')!r}); "
                f"c.execute(\"UPDATE vars SET intval = intval + {by} WHERE name = 'data_version'\"); c.commit()",
            ],
            check=True,
        )

    bump(-1)
    assert "lost 1 change" in the_problem(node), "nothing tells that it is an earlier state of the same history"
    bump(-1)
    line = the_problem(node)
    assert "lost 2 changes" in line and line.endswith(f"lightning.bkp {node}") and "restore --resume --replace" in line
    bump(+7)
    code, lines = check(node)
    assert code == 0 and len(lines) == 1 and "5 changes ahead" in lines[0]


@pytest.mark.usefixtures("quick")
def test_check_config_reports_a_lost_or_damaged_database(node: Path) -> None:
    """The node would start with an empty database, or not at all; the backup has the right one."""
    database = node / "lightningd.sqlite3"
    whole = database.read_bytes()
    for bad in (b"", b"not a database at all", whole[:5000]):
        database.write_bytes(bad)
        line = the_problem(node)
        assert "do not start" in line and "restore --resume --replace file://" in line, "a file is in the way"
        assert ("--discard-newer unknown" in line) == bool(bad)
    database.unlink()
    assert "bring the database back with: backup-cli restore --resume file://" in the_problem(node)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["a journal", "a WAL"])
def test_check_config_reads_a_hot_journal_or_wal_and_changes_nothing(node: Path, how: str) -> None:
    """After a power cut there is a hot journal; with a WAL, even reading would make files beside the database."""
    mode = "DELETE" if how == "a journal" else "WAL"
    program = f"""
import os, sqlite3
c = sqlite3.connect({str(node / "lightningd.sqlite3")!r}, isolation_level=None)
c.executescript("PRAGMA journal_mode = {mode}; PRAGMA cache_size = 5; BEGIN")
c.execute("UPDATE vars SET intval = intval + 7 WHERE name = 'data_version'")
for _ in range(200): c.execute("INSERT INTO vars (name, blobval) VALUES (hex(randomblob(9)), zeroblob(3000))")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    before = {path.name: path.read_bytes() for path in node.iterdir()}
    assert ("lightningd.sqlite3-journal" if mode == "DELETE" else "lightningd.sqlite3-wal") in before
    assert check(node) == (0, [])
    assert {path.name: path.read_bytes() for path in node.iterdir()} == before


@pytest.mark.usefixtures("quick")
def test_check_config_reports_a_failure_of_the_last_run(node: Path) -> None:
    noted = read_sync_point(node)
    assert noted is not None
    write_sync_point(node, replace(noted, failure="the disk was full"))
    code, lines = check(node)
    assert code == 0 and len(lines) == 1 and "the disk was full" in lines[0]


# A running node


@pytest.fixture
def lightningd(tmp_path: Path) -> Path:
    """A program that is called lightningd and can run."""
    path = tmp_path / "usr" / "lightningd"
    path.parent.mkdir()
    shutil.copy("/bin/sh", path)
    return path


@pytest.fixture
def running(node: Path, lightningd: Path, plugin: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A lightningd that was started with a --conf, and has no plugin."""
    (lightningd.parent / "own.conf").write_text(f"important-plugin={plugin}\n")
    process = subprocess.Popen(
        [str(lightningd), "-c", "read x", "--conf", str(lightningd.parent / "own.conf")],
        cwd=node,
        stdin=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.usefixtures("quick")
def test_check_config_reports_a_running_node_without_the_plugin(
    node: Path, running: "subprocess.Popen[bytes]", lightningd: Path
) -> None:
    configure(node, "")  # not read: the command line names another file
    assert f"process {running.pid}) without the plugin" in the_problem(node)
    assert read_config(node, None).files == [lightningd.parent / "own.conf"]
    later = time.time() + 3600
    os.utime(node / "lightningd.sqlite3", (later, later))
    _, lines = check(node)
    assert any("has written to its database" in line for line in lines)
