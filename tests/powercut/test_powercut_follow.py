"""The disk of a copy that follows a backup loses its power: the copy is a whole earlier state, and goes on from there.

The cuts fall anywhere into its building, following, rebuilding and promotion.
"""

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.change import DATABASE_HEADER, is_following
from backends.node.files import replace_file
from backends.node.following import COPY
from backends.sqlite import following
from backends.sqlite.connection import run
from backup_cli.following import copy_directory
from tests.cli.conftest import jobs_here
from tests.end_to_end.db_compare import Everything, compared, everything, faults
from tests.end_to_end.following import version_of
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History
from tests.powercut.blocks import BlockLog, DiskAtCut, copy_sparsely, some_luck
from tests.powercut.disks import (
    FILESYSTEMS,
    Recorder,
    Unavailable,
    Unmountable,
    build_recorder,
    check_available,
    make_image,
    mounted,
)

__all__ = ["jobs_here"]

CAMPAIGN = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0"
CUTS = int(os.environ.get("LIGHTNINGD_BACKUP_CUTS", "60"))


class Life:
    """A node, what its database was at each version, and the copy on the disk `disk`."""

    def __init__(self, world: World, disk: Path) -> None:
        self.world, self.warm, self.history = world, disk / "warm", History()
        self.was: dict[int, Everything] = {}

    def save(self, count: int) -> None:
        """Changes in database and backup. The copy takes them in one transaction."""
        first = [self.history.first()] if self.history.version == 0 else []
        self.world.run([*first, *self.history.notes(count)])
        self.was[self.world.version] = everything(self.world.database)

    def follow(self, *words: str) -> None:
        """Bring the copy into step, or promote it."""
        said = backup_cli("follow", *words, *self.world.key_options, self.world.url, self.warm)
        assert said.code == 0, said


@contextmanager
def recorded(tmp_path: Path, filesystem: str) -> Iterator[tuple[Recorder, Path]]:
    """A disk that is recorded, and where it is mounted."""
    kind, image, point = FILESYSTEMS[filesystem], tmp_path / "image", tmp_path / "warm-disk"
    make_image(image, kind)
    copy_sparsely(image, tmp_path / "start")
    program = build_recorder(tmp_path)
    with (
        Recorder(program, [image], tmp_path / "log", tmp_path / "recorder.mnt") as recorder,
        mounted(recorder.disk(0), point, kind),
    ):
        yield recorder, point


@pytest.fixture
def available(request: pytest.FixtureRequest) -> str:
    """The filesystem, if power can be cut under it here."""
    try:
        check_available([request.param])
    except Unavailable as error:
        pytest.skip(str(error))
    return str(request.param)


campaign = pytest.mark.skipif(not CAMPAIGN, reason="takes minutes: LIGHTNINGD_BACKUP_CAMPAIGN=1")


@campaign
@pytest.mark.usefixtures("jobs_here")
@pytest.mark.parametrize("available", ["ext4", "xfs", "btrfs"], indirect=True)
def test_copy_is_a_whole_state_after_every_power_cut_and_goes_on(tmp_path: Path, available: str) -> None:
    wrong, found = cut(tmp_path, available)
    assert wrong == []
    assert {"a copy", "a database"} <= found, found


def _not_durably(path: Path, data: bytes, *, durably: bool, mode: int = 0o600) -> None:
    replace_file(path, data, durably=False, mode=mode)


LEFT_OUT: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "that of the note": lambda patched: patched.setattr(copy_directory, "replace_file", _not_durably),
    "that of the file and its name": lambda patched: (
        patched.setattr(os, "fsync", lambda descriptor: None),
        patched.setattr(following, "_SETTINGS", tuple(map(_unsynced, following._SETTINGS))),
        patched.setattr(following, "run", lambda connection, sql, *more: run(connection, _unsynced(sql), *more)),
    )[0],
}
"""Syncs of the copy that a release might forget."""


def _unsynced(setting: str) -> str:
    return setting.replace("= FULL", "= OFF").replace("= EXTRA", "= OFF")


