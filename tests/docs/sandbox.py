"""Where the commands of a page are run: a home of their own, with paths that stand for the reader's.

A page may use these, and nothing else that is not in every machine:

- `~` and `/home/me`: the home, with a node in `~/.lightning/bitcoin` (from the shipped recording), the project
  installed in `~/lightningd-backup`, which is not on the PATH before the page puts it there, and copies of the node's
  secret files in `~/safe-place`.
- `/mnt/…` and `/media/…`: other disks (really /dev/shm). `/mnt/nas`, `/mnt/backup` and `/media/me/LNBACKUP` are there.
- `lightningd`, `lightning-cli`, `bitcoin-cli` and `lightning-hsmtool`: see machine.py.
- `postgres://backup@db1.local,db2.local/lightning`: two real servers, once the page says that they run.
- `nfs:///mnt/…`, `nfs://nas/…`, `nfs://nas.local/…`, `usb://LNBACKUP/…`, `usb://STICK/…` and `sftp://offsite/…`: run as
  `file://` on a directory that stands for the share, the stick or the server. Other tests show that they work as
  themselves.
- `s3://my-node/…`: a bucket of a real S3 server, once the page has said at which endpoint (`a store is at`).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from backends.node.hsm_secret import SECRET_SIZE, check_secret
from backends.node.sync_point import fingerprint, read_sync_point, write_sync_point
from backup_cli.drill.player import Player, recorded_calls
from tests.destinations.postgres import DATABASE, ROLE, PostgresCluster
from tests.destinations.radosgw import Radosgw, write_credentials
from tests.destinations.signed import Keys
from tests.docs.machine import BLOCK
from tests.fake_lightningd import read_recording
from tests.known_secret import NODE_ID, SECRET, known_database, known_writes
from tests.legacy.written import written

PROGRAM = """#!{python}
from backends.mounts import ephemeral
ephemeral._IN_MEMORY -= {{"tmpfs"}}
from {module} import main
main()
"""
"""The pages' other disks are in memory here, which the programs would refuse for a backup."""
SQLITE3 = """#!{python}
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):
    print(*row, sep="|")
"""
"""A replacement for SQLite's own command where it is not installed."""

_EXPORTED = re.compile(r'export PATH="(.*)"$')
"""Environment that a shell keeps for the commands that follow."""

OTHER_DISKS = Path("/dev/shm")

WORDS = "ritual idle hat sunny universe pluck key alpha wing cake have wedding"
"""What a page's reader has on paper. (lightningd's own tests use these words, too.)"""


