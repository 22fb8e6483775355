"""One stretch of following: what is read and replayed, and what does not count."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.change import Change
from backends.compaction.compact import compact_log
from backends.confined.work import rebuild_backup
from backends.following import follower
from backends.following.follower import Ended, News, Order, Stretch, follow
from backends.keep import Keep
from backends.log.backup import Backup
from backends.log.writer.options import DEFAULT_OPTIONS
from backends.sqlite.following import FollowingCopy
from backends.storage.local import LocalStorage
from tests.end_to_end.db_compare import everything
from tests.fake_lightningd.calls import Call, History, foreign_keys
from tests.log.conftest import SMALL
from tests.log.histories import backup_in, change, noise, silent, source

ONCE = Order(backup_id="", once=True, every=0.0, check_in=1e12, check_every=1e12, accept_unknown=False, lineage=0)


class Followed:
    """A backup of a node after its first call, and a copy that follows it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory / "b", directory / "following.sqlite3"
        self.history, self.options = History(), DEFAULT_OPTIONS
        self.backup().create(source())
        self.append(self.history.first())
        rebuild_backup(self.directory.as_uri(), self.path, following=self.backup().id())

    def backup(self) -> Backup:
        return backup_in(LocalStorage(self.directory), self.options)

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


def test_copy_that_loses_its_name_between_reading_and_committing_gets_nothing_more(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal would be where nobody looks for it. SQLite refuses, and that was told as a trouble of the copy."""
    before, execute, away = everything(followed.path), FollowingCopy.execute, followed.path.with_name("away")
    followed.append(followed.history.note())

    def moved(copy: FollowingCopy, *arguments: object) -> None:
        followed.path.rename(away)
        execute(copy, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FollowingCopy, "execute", moved)
    assert followed.follow().ended is Ended.GONE
    assert everything(away) == before


def compacted(followed: Followed) -> None:
    """A compaction is published."""
    with closing(followed.backup().open(silent, "one")) as writer:
        snapshot = compact_log(writer.storage, followed.directory.parent, leave_out=1)
        assert snapshot is not None
        writer.publish_compaction(snapshot)


def test_copy_crosses_compactions_that_keep_what_they_replace(followed: Followed) -> None:
    """The files of the replaced generations are still there, and the last segment of each is the next one's, too."""
    followed.options = replace(DEFAULT_OPTIONS, keep=Keep(86400, 1 << 30))
    for number in range(1, 4):
        followed.append(*followed.history.notes(9))
        assert followed.follow().ended is Ended.IN_STEP
        compacted(followed)
        assert len(followed.backup().held()) == number
        followed.append(*followed.history.notes(2))
        stretch = followed.follow()
        assert stretch.ended is Ended.IN_STEP
        assert stretch.news is not None and stretch.news.changes == 2
        assert stretch.news.generation == number + 1
    rebuilt = followed.path.with_name("rebuilt.sqlite3")
    rebuild_backup(followed.directory.as_uri(), rebuilt, following=followed.backup().id())
    assert everything(rebuilt) == everything(followed.path)


@pytest.mark.parametrize("keep", [False, True])
def test_copy_that_lacks_what_a_compaction_took_is_built_again_also_if_that_is_kept(
    followed: Followed, keep: bool
) -> None:
    assert followed.follow().ended is Ended.IN_STEP
    before = everything(followed.path)
    followed.options = replace(SMALL, keep=Keep(86400, 1 << 30) if keep else None)
    with closing(followed.backup().open(silent, "one")) as writer:
        for seed in range(12):
            writer.append(change(followed.history.note(noise(2 << 10, seed))))
            writer.maintain()
    compacted(followed)
    assert len(followed.backup().held()) == keep
    assert followed.follow().ended is Ended.NOT_THERE
    assert everything(followed.path) == before


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
