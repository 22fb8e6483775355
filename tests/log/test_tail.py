"""A reader at the end of a growing log: it gets every change once, in order, and none that does not count."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backends.errors import Damaged
from backends.log.format.codec import LEVEL_CHANGES, Compressor
from backends.log.format.encryption import Sealer, known_key, stored_size
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_MAGIC,
    Flag,
    RecordHeader,
    RecordKind,
    encode_fields,
    header_fields,
    segment_name,
)
from backends.log.reader.tail import Mark, Moved, NotThere, Tail, attach
from backends.log.writer.options import LogOptions
from backends.log.writer.writer import Writer
from backends.storage.base import ReadHandle, Storage
from backends.storage.local import LocalStorage
from tests.log.histories import CAMPAIGN, Node, backup_in, noise
from tests.log.model import Statements
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

SMALL = LogOptions(segment_size=4 << 10, preallocate_min=1 << 10, preallocate_max=2 << 10)


@dataclass
class Follower:
    """What `backup-cli follow` does, without a database: it keeps what it has read, and goes on after the last."""

    storage: Storage
    mark: Mark
    got: list[Statements] = field(default_factory=list)
    rebuilt: int = 0
    _tail: Tail | None = None

    def look(self) -> None:
        """Read all that is there, wherever the log goes on."""
        while True:
            try:
                self._tail = self._tail or attach(self.storage, self.mark)
                new, mark = [], self.mark
                for header, statements in self._tail.changes():
                    new.append((header.data_version, tuple(statements)))
                    mark = Mark(header.checksum, header.data_version)
                self._tail.check_unmoved()
                self.got += new
                self.mark = mark
                return
            except Moved:
                self.leave()
            except NotThere:
                self._rebuild()

    def leave(self) -> None:
        """Forget everything but the mark, as a process that is killed."""
        if self._tail is not None:
            self._tail.close()
        self._tail = None

    def _rebuild(self) -> None:
        self.rebuilt += 1
        with backup_in(self.storage).read() as reader:
            base = reader.manifest.base
        self.mark, self.got = Mark(base.checksum, base.data_version), []


def follower_of(node: Node, storage: Storage | None = None) -> Follower:
    """A follower from the beginning of the node's backup."""
    with node.backup().read() as reader:
        base = reader.manifest.base
    return Follower(storage or node.storage, Mark(base.checksum, base.data_version))


def new_node(tmp_path: Path, options: LogOptions = SMALL, storage: Storage | None = None) -> Node:
    """A node with a backup, after its first call."""
    node = Node(storage or LocalStorage(tmp_path / "b"), tmp_path, options=options)
    node.create()
    node.open()
    node.append(node.history.first())
    return node


def assert_followed(follower: Follower, node: Node) -> None:
    """The follower has what the backup holds; before it, only what an earlier generation of the same history held."""
    there = list(node.now.contents.changes)
    assert follower.got[len(follower.got) - len(there) :] == there
    versions = [version for version, _ in follower.got]
    assert versions == sorted(versions)


def test_changes_of_several_segments_and_sessions_are_read_once_in_order(tmp_path: Path) -> None:
    node = new_node(tmp_path)
    follower = follower_of(node)
    for number in range(60):
        node.note(noise(300, number))
        if number % 7 == 0:
            node.writer.maintain()
        if number % 3 == 0:
            follower.look()
        if number % 20 == 19:
            node.close()
            node.open("another")
    follower.look()
    assert follower.got == list(node.now.contents.changes) and follower.rebuilt == 0
    assert node.writer.segment_index > 3


def test_look_without_news_reads_two_small_files_and_a_few_bytes(tmp_path: Path) -> None:
    """Also without listing the directory, and however long the log is."""
    node = new_node(tmp_path, LogOptions())
    counting = Counting(node.storage)
    follower = follower_of(node, counting)
    for number in range(100):
        node.note(noise(500, number))
    follower.look()
    counting.reset()
    for _ in range(10):
        follower.look()
    assert counting.bytes / 10 < 2500 and counting.calls / 10 <= 6, (counting.bytes, counting.calls)
    assert counting.listings == 0


def test_news_are_read_without_what_was_read_before(tmp_path: Path) -> None:
    node = new_node(tmp_path, LogOptions())
    counting = Counting(node.storage)
    follower = follower_of(node, counting)
    for number in range(300):
        node.note(noise(3000, number))
    follower.look()
    counting.reset()
    node.note("one more")
    follower.look()
    assert counting.bytes < (1 << 18) + 8000, "one read ahead, and two small files"
    assert len(follower.got) == 302


