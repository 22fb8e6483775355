"""The user-space NFS client: what a commit costs, and what happens to calls whose connection is cut."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at, place_at
from backends.errors import BackupError, Unreachable
from backends.storage.base import Storage
from backends.storage.nfs import files, gone
from backends.urls import BadURL
from tests.destinations.places import Places
from tests.destinations.proxy import Proxy
from tests.destinations.tools import free_ports

VERSIONS = ("3", "4.1")
RECORD = b"a record of the log" * 40


@pytest.fixture
def proxy(places: Places) -> Iterator[Proxy]:
    proxy = Proxy(places.ganesha.port)
    yield proxy
    proxy.close()


@pytest.fixture(params=VERSIONS)
def open_storage(request: pytest.FixtureRequest, places: Places, proxy: Proxy, tmp_path: Path) -> Callable[[], Storage]:
    """Opens the storage over new connections, through the proxy."""
    name = tmp_path.name
    (places.ganesha.exported / name).mkdir()
    url = places.ganesha.url(request.param, f"{name}/lightning.bkp").replace(
        f"nfsport={places.ganesha.port}", f"nfsport={proxy.port}"
    )

    return lambda: place_at(url + "&timeout=10").storage


@pytest.fixture
def storage(open_storage: Callable[[], Storage]) -> Storage:
    storage = open_storage()
    storage.make()
    return storage


def cut_once(proxy: Proxy, how: str, after: int = 0) -> None:
    """Cut the connection once, after `after` more calls."""
    left = after

    def before(_: bytes) -> str:
        nonlocal left
        left -= 1
        return how if left == -1 else ""

    proxy.before = before


def test_commit_over_nfs_is_one_round_trip(storage: Storage, proxy: Proxy) -> None:
    with closing(storage.create("segment")) as handle:
        handle.extend(0, 1 << 20)
        handle.write_durably(0, RECORD)  # the first one connects
        proxy.calls = 0
        for number in range(1, 21):
            handle.write_durably(number * len(RECORD), RECORD)
        assert proxy.calls == 20


@pytest.mark.parametrize("how", ["drop", "answerless"])
def test_commit_over_nfs_survives_a_cut_connection(
    storage: Storage, open_storage: Callable[[], Storage], proxy: Proxy, how: str
) -> None:
    with closing(storage.create("segment")) as handle:
        handle.extend(0, 1 << 16)
        handle.write_durably(0, RECORD)
        cut_once(proxy, how)
        handle.write_durably(len(RECORD), RECORD)
        handle.write_durably(2 * len(RECORD), RECORD)
    with closing(open_storage().open("segment")) as reader:
        assert reader.read(0, 1 << 17) == (RECORD * 3).ljust(1 << 16, b"\0")


def test_retried_nfs_commit_never_overwrites_another_writers_bytes(
    storage: Storage, open_storage: Callable[[], Storage], proxy: Proxy, places: Places, tmp_path: Path
) -> None:
    with closing(storage.create("segment")) as handle:
        handle.extend(0, 1 << 16)
        handle.write_durably(0, RECORD)
        path = places.ganesha.exported / tmp_path.name / "lightning.bkp" / "segment"

        def another_writes(_: bytes) -> str:
            proxy.before = lambda _: ""
            with path.open("r+b") as file:
                file.seek(len(RECORD))
                file.write(b"another writer's")
            return "drop"

        proxy.before = another_writes
        with pytest.raises(OSError, match="differs at byte") as caught:
            handle.write_durably(len(RECORD), RECORD)
        assert caught.value.errno == errno.EIO
    assert path.read_bytes()[len(RECORD) :].startswith(b"another writer's")


def test_retried_nfs_commit_completes_a_half_written_record(
    storage: Storage, open_storage: Callable[[], Storage], proxy: Proxy, places: Places, tmp_path: Path
) -> None:
    """The server lost its power during the write: everything up to a sector boundary is there, and nothing after it."""
    with closing(storage.create("segment")) as handle:
        handle.extend(0, 1 << 16)
        handle.write_durably(0, RECORD)
        path, got = places.ganesha.exported / tmp_path.name / "lightning.bkp" / "segment", 512 - len(RECORD) % 512

        def half_written(_: bytes) -> str:
            proxy.before = lambda _: ""
            with path.open("r+b") as file:
                file.seek(len(RECORD))
                file.write(RECORD[:got])
            return "drop"

        proxy.before = half_written
        handle.write_durably(len(RECORD), RECORD)
    with closing(open_storage().open("segment")) as reader:
        assert reader.read(0, 1 << 17) == (RECORD * 2).ljust(1 << 16, b"\0")


@pytest.mark.parametrize("how", ["drop", "answerless"])
@pytest.mark.parametrize("after", range(16))
def test_publish_over_nfs_survives_a_cut_at_every_call(
    storage: Storage, open_storage: Callable[[], Storage], proxy: Proxy, how: str, after: int
) -> None:
    storage.publish("manifest", b"old")
    cut_once(proxy, how, after)
    storage.publish("manifest", b"new")
    proxy.before = lambda _: ""
    assert open_storage().names() == ["manifest"]
    assert open_storage().read_small("manifest") == b"new"


@pytest.mark.parametrize("how", ["drop", "answerless"])
@pytest.mark.parametrize("after", range(8))
def test_make_and_unmake_over_nfs_survive_a_cut_at_every_call(
    open_storage: Callable[[], Storage], proxy: Proxy, how: str, after: int
) -> None:
    storage = open_storage()
    assert not storage.exists()
    cut_once(proxy, how, after)
    storage.make()
    storage.create("a").close()
    storage.unmake()
    proxy.before = lambda _: ""
    assert not open_storage().exists()


@pytest.mark.parametrize("how", ["drop", "answerless"])
@pytest.mark.parametrize("after", range(4))
def test_rename_new_over_nfs_survives_a_cut_at_every_call(
    storage: Storage, open_storage: Callable[[], Storage], proxy: Proxy, how: str, after: int
) -> None:
    """A link that was made, and whose answer was lost, must not be mistaken for another writer's."""
    with closing(storage.create("segment.tmp")) as handle:
        handle.write_durably(0, RECORD)
        cut_once(proxy, how, after)
        storage.rename_new("segment.tmp", "segment")
        proxy.before = lambda _: ""
        handle.write_durably(len(RECORD), RECORD)
    assert open_storage().names() == ["segment"]
    assert open_storage().read_small("segment") == RECORD * 2
    storage.publish("another.tmp", b"another")
    cut_once(proxy, how, after)
    with pytest.raises(FileExistsError):
        storage.rename_new("another.tmp", "segment")
    proxy.before = lambda _: ""
    assert open_storage().names() == ["another.tmp", "segment"]