class Sandbox:
    """One page's world; `close` removes it."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home" / "me"
        self._stand_ins = directory / "stand-ins"
        self._path_variable = ":".join([str(self._stand_ins), *without_backup_cli(os.environ["PATH"])])
        self.disks = Path(tempfile.mkdtemp(prefix="lightningd-backup-docs-", dir=OTHER_DISKS))
        servers = (".server/nas/export", ".server/nas.local/volume1/backup", ".server/offsite/srv/backup")
        for place in ("mnt/nas", "mnt/backup", "media/me/LNBACKUP", *servers, ".sticks/STICK"):
            (self.disks / place).mkdir(parents=True)
        (self.disks / ".mounted").symlink_to(self.disks)
        (self.disks / ".sticks" / "LNBACKUP").symlink_to(self.disks / "media" / "me" / "LNBACKUP")
        # What a page says → what it means here; the first that fits.
        self._places = [
            ("nfs:///mnt/", f"file://{self.disks}/.mounted/mnt/"),
            ("nfs://nas/", f"file://{self.disks}/.server/nas/"),
            ("nfs://nas.local/", f"file://{self.disks}/.server/nas.local/"),
            ("usb://LNBACKUP/", f"file://{self.disks}/.sticks/LNBACKUP/"),
            ("usb://STICK/", f"file://{self.disks}/.sticks/STICK/"),
            ("sftp://offsite/", f"file://{self.disks}/.server/offsite/"),
            ("/mnt/", f"{self.disks}/mnt/"),
            ("/media/", f"{self.disks}/media/"),
            ("/home/me", str(self.home)),
        ]
        self._url = ""
        self._typed = ""
        self._store: Radosgw | None = None
        self._databases: PostgresCluster | None = None
        self._install()
        self.set_up()

    def close(self) -> None:
        if (self.node / "lightning-rpc").exists():
            self.run("lightning-cli stop")
        if self._store is not None:
            self._store.kill()
        if self._databases is not None:
            self._databases.discard()
        shutil.rmtree(self.disks)

    def run(self, command: str) -> tuple[int, list[str]]:
        """The exit code, and what a reader would see."""
        if (exported := _EXPORTED.match(command)) is not None:
            self._path_variable = exported[1].replace("$HOME", str(self.home)).replace("$PATH", self._path_variable)
            return 0, []
        command = self._replaced(command, dict(self._places))
        typed, self._typed = self._typed, ""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.home,
            env={
                "HOME": str(self.home),
                "PATH": self._path_variable,
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        back = {meant: said for said, meant in self._places}
        # What is named as a path: a mounted share has one, of the others a page must not show it.
        back |= {f"{self.disks}/.mounted/mnt/": "/mnt/"}
        text = self._replaced(done.stdout, back)
        return done.returncode, text.rstrip("\n").split("\n") if text else []

    def _install(self) -> None:
        for name in ("lightningd", "lightning-cli", "bitcoin-cli", "lightning-hsmtool"):
            _program(self._stand_ins / name, f'#!/bin/sh\nexec {sys.executable} -m tests.docs.machine {name} "$@"\n')
        if shutil.which("sqlite3") is None:
            _program(self._stand_ins / "sqlite3", SQLITE3.format(python=sys.executable))
        for name, module in (("backup-cli", "backup_cli.main"), ("lightningd-backup", "plugin.main")):
            program = self.home / "lightningd-backup" / "bin" / name
            _program(program, PROGRAM.format(python=sys.executable, module=module))

    # What happens without the reader: the events

    @property
    def node(self) -> Path:
        return self.home / ".lightning" / "bitcoin"

    def happen(self, event: str) -> None:
        """`<!-- sandbox: EVENT -->`."""
        name, _, rest = event.partition(":")
        getattr(self, name.strip().replace(" ", "_"))(*([rest.strip()] if rest else []))

    def set_up(self) -> None:
        """A node that ran for a while, without a backup: the state in which a page begins."""
        self.node.mkdir(parents=True)
        (self.node / "lightningd.sqlite3").write_bytes(known_database())
        (self.node / "hsm_secret").write_bytes(SECRET)
        (self.node / "hsm_secret").chmod(0o400)
        (self.node / "emergency.recover").write_bytes(bytes(200))
        (self.node.parent / "config").write_text("network=bitcoin\n")
        (self.home / "safe-place").mkdir(exist_ok=True)
        for name in ("hsm_secret", "emergency.recover"):
            _copy(self.node / name, self.home / "safe-place")

    def two_database_servers_run(self) -> None:
        """A primary and its synchronous standby, in which the administrator has typed what docs/postgres.md shows."""
        self._databases = PostgresCluster().start()
        primary = self._databases.primary
        primary.sql(f"DROP DATABASE {DATABASE}")
        primary.sql(f"DROP ROLE {ROLE}")
        page = (Path(__file__).parents[2] / "docs" / "postgres.md").read_text()
        primary.script(page.partition("```sql\n")[2].partition("```")[0])
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self._databases.servers)
        self._places.append(("@db1.local,db2.local/", f"@{hosts}/"))
        for name, server in zip(("db1.local", "db2.local"), self._databases.servers, strict=True):
            self._places.append((name, f"127.0.0.1:{server.port}"))

    def one_database_server_is_left(self) -> None:
        """The primary is gone, the standby was promoted, and has been told that it is alone."""
        assert self._databases is not None
        self._databases.primary.kill()
        self._databases.fail_over()
        self._databases.primary.set("synchronous_standby_names", "")

    def hsm_secret_has_words(self) -> None:
        """The page's node is one whose secret is made from words, as is usual since v25.12."""
        secret = bytes(SECRET_SIZE) + WORDS.encode()
        for directory in (self.node, self.home / "safe-place"):
            (directory / "hsm_secret").unlink()
            (directory / "hsm_secret").write_bytes(secret)
            (directory / "hsm_secret").chmod(0o400)
        made = check_secret(self.node / "hsm_secret", None).made
        assert made is not None
        database = known_database().replace(bytes.fromhex(NODE_ID), bytes.fromhex(made))
        (self.node / "lightningd.sqlite3").write_bytes(database)

    def the_words_are_typed(self) -> None:
        """The reader answers the next command's questions: with the words, and an empty line for the passphrase."""
        self._typed = f"{WORDS}\n\n"

    def a_passphrase_is_in(self, path: str) -> None:
        """The reader has written a passphrase into this file, with an editor."""
        self._path(path).write_text("correct horse battery staple\n")
        self._path(path).chmod(0o600)

    def is_lost(self, path: str) -> None:
        """This file of the node is gone."""
        self._path(path).unlink()

    def a_fresh_node(self) -> None:
        """One that has never been started."""
        self.the_disk_dies()
        self.node.mkdir(parents=True)

    def the_disk_dies(self) -> None:
        """Nothing is left of the node."""
        shutil.rmtree(self.home / ".lightning", ignore_errors=True)

    def begin_anew(self) -> None:
        """Back to the state in which a page begins, for a part of it that can be read alone."""
        self.the_disk_dies()
        for disk in ("mnt/nas", "mnt/backup"):
            shutil.rmtree(self.disks / disk)
            (self.disks / disk).mkdir()
        self.set_up()

    def only_a_replica_is_left_at(self, path: str) -> None:
        """The node's own database is gone, and lightningd kept a second one."""
        self._path(path).parent.mkdir(parents=True)
        shutil.move(self.node / "lightningd.sqlite3", self._path(path))

    def a_backed_up_node_runs(self, url: str) -> None:
        """A node that had this backup from its first start, through a whole recording to a clean stop."""
        self.a_fresh_node()
        _copy(self.home / "safe-place" / "emergency.recover", self.node)
        code, said = self.run(f"~/lightningd-backup/bin/backup-cli init {url}")
        assert code == 0, said
        self._url = url
        self.set_config()
        player = Player(self.node, [str(self.home / "lightningd-backup" / "bin" / "lightningd-backup")])
        try:
            for call in recorded_calls():
                player.play(call | {"writes": known_writes(call["writes"])})
            player.stop()
        finally:
            player.kill()
        _copy(self.home / "safe-place" / "hsm_secret", self.node)

    def a_backed_up_node_with_members_runs(self, urls: str) -> None:
        """A node that has a backup with these members, makes a few changes, and is stopped."""
        code, said = self.run(f"~/lightningd-backup/bin/backup-cli init {urls}")
        assert code == 0, said
        self.set_config()
        self.the_node_starts()
        self.the_node_stops()

    def a_node_with_an_encrypted_backup_runs(self, urls: str) -> None:
        """The same, with an encrypted backup that hsm_secret opens."""
        self.a_backed_up_node_with_members_runs(f"--encrypt {urls}")

    def the_node_starts(self) -> None:
        """The reader starts lightningd, however that is done on that machine."""
        code, said = self.run("lightningd --daemon --log-file=log")
        assert code == 0, said

    def the_node_stops(self) -> None:
        """The reader's lightningd is stopped cleanly."""
        code, said = self.run("lightning-cli stop")
        assert code == 0, said

    def a_block_arrives(self) -> None:
        """The reader's node makes a change."""
        code, said = self.run(f"lightning-cli {BLOCK}")
        assert code == 0, said

    def the_log_says(self, text: str) -> None:
        """The reader looks into the node's log once this is there."""
        until = time.monotonic() + 30
        while text not in (self.node / "log").read_text():
            assert time.monotonic() < until, (self.node / "log").read_text()
            time.sleep(0.1)

    def has_caught_up(self, name: str) -> None:
        """The reader waits until this member, which trails, lacks nothing."""
        until = time.monotonic() + 30
        while True:
            _, said = self.run("backup-cli status")
            if any(line.startswith(f"  {name} ") and "nothing missing" in line for line in said):
                return
            assert time.monotonic() < until, said
            time.sleep(0.1)

    def a_store_is_at(self, endpoint: str) -> None:
        """The reader has a bucket there, and has put the key that the page shows into ~/.aws/credentials."""
        directory = self.home.parent / "store"
        directory.mkdir()
        self._store = Radosgw(directory, Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"))
        self._store.start()
        self._store.bucket("my-node")
        self._places.insert(0, (endpoint, self._store.endpoint))
        (self.home / ".aws").mkdir(mode=0o700)
        write_credentials(self.home / ".aws" / "credentials", self._store.keys)

    def is_away(self, path: str) -> None:
        """The disk or share at this path is unplugged or switched off."""
        place = self._path(path)
        place.rename(place.with_name(f".{place.name}.away"))

    def is_back(self, path: str) -> None:
        """What was away is there again."""
        place = self._path(path)
        place.with_name(f".{place.name}.away").rename(place)

    def two_hours_pass(self) -> None:
        """The node was stopped two hours ago: its database, and what it noted about it, are that old."""
        database, then = self.node / "lightningd.sqlite3", time.time_ns() - 2 * 3600 * 10**9
        os.utime(database, ns=(then, then))
        note = read_sync_point(self.node)
        assert note is not None
        write_sync_point(self.node, replace(note, fingerprint=fingerprint(database)))

    def set_config(self) -> None:
        """The reader adds the line to lightningd's config."""
        program = self.home / "lightningd-backup" / "bin" / "lightningd-backup"
        (self.home / ".lightning" / "config").write_text(f"network=bitcoin\nimportant-plugin={program}\n")

    def an_older_backup_lies_at(self, path: str) -> None:
        """What the older plugin has written for this node, and its backup.lock."""
        calls = (replace(call, writes=tuple(known_writes(list(call.writes)))) for call in read_recording())
        written(calls).save(self._path(path))
        (self.node / "backup.lock").write_text(json.dumps({"backend_url": f"file://{self._path(path)}"}))

    def a_copy_lies_at(self, url: str) -> None:
        """The backup that the node had, also somewhere else: for another kind of destination."""
        source = self._path(self._url)
        shutil.copytree(source, self._path(url), dirs_exist_ok=True)

    def _path(self, url: str) -> Path:
        """The directory that this URL or path means here."""
        return Path(self._replaced(url, dict(self._places)).removeprefix("file://"))

    @staticmethod
    def _replaced(text: str, places: dict[str, str]) -> str:
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text)

    def damage(self, place: str) -> None:
        """A few bytes of this file are overwritten."""
        with self._path(place).open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size // 3)
            file.write(b"\xa5" * 16)


def _copy(file: Path, directory: Path) -> None:
    """Copy a file, also over a read-only one such as hsm_secret, which root could overwrite, but not its owner."""
    (directory / file.name).unlink(missing_ok=True)
    shutil.copy(file, directory)


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def without_backup_cli(variable: str) -> list[str]:
    """The directories of a PATH without those of an environment with this project."""
    return [place for place in variable.split(":") if shutil.which("backup-cli", path=place) is None]
