"""The way to a directory, followed name by name."""

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from backends.system import owners
from backends.system.owners import Step, Way, way_to


def test_way_holds_every_directory_down_to_the_named_one(tmp_path: Path) -> None:
    steps = way_to(tmp_path).steps
    assert [step.path for step in steps if stat.S_ISDIR(step.mode)] == [*reversed(tmp_path.parents), tmp_path]
    assert steps[-1].uid == os.geteuid()


def test_way_to_something_missing_or_to_a_file_ends_at_the_directory_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("missing", "missing/further", "file", "file/further"):
        assert way_to(tmp_path / name).end.path == tmp_path


def test_way_through_links_passes_the_directories_that_they_lead_through(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "absolute").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "relative").symlink_to("../a/./b")
    way = way_to(tmp_path / "c" / "absolute" / "relative")
    assert way.end.path == tmp_path / "a" / "b"
    passed = [step.path for step in way.steps]
    assert tmp_path / "c" in passed and tmp_path / "a" in passed


def test_link_is_on_the_way_where_its_owner_could_replace_it(tmp_path: Path) -> None:
    place = tmp_path / "sticky"
    place.mkdir()
    (tmp_path / "target").mkdir()
    (place / "link").symlink_to(tmp_path / "target")
    assert place / "link" not in [step.path for step in way_to(place / "link").steps]
    place.chmod(0o1777)
    assert place / "link" in [step.path for step in way_to(place / "link").steps]
    (place / "link").unlink()
    (place / "link").symlink_to(tmp_path / "missing" / "x")
    assert way_to(place / "link").end.path == tmp_path, "a directory, and not the link"


def test_way_through_circular_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    with pytest.raises(OSError, match="symbolic links"):
        way_to(tmp_path / "one" / "x")


@pytest.mark.parametrize(
    ("uid", "mode", "members", "exposed"),
    [
        (0, 0o755, [], False),
        (0, 0o1777, [], False),
        (0, 0o777, [], True),
        (1000, 0o775, ["alice"], False),
        (1000, 0o775, ["alice", "root"], False),
        (1000, 0o775, ["alice", "bob"], True),
        (1000, 0o2775, ["bob"], True),
    ],
)
def test_directory_writable_by_further_users_is_exposed(
    monkeypatch: pytest.MonkeyPatch, uid: int, mode: int, members: list[str], exposed: bool
) -> None:
    class Entry:
        gr_mem = members

    monkeypatch.setattr(grp, "getgrgid", lambda gid: Entry)
    monkeypatch.setattr(pwd, "getpwall", list)
    monkeypatch.setattr(owners, "user_name", lambda uid: {0: "root", 1000: "alice"}[uid])
    step = Step(Path("/home/x"), uid, 1000, stat.S_IFDIR | mode)
    assert (Way((step,)).exposed(1000) is not None) == exposed


def test_first_directory_of_a_third_user_on_the_way_is_foreign() -> None:
    steps = [Step(Path(f"/{uid}"), uid, uid, stat.S_IFDIR | 0o755) for uid in (0, 1000, 2000, 1000)]
    way = Way(tuple(steps))
    assert way.foreign(1000) == steps[2]
    assert Way(tuple(steps[:2])).foreign(1000) is None
    assert Way(tuple(steps[:2])).foreign(0) == steps[1]
