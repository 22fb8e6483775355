"""The user-space NFS client: what a commit costs, and what becomes of calls whose connection is cut."""

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
def there(request: pytest.FixtureRequest, places: Places, proxy: Proxy, tmp_path: Path) -> Callable[[], Storage]:
    """Opens the storage, through the proxy."""
    name = tmp_path.name
    (places.ganesha.exported / name).mkdir()
    url = places.ganesha.url(request.param, f"{name}/lightning.bkp").replace(
        f"nfsport={places.ganesha.port}", f"nfsport={proxy.port}"
    )

    return lambda: place_at(url + "&timeout=10").storage


@pytest.fixture
def storage(there: Callable[[], Storage]) -> Storage:
    storage = there()
    storage.make()
    return storage


def cut_once(proxy: Proxy, how: str, after: int = 0) -> None:
    """Let the connection be cut at the next call but `after`."""
    left = after

    def before(_: bytes) -> str:
        nonlocal left
        left -= 1
        return how if left == -1 else ""

    proxy.before = before


def test_a_commit_is_one_round_trip(storage: Storage, proxy: Proxy) -> None:
    with closing(storage.create("segment")) as handle:
        handle.extend(0, 1 << 20)
        handle.write_durably(0, RECORD)  # the first one connects
        proxy.calls = 0
        for number in range(1, 21):
            handle.write_durably(number * len(RECORD), RECORD)
        assert proxy.calls == 20


@pytest.mark.parametrize("how", ["drop", "answerless"])
def test_a_commit_is_settled_when_its_connection_is_cut(
    storage: Storage, there: Callable[[], Storage], proxy: Proxy, how: str
) -> None:
    with closing(storage.create("segment")) as handle:
        handle.extend(0, 1 << 16)
        handle.write_durably(0, RECORD)
        cut_once(proxy, how)
        handle.write_durably(len(RECORD), RECORD)
        handle.write_durably(2 * len(RECORD), RECORD)
    with closing(there().open("segment")) as reader:
        assert reader.read(0, 1 << 17) == (RECORD * 3).ljust(1 << 16, b"\0")


