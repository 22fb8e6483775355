"""A private copy of this machine, in which a page's commands are root's: they mount, enable units, install packages.

Its files are this machine's, but what is written to them stays in memory and is forgotten, in /etc and /dev as well.
What is mounted or started there ends with it, also when the test run is killed. What a page finds:

- `~`: /home/me, empty but for a node's directory. The checkout; its `.venv` is what the tests run in.
- `/mnt/backup` and `/mnt/nas`: empty. Disks (`disk`) are loop devices under the names that the page gives them.
- `sudo`, `systemctl --now`, `udisksctl` and `mount -t nfs` are those of stand_ins; each says why. All else is real.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.destinations.tools import need, run, wait_until
from tests.docs.sandbox import without_backup_cli

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_PREPARE = f"""
mkdir -p ~/.lightning/bitcoin
printf 'network=bitcoin\\n' > ~/.lightning/config
if [ ! .venv -ef {sys.prefix} ]; then rm -rf .venv; ln -s {sys.prefix} .venv; fi
touch .venv/.ready .venv/.ready-to-test    # make has nothing to install: the tests run, so everything is there
"""

_WITH_LOOPBACK = 'ip link set lo up && ip address add 192.0.2.1/32 dev lo && exec "$@"'
"""With loopback addresses alone getaddrinfo(AI_ADDRCONFIG) knows none; NFS-Ganesha asks so."""


class Machine:
    """The copy, from now to `close`. `share` is the directory that the server `nas` exports as /export."""

    def __init__(self, directory: Path, share: Path | None = None) -> None:
        need("unshare", "nsenter", "setpriv", "losetup", "ip")
        self._loops: dict[str, str] = {}
        self._top = directory / "machine"
        for made in (self._top, directory / "machine.files", directory / "nothing"):
            made.mkdir()
        self.programs: list[str] = []
        """Directories that a reader has put on the PATH."""
        places = [str(self._top), str(share or directory / "nothing"), *_mounted()]
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        self._holder = subprocess.Popen(
            [*unshare, "bash", str(HERE / "private_root.sh"), *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout is not None
        if (said := self._holder.stdout.readline()) != "ready\n":
            said += self._holder.communicate()[0]
            (pytest.fail if "CI" in os.environ else pytest.skip)(f"no private copy of this machine: {said}")
        self.process = psutil.Process(self._holder.pid).children()[0].pid
        """The first one of the copy, by its number here."""
        self.must(_PREPARE)
        # In memory; and losetup keeps but 64 letters of an image's path, by which btrfs tells disks apart.
        self._images = Path(tempfile.mkdtemp(dir="/dev/shm"))

    def run(
        self, script: str, *, cwd: Path = ROOT, user: str = "", network: bool = False, **variables: str
    ) -> tuple[int, list[str]]:
        """Exit code and output of a piece of shell that ends with its first failure.

        Without `network` there is a loopback of its own: servers that are started meet nobody else's.
        """
        words = ["nsenter", f"--target={self.process}", "--mount", "--pid"]
        if not network:
            words += ["unshare", "--net", "sh", "-c", _WITH_LOOPBACK, "sh"]
        words += ["chroot", str(self._top / "root")]
        if user:
            words += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        done = subprocess.run(
            [*words, "env", "-C", str(cwd), "bash", "-euc", script],
            env=self._environment(user) | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout.rstrip("\n").split("\n") if done.stdout else []

    def must(self, script: str) -> list[str]:
        """The output of this piece of shell; AssertionError if it fails."""
        code, said = self.run(script)
        assert code == 0, f"{script}\n" + "\n".join(said)
        return said

    def disk(self, name: str, megabytes: int = 256) -> None:
        """Plug in a new and empty disk as /dev/NAME."""
        image = self._images / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        loop = self._loops[name] = run("losetup", "-f", "--show", image)
        number = Path(loop).stat().st_rdev
        self.must(f"rm -f /dev/{name}; mknod /dev/{name} b {os.major(number)} {os.minor(number)}")

    def pull(self, name: str) -> None:
        """Pull out that disk; nothing on it may be mounted. The kernel must forget it, or it will look for it."""
        self.must(f"btrfs device scan --forget /dev/{name}; rm /dev/{name}")
        _detach(self._loops.pop(name))

    def close(self) -> None:
        """Remove everything; it is gone when this returns."""
        self._holder.communicate()
        while self._loops:
            _detach(self._loops.popitem()[1])
        shutil.rmtree(self._images)

    def _environment(self, user: str) -> dict[str, str]:
        """What a reader's shell has, and how this machine reaches the package index."""
        stand_ins = str(HERE / "stand_ins")
        passed = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")
        return {name: value for name, value in os.environ.items() if name.upper().startswith(passed)} | {
            "HOME": f"/home/{user or 'me'}",
            "USER": user or "me",
            "LANG": "C.UTF-8",
            "PATH": ":".join([stand_ins, *self.programs, *without_backup_cli(os.environ["PATH"]), "/usr/sbin:/sbin"]),
        }


def _mounted() -> list[str]:
    """Mount points other than / above the files that are needed, the outer ones first."""
    needed = [Path(path) for path in ("/etc/resolv.conf", "/etc/hosts", "/usr/bin", "/var/lib", "/opt")]
    needed += [ROOT, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve()]
    above = {place for path in needed for place in (path, *path.parents)} - {Path("/")}
    return sorted(str(place) for place in above if os.path.ismount(place))


def _detach(loop: str) -> None:
    subprocess.run(["losetup", "-d", loop], capture_output=True, check=False)
    wait_until(lambda: subprocess.run(["losetup", loop], capture_output=True).returncode != 0, f"an end of {loop}")
