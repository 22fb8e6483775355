"""The commands in README and docs that need a machine: run as root in a private copy of this one, and compared.

Each page has one test, which runs its blocks in sequence (reader.py) and checks what they have done. No block is
left out. `make test` cannot run every test inside one of them, so it is given one to run; `--now` is left out.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from tests.destinations.servers import Sshfs
from tests.destinations.tools import free_ports, need, wait_until
from tests.docs.machine_root import ROOT, Machine
from tests.docs.markdown import Command, read_page
from tests.docs.normal import same
from tests.docs.reader import reading
from tests.docs.sandbox import Sandbox
from tests.docs.test_commands import PAGES, name

INSTALLED = ["…", "Successfully installed lightningd-backup-…", "…"]
RELOADED = "Running in chroot, ignoring command 'daemon-reload'"
ENABLED = "Created symlink … → …"


def test_each_page_with_machine_blocks_has_a_test() -> None:
    read = re.findall(r'(?:reading\(|\[?\()"([\w/.-]+\.md)"', Path(__file__).read_text())
    assert sorted(read) == sorted(name(path) for path in PAGES if read_page(path).blocks)


def test_commands_of_readme_work_on_a_machine(tmp_path: Path) -> None:
    need("make", "python3")
    with reading("README.md", tmp_path) as reader:
        made = reader.run(PYTEST_ADDOPTS="tests/docs/test_choosing.py -k test_choosing_page_covers_every_way")
        drilled = [".venv/bin/backup-cli drill", "…", "identical", "Verdict: …"]
        linted = [".venv/bin/ruff check .", "…", ".venv/bin/ruff format --check .", "…", ".venv/bin/mypy", "…"]
        tested = [".venv/bin/pytest -n auto --dist worksteal", "…", "1 passed in …"]
        assert same([*drilled, *linted, *tested], made), "\n".join(made)
        assert re.search("^make test$", (ROOT / ".ci" / "run").read_text(), re.M), "this is what CI runs"

        said = reader.run(network=True, then="command -v backup-cli")
        assert same([*INSTALLED, "/home/me/lightningd-backup/bin/backup-cli"], said), "\n".join(said)
        installed_works(reader.machine)


def test_commands_of_contributing_work_on_a_machine(tmp_path: Path) -> None:
    need("make")
    with reading("CONTRIBUTING.md", tmp_path) as reader:
        reader.run()


def test_commands_of_the_recovery_page_work_on_a_machine(tmp_path: Path) -> None:
    need("python3", "mkfs.ext4", "blkid")
    share = Sshfs(tmp_path)
    make_backup(tmp_path / "elsewhere", share.served)
    try:
        share.start()
        with reading("docs/recovery.md", tmp_path, share.point) as reader:
            said = reader.run(network=True, then="command -v backup-cli")
            assert same([*INSTALLED, "/home/me/lightningd-backup/bin/backup-cli"], said), "\n".join(said)
            installed_works(reader.machine)
            reader.machine.programs.append("/home/me/lightningd-backup/bin")

            # Other tests may have disks of the same label. So only udev's links name any here.
            reader.machine.must("mount -t tmpfs tmpfs /sys/class/block")
            reader.machine.disk("sdb1", megabytes=1024)
            reader.machine.must("mkfs.ext4 -q -L LNBACKUP /dev/sdb1; ln -s ../../sdb1 /dev/disk/by-label/LNBACKUP")
            reader.machine.must("mount /dev/sdb1 /mnt/backup; cp -a /srv/nas/export/* /mnt/backup; umount /mnt/backup")
            assert reader.run() == []
            reader.looks_as_shown("file:///mnt/backup")
            reader.machine.must("umount /mnt/backup")

            assert reader.run() == []
            reader.looks_as_shown("nfs:///mnt/nas")
            reader.machine.must("umount /mnt/nas")

            assert reader.run() == ["Mounted /dev/sdb1 at /media/me/LNBACKUP"]
            reader.looks_as_shown("usb://LNBACKUP/lightning.bkp")
    finally:
        share.stop()


def test_commands_of_the_migrating_page_work_on_a_machine(tmp_path: Path) -> None:
    need("systemctl")
    with reading("docs/migrating.md", tmp_path) as reader:
        unit = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target"
        reader.machine.must(f"echo '{unit}' > /etc/systemd/system/litestream.service; systemctl enable litestream")
        said = reader.run()
        assert same(["Removed …/etc/systemd/system/multi-user.target.wants/litestream.service…"], said), said
        assert reader.machine.run("systemctl is-enabled litestream")[1] == ["disabled"]


def test_commands_of_the_monitoring_page_work_on_a_machine(tmp_path: Path) -> None:
    need("systemctl", "systemd-analyze", "journalctl", "logger", "curl")
    with reading("docs/monitoring.md", tmp_path) as reader, post_box() as (address, posted):
        # What the plugin logs is what the sandbox's node has logged on this page.
        (logged,) = (step for step in reader.page.steps if isinstance(step, Command) and step.text.startswith("grep"))
        keep_journal(reader.machine, ["INFO    lightningd: Server started", *logged.expected])
        reader.run()

        assert reader.run() == []
        notify = "~/.lightning/bitcoin/backup.notify"
        assert reader.machine.must(f"stat -c %a {notify}") == ["700"]
        reader.machine.must(f"sed -i 's|^topic=.*|topic={address}|' {notify}")
        assert reader.run(network=True) == ["thank you"]
        assert posted == [("Lightning backup: unusual", "high", "only a test")]

        said = reader.run()
        assert same([RELOADED, ENABLED, ENABLED], said), said
        files = "/etc/lightningd-backup/bitcoin /usr/local/lib/lightningd-backup/*"
        assert reader.machine.must(f"stat -c %a {files}") == ["644", "755", "755"]
        must_be_right(reader.machine, "backup-metrics@bitcoin", "backup-verify@bitcoin")
        said = reader.machine.must("systemd-analyze verify backup-metrics-publish@bitcoin.service")
        assert not [line for line in said if "backup-" in line], said


def test_commands_of_the_follow_page_work_on_a_machine(tmp_path: Path) -> None:
    need("systemctl", "systemd-analyze")
    with reading("docs/follow.md", tmp_path) as reader:
        said = reader.run()
        assert same([RELOADED, ENABLED], said), said
        machine = reader.machine
        machine.must(f"mkdir -p /opt/lightningd-backup; ln -sfn {ROOT}/.venv/bin /opt/lightningd-backup/bin")
        assert machine.must("systemctl is-enabled backup-follow@bitcoin.service") == ["enabled"]
        said = machine.must("systemd-analyze verify backup-follow@bitcoin.service")
        assert not [line for line in said if "backup-" in line], said


def test_commands_of_the_development_page_work_on_a_machine(tmp_path: Path) -> None:
    need("mkfs.ext4", "mkfs.exfat", "mount.exfat-fuse", "ganesha.nfsd", "rpcbind")
    with reading("docs/development.md", tmp_path) as reader:
        reader.run()
        if sys.version_info < (3, 11) or platform.machine() != "x86_64":
            reader.left.clear()  # nfs-rs has no wheel for this; the page says so
            return
        reader.run(network=True)
        reader.run(TMPDIR="/var/tmp")


@pytest.mark.parametrize(("page", "package"), [("docs/s3.md", "obstore"), ("docs/postgres.md", "psycopg")])
def test_commands_of_a_page_on_an_extra_package_work_on_a_machine(tmp_path: Path, page: str, package: str) -> None:
    need("python3")
    with reading(page, tmp_path) as reader:
        reader.machine.must("python3 -m venv ~/lightningd-backup")
        reader.run(network=True, then=f"~/lightningd-backup/bin/python -c 'import {package}'")


def test_commands_of_the_btrfs_raid1_readme_work_on_a_machine(tmp_path: Path) -> None:
    need("mkfs.btrfs", "btrfs", "useradd", "systemctl", "systemd-analyze", "systemd-escape")
    there = ROOT / "contrib" / "btrfs-raid1"
    with reading("contrib/btrfs-raid1/README.md", tmp_path) as reader:
        machine = reader.machine
        for disk in ("sdb1", "sdc1", "sdd1"):
            machine.disk(disk)
        machine.must("id -u lightning || useradd --no-create-home lightning")
        reader.run(cwd=there)
        said = reader.run(cwd=there)
        assert same([RELOADED, ENABLED], said), said
        must_be_right(machine, "backup-disk@mnt-backup")

        make_backup(tmp_path / "elsewhere", tmp_path / "nothing")
        machine.must("mkdir -p /home/lightning/.lightning; cp -a /srv/nas/export/bitcoin /home/lightning/.lightning")
        machine.must("chown -R lightning: /home/lightning")
        for place in (ROOT, Path(sys.executable).resolve(), Path(sys.base_prefix)):
            machine.must(f"chmod a+x {place} {' '.join(map(str, place.parents))}")
        reader.run(user="lightning")

        machine.must("umount /mnt/backup")
        machine.pull("sdc1")
        code, _ = machine.run("mount /dev/sdb1 /mnt/backup")
        assert code != 0, "with one disk the mount is refused"
        reader.run(cwd=there)
        machine.must("head -c 8M /dev/urandom > /mnt/backup/written-meanwhile")
        reader.run(cwd=there, ends_with=1)


def test_commands_of_the_postgres_cluster_readme_work_on_a_machine(tmp_path: Path) -> None:
    """Both servers run on this one machine, where the second one has a name and a port of its own."""
    need("pg_createcluster", "openssl")
    there = ROOT / "contrib" / "postgres-cluster"
    first, second = map(str, free_ports(2))
    one: dict[str, Any] = {"CLUSTER": "backup", "PORT": first, "PRIMARY_PORT": second}
    two: dict[str, Any] = {"CLUSTER": "second", "PORT": second, "PRIMARY_PORT": first}
    with reading("contrib/postgres-cluster/README.md", tmp_path) as reader:
        machine = reader.machine
        machine.must("sed -i '1i 127.0.0.1 db1.local db2.local' /etc/hosts; rm -rf /etc/postgresql/*/{backup,second}")
        reader.run(cwd=there)
        said = reader.run(cwd=there, network=True, **one)
        (line,) = [each for each in said if each.startswith("*:*:*:")]
        machine.must(f"echo '{line}' > {there}/replication.pgpass")
        reader.run(cwd=there, network=True, **two)
        status, followed = f"{there}/setup.sh status", "the primary; 1 synchronous standby"
        wait_until(lambda: machine.run(status, network=True, **one)[1] == [followed], "a synchronous standby")
        reader.run(cwd=there, network=True, **one)

        machine.must("pg_ctlcluster $(ls /etc/postgresql | tail -n 1) backup stop -m immediate")
        reader.run(cwd=there, network=True, **two)
        reader.run(cwd=there, network=True, **one)
        wait_until(lambda: machine.run(status, network=True, **two)[1] == [followed], "a synchronous standby")


def test_commands_of_the_completion_readme_work_on_a_machine(tmp_path: Path) -> None:
    there = ROOT / "contrib" / "completion"
    with reading("contrib/completion/README.md", tmp_path) as reader:
        assert reader.run(cwd=there) == []
        for file, installed in (
            ("backup-cli.bash", ".local/share/bash-completion/completions/backup-cli"),
            ("_backup-cli", ".zfunc/_backup-cli"),
            ("backup-cli.fish", ".config/fish/completions/backup-cli.fish"),
        ):
            assert reader.machine.must(f"cmp {there}/{file} ~/{installed}; stat -c %a ~/{installed}") == ["644"]


# The tools of these tests


def test_block_that_no_test_runs_is_reported(tmp_path: Path) -> None:
    page = "docs/development.md"
    with pytest.raises(AssertionError, match=r"nobody runs this.*flash"), reading(page, tmp_path):
        pass


def test_private_copy_leaves_the_real_machine_unchanged(tmp_path: Path) -> None:
    places = [Path(top) / tmp_path.name / "written" for top in ("/etc", "/dev", "/run", "/mnt", "/usr", ROOT)]
    with closing(Machine(tmp_path)) as machine:
        for place in places:
            machine.must(f"mkdir {place.parent}; touch {place}")
        machine.must(f"mount -t tmpfs {tmp_path} /mnt/backup; sleep 1000 > /dev/null 2>&1 &")
        assert {"overlay", "tmpfs", str(tmp_path)} <= mounted_by(tmp_path, machine.process)
        assert not mounted_by(tmp_path, os.getpid())
        inside = psutil.Process(machine.process).children()
    assert not [place for place in places if place.parent.exists()]
    assert not mounted_by(tmp_path, os.getpid())
    assert inside and not any(process.is_running() for process in inside)


def mounted_by(directory: Path, process: int) -> set[str]:
    """The sources of the mounts that a process sees and that a test has made: each names the test's directory, as its
    mount point, as its source or, for an overlay, as the place of what is written. Other tests mount overlays, too."""
    lines = Path(f"/proc/{process}/mounts").read_text().splitlines()
    return {line.split()[0] for line in lines if str(directory) in line}


# What the readers also do


def installed_works(machine: Machine) -> None:
    """Both programs of ~/lightningd-backup run from what is installed there."""
    there = "/home/me/lightningd-backup/bin"
    ask = f"from backup_cli.checks.probe import *; print(ask_for_manifest(Path('{there}/lightningd-backup')))"
    said = machine.must(f'cd ~; {there}/backup-cli --version; {there}/python -c "{ask}"')
    assert same(["backup-cli, version …", "Manifest(hooks=['db_write'], …)"], said), said


def make_backup(directory: Path, target: Path) -> None:
    """A backup of a node that has run for a while, as TARGET/lightning.bkp, and the node's own directory beside it."""
    directory.mkdir()
    with closing(Sandbox(directory)) as sandbox:
        sandbox.happen("a backed up node runs: file:///mnt/backup/lightning.bkp")
        shutil.copytree(sandbox.disks / "mnt" / "backup", target, dirs_exist_ok=True)
        shutil.copytree(sandbox.node, target / "bitcoin")
        (target / "bitcoin" / "backup.lock").unlink()