def test_a_commit_in_doubt_never_covers_something_else(
    storage: Storage, there: Callable[[], Storage], proxy: Proxy, places: Places, tmp_path: Path
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


def test_a_commit_of_which_the_servers_disk_got_some_sectors_is_settled(
    storage: Storage, there: Callable[[], Storage], proxy: Proxy, places: Places, tmp_path: Path
) -> None:
    """The server lost its power in the middle: up to a sector of its disk all is there, behind it nothing."""
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
    with closing(there().open("segment")) as reader:
        assert reader.read(0, 1 << 17) == (RECORD * 2).ljust(1 << 16, b"\0")


@pytest.mark.parametrize("how", ["drop", "answerless"])
@pytest.mark.parametrize("after", range(16))
def test_every_call_of_a_publish_can_be_cut(
    storage: Storage, there: Callable[[], Storage], proxy: Proxy, how: str, after: int
) -> None:
    storage.publish("manifest", b"old")
    cut_once(proxy, how, after)
    storage.publish("manifest", b"new")
    proxy.before = lambda _: ""
    assert there().names() == ["manifest"]
    assert there().read_small("manifest") == b"new"


@pytest.mark.parametrize("how", ["drop", "answerless"])
@pytest.mark.parametrize("after", range(8))
def test_every_call_of_making_and_unmaking_can_be_cut(
    there: Callable[[], Storage], proxy: Proxy, how: str, after: int
) -> None:
    storage = there()
    assert not storage.exists()
    cut_once(proxy, how, after)
    storage.make()
    storage.create("a").close()
    storage.unmake()
    proxy.before = lambda _: ""
    assert not there().exists()


@pytest.mark.parametrize("how", ["drop", "answerless"])
@pytest.mark.parametrize("after", range(4))
def test_every_call_of_a_rename_to_a_new_name_can_be_cut(
    storage: Storage, there: Callable[[], Storage], proxy: Proxy, how: str, after: int
) -> None:
    """A link that was made, and whose answer was lost, is not taken for another writer's."""
    with closing(storage.create("segment.tmp")) as handle:
        handle.write_durably(0, RECORD)
        cut_once(proxy, how, after)
        storage.rename_new("segment.tmp", "segment")
        proxy.before = lambda _: ""
        handle.write_durably(len(RECORD), RECORD)
    assert there().names() == ["segment"]
    assert there().read_small("segment") == RECORD * 2
    storage.publish("another.tmp", b"another")
    cut_once(proxy, how, after)
    with pytest.raises(FileExistsError):
        storage.rename_new("another.tmp", "segment")
    proxy.before = lambda _: ""
    assert there().names() == ["another.tmp", "segment"]


def test_zeros_that_may_still_arrive_are_never_written_behind(storage: Storage, proxy: Proxy) -> None:
    """Over NFSv3 a late call cannot be kept away; over 4.1 it can."""
    with closing(storage.create("segment")) as handle:
        assert isinstance(handle, files.Writer)
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


def test_removed_files_are_kept_for_readers_and_forgotten_later(
    storage: Storage, there: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.publish("segment", b"old")
    with closing(there().open("segment")) as another_process:
        storage.remove("segment")
        assert storage.names() == []
        assert another_process.read(0, 10) == b"old"
        monkeypatch.setattr(gone, "GRACE", -1.0)
        storage.create("segment").close()
        with pytest.raises(OSError):
            another_process.read(0, 10)


def test_a_server_that_is_not_there_is_said_at_once(places: Places) -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="cannot be reached"):
        backup_at(f"nfs://127.0.0.1/backup/lightning.bkp?version=4.1&nfsport={port}").id()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("host", "said"), [("[::1]", r"nfs://\[::1\]/backup"), ("127.0.0.1", "nfs://127.0.0.1/backup")]
)
def test_a_server_is_called_as_in_its_url(host: str, said: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match=said):
        backup_at(f"nfs://{host}/backup/lightning.bkp?version=4.1&nfsport={port}").id()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_permits_nothing_is_said_with_what_it_must_be_told(
    places: Places, version: str, tmp_path: Path
) -> None:
    """`insecure` is what most people miss: lightningd does not run as root, and has no port below 1024."""
    (places.ganesha.exported / tmp_path.name).mkdir(mode=0o755)
    with pytest.raises(BackupError, match=r"cannot be made: .*ports above 1023 \(`insecure`\), and user 4711 must"):
        backup_at(places.ganesha.url(version, f"{tmp_path.name}/lightning.bkp") + "&uid=4711&gid=4711").check_new()


def test_a_name_that_no_server_takes_is_said(places: Places) -> None:
    url = f"nfs://127.0.0.1/backup/../lightning.bkp?version=4.1&nfsport={places.ganesha.port}"
    with pytest.raises(BackupError, match="Invalid argument"):
        backup_at(url).check_new()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_path_that_is_not_exported_is_said(places: Places, version: str) -> None:
    url = f"nfs://127.0.0.1/nowhere/lightning.bkp?version={version}&nfsport={places.ganesha.port}"
    with pytest.raises(BackupError, match=r"does not exist|does not permit it; /nowhere must be exported"):
        backup_at(f"{url}&mountport={places.ganesha.mount_port}").check_new()


@pytest.mark.parametrize(
    "query",
    ["colour=red", "version=2", "version=4.0", "nfsport=x", "timeout=1", "timeout=soon", "uid=-1", "nfsport=99999"],
)
def test_options_that_make_no_sense(query: str) -> None:
    with pytest.raises(BadURL):
        backup_at(f"nfs://nas.local/export/lightning.bkp?{query}")


@pytest.mark.parametrize(
    "host", ["nas:port", "[::1", ":2049", "nas:99999", "fe80::1", "nas..local", "n" * 64, "%ff", "n%00s", "my%20nas"]
)
def test_hosts_that_make_no_sense(host: str) -> None:
    with pytest.raises(BadURL):
        backup_at(f"nfs://{host}/export/lightning.bkp")
