"""Fixtures and hooks for all tests."""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import keyring
from backends.mounts.ephemeral import Lifetime, lifetime_of
from backends.mounts.unfit import LAYERS
from backup_cli import as_owner
from tests.encrypted import EVERYTHING, encrypted_by_default
from tests.end_to_end.prepared import copy_into
from tests.end_to_end.world import World
from tests.fake_lightningd import History

with contextlib.suppress(ValueError):  # not the main thread
    # A shell has what it starts in the background ignore Ctrl-C, and every process that a test starts would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # So does nohup with SIGHUP. A handler stays with this process: what it starts has the default again.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


def _work_where_it_lasts() -> None:
    """Move the temporary directory to a disk: a backup may not be in memory, as /tmp often is, and a container may have
    only its own layer."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path(sys.prefix) / "tmp"]
    if sys.prefix == sys.base_prefix:
        del places[-1]
    for wanted in (Lifetime.LASTING, Lifetime.LAYER):
        for place in places:
            if lifetime_of(place) is wanted:
                place.mkdir(exist_ok=True)
                os.environ["TMPDIR"] = tempfile.tempdir = str(place)
                if wanted is Lifetime.LAYER:
                    os.environ[LAYERS] = "accepted"
                return
    pytest.exit("the tests need a directory that is not in memory: set TMPDIR to one on a disk", returncode=1)


_work_where_it_lasts()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Four workers for two cores, with `-n auto`: tests wait for disks, servers and deadlines for a good part of their
    time.

    None, so that xdist decides, if its own variable is set.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return len(os.sched_getaffinity(0)) * 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that no core waits for one at the end. They mostly wait, and `--dist worksteal` gives the
    beginning to one worker, so that they wait one after the other beside the busy ones."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A node that has never started, and a place for its backup."""
    return World(tmp_path)


@pytest.fixture
def history() -> History:
    """The calls of the node in `world`, from its first one on."""
    return History()


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plugin is a program that was executed, with all that its start does."""
    monkeypatch.setattr(World, "warm", False)


def live(world: World, history: History) -> None:
    """Some days of a node: it runs from its first start on with a backup, and is stopped cleanly."""
    world.init().run([history.first(), *history.notes(5)])


def be_taken_over(world: World, history: History) -> None:
    """The same of a node that is older than its backup, which therefore begins with a snapshot."""
    world.run_without_plugin([history.first(), *history.notes(3)])
    world.init()
    world.run(history.notes(8))


@pytest.fixture(scope="session")
def lived_once(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What `lived` copies; it is never changed."""
    world = World(tmp_path_factory.mktemp("lived"))
    live(world, History())
    return world


@pytest.fixture(scope="session")
def taken_over_once(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What `taken_over` copies; it is never changed."""
    world = World(tmp_path_factory.mktemp("taken-over"))
    be_taken_over(world, History())
    return world


@pytest.fixture
def lived(lived_once: World, world: World, history: History) -> World:
    """The node after some days: it ran from its first start on with a backup, and was stopped cleanly."""
    history.version = lived_once.version
    return copy_into(lived_once, world)


@pytest.fixture
def taken_over(taken_over_once: World, world: World, history: History) -> World:
    """Like `lived`, for a node that was older than its backup, which therefore begins with a snapshot."""
    history.version = taken_over_once.version
    return copy_into(taken_over_once, world)


@pytest.fixture(autouse=True)
def encrypted_if_asked_for(request: pytest.FixtureRequest) -> Iterator[None]:
    """With LIGHTNINGD_BACKUP_ENCRYPTED=1, every backup that a test makes in this process is encrypted, unless the test
    is marked as one that says itself what it wants."""
    wanted = EVERYTHING and request.node.get_closest_marker("plain_unless_told") is None
    with encrypted_by_default() if wanted else contextlib.nullcontext():
        yield


@pytest.fixture
def encrypted() -> Iterator[None]:
    """Every backup that the test makes in this process is encrypted."""
    with encrypted_by_default():
        yield


@pytest.fixture(autouse=True)
def no_key_is_known() -> Iterator[None]:
    """The keys that a test makes known to this process are gone before the next one."""
    yield
    keyring.forget()


@pytest.fixture(autouse=True)
def process_keeps_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid that a command becomes another user in this process, as it does for root in that user's directory: it
    would
    stay that user for all later tests."""

    def refuse(user: object) -> None:
        raise AssertionError("what root does in another user's directory needs a process of its own: tests.other_user")

    monkeypatch.setattr(as_owner, "_become", refuse)