@pytest.mark.plain_unless_told  # it writes a plain record by hand
def test_take_over_is_noticed_and_what_the_fenced_writer_adds_does_not_count(tmp_path: Path) -> None:
    """It takes the last segment over by a rename: the old file is still open here, and its writer may still append."""
    node = new_node(tmp_path)
    follower = follower_of(node)
    follower.look()
    fenced = node.writer
    handle = fenced._segments.current.handle
    second = Node(node.storage, tmp_path, options=SMALL)
    second.history.version, second.model, second.next = node.history.version, node.now, node.next
    second.open("second")
    end = fenced._segments.current.end
    handle.write(end, _record_after(fenced))
    assert follower._tail is not None
    assert [header.data_version for header, _ in follower._tail.changes()] == [2], "it can be read"
    with pytest.raises(Moved):
        follower._tail.check_unmoved()
    follower.leave()
    second.note("of the second")
    follower.look()
    assert follower.got == list(second.now.contents.changes) and follower.rebuilt == 0


def _record_after(writer: Writer) -> bytes:
    """The bytes of a record that this writer might append next."""
    position, file = writer.position, writer.manifest.segment_header(writer.segment_index)
    raw = b"INSERT INTO vars (name) VALUES ('never acknowledged')"
    payload = Compressor(LEVEL_CHANGES).add(raw)
    sealer = None if file.key is None else Sealer(known_key(file.key), file)
    length = len(payload) if sealer is None else stored_size(len(payload), begins_stream=True)
    fields = header_fields(
        RecordHeader(
            RECORD_MAGIC, RecordKind.CHANGE, Flag.FRAME | Flag.ADVANCES, length, len(raw), 2,
            position.sequence + 1, 1, 0, position.checksum, 0,
        )
    )  # fmt: skip
    return encode_fields(fields, payload if sealer is None else sealer.seal(fields, payload, True))[0]


def test_compaction_is_crossed_without_a_rebuild(tmp_path: Path) -> None:
    node = new_node(tmp_path)
    follower = follower_of(node)
    for number in range(30):
        node.note(noise(300, number))
    follower.look()
    before = list(follower.got)
    node.compact(lambda: node.note("meanwhile"))
    node.note("afterwards")
    follower.look()
    assert follower.rebuilt == 0 and len(follower.got) == len(before) + 2
    assert_followed(follower, node)


def test_follower_that_was_away_for_a_compaction_begins_with_the_snapshot(tmp_path: Path) -> None:
    node = new_node(tmp_path)
    follower = follower_of(node)
    follower.look()
    follower.leave()
    for number in range(60):
        node.note(noise(300, number))
        node.writer.maintain()
    node.compact()
    follower.look()
    assert follower.rebuilt == 1
    assert follower.got == list(node.now.contents.changes)


def test_change_before_the_snapshot_that_is_still_in_its_first_segment_is_found(tmp_path: Path) -> None:
    node = new_node(tmp_path, LogOptions())
    follower = follower_of(node)
    follower.look()
    follower.leave()
    for number in range(30):
        node.note(noise(100, number))
    node.compact()
    follower.look()
    assert follower.rebuilt == 0, "the segment with the last changes begins before the snapshot"
    assert [version for version, _ in follower.got] == list(range(1, 32))


def test_new_snapshot_of_a_database_that_disagreed_is_another_history(tmp_path: Path) -> None:
    node = new_node(tmp_path)
    follower = follower_of(node)
    follower.look()
    node.snapshot()
    node.note("after it")
    follower.look()
    assert follower.rebuilt == 1 and follower.got == list(node.now.contents.changes)


def test_follower_ahead_of_a_backup_that_was_set_back_says_so(tmp_path: Path) -> None:
    node = new_node(tmp_path)
    follower = follower_of(node)
    for _ in range(5):
        node.note()
    follower.look()
    follower.leave()
    other = Node(LocalStorage(tmp_path / "older"), tmp_path, options=SMALL)
    other.create()
    with pytest.raises(NotThere) as raised:
        attach(other.storage, follower.mark)
    assert raised.value.ahead and raised.value.end.data_version == 0


