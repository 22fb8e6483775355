"""A real S3 server on the loopback: Ceph's radosgw, with one monitor and one OSD that keeps its data in memory."""

import os
import secrets
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path

from tests.destinations.signed import Keys, Response, signed
from tests.destinations.tools import free_ports, need, run, start, wait_until

KEYS = Keys("AKIDRADOSGWTEST", "a-secret-for-radosgw")

# Without `crc` radosgw waits for a minute for a connection that the monitor cannot encrypt. With Paxos' own second
# between two proposals, the start would take 8 s longer.
_CEPH = """
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon}/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_mon_client_mode = crc
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
keyring = {directory}/keyring
mon_data = {directory}/mon
mon_cluster_log_file = {directory}/cluster.log
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
paxos_propose_interval = 0.02
paxos_min_wait = 0.02
osd_data = {directory}/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
rgw_rados_pool_pg_num_min = 1
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_thread_pool_size = 64
rgw_run_sync_thread = false
run_dir = {directory}
crash_dir = {directory}
admin_socket =
pid_file =
log_file = {directory}/$name.log
"""


class Radosgw:
    """An S3 server with one user, who has these keys."""

    def __init__(self, directory: Path, keys: Keys = KEYS) -> None:
        need("ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "radosgw", "radosgw-admin", root=False)
        self._directory, self.keys = directory, keys
        self._configuration = directory / "ceph.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._gateway: subprocess.Popen[bytes] | None = None
        self.port, self._monitor_port = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start a cluster that is empty, and its gateway; returns when it answers."""
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        where = {"directory": self._directory, "mon": self._monitor_port, "port": self.port}
        self._configuration.write_text(_CEPH.format(fsid=fsid, **where))
        for name in ("mon", "osd"):
            (self._directory / name).mkdir()
        keyring, monmap = self._directory / "keyring", self._directory / "monmap"
        run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{self._monitor_port}]", monmap)
        self._ceph("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")
        self._ceph("ceph", "--connect-timeout", "30", "osd", "new", osd, "0")
        self._ceph("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        self.start_gateway()
        names = ["--uid", "tester", "--display-name", "tester"]
        self._ceph(
            "radosgw-admin",
            "user",
            "create",
            *names,
            "--access-key",
            self.keys.key_id,
            "--secret-key",
            self.keys.secret,
        )

    def start_gateway(self) -> None:
        """Start the gateway of a cluster that runs; returns when it answers."""
        self._gateway = start("radosgw", "-c", self._configuration, "-n", "client.rgw", "-f")
        wait_until(self._answers, f"radosgw ({self._directory}/client.rgw.log)", seconds=60)

    def kill_gateway(self) -> None:
        """Kill the gateway; what it has answered is kept by the cluster."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()
            self._gateway = None

    def kill(self) -> None:
        """Kill everything; the data is gone."""
        self.kill_gateway()
        while self._daemons:
            daemon = self._daemons.pop()
            daemon.kill()
            daemon.wait()

    def bucket(self, name: str = "", *, locked: bool = False, versioned: bool = False) -> str:
        """Make a bucket, if wanted with object lock (which includes versions) or with versions; returns its name."""
        name = name or f"bucket-{secrets.token_hex(4)}"
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if locked else {}
        assert self.request("PUT", f"/{name}", headers=headers).status == 200
        if versioned:
            status = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
            assert self.request("PUT", f"/{name}", {"versioning": ""}, status.encode()).status == 200
        return name

    def request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Make a request of the S3 protocol that the library under test cannot make."""
        return signed(self.port, self.keys, method, path, query or {}, body, headers or {})

    def admin(self, *words: str) -> str:
        """Run radosgw-admin."""
        return run("radosgw-admin", "-c", self._configuration, *words)

    def url(self, bucket: str, path: str, options: str = "", endpoint: str = "") -> str:
        """The URL of a backup in this bucket."""
        return f"s3://{bucket}/{path}?endpoint={endpoint or self.endpoint}{options}"

    def _answers(self) -> bool:
        assert self._gateway is not None and self._gateway.poll() is None, "radosgw ended at once"
        with suppress(OSError):
            return signed(self.port, self.keys, "GET", "/", {}, b"", {}).status > 0
        return False

    def _daemon(self, program: str, *words: object) -> None:
        self._daemons.append(start(program, "-c", self._configuration, *words, "-f"))

    def _ceph(self, program: str, *words: object) -> None:
        run(program, "-c", self._configuration, *words)


def write_credentials(path: Path, keys: Keys) -> Path:
    """The file in which people keep their keys."""
    path.write_text(f"[default]\naws_access_key_id = {keys.key_id}\naws_secret_access_key = {keys.secret}\n")
    path.chmod(0o600)
    return path


class Environment:
    """Keys for the processes that this one starts, in the file in which people keep them; restored by `restore`."""

    _OF_SDK = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")

    def __init__(self, directory: Path) -> None:
        credentials = write_credentials(directory / "credentials", KEYS)
        names = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", *self._OF_SDK)
        self._before = {name: os.environ.get(name) for name in names}
        for name in self._OF_SDK:
            os.environ.pop(name, None)
        os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(credentials)
        os.environ["AWS_CONFIG_FILE"] = str(directory / "no-config")

    def restore(self) -> None:
        """Leave the environment as it was."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