@campaign
@pytest.mark.usefixtures("jobs_here")
@pytest.mark.parametrize("available", ["btrfs"], indirect=True)
@pytest.mark.parametrize("sync", LEFT_OUT)
def test_campaign_sees_that_a_sync_is_left_out(
    tmp_path: Path, available: str, sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, _ = cut(tmp_path, available, lambda: LEFT_OUT[sync](monkeypatch), monkeypatch.undo)
    print(f"{len(wrong)} of {CUTS} cuts lost something")
    assert len(wrong) >= CUTS // 6, wrong


def cut(
    tmp_path: Path, filesystem: str, worsen: Callable[[], None] = lambda: None, mend: Callable[[], None] = lambda: None
) -> tuple[list[str], set[str]]:
    """Record a copy's life, and cut its power in many places: what was wrong afterwards, and what was found at all.

    The life is lived after `worsen`, and what is left of it is looked at after `mend`.
    """
    world, chance = World(tmp_path).init(), random.Random(filesystem)
    with recorded(tmp_path, filesystem) as (recorder, point):
        life = Life(world, point)
        worsen()
        for _ in range(4):
            life.save(3)
            life.follow("--once")
            recorder.mark(version=world.version, promoting=False)
        world.run_without_plugin([life.history.note("that the backup never heard of")])
        world.run([life.history.note("with a new snapshot")])
        life.was[world.version] = everything(world.database)
        life.follow("--once")
        recorder.mark(version=world.version, promoting=False)
        life.save(2)
        recorder.mark(version=0, promoting=True)
        life.follow("--promote")
        recorder.mark(version=world.version, promoting=True)
        mend()
    log = BlockLog(tmp_path / "log")
    marks = list(log.marks())
    disk = DiskAtCut(log, 0, tmp_path / "start", tmp_path / "at")
    begin, done = marks[0][0], marks[-1][0]
    promotion = next(position for position, mark in marks if mark["promoting"])
    ends = len(log.entries)
    wrong, found, unmountable = [], set(), 0
    for position in sorted(
        [chance.randrange(0, begin) for _ in range(CUTS // 6)]
        + [chance.randrange(begin, promotion) for _ in range(CUTS // 3)]
        + [chance.randrange(promotion, ends) for _ in range(CUTS // 3)]
        + [done] * (CUTS // 6)
    ):
        luck = some_luck(chance)
        disk.write(position, tmp_path / "cut", luck, chance)
        try:
            with mounted(tmp_path / "cut", tmp_path / "warm-disk", FILESYSTEMS[filesystem]):
                what = check(life, position > promotion)
        except Unmountable:  # as in the campaign: only tearing explains it, and only now and then
            unmountable += 1
            if not luck.torn or unmountable > max(1, CUTS // 100):
                raise
            continue
        found.add(what)
        if position >= done and what != "a database":
            what = f"!{what}, and the promotion had ended"
        if position >= begin and what == "nothing":
            what = "!nothing, and there was a copy"
        if what.startswith("!"):
            wrong.append(f"{what} at {position} of {ends} ({luck})")
    return wrong, found


def check(life: Life, promoting: bool) -> str:
    """What is on the disk now. It is brought to the end of the backup; what is wrong with it begins with !."""
    copy, database = life.warm / COPY, life.warm / "lightningd.sqlite3"
    if copy.exists() and database.exists():
        return "!both"
    there = copy if copy.exists() else database if database.exists() else None
    what = {None: "nothing", copy: "a copy", database: "a database"}[there]
    try:
        wrong = None if there is None else what_is_wrong(life, there)
    except sqlite3.Error as error:
        wrong = f"which is no database: {error}"
    if wrong is not None:
        return f"!{what}, {wrong}"
    if not life.warm.exists():
        return what  # before it was made, or the filesystem's own repair has lost it
    words = ("--promote",) if promoting else ("--once",)
    said = backup_cli("follow", *words, *life.world.key_options, life.world.url, life.warm)
    if said.code != 0 and not (what == "a database" and (life.warm / "backup.lock").exists()):
        return f"!{what}: {said.err}"
    if compared(everything(database if promoting else copy), everything(life.world.database)):
        return f"!{what}: it does not end as the node's database"
    return what


def what_is_wrong(life: Life, there: Path) -> str | None:
    """What is wrong with this copy, or promoted database, as anybody would open it, with the journal beside it."""
    promoted = there.name != COPY
    if promoted and is_following(there.read_bytes()[:DATABASE_HEADER]):
        return "which is a copy still"
    seen = life.world.root / "seen.sqlite3"
    for suffix in ("", "-journal"):
        name = Path(f"{seen}{suffix}")
        name.unlink(missing_ok=True)
        if Path(f"{there}{suffix}").exists():
            name.write_bytes(Path(f"{there}{suffix}").read_bytes())
    version = version_of(seen)
    if version not in life.was:
        return f"at a version that never was: {version}"
    if compared(everything(seen), life.was[version]) or [each for each in faults(seen) if "journal" not in each]:
        return f"in another state than that of version {version}"
    return f"which is behind, at version {version}" if promoted and version != max(life.was) else None
