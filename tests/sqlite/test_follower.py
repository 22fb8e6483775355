"""One stretch of following: what is read and replayed, and what does not count."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.change import Change
from backends.confined.work import rebuild_backup
from backends.following import follower
from backends.following.follower import Ended, News, Order, Stretch, follow
from backends.log.backup import Backup
from backends.sqlite.following import FollowingCopy
from backends.storage.local import LocalStorage
from tests.end_to_end.db_compare import everything
from tests.fake_lightningd.calls import Call, History, foreign_keys
from tests.log.histories import backup_in, change, silent, source

ONCE = Order(backup_id="", once=True, every=0.0, check_in=1e12, check_every=1e12, accept_unknown=False)


class Followed:
    """A backup of a node after its first call, and a copy that follows it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory / "b", directory / "following.sqlite3"
        self.history = History()
        self.backup().create(source())
        self.append(self.history.first())
        rebuild_backup(self.directory.as_uri(), self.path, following=self.backup().id())

    def backup(self) -> Backup:
        return backup_in(LocalStorage(self.directory))

    def append(self, *calls: Call) -> None:
        with closing(self.backup().open(silent, "one")) as writer:
            for call in calls:
                writer.append(change(call))

    def follow(self, order: Order = ONCE, tell: Callable[[News], None] = lambda news: None) -> Stretch:
        return follow(self.backup(), self.path, replace(order, backup_id=self.backup().id()), tell)


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_take_over_between_reading_and_committing_takes_the_change_back(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read may be a fenced writer's, which nobody was told is saved."""
    before, execute = everything(followed.path), FollowingCopy.execute
    followed.append(followed.history.note())

    def taken_over(copy: FollowingCopy, *arguments: object) -> None:
        execute(copy, *arguments)  # type: ignore[arg-type]
        followed.append()

    with monkeypatch.context() as patched:
        patched.setattr(FollowingCopy, "execute", taken_over)
        assert followed.follow().ended is Ended.MOVED
    assert everything(followed.path) == before
    assert followed.follow().ended is Ended.IN_STEP
    assert everything(followed.path) != before


def test_foreign_keys_are_off_where_they_were_also_after_a_restart_in_between(followed: Followed) -> None:
    """A cascade would empty the child table. The setting is in no database: the log has it for each change."""
    history = followed.history
    followed.append(
        history.transaction(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
            "CREATE TABLE children (id INTEGER REFERENCES parents(id) ON DELETE CASCADE)",
            "INSERT INTO parents VALUES (1)",
            "INSERT INTO children VALUES (1)",
        )
    )
    with closing(followed.backup().open(silent, "one")) as writer:
        writer.append(change(foreign_keys(history.version, on=False)))
        assert followed.follow().ended is Ended.IN_STEP
        writer.append(change(history.transaction("DELETE FROM parents")))
        assert followed.follow().ended is Ended.IN_STEP
        assert len(everything(followed.path)["children"]) == 1
        writer.append(change(foreign_keys(history.version, on=True)))
        writer.append(change(history.transaction("INSERT INTO parents VALUES (1)")))
        writer.append(change(history.transaction("DELETE FROM parents")))
        assert followed.follow().ended is Ended.IN_STEP
    assert everything(followed.path)["children"] == []


def test_many_changes_are_committed_in_portions_of_whole_ones(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "AT_ONCE", 10)
    followed.append(*followed.history.notes(35))
    told: list[News] = []
    assert followed.follow(tell=told.append).ended is Ended.IN_STEP
    assert [news.data_version for news in told] == [11, 21, 31, 36, 36]
    assert [news.lag for news in told] == [25, 15, 5, 0, 0]
    assert told[-1].in_step and not told[0].in_step


def test_stretch_ends_before_the_processors_time_of_its_process_is_over(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "STRETCH", 0.0)
    assert followed.follow(replace(ONCE, once=False)).ended is Ended.TIME


def test_change_of_another_history_with_the_same_version_is_not_taken_for_the_copys(followed: Followed) -> None:
    """The copy has read a change that a power cut took back; the node then saved another one in its place."""
    followed.append(Call(2, followed.history.note("taken back").writes))
    assert followed.follow().ended is Ended.IN_STEP
    segment = max(followed.directory.glob("segment-*"))
    with followed.backup().read() as reader:
        (first, _) = (header for _, header in reader.scan())
    segment.write_bytes(segment.read_bytes()[: 64 + 44 + first.length])
    (followed.directory / "session").unlink()
    ended = followed.follow()
    assert (ended.ended, ended.copy_version, ended.backup_version) == (Ended.AHEAD, 2, 1)
    with closing(followed.backup().open(silent, "two")) as writer:
        writer.append(Change(2, list(History(1).note("another one").writes)))
    assert followed.follow().ended is Ended.NOT_THERE


class _Checked(Exception):
    pass


def test_every_table_is_checked_when_that_is_due_and_not_again_before_it_is_due(followed: Followed) -> None:
    """One table at each look at which there is nothing else to do."""
    looks: list[News] = []

    def tell(news: News) -> None:
        looks.append(news)
        if news.checked and len(looks) > 12:
            raise _Checked

    with pytest.raises(_Checked):
        followed.follow(replace(ONCE, once=False, check_in=0.0), tell)
    checked = [news.checked for news in looks]
    assert checked[:4] == [0, 0, 0, 0], "the schema, vars, version and db_upgrades"
    assert len(set(checked[4:])) == 1