def test_nothing_is_written_to_space_where_late_zeros_may_still_arrive(storage: Storage, proxy: Proxy) -> None:
    """Over NFSv3 a late call cannot be kept out; over NFSv4.1 it can."""
    with closing(storage.create("segment")) as handle:
        assert isinstance(handle, files.NfsWriteHandle)
        handle.extend(0, 1 << 16)
        handle.write_durably(0, RECORD)
        cut_once(proxy, "drop")
        if "4.1" in str(storage._server.version):  # type: ignore[attr-defined]
            handle.extend(1 << 16, 1 << 16)
            handle.write_durably(1 << 16, RECORD)
            return
        with pytest.raises(OSError, match="while the file was preallocated"):
            handle.extend(1 << 16, 1 << 16)
        handle.write_durably(len(RECORD), RECORD)
        with pytest.raises(OSError, match="while the file was preallocated"):
            handle.write_durably(1 << 16, RECORD)


def test_files_removed_over_nfs_are_kept_for_readers_for_a_while(
    storage: Storage, open_storage: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish("segment", b"old")
    with closing(open_storage().open("segment")) as another_process:
        storage.remove("segment")
        assert storage.names() == []
        assert another_process.read(0, 10) == b"old"
        monkeypatch.setattr(gone, "GRACE", -1.0)
        storage.create("segment").close()
        with pytest.raises(OSError):
            another_process.read(0, 10)


def test_nfs_server_that_is_not_there_is_reported_at_once(places: Places) -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="cannot be reached"):
        backup_at(f"nfs://127.0.0.1/backup/lightning.bkp?version=4.1&nfsport={port}").id()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("host", "said"), [("[::1]", r"nfs://\[::1\]/backup"), ("127.0.0.1", "nfs://127.0.0.1/backup")]
)
def test_unreachable_nfs_server_is_named_as_in_its_url(host: str, said: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match=said):
        backup_at(f"nfs://{host}/backup/lightning.bkp?version=4.1&nfsport={port}").id()


@pytest.mark.parametrize("version", VERSIONS)
def test_nfs_server_that_permits_nothing_is_reported_with_the_export_option_it_needs(
    places: Places, version: str, tmp_path: Path
) -> None:
    """`insecure` is what most people miss: lightningd does not run as root, and has no port below 1024."""
    (places.ganesha.exported / tmp_path.name).mkdir(mode=0o755)
    with pytest.raises(BackupError, match=r"cannot be made: .*ports above 1023 \(`insecure`\), and user 4711 must"):
        backup_at(places.ganesha.url(version, f"{tmp_path.name}/lightning.bkp") + "&uid=4711&gid=4711").check_new()


def test_nfs_path_with_invalid_name_is_refused(places: Places) -> None:
    url = f"nfs://127.0.0.1/backup/../lightning.bkp?version=4.1&nfsport={places.ganesha.port}"
    with pytest.raises(BackupError, match="Invalid argument"):
        backup_at(url).check_new()


@pytest.mark.parametrize("version", VERSIONS)
def test_nfs_path_that_is_not_exported_is_refused(places: Places, version: str) -> None:
    url = f"nfs://127.0.0.1/nowhere/lightning.bkp?version={version}&nfsport={places.ganesha.port}"
    with pytest.raises(BackupError, match=r"does not exist|does not permit it; /nowhere must be exported"):
        backup_at(f"{url}&mountport={places.ganesha.mount_port}").check_new()


@pytest.mark.parametrize(
    "query",
    ["colour=red", "version=2", "version=4.0", "nfsport=x", "timeout=1", "timeout=soon", "uid=-1", "nfsport=99999"],
)
def test_nfs_url_with_invalid_option_is_refused(query: str) -> None:
    with pytest.raises(BadURL):
        backup_at(f"nfs://nas.local/export/lightning.bkp?{query}")


@pytest.mark.parametrize(
    "host", ["nas:port", "[::1", ":2049", "nas:99999", "fe80::1", "nas..local", "n" * 64, "%ff", "n%00s", "my%20nas"]
)
def test_nfs_url_with_invalid_host_is_refused(host: str) -> None:
    with pytest.raises(BadURL):
        backup_at(f"nfs://{host}/export/lightning.bkp")
