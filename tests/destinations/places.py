"""Every kind of share and stick, started when the first test wants it, as URLs of fresh backups."""

import secrets
from contextlib import ExitStack
from pathlib import Path

from tests.destinations.postgres import PostgresCluster
from tests.destinations.radosgw import Environment, Radosgw
from tests.destinations.servers import Ganesha, Sshfs
from tests.destinations.sftp_servers import OpenSsh, Proftpd, SftpServer
from tests.destinations.sticks import STICKS, Stick

SHARES = ("nfs3", "nfs41", "sshfs")
BUCKETS = ("s3",)
SFTP = {"openssh": OpenSsh, "proftpd": Proftpd}
KINDS = (*SHARES, *SFTP, *STICKS, *BUCKETS, "postgres")


class Places:
    """The servers and sticks of this test session; all of them end with the stack."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self._ganesha: Ganesha | None = None
        self._sshfs: Sshfs | None = None
        self._radosgw: Radosgw | None = None
        self.bucket = ""
        """The bucket of the S3 server in which every URL is."""
        self._sftp: dict[str, SftpServer] = {}
        self._sticks: dict[str, Stick] = {}
        self._postgres: PostgresCluster | None = None

    @property
    def ganesha(self) -> Ganesha:
        """The NFS server, running."""
        if self._ganesha is None:
            server = Ganesha(self._sub("ganesha"))
            self._stack.callback(server.kill)
            server.start()
            self._ganesha = server
        return self._ganesha

    @property
    def sshfs(self) -> Sshfs:
        """The sshfs share, mounted."""
        if self._sshfs is None:
            share = Sshfs(self._sub("sshfs"))
            self._stack.callback(share.stop)
            share.start()
            self._sshfs = share
        return self._sshfs

    @property
    def radosgw(self) -> Radosgw:
        """The S3 server, running. From now on its keys are in the environment."""
        if self._radosgw is None:
            server = Radosgw(self._sub("radosgw"))
            self._stack.callback(server.kill)
            server.start()
            self._stack.callback(Environment(self._sub("radosgw")).restore)
            self._radosgw, self.bucket = server, server.bucket()
        return self._radosgw

    def sftp(self, kind: str) -> SftpServer:
        """The SFTP server of this kind, running."""
        if kind not in self._sftp:
            server = SFTP[kind](self._sub(kind))
            self._stack.callback(server.kill)
            server.start()
            self._sftp[kind] = server
        return self._sftp[kind]

    @property
    def postgres(self) -> PostgresCluster:
        """The PostgreSQL cluster, running."""
        if self._postgres is None:
            cluster = PostgresCluster()
            self._stack.callback(cluster.discard)
            self._postgres = cluster.start()
        return self._postgres

    def stick(self, kind: str) -> Stick:
        """The stick of this kind, plugged in."""
        if kind not in self._sticks or not self._sticks[kind].alive:
            stick = STICKS[kind](self._sub(f"stick-{kind}"))
            self._stack.callback(stick.discard)
            self._sticks[kind] = stick.plug()
        self._sticks[kind].used()
        return self._sticks[kind]

    def url(self, kind: str) -> str:
        """The URL of a backup that is not made yet, in a fresh directory."""
        name = f"node-{secrets.token_hex(4)}"
        path = f"{name}/lightning.bkp"
        if kind == "postgres":
            return self.postgres.url(name)
        if kind in ("nfs3", "nfs41"):
            (self.ganesha.exported / name).mkdir()
            return self.ganesha.url("3" if kind == "nfs3" else "4.1", path)
        if kind in SFTP:
            (self.sftp(kind).served / name).mkdir()
            return self.sftp(kind).url(path)
        if kind == "sshfs":
            (self.sshfs.point / name).mkdir()
            return f"nfs://{self.sshfs.point / path}"
        if kind in BUCKETS:
            return self.radosgw.url(self.bucket, path)
        stick = self.stick(kind)
        (stick.point / name).mkdir()
        return stick.url(path)

    def _sub(self, name: str) -> Path:
        made = self._directory / name
        made.mkdir(exist_ok=True)  # there already when it failed to start for an earlier test
        return made
