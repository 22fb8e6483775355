"""Another user of the machine against the units: a metrics file that is a link, a textfile directory that is not
root's.

The units' own command lines run, with the rights that the units give, as the users that they name. Three users play:
the node's, node_exporter's, and root, to whom the secret and the target belong.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contrib.test_units import CONTRIB, read
from tests.other_user import OTHER, looping

NODE, EXPORTER = 65534, OTHER
"""Two users that are not root; they need no names."""

SECRET = 'lightningd_backup_secret{of="root"} 1\n'
"""Text that only root may read. It looks like a metric, so no filter stops it."""

FIGURES = "# HELP lightningd_backup_readable …\n# TYPE lightningd_backup_readable gauge\nlightningd_backup_readable 1\n"

TRIES = 400 if "LIGHTNINGD_BACKUP_CAMPAIGN" in os.environ else 20

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs as two other users")


class Machine:
    """The directories that the units know, and the programs that they start."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.runtime, self.exporters = top / "run" / "backup-metrics-bitcoin", top / "prometheus"
        self.textfiles = self.exporters / "node-exporter"
        self.secret, self.target = top / "root" / "secret.prom", top / "root" / "target"
        for directory in (self.runtime, self.textfiles, self.target):
            directory.mkdir(parents=True)
        self.secret.write_text(SECRET)
        self.secret.chmod(0o600)
        self.status = top / "backup-cli"
        self.status.write_text(f"#!/bin/sh\ncat <<'END'\n{FIGURES}END\n")
        self.status.chmod(0o755)

    def belong(self, exporters: int, textfiles: int) -> None:
        """Give the directories to these users; systemd makes the runtime directory for the user of the unit."""
        if os.geteuid() == 0:
            os.chown(self.exporters, exporters, exporters)
            os.chown(self.textfiles, textfiles, textfiles)
            os.chown(self.runtime, NODE, NODE)
            self.runtime.chmod(0o700)

    @property
    def figures(self) -> Path:
        """The metrics file that the node's half writes and the publishing half reads."""
        name = re.search(r"\$RUNTIME_DIRECTORY/(\w+)\" \|\|", self._lines("backup-metrics@.service")[0])
        assert name is not None
        return self.runtime / name[1]

    @property
    def published(self) -> Path:
        return self.textfiles / "lightningd-backup-bitcoin.prom"

    def measure(self) -> None:
        """Run the node's half: it writes the metrics file."""
        assert self._run("backup-metrics@.service", self._lines("backup-metrics@.service")[0]) == 0

    def publish(self) -> int:
        """Run the publishing half; returns its exit code."""
        lines = [("backup-metrics@.service", line) for line in self._lines("backup-metrics@.service")[1:]]
        if (CONTRIB / "systemd" / "backup-metrics-publish@.service").exists():
            name = "backup-metrics-publish@.service"
            lines += [(name, line) for line in self._lines(name)]
        (code,) = [self._run(unit, line) for unit, line in lines]
        return code

    @staticmethod
    def _lines(unit: str) -> list[str]:
        return read(CONTRIB / "systemd" / unit)["Service"]["ExecStart"]

    def _run(self, unit: str, line: str) -> int:
        """Run a command line as systemd would: with the specifiers, variables, user and rights of the unit."""
        variables = {
            "BACKUP_URL": "file:///b",
            "TEXTFILES": str(self.textfiles),
            "RUNTIME_DIRECTORY": str(self.runtime),
        }
        text = line.replace("/opt/lightningd-backup/bin/backup-cli", str(self.status))
        text = text.replace("/usr/local/lib/lightningd-backup/publish", str(self.top / "publish"))
        text = (
            text.replace("%i", "bitcoin").replace("%t", str(self.runtime.parent)).replace("${TEXTFILES}", "$TEXTFILES")
        )
        words = [variables.get(word.removeprefix("$"), word) for word in shlex.split(text.removeprefix("+"))]
        if (publish := CONTRIB / "systemd" / "publish").exists():
            shutil.copy(publish, self.top)
        done = subprocess.run(
            [*self._rights(read(CONTRIB / "systemd" / unit)["Service"], whole=line.startswith("+")), *words],
            cwd="/",
            env={"PATH": os.environ["PATH"]} | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )
        return done.returncode

    @staticmethod
    def _rights(service: dict[str, list[str]], *, whole: bool) -> list[str]:
        if os.geteuid() != 0 or whole:
            return []
        kept = " ".join(service["CapabilityBoundingSet"]).split()
        bounds = ",".join(["-all", *(f"+{name.lower().removeprefix('cap_')}" for name in kept)])
        user = [f"--reuid={NODE}", f"--regid={NODE}", "--clear-groups"] if "User" in service else []
        return ["setpriv", "--no-new-privs", "--bounding-set", bounds, *user]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """In a directory that other users can reach, unlike pytest's own."""
    top = Path(tempfile.mkdtemp(prefix="attack-", dir="/var/tmp"))
    top.chmod(0o755)
    try:
        made = Machine(top)
        made.belong(exporters=EXPORTER, textfiles=0)  # as Debian's package has it
        yield made
    finally:
        shutil.rmtree(top)