def keep_journal(machine: Machine, lines: list[str]) -> None:
    """A journal that holds these lines of lightningd. It asks nothing of the kernel, which is the real machine's."""
    machine.must(r"""
        mkdir -p /etc/systemd/journald.conf.d
        printf '[Journal]\nAudit=\nReadKMsg=no\nStorage=volatile\n' > /etc/systemd/journald.conf.d/test.conf
        /lib/systemd/systemd-journald < /dev/null > /dev/null 2>&1 &
        until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
    """)
    for line in lines:
        # Without systemd nobody knows which unit a process belongs to; root may say of which unit it speaks.
        fields = f"MESSAGE={line}\\nSYSLOG_IDENTIFIER=lightningd\\nOBJECT_SYSTEMD_UNIT=lightningd.service\\n"
        machine.must(f"printf '{fields}' | logger --journald; journalctl --sync")


def must_be_right(machine: Machine, *units: str) -> None:
    """The timers are enabled, and systemd understands them, their services and where their programs are."""
    machine.must(f"mkdir -p /opt/lightningd-backup; ln -sfn {ROOT}/.venv/bin /opt/lightningd-backup/bin")
    for unit in units:
        assert machine.must(f"systemctl is-enabled {unit}.timer") == ["enabled"]
        said = machine.must(f"systemd-analyze verify {unit}.timer {unit}.service")
        assert not [line for line in said if "backup-" in line], said


@contextmanager
def post_box() -> Iterator[tuple[str, list[tuple[str | None, str | None, str]]]]:
    """A topic of ntfy: its address, and title, priority and text of what was sent there."""
    posted: list[tuple[str | None, str | None, str]] = []

    class Topic(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            posted.append((self.headers["Title"], self.headers["Priority"], text))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"thank you\n")

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Topic) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/change-this", posted
        server.shutdown()
        thread.join()
