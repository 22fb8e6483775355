"""What every storage does, at every kind of place."""

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.storage.base import Storage
from tests.storage.places import PLACES, Opener

NOT_NAMES = ["", ".", "..", ".hidden", "a/b", "/a", "../a", "a\0b"]


@pytest.fixture(params=PLACES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    with PLACES[request.param](tmp_path) as opener:
        yield opener


@pytest.fixture
def storage(opener: Opener) -> Storage:
    storage = opener()
    storage.make()
    return storage


def put(storage: Storage, name: str, data: bytes) -> None:
    with closing(storage.create(name)) as handle:
        handle.write(0, data)


def get(storage: Storage, name: str) -> bytes:
    with closing(storage.open(name)) as handle:
        return handle.read(0, handle.size())


def test_directory_is_made_once_and_not_again(opener: Opener) -> None:
    storage = opener()
    assert not storage.exists()
    assert storage.describe()
    storage.make()
    assert storage.exists()
    assert opener().exists()
    assert storage.names() == []
    with pytest.raises(FileExistsError):
        storage.make()


def test_unmake_removes_directory_and_its_files(storage: Storage, opener: Opener) -> None:
    with closing(storage.create("snapshot.tmp")):
        storage.publish("manifest", b"old")
        storage.unmake()
    assert not opener().exists()
    storage.make()
    assert storage.names() == []


def test_every_operation_fails_before_the_directory_is_made(opener: Opener) -> None:
    storage = opener()
    for call in (
        storage.unmake,
        storage.names,
        storage.sync_names,
        storage.space,
        lambda: storage.open("a"),
        lambda: storage.create("a"),
        lambda: storage.rename("a", "b"),
        lambda: storage.rename_new("a", "b"),
        lambda: storage.remove("a"),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    assert not storage.exists()


def test_written_bytes_are_read_back(storage: Storage, opener: Opener) -> None:
    data = bytes(range(256)) * 9
    put(storage, "segment", data)
    assert get(storage, "segment") == data
    assert get(opener(), "segment") == data


def test_read_stops_at_end_of_file(storage: Storage) -> None:
    put(storage, "segment", b"0123456789")
    with closing(storage.open("segment")) as handle:
        assert handle.size() == 10
        assert handle.read(3, 4) == b"3456"
        assert handle.read(8, 100) == b"89"
        assert handle.read(10, 1) == b""
        assert handle.read(1000, 1000) == b""
        assert handle.read(2, 0) == b""


def test_created_file_is_empty(storage: Storage) -> None:
    storage.create("segment").close()
    assert get(storage, "segment") == b""


def test_write_past_end_leaves_zeros_and_may_overwrite(storage: Storage) -> None:
    with closing(storage.create("segment")) as handle:
        handle.write(1000, b"end")
        handle.write(2, b"begin")
        handle.write(4, b"GI")
    assert get(storage, "segment") == b"\0\0beGIn" + bytes(993) + b"end"


def test_durable_write_is_read_back(storage: Storage) -> None:
    with closing(storage.create("segment")) as handle:
        handle.write(0, bytes(2000))
        handle.write_durably(600, b"record")
        handle.write_durably(1998, b"past the end")
    assert get(storage, "segment") == bytes(600) + b"record" + bytes(1392) + b"past the end"


def test_extend_fills_with_zeros(storage: Storage) -> None:
    with closing(storage.create("segment")) as handle:
        handle.write(0, b"record")
        handle.extend(6, 3 << 20)
        handle.write_durably(6, b"another")
        handle.extend(6 + (3 << 20), 1)
        handle.extend(7 + (3 << 20), 0)
    assert get(storage, "segment") == b"recordanother" + bytes((3 << 20) - 6)


def test_extend_follows_its_file_through_rename_and_removal(storage: Storage) -> None:
    with closing(storage.create("segment.tmp")) as handle:
        storage.rename("segment.tmp", "segment")
        put(storage, "segment.tmp", b"another file")
        handle.extend(0, 10)
        assert get(storage, "segment") == bytes(10)
        assert get(storage, "segment.tmp") == b"another file"
        storage.remove("segment")
        handle.extend(10, 10)
        handle.write(0, b"record")
        handle.sync()


def test_truncate_shortens_and_lengthens_a_file(storage: Storage) -> None:
    with closing(storage.create("segment")) as handle:
        handle.write(0, b"x" * 2000)
        handle.truncate(700)
        assert get(storage, "segment") == b"x" * 700
        handle.truncate(1500)
        handle.sync()
    assert get(storage, "segment") == b"x" * 700 + bytes(800)


def test_megabytes_of_data_are_read_back(storage: Storage) -> None:
    data = bytes(range(251)) * 20_000
    with closing(storage.create("snapshot")) as handle:
        handle.write(0, data)
        handle.write_durably(len(data), data)
    assert get(storage, "snapshot") == data * 2


def test_reader_sees_what_is_written_while_it_is_open(storage: Storage, opener: Opener) -> None:
    with closing(storage.create("segment")) as writer:
        writer.write_durably(0, b"one")
        with closing(opener().open("segment")) as reader:
            assert reader.read(0, 10) == b"one"
            writer.write_durably(3, b"two")
            assert reader.size() == 6
            assert reader.read(0, 10) == b"onetwo"


def test_names_of_files_are_sorted(storage: Storage, opener: Opener) -> None:
    for name in ("b", "segment-00000010", "a.tmp", "segment-00000009", "manifest"):
        storage.create(name).close()
    expected = ["a.tmp", "b", "manifest", "segment-00000009", "segment-00000010"]
    assert storage.names() == expected
    assert opener().names() == expected


def test_create_over_a_file_leaves_old_one_to_its_reader(storage: Storage) -> None:
    put(storage, "manifest", b"old")
    with closing(storage.open("manifest")) as reader:
        put(storage, "manifest", b"ne")
        assert get(storage, "manifest") == b"ne"
        assert reader.read(0, 10) == b"old"
        assert reader.size() == 3


def test_rename_replaces_target_and_leaves_old_one_to_its_reader(storage: Storage) -> None:
    put(storage, "manifest", b"old")
    put(storage, "manifest.tmp", b"new")
    with closing(storage.open("manifest")) as reader:
        storage.rename("manifest.tmp", "manifest")
        storage.sync_names()
        assert storage.names() == ["manifest"]
        assert get(storage, "manifest") == b"new"
        assert reader.read(0, 10) == b"old"


def test_rename_new_refuses_a_name_that_is_taken(storage: Storage, opener: Opener) -> None:
    put(storage, "segment-a.tmp", b"one")
    put(opener(), "segment-b.tmp", b"another")
    storage.rename_new("segment-a.tmp", "segment")
    with pytest.raises(FileExistsError):
        opener().rename_new("segment-b.tmp", "segment")
    storage.sync_names()
    assert opener().names() == ["segment", "segment-b.tmp"]
    assert get(storage, "segment") == b"one"
    assert get(storage, "segment-b.tmp") == b"another"
    storage.remove("segment")
    storage.rename_new("segment-b.tmp", "segment")
    assert get(storage, "segment") == b"another"


def test_refused_rename_new_disturbs_neither_writer(storage: Storage) -> None:
    with closing(storage.create("segment")) as theirs, closing(storage.create("segment.tmp")) as ours:
        theirs.write_durably(0, b"theirs")
        ours.write_durably(0, b"ours")
        with pytest.raises(FileExistsError):
            storage.rename_new("segment.tmp", "segment")
        theirs.write_durably(6, b" goes on")
        ours.write_durably(4, b" goes on")
        storage.rename_new("segment.tmp", "segment-2")
        ours.write_durably(12, b", too")
    assert storage.names() == ["segment", "segment-2"]
    assert get(storage, "segment") == b"theirs goes on"
    assert get(storage, "segment-2") == b"ours goes on, too"


@pytest.mark.parametrize("rename", ["rename", "rename_new"])
def test_writer_follows_its_file_through_rename(storage: Storage, rename: str) -> None:
    with closing(storage.create("segment.tmp")) as handle:
        handle.write(0, b"one")
        getattr(storage, rename)("segment.tmp", "segment")
        handle.write_durably(3, b"two")
        handle.extend(6, 2)
        handle.write_durably(6, b"34")
    assert storage.names() == ["segment"]
    assert get(storage, "segment") == b"onetwo34"


def test_removed_file_is_gone_but_still_readable_by_its_reader(storage: Storage) -> None:
    put(storage, "segment", b"old")
    with closing(storage.open("segment")) as reader:
        storage.remove("segment")
        storage.sync_names()
        assert storage.names() == []
        assert reader.read(0, 10) == b"old"


def test_missing_file_is_reported_as_not_found(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.open("segment")
    with pytest.raises(FileNotFoundError):
        storage.remove("segment")
    with pytest.raises(FileNotFoundError):
        storage.rename("segment", "other")
    with pytest.raises(FileNotFoundError):
        storage.rename_new("segment", "other")
    assert storage.names() == []


@pytest.mark.parametrize("name", NOT_NAMES)
def test_name_that_leads_out_of_the_directory_is_refused(storage: Storage, name: str) -> None:
    storage.create("a").close()
    for call in (
        lambda: storage.open(name),
        lambda: storage.create(name),
        lambda: storage.remove(name),
        lambda: storage.rename("a", name),
        lambda: storage.rename(name, "a"),
        lambda: storage.rename_new("a", name),
        lambda: storage.rename_new(name, "b"),
    ):
        with pytest.raises(ValueError):
            call()
    assert storage.names() == ["a"]


def test_free_space_is_positive_and_at_most_the_total(storage: Storage) -> None:
    space = storage.space()
    assert 0 < space.free <= space.total


def test_publish_replaces_a_small_file_and_its_leftover(storage: Storage) -> None:
    storage.publish("manifest", b"old")
    storage.publish("manifest", b"new")
    assert storage.read_small("manifest") == b"new"
    assert storage.read_small("manifest", limit=3) == b"new"
    with pytest.raises(OSError, match="3 bytes"):
        storage.read_small("manifest", limit=2)
    put(storage, storage.temporary("manifest"), b"left over from a crash")
    storage.publish("manifest", b"newer")
    assert storage.names() == ["manifest"]


def test_closed_handle_refuses_everything_but_close(storage: Storage) -> None:
    writer = storage.create("segment")
    writer.write(0, b"data")
    reader = storage.open("segment")
    for handle in (writer, reader):
        handle.close()
        handle.close()
    for call in (
        lambda: writer.write(0, b"x"),
        lambda: writer.write_durably(0, b"x"),
        lambda: writer.extend(4, 4),
        writer.sync,
        lambda: writer.truncate(0),
        reader.size,
        lambda: reader.read(0, 1),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    assert get(storage, "segment") == b"data"


WRITE = st.tuples(st.sampled_from(["write", "write_durably"]), st.integers(0, 3000), st.binary(max_size=1500))
RESIZE = st.tuples(st.sampled_from(["truncate", "extend"]), st.integers(0, 3000), st.none())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(WRITE | RESIZE, max_size=12))
def test_random_writes_and_resizes_behave_like_an_array_of_bytes(
    storage: Storage, steps: list[tuple[str, int, bytes | None]]
) -> None:
    expected = bytearray()
    with closing(storage.create("segment")) as handle:
        for step, number, data in steps:
            if data is not None:
                (handle.write if step == "write" else handle.write_durably)(number, data)
                if data:
                    expected.extend(bytes(max(0, number - len(expected))))
                    expected[number : number + len(data)] = data
            elif step == "extend":
                handle.extend(len(expected), number)
                expected.extend(bytes(number))
            else:
                handle.truncate(number)
                del expected[number:]
                expected.extend(bytes(number - len(expected)))
            assert get(storage, "segment") == expected
