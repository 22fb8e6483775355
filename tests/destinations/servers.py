"""A real NFS server (NFS-Ganesha, in user space) and a real sshfs mount, on the loopback."""

import fcntl
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.destinations.tools import free_ports, freeze, need, need_fuse, run, start, unmount, wait_until

_GANESHA = """
NFS_CORE_PARAM {{
    Protocols = 3, 4; Bind_Addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false;
    NFS_Port = {nfs}; MNT_Port = {mount}; NLM_Port = {nlm}; Rquota_Port = {rquota};
}}
NFSV4 {{ Grace_Period = 1; Lease_Lifetime = 10; RecoveryBackend = fs; Graceless = true; }}
EXPORT {{
    Export_Id = 1; Path = {path}; Pseudo = /backup; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
    Protocols = 3, 4; Transports = TCP; {limits} FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""


class Ganesha:
    """An NFS server for one directory: NFSv3 under its own path, NFSv4.1 as /backup. `largest_write` is in bytes."""

    def __init__(self, directory: Path, largest_write: int | None = None) -> None:
        need("ganesha.nfsd", "rpcbind")
        self.exported = directory / "export"
        self.exported.mkdir(exist_ok=True)
        self._directory, self.largest_write = directory, largest_write
        self.port, self.mount_port, nlm, rquota = free_ports(4)
        self._configuration = directory / "ganesha.conf"
        limits = f"MaxWrite = {largest_write}; PrefWrite = {largest_write};" if largest_write else ""
        ports = {"nfs": self.port, "mount": self.mount_port, "nlm": nlm, "rquota": rquota}
        self._configuration.write_text(_GANESHA.format(path=self.exported, limits=limits, **ports))
        if not any(process.name() == "rpcbind" for process in psutil.process_iter()):
            subprocess.run(["rpcbind", "-w"], check=False)  # another test process may have started it by now
        Path("/var/run/ganesha").mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def url(self, version: str, path: str) -> str:
        """The URL of a path below the exported directory."""
        top = "/backup" if version == "4.1" else str(self.exported)
        return f"nfs://127.0.0.1{top}/{path}?version={version}&nfsport={self.port}&mountport={self.mount_port}"

    def start(self) -> None:
        """Start it, and return when it is ready. One at a time: all servers register with the one portmapper."""
        with Path("/var/run/ganesha/starting").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._start()

    def _start(self) -> None:
        self._starts += 1
        log = self._directory / f"ganesha-{self._starts}.log"
        files = ["-f", self._configuration, "-L", log, "-p", self._directory / "ganesha.pid"]
        self._process = start("ganesha.nfsd", "-F", *files)
        process = self._process

        def ready() -> bool:
            assert process.poll() is None, f"the NFS server ended at once: {log.read_text() if log.exists() else ''}"
            return log.exists() and "NFS SERVER INITIALIZED" in log.read_text()

        wait_until(ready, f"NFS server ({log})", seconds=40)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Freeze it: it answers nothing, while its machine still accepts what is sent."""
        assert self._process is not None
        freeze(self._process)

    def go_on(self) -> None:
        """The end of `hang`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        pytest.skip("sshd lets nobody in whose user has no name")


class Sshfs:
    """A directory served by sshd and mounted with sshfs: a network share, as far as the kernel knows. Needs no root."""

    def __init__(self, directory: Path) -> None:
        need("sshd", "sshfs", "ssh-keygen", root=False)
        need_fuse()
        self._user = _own_name()
        self.point, self.served = directory / "share", directory / "served"
        for made in (self.point, self.served):
            made.mkdir()
        self._directory, (self._port,) = directory, free_ports(1)
        for key in ("user", "host"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        (directory / "sshd.conf").write_text(
            f"Port {self._port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {directory}/user.pub\nPermitRootLogin yes\nUsePAM no\nSubsystem sftp internal-sftp\n"
        )
        self._server: subprocess.Popen[bytes] | None = None
        self._mount: subprocess.Popen[bytes] | None = None

    @property
    def source(self) -> str:
        """The source that the mount table shows."""
        return f"{self._user}@127.0.0.1:{self.served}"

    def start(self, *options: str) -> None:
        """Mount it with these additional options of sshfs; returns when it is mounted."""
        sshd = "/usr/sbin/sshd"  # it must be called by its full path
        if self._server is None:
            self._server = start(sshd, "-D", "-f", self._directory / "sshd.conf")
        own = f"port={self._port},IdentityFile={self._directory}/user,StrictHostKeyChecking=no"
        mount_options = ",".join([own, "UserKnownHostsFile=/dev/null", *options])

        def mounted() -> bool:
            if self._mount is None or self._mount.poll() is not None:  # sshd may not listen yet
                time.sleep(0.1)
                self._mount = start("sshfs", "-f", "-o", mount_options, self.source, self.point)
            return os.path.ismount(self.point)

        wait_until(mounted, "sshfs mount")

    def hang(self) -> None:
        """Freeze the mount: whoever uses the share waits, and cannot be interrupted."""
        assert self._mount is not None
        freeze(self._mount)

    def go_on(self) -> None:
        """The end of `hang`."""
        assert self._mount is not None
        self._mount.send_signal(signal.SIGCONT)

    def drop_connection(self) -> None:
        """Break the connection; the server keeps running, and accepts a new one."""
        assert self._server is not None
        for session in psutil.Process(self._server.pid).children(recursive=True):
            session.kill()

    def unmount(self) -> None:
        """Unmount it: the mount point is an empty directory again."""
        unmount(self.point)
        if self._mount is not None:
            self._mount.kill()
            self._mount.wait()
            self._mount = None

    def stop(self) -> None:
        """Unmount it and stop the server."""
        self.unmount()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
