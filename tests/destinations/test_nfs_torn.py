"""A record larger than the server takes in one write, and a node that dies between two of its writes."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from backends.change import Change
from backends.errors import WriteFailed
from backends.log.format.records import RECORD_HEADER_SIZE, RECORD_MAGIC, RecordHeader, RecordKind, encode_record
from backends.log.format.torn import End, classify
from backends.log.writer.options import DEFAULT_OPTIONS
from backends.log.writer.writer import Writer
from backends.storage.nfs import files
from backends.storage.nfs.storage import NfsStorage
from tests.destinations.proxy import Proxy
from tests.destinations.scripted_nfs import Server, writer
from tests.destinations.second_writer import created, opener
from tests.destinations.servers import Ganesha
from tests.fake_lightningd.calls import History
from tests.log.histories import change, noise, silent
from tests.log.model import contents

LARGE = 3 << 20
LIMITS = (64 << 10, 100_000)
CUTS = (0, 1, 2, 17)
"""Which of the record's writes is the first that does not arrive; there are more writes than these."""


@pytest.fixture(scope="module", params=LIMITS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ganesha]:
    server = Ganesha(tmp_path_factory.mktemp("limited"), request.param)
    server.start()
    yield server
    server.kill()


class Line:
    """A node's connection, which breaks for good at a chosen one of its large calls."""

    def __init__(self, server: Ganesha) -> None:
        self.proxy = Proxy(server.port)
        self.proxy.before = self._before
        self.large = 0
        self.ends_at: int | None = None
        self.ended = threading.Event()

    def _before(self, message: bytes) -> str:
        if len(message) > 4000 or (self.large and self.ends_at):  # the record's last part may be small
            if self.large == self.ends_at:
                self.ended.set()
            self.large += 1
        return "drop" if self.ended.is_set() else ""

    def of(self, url: str, server: Ganesha) -> str:
        """The server's URL, changed to go over this connection."""
        return url.replace(f"nfsport={server.port}", f"nfsport={self.proxy.port}")


@pytest.fixture
def dead_nodes() -> Iterator[list[tuple[Line, threading.Thread]]]:
    """Nodes that died: their threads retry until they time out, on ports that nobody else may get until then."""
    dead_nodes = list[tuple[Line, threading.Thread]]()
    yield dead_nodes
    for line, thread in dead_nodes:
        thread.join(30)
        line.proxy.close()


def die_during_append(node: Writer, line: Line, last: Change) -> threading.Thread:
    """Append a change during which the connection breaks for good; it is never acknowledged."""

    def append() -> None:
        with pytest.raises(WriteFailed):
            node.append(last)

    storage = cast(NfsStorage, node.storage)
    storage._commits._commit_timeout = storage._rest._commit_timeout = 2.0
    thread = threading.Thread(target=append, daemon=True)
    thread.start()
    assert line.ended.wait(30), "the record went over in fewer writes"
    return thread


@pytest.mark.parametrize("version", ["3", "4.1"])
@pytest.mark.parametrize("room", [64 << 10, 5 << 20], ids=["past preallocated space", "into zeros"])
def test_node_killed_between_two_writes_of_a_record_starts_again(
    server: Ganesha,
    version: str,
    room: int,
    dead_nodes: list[tuple[Line, threading.Thread]],
    tmp_path: Path,
) -> None:
    options = replace(DEFAULT_OPTIONS, preallocate_min=room, preallocate_max=room)
    (server.exported / tmp_path.name).mkdir(exist_ok=True)
    url = server.url(version, f"{tmp_path.name}/lightning.bkp")
    created(opener(url, options))
    history, torn, text = History(1), list[str](), noise(LARGE)
    for cut in CUTS:
        line = Line(server)
        node = opener(line.of(url, server), options)().open(silent, "node")
        history.version = node.position.data_version
        small, large = change(history.note("x" * cut)), change(history.note(text))
        node.append(small)
        line.large, line.ends_at = 0, cut
        dead_nodes.append((line, die_during_append(node, line, large)))
        backup = opener(url, options)()
        again = backup.open(lambda level, line: torn.append(line), "node")
        assert again.position.data_version == small.data_version
        assert contents(backup).changes[-1] == (small.data_version, tuple(small.statements))
        again.close()
    assert len(torn) == len(CUTS) - 1, torn  # the first cut leaves no trace