def test_metrics_get_from_the_node_to_node_exporter(machine: Machine) -> None:
    for exporters, textfiles in ((EXPORTER, 0), (EXPORTER, EXPORTER), (0, 0)):
        machine.belong(exporters, textfiles)
        machine.measure()
        assert machine.publish() == 0
        assert machine.published.read_text() == FIGURES
        status = machine.published.stat()
        assert status.st_mode & 0o777 == 0o644
        assert status.st_uid == (textfiles if os.geteuid() == 0 else os.geteuid())
        machine.published.unlink()


# The node's user, whose metrics file is something else


def _link(machine: Machine) -> None:
    machine.figures.symlink_to(machine.secret)


def _hard_link(machine: Machine) -> None:
    """A hard link, possible if fs.protected_hardlinks is off."""
    machine.figures.hardlink_to(machine.secret)


def _link_to_a_directory(machine: Machine) -> None:
    machine.runtime.rmdir()
    machine.runtime.symlink_to(machine.secret.parent)
    os.lchown(machine.runtime, NODE, NODE)
    machine.secret.rename(machine.secret.with_name(machine.figures.name))


def _pipe(machine: Machine) -> None:
    os.mkfifo(machine.figures, 0o666)


def _device(machine: Machine) -> None:
    machine.figures.symlink_to("/dev/zero")


def _directory(machine: Machine) -> None:
    machine.figures.mkdir()


def _other_text(machine: Machine) -> None:
    """Metrics of other programs, and lines that cron or a shell would obey."""
    machine.figures.write_text("node_load1 0\n* * * * * root id\n#!/bin/sh\n\x1b[2J\n# HELP node_load1 nothing\n")


@pytest.mark.parametrize("trick", [_link, _pipe, _device, _directory, _other_text])
def test_metrics_file_that_is_a_link_pipe_or_other_text_publishes_nothing(
    machine: Machine, trick: Callable[[Machine], None]
) -> None:
    """Runs for an ordinary user, too, who may read the secret: a link is not followed, a pipe not waited for."""
    trick(machine)
    assert machine.publish() != 0
    assert list(machine.textfiles.iterdir()) == []


@as_root
@pytest.mark.parametrize("trick", [_hard_link, _link_to_a_directory])
def test_secret_of_roots_in_place_of_the_metrics_file_is_not_published(
    machine: Machine, trick: Callable[[Machine], None]
) -> None:
    trick(machine)
    machine.publish()
    assert SECRET not in "".join(path.read_text() for path in machine.textfiles.iterdir())


@as_root
def test_link_swapped_with_the_metrics_file_is_never_published(machine: Machine) -> None:
    """The swap may fall between a check and the reading: only checking the open file, or the other user's rights,
    helps."""
    machine.measure()
    swap = f"ln -s {machine.secret} l; mv -fT l $f; printf 'lightningd_backup_x 1\\n' > n; mv n $f"
    with looping(NODE, f"cd {machine.runtime}; f={machine.figures.name}; {swap}"):
        for _ in range(TRIES):
            machine.publish()
            assert not machine.published.exists() or SECRET not in machine.published.read_text()


# The owner of node_exporter's directory, or of the one around it


@as_root
@pytest.mark.parametrize("suffix", ["new", "prom"])
@pytest.mark.parametrize("there", [True, False])
def test_link_in_the_textfile_directory_redirects_no_write(machine: Machine, suffix: str, there: bool) -> None:
    target = machine.target / "chosen"
    if there:
        target.write_text("root's own\n")
    machine.belong(exporters=EXPORTER, textfiles=EXPORTER)
    machine.measure()
    (machine.textfiles / f"lightningd-backup-bitcoin.{suffix}").symlink_to(target)
    assert machine.publish() == 0
    assert (target.read_text() if there else target.exists()) == ("root's own\n" if there else False)
    assert machine.published.stat().st_uid == EXPORTER and not machine.published.is_symlink()


@as_root
def test_textfile_directory_that_became_a_link_redirects_no_write(machine: Machine) -> None:
    machine.measure()
    machine.textfiles.rmdir()
    machine.textfiles.symlink_to(machine.target)
    assert machine.publish() != 0
    assert list(machine.target.iterdir()) == []


@as_root
def test_links_swapped_in_foreign_directories_redirect_no_write(machine: Machine) -> None:
    machine.belong(exporters=EXPORTER, textfiles=EXPORTER)
    machine.measure()
    swap = (
        f"mv -T node-exporter aside; ln -s {machine.target} node-exporter; "
        f"ln -sf {machine.target}/chosen aside/lightningd-backup-bitcoin.new; "
        "rm -f node-exporter; mv -T aside node-exporter"
    )
    with looping(EXPORTER, f"cd {machine.exporters}; {swap}"):
        for _ in range(TRIES):
            machine.publish()
            assert list(machine.target.iterdir()) == []