@pytest.mark.plain_unless_told  # it writes a plain record by hand
def test_record_that_is_being_written_is_left_alone_until_it_is_whole(tmp_path: Path) -> None:
    node = new_node(tmp_path)
    follower = follower_of(node)
    follower.look()
    writer = node.writer
    handle, end, record = writer._segments.current.handle, writer._segments.current.end, _record_after(writer)
    handle.write(end, record[:50])
    follower.look()
    assert len(follower.got) == 1
    assert follower._tail is not None and follower._tail.torn is not None
    handle.write(end, record)
    follower.look()
    assert len(follower.got) == 2 and follower._tail.torn is None


def test_damage_in_a_new_record_is_named(tmp_path: Path) -> None:
    node = new_node(tmp_path)
    follower = follower_of(node)
    follower.look()
    end = node.writer._segments.current.end
    node.note(noise(200))
    node.note()
    path = tmp_path / "b" / segment_name(node.writer.segment_index)
    with path.open("r+b") as file:
        file.seek(end + 60)
        file.write(b"\xa5")
    with pytest.raises(Damaged):
        follower.look()


def test_zeros_over_saved_records_are_not_taken_for_the_end_of_the_log(tmp_path: Path) -> None:
    """A disk that has lost a write, or an NFS server that applies zeros late: to the follower, nothing is news there.
    What the writer has noted as saved shows it."""
    node = new_node(tmp_path)
    follower = follower_of(node)
    follower.look()
    writer = node.writer
    segment, begin = writer._segments.current, writer._segments.current.end
    node.note()
    node.note()
    segment.handle.write(begin, bytes(segment.end - begin))
    follower.look()
    writer._fence.note(writer.position)
    follower.look()  # what is noted from now on may be newer than what was read before
    with pytest.raises(Damaged, match="the end of the log is missing"):
        follower.look()


def test_segment_in_the_middle_without_a_record_is_passed(tmp_path: Path) -> None:
    """A writer that was replaced has left it."""
    node = new_node(tmp_path)
    follower = follower_of(node)
    follower.look()
    name = segment_name(node.writer.segment_index + 1)
    manifest = node.writer.manifest
    node.storage.publish(name, manifest.segment_header(node.writer.segment_index + 1).encode() + bytes(500))
    for number in range(40):
        node.note(noise(300, number))
        node.writer.maintain()
    follower.look()
    assert follower.got == list(node.now.contents.changes)
    assert (tmp_path / "b" / name).stat().st_size == FILE_HEADER_SIZE + 500


@pytest.mark.parametrize("seed", range(6 * CAMPAIGN))
def test_follower_beside_a_random_life_has_what_the_backup_has(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    node = new_node(tmp_path, storage=SimulatedStorage(SimulatedDisk()))
    follower, expected = follower_of(node), 0

    def restart() -> None:
        if rng.random() < 0.5:
            node.close()
        node.open(f"session {rng.random()}")

    def snapshot() -> None:
        nonlocal expected
        node.snapshot()
        expected += 1

    steps = {
        lambda: node.note(noise(rng.choice((0, 100, 900, 5000)), rng.randrange(50))): 60,
        lambda: node.writer.maintain(): 15,
        lambda: node.compact(node.note if rng.random() < 0.5 else lambda: None): 4,
        lambda: node.append(node.history.foreign_keys(on=rng.random() < 0.5)): 3,
        restart: 5,
        snapshot: 1,
    }
    for _ in range(150):
        rng.choices(list(steps), list(steps.values()))[0]()
        if rng.random() < 0.4:
            follower.look()
            assert_followed(follower, node)
        if rng.random() < 0.05:
            follower.leave()
    follower.look()
    assert_followed(follower, node)


# Counting what a look costs


class Counting(LocalStorage):
    """A local directory that counts what is read in it."""

    def __init__(self, of: Storage) -> None:
        assert isinstance(of, LocalStorage)
        super().__init__(Path(of.describe()))
        self.reset()

    def reset(self) -> None:
        self.bytes = self.calls = self.listings = 0

    def names(self) -> list[str]:
        self.listings += 1
        return super().names()

    def open(self, name: str) -> ReadHandle:
        self.calls += 1
        return _Counted(super().open(name), self)


class _Counted(ReadHandle):
    def __init__(self, handle: ReadHandle, counts: Counting) -> None:
        self._handle, self._counts = handle, counts

    def size(self) -> int:
        return self._handle.size()

    def read(self, offset: int, length: int) -> bytes:
        data = self._handle.read(offset, length)
        self._counts.calls += 1
        self._counts.bytes += len(data)
        return data

    def close(self) -> None:
        self._handle.close()