@pytest.mark.parametrize("version", ["3", "4.1"])
@pytest.mark.parametrize("short", [1, 7, 8, 100, 500, 513])
def test_record_missing_any_of_its_nfs_writes_is_torn(
    server: Ganesha, version: str, short: int, dead_nodes: list[tuple[Line, threading.Thread]], tmp_path: Path
) -> None:
    """The record's length leaves `short` bytes for the last write if all others are as large as the server allows."""
    (server.exported / tmp_path.name).mkdir(exist_ok=True)
    url = server.url(version, f"{tmp_path.name}/lightning.bkp")
    opener(url)().storage.make()
    limit, offset = cast(int, server.largest_write), 64 + 100
    payload = (noise(5000) * 70).encode()[: 3 * limit + short - RECORD_HEADER_SIZE]
    header = RecordHeader(RECORD_MAGIC, RecordKind.CHANGE, 0, len(payload), len(payload), 2, 1, 1, 1, 1, 0)
    record, _ = encode_record(header, payload)
    assert len(record) == 3 * limit + short
    for cut in range(5):
        line = Line(server)
        with closing(opener(line.of(url, server))().storage.create("segment")) as handle:
            assert isinstance(handle, files.NfsWriteHandle)
            handle.extend(0, 1 << 20)
            handle._commits._commit_timeout = 0.5
            line.large, line.ends_at = 0, cut
            with suppress(TimeoutError):
                handle.write_durably(offset, record)
        line.proxy.close()
        with closing(opener(url)().storage.open("segment")) as reader:
            there = reader.read(offset, len(record))
            if there == record:
                return
            tail = classify(reader, offset)
        assert tail.end is (End.TORN if any(there) else End.CLEAN), (cut, tail)
    raise AssertionError("it was never written whole")


@pytest.mark.parametrize("most", [512, 1000, 4096, 65_536, 100_000])
@pytest.mark.parametrize("offset", [0, 64, 511, 512, 70_001])
def test_large_nfs_write_is_split_at_sector_boundaries(most: int, offset: int) -> None:
    server = Server()
    server.largest_write = most
    ends = list[int]()
    real = server.write

    def write(handle: bytes, offset: int, data: bytes, durably: bool) -> object:
        assert len(data) <= most
        ends.append(offset + len(data))
        return real(handle, offset, data, durably)

    server.write = write  # type: ignore[assignment,method-assign]
    writer(server).write_durably(offset, bytes(range(1, 200)) * 1500)
    assert ends[-1] == offset + 199 * 1500
    assert all(end % (4096 if most >= 8192 else 512) == 0 for end in ends[:-1])
    assert len(ends) <= 199 * 1500 // max(1, most - 4096 if most >= 8192 else most - 512) + 2


@pytest.mark.parametrize("version", ["3", "4.1"])
def test_connection_for_commits_knows_largest_write_of_the_server(
    server: Ganesha, version: str, tmp_path: Path
) -> None:
    """Not only the connection that looked up the directory: the server refuses a larger write, or cuts it anywhere."""
    line = Line(server)
    with closing(line.proxy):
        (server.exported / tmp_path.name).mkdir(exist_ok=True)
        storage = opener(line.of(server.url(version, f"{tmp_path.name}/lightning.bkp"), server))().storage
        storage.make()
        with closing(storage.create("segment")) as handle:
            lengths = list[int]()
            line.proxy.before = lambda message: lengths.append(len(message)) or ""  # type: ignore[func-returns-value]
            handle.write_durably(100, b"r" * 300_000)
        limit = cast(int, server.largest_write)
        assert limit - 8192 < max(lengths) < limit + 1024
        with closing(storage.open("segment")) as reader:
            assert reader.read(100, 300_000) == b"r" * 300_000
