"""Two writers over the NFS client: the answer to each write shows the replaced one that it must stop."""

import errno
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.errors import Damaged
from backends.storage.base import FileFenced, Storage
from backends.storage.nfs.storage import NfsStorage
from backends.storage.nfs.version3 import Version3
from backends.storage.nfs.version41 import Version41
from tests.destinations.places import Places
from tests.destinations.proxy import Proxy
from tests.destinations.scripted_nfs import Server, writer
from tests.destinations.second_writer import SMALL_SEGMENTS, Open, created, disturb, opener
from tests.log.conftest import DATABASE, SMALL, readers_do_not_wait
from tests.log.histories import source
from tests.log.test_takeover_renames import overtaken_in_a_compaction, overtaken_in_a_segment

__all__ = ["readers_do_not_wait"]

ROOM, RECORD = 1 << 20, 200
ROUNDS = 25


@pytest.fixture(params=["nfs3", "nfs41"])
def url(request: pytest.FixtureRequest, places: Places) -> str:
    """The URL of a place on the server where there is no backup yet."""
    return places.url(request.param)


@pytest.fixture
def open_storage(url: str) -> Callable[[], Storage]:
    """Opens an empty directory on the server, over new connections each time."""
    place = opener(url)
    place().storage.make()
    return lambda: place().storage


def sealed(storage: Storage) -> None:
    """Seal the file, which a takeover does first."""
    assert storage.seal("segment")


def replaced(storage: Storage) -> None:
    """Another writer replaces or removes the file without sealing it."""
    storage.publish("segment", b"another file")


def removed(storage: Storage) -> None:
    """Another writer replaces or removes the file without sealing it."""
    storage.remove("segment")


