"""What every backup does when it is created, found and appended to, at every kind of destination."""

from collections.abc import Iterator

import pytest

from backends.change import VERSIONS, Change
from backends.errors import BackupError, NotABackup, Unreachable
from backends.log.writer.writer import Writer
from tests.fake_lightningd.calls import History, bump
from tests.log.conftest import DATABASE
from tests.log.destinations import Maker
from tests.log.histories import change, changes, noise, silent, source
from tests.log.model import contents, versions

# Creating and finding


def test_new_backup_gives_back_its_database_and_node_id(make: Maker) -> None:
    position = make().create(source(DATABASE, 1, "02aa"))
    assert position.data_version == 1
    found = contents(make())
    assert (found.snapshot, found.changes) == (DATABASE, ())
    assert make().node_id() == "02aa"
    assert len(bytes.fromhex(make().id())) == 16


def test_new_backup_of_node_that_never_started_has_empty_snapshot(make: Maker) -> None:
    make().create(source())
    assert contents(make()).snapshot == b""
    assert make().node_id() is None


def test_snapshot_of_several_pieces_is_read_back_whole(make: Maker) -> None:
    data = noise(1 << 20).encode()
    make().create(source(data, 7))
    assert contents(make()).snapshot == data


def test_existing_backup_is_not_overwritten_by_create(created: Maker) -> None:
    before = created().id()
    for attempt in (lambda: created().create(source()), created().check_new):
        with pytest.raises(BackupError):
            attempt()
    assert created().id() == before
    assert contents(created()).snapshot == DATABASE


def test_check_new_leaves_nothing_behind(make: Maker) -> None:
    make().check_new()
    make().check_new()
    make().create(source())


def test_failed_create_leaves_nothing_behind(make: Maker) -> None:
    def pieces() -> Iterator[bytes]:
        yield DATABASE
        raise OSError(5, "the database cannot be read")

    broken = source(DATABASE, 1)
    with pytest.raises(BackupError):
        make().create(type(broken)(pieces(), 1, None))
    make().create(source(DATABASE, 1))


def test_missing_backup_is_unreachable_and_asks_whether_it_is_mounted_or_the_url_right(make: Maker) -> None:
    for attempt in (
        make().id, make().read, make().node_id, make().space, lambda: make().open(silent),
    ):  # fmt: skip
        with pytest.raises(Unreachable) as caught:
            attempt()
        assert not isinstance(caught.value, NotABackup)
        assert ("mounted" in str(caught.value)) == make().storage.is_mounted
        assert ("is the URL right" in str(caught.value)) != make().storage.is_mounted


def test_removed_backup_is_gone_and_can_be_removed_again(created: Maker) -> None:
    created().remove()
    with pytest.raises(Unreachable):
        created().read()
    created().remove()


def test_backup_has_no_writing_methods_before_open(writer: Writer, created: Maker) -> None:
    """Only a Writer can write, and only `open` makes one."""
    for name in ("append", "sizes", "maintain", "take_snapshot", "position"):
        assert hasattr(writer, name)
        assert not hasattr(created(), name)


# Appending


def test_appended_changes_are_read_back_at_once(writer: Writer, created: Maker) -> None:
    written = changes(20, 1)
    for number, one in enumerate(written, 1):
        before = writer.position
        writer.append(one)
        after = writer.position
        assert (after.data_version, after.sequence) == (one.data_version, before.sequence + 1)
        assert len(contents(created()).changes) == number
    assert contents(created()).changes == tuple((one.data_version, tuple(one.statements)) for one in written)


@pytest.mark.parametrize(("clock", "kept"), [(-5.0, 0), (1e10, (1 << 32) - 1)], ids=["before 1970", "after 2106"])
def test_clock_far_out_of_range_does_not_stop_commits(
    make: Maker, monkeypatch: pytest.MonkeyPatch, clock: float, kept: int
) -> None:
    """A small board without a battery-backed clock may start with any time."""
    monkeypatch.setattr("backends.log.format.records.time.time", lambda: clock)
    backup = make()
    backup.create(source(DATABASE, 1))
    writer = backup.open(silent)
    writer.append(changes(1, 1)[0])
    writer.close()
    with make().read() as generation:
        list(generation.snapshot)
        assert [change.time for change in generation.changes()] == [kept]


def test_odd_text_in_statement_is_read_back_unchanged(writer: Writer, created: Maker) -> None:
    text = "quotes ' \" and ;; -- /* \n\r\n\t \u00e9 \u4e2d \U0001f980 \ufeff \ufffd \x7f \x01 µR"
    writer.append(Change(2, [text, "", text * 3, bump(2)]))
    assert contents(created()).changes == ((2, (text, "", text * 3, bump(2))),)


@pytest.mark.parametrize("size", [(1 << 16) - 1, 1 << 16, (1 << 16) + 1, 3 << 20])
def test_large_changes_are_read_back_unchanged(writer: Writer, created: Maker, size: int) -> None:
    large = Change(2, ["x" * size])
    many = Change(3, [noise(100, seed) for seed in range(size // 100)])
    hard = Change(4, [noise(size), "µ" * (size // 2)])
    for one in (large, many, hard):
        writer.append(one)
    found = contents(created()).changes
    assert found == tuple((one.data_version, tuple(one.statements)) for one in (large, many, hard))


def test_statements_of_large_change_can_be_counted_and_read_twice(writer: Writer, created: Maker) -> None:
    one = Change(2, [noise(100, seed) for seed in range(2000)])
    writer.append(one)
    with created().read() as generation:
        (found,) = list(generation.changes())
        assert len(found.statements) == 2000
        assert list(found.statements) == list(found.statements) == one.statements
        assert (found.statements[0], found.statements[1999]) == (one.statements[0], one.statements[-1])


def test_statement_with_lone_surrogate_ends_the_writer(writer: Writer, created: Maker) -> None:
    with pytest.raises(BackupError):
        writer.append(Change(2, ["a lone surrogate \ud800"]))
    with pytest.raises(BackupError):
        writer.append(changes(1, 1)[0])
    assert versions(created()) == []


def test_nul_in_statement_is_refused(writer: Writer) -> None:
    with pytest.raises(BackupError, match=r"NUL.*Report this"):
        writer.append(Change(2, ["a\0b"]))


def test_change_too_large_to_be_read_back_is_refused(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.log.writer.writer.MAX_CHANGE", 1000)
    writer.append(Change(2, ["x" * 1000]))
    with pytest.raises(BackupError, match=r"1001.*Report this"):
        writer.append(Change(3, ["x" * 1001]))


def test_data_version_wraps_to_zero(make: Maker) -> None:
    make().create(source(b"a database", VERSIONS - 2))
    writer = make().open(silent, "writer")
    history = History(VERSIONS - 2)
    for one in (history.note(), history.note(), history.note()):
        writer.append(change(one))
    assert versions(make()) == [VERSIONS - 1, 0, 1]
    assert writer.position.data_version == 1
    writer.close()