class Stream:
    """A writer of one file at full speed, until it is refused or has written `last` records."""

    def __init__(self, storage: Storage) -> None:
        self._handle = storage.create("segment")
        self._handle.extend(0, ROOM)
        self.acknowledged: list[bytes] = []
        self.error: BaseException | None = None
        self.last = ROOM // RECORD
        self.thread = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        try:
            while (number := len(self.acknowledged)) < self.last:
                record = f"{number:9} ".encode() * (RECORD // 10)
                self._handle.write_durably(number * RECORD, record)
                self.acknowledged.append(record)
        except OSError as error:
            self.error = error


@pytest.mark.parametrize("take", [sealed, replaced, removed])
def test_writer_whose_file_was_taken_acknowledges_nothing_the_taker_does_not_see(
    open_storage: Callable[[], Storage], take: Callable[[Storage], None]
) -> None:
    """At random moments: everything ever acknowledged is in what the taker reads after it has sealed the file."""
    done, lost, refused, choice = 0, 0, 0, random.Random(11)
    for _ in range(ROUNDS):
        stream, taker = Stream(open_storage()), open_storage()
        with closing(taker.open("segment")) as before:
            stream.thread.start()
            time.sleep(choice.uniform(0, 0.05))
            take(taker)
            seen = before.read(0, ROOM)
            stream.last = len(stream.acknowledged) + 40
            stream.thread.join(30)
        done += len(stream.acknowledged)
        lost += sum(record not in seen for record in stream.acknowledged)
        refused += isinstance(stream.error, FileFenced)
    assert lost == 0, f"{lost} of {done} acknowledged changes are missing from what the taker has read"
    assert refused == ROUNDS
    assert done > ROUNDS


def test_two_nodes_over_nfs_lose_nothing_acknowledged(url: str, tmp_path: Path) -> None:
    """`python -m tests.destinations.second_writer` does the same for any number of rounds."""
    tally = disturb(created(opener(url, SMALL_SEGMENTS)), tmp_path, ROUNDS, 5)
    assert (len(tally.lost), tally.damaged, tally.never_stopped) == (0, "", 0), str(tally)
    assert len(tally.refused) < ROUNDS // 5, str(tally)  # files may disappear while it scans; then it has done no harm
    assert tally.acknowledged > 10 * ROUNDS


@pytest.fixture
def slowly_watched(url: str) -> Open:
    """The same place with small segments; the session marker is checked too rarely to help."""
    return opener(url, replace(SMALL, check_every=1e9))


def test_writer_held_up_before_naming_a_segment_replaces_none_over_nfs(slowly_watched: Open) -> None:
    for made in (False, True):
        slowly_watched().create(source(DATABASE, 1))
        acknowledged, found = overtaken_in_a_segment(slowly_watched, 60, made=made)
        assert found == acknowledged
        slowly_watched().remove()


def test_writer_held_up_before_naming_a_snapshot_replaces_none_over_nfs(slowly_watched: Open, tmp_path: Path) -> None:
    slowly_watched().create(source(DATABASE, 1))
    acknowledged, found = overtaken_in_a_compaction(slowly_watched, tmp_path)
    assert found[-len(acknowledged) :] == acknowledged


@pytest.mark.usefixtures("readers_do_not_wait")
def test_harness_sees_damage_from_rename_over_a_file_over_nfs(slowly_watched: Open, tmp_path: Path) -> None:
    slowly_watched().create(source(DATABASE, 1))
    with pytest.raises(Damaged):
        overtaken_in_a_segment(slowly_watched, 60, safely=False)
    slowly_watched().remove()
    slowly_watched().create(source(DATABASE, 1))
    with pytest.raises(Damaged):
        overtaken_in_a_compaction(slowly_watched, tmp_path, safely=False)


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EPERM])
def test_rename_new_replaces_nothing_on_nfs_server_without_hard_links(
    open_storage: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(refusal, "refused")

    for version in (Version3, Version41):
        monkeypatch.setattr(version, "link", refused)
    storage = open_storage()
    with closing(storage.create("one.tmp")) as one, closing(storage.create("another.tmp")) as another:
        one.write_durably(0, b"one")
        another.write_durably(0, b"another")
        storage.rename_new("one.tmp", "segment")
        with pytest.raises(FileExistsError):
            storage.rename_new("another.tmp", "segment")
        one.write_durably(3, b" goes on")
        another.write_durably(7, b" goes on")
    assert storage.names() == ["another.tmp", "segment"]
    assert storage.read_small("segment") == b"one goes on"


def test_rename_new_over_nfs_leaves_one_unsealed_file_and_no_hidden_one(open_storage: Callable[[], Storage]) -> None:
    storage = open_storage()
    assert isinstance(storage, NfsStorage)
    with closing(storage.create("segment.tmp")) as handle:
        storage.rename_new("segment.tmp", "segment")
        handle.write_durably(0, b"record")
    names = storage._in_directory(lambda protocol, directory: protocol.entries(directory))
    assert [(name, each.sealed, each.links) for name, each in names if name not in (".", "..")] == [
        ("segment", False, 1)
    ]


def test_fence_over_nfs_costs_no_further_call(places: Places) -> None:
    for kind in ("nfs3", "nfs41"):
        with closing(Proxy(places.ganesha.port)) as proxy:
            url = places.url(kind).replace(f"nfsport={places.ganesha.port}", f"nfsport={proxy.port}")
            storage = opener(url)().storage
            storage.make()
            with closing(storage.create("segment")) as handle:
                handle.write_durably(0, b"connects")
                before = proxy.calls
                for number in range(10):
                    handle.write_durably(number, b"r")
                assert proxy.calls == before + 10


def test_sealed_file_over_nfs_can_be_read_and_replaced(open_storage: Callable[[], Storage]) -> None:
    storage = open_storage()
    storage.publish("segment", b"content")
    assert storage.seal("segment")
    assert storage.seal("segment")
    assert storage.read_small("segment") == b"content"
    storage.publish("segment", b"other")
    with closing(storage.create("segment")) as handle:
        handle.write_durably(0, b"again")
    assert storage.read_small("segment") == b"again"


def test_missing_file_over_nfs_cannot_be_sealed(open_storage: Callable[[], Storage]) -> None:
    with pytest.raises(FileNotFoundError):
        open_storage().seal("segment")


def test_lock_over_nfs_client_is_none(open_storage: Callable[[], Storage]) -> None:
    assert open_storage().lock("a test") is None


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(("mode", "links"), [(0o400, 1), (0o600, 0), (0o477, 2)])
def test_nfs_write_without_attributes_in_answer_asks_for_them(tells: bool, mode: int, links: int) -> None:
    server = Server(tells=tells)
    handle = writer(server)
    handle.write_durably(0, b"record")
    assert server.asked == (0 if tells else 1)
    server.mode, server.links = mode, links
    with pytest.raises(FileFenced):
        handle.write_durably(6, b"another")


@pytest.mark.parametrize(("error", "mode", "fenced"), [(13, 0o400, True), (13, 0o600, False), (28, 0o400, False)])
def test_permission_error_on_sealed_file_is_a_fence_and_any_other_is_raised(
    error: int, mode: int, fenced: bool
) -> None:
    """Most servers let the file's owner write. A write refused for another reason raises that reason."""
    server = Server()
    handle = writer(server)
    server.refuses, server.mode = error, mode
    with pytest.raises(OSError) as caught:
        handle.write_durably(0, b"record")
    assert isinstance(caught.value, FileFenced) is fenced
    assert fenced or caught.value.errno == error


def test_nfs_server_without_modes_reports_that_nothing_was_sealed(
    open_storage: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores modes or refuses to set them. The caller must know that nobody is kept out: `seal` returns False."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    storage = open_storage()
    storage.publish("segment", b"content")
    for does in (lambda *_: None, refused):
        for version in (Version3, Version41):
            monkeypatch.setattr(version, "set_mode", does)
        assert not storage.seal("segment")
