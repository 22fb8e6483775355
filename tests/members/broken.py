"""The rules of a backup with several members, each broken in turn: the histories must notice it.

Each of these takes one rule out of the running code, and puts it back when the block ends.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from backends.members import catching_up, copy_file, files
from backends.members.catching_up import CatchingUp
from backends.members.epochs import Epochs
from backends.members.files import make_equal
from backends.members.running import RunningMembers
from backends.node.members_note import MembersNote
from backends.storage.base import Storage
from backends.storage.mirror.storage import MirrorStorage

Break = Callable[[], AbstractContextManager[object]]


@contextmanager
def no_intent() -> Iterator[None]:
    """An epoch is not noted before the members carry it."""
    write = Epochs._write

    def writing(self: Epochs, note: MembersNote) -> None:
        if note.intent is None:
            write(self, note)

    with patch.object(Epochs, "_write", writing):
        yield


@contextmanager
def acknowledged_before_epoch() -> Iterator[None]:
    """A change is acknowledged without a member before the others carry the epoch; that is left to the next one."""
    on_failure, each_part = RunningMembers.on_failure, MirrorStorage.write_durably
    later: list[tuple[RunningMembers, Mapping[str, Exception]]] = []

    def failing(self: RunningMembers, failed: Mapping[str, Exception]) -> None:
        rest = set(self.mirror.in_sync) - failed.keys()
        if not self._begun or len(rest) < self.epochs.settings.need:
            on_failure(self, failed)
        else:
            with self.mirror.failing({}):
                later.append((self, {name: error for name, error in failed.items() if name in self.mirror.in_sync}))

    def writing(self: MirrorStorage, *arguments: Any) -> None:
        while later:
            on_failure(*later.pop())
        each_part(self, *arguments)

    with patch.object(RunningMembers, "on_failure", failing), patch.object(MirrorStorage, "write_durably", writing):
        yield


@contextmanager
def no_deep_pass() -> Iterator[None]:
    """What a member that is back already has is compared by size and end only."""

    def shallow(source: Storage, target: Storage, *, deep: bool, **rest: Any) -> int:
        return make_equal(source, target, deep=False, **rest)

    with patch.object(catching_up, "make_equal", shallow):
        yield


@contextmanager
def no_check_of_changes() -> Iterator[None]:
    """A member joins although files have changed since it was compared."""
    adopted = CatchingUp._adopted

    def blind(self: CatchingUp, seen: int) -> bool:
        handles = {handle.name: handle for handle in self.host.mirror.open_files()}
        for name in [name for name in self._tails if name not in handles]:
            self._tails.pop(name).part.close()
        return adopted(self, self.host.mirror.changes)

    with patch.object(CatchingUp, "_adopted", blind):
        yield


@contextmanager
def no_first_document() -> Iterator[None]:
    """A member that is filled for the first time has no document until it joins."""
    publish = Storage.publish

    def publishing(self: Storage, name: str, data: bytes) -> None:
        if name != "members" or b'"epoch":0' not in data.replace(b" ", b""):
            publish(self, name, data)

    with patch.object(Storage, "publish", publishing):
        yield


@contextmanager
def unknown_epoch_overwritten() -> Iterator[None]:
    """What another node has written is taken for an earlier state of this one's."""
    with patch("backends.members.examine.is_foreign", lambda *_: False):
        yield


@contextmanager
def copy_not_synced() -> Iterator[None]:
    """Copied files are renamed before they are synced."""
    copy = copy_file.copy_aside

    def copying(source: Storage, target: Storage, *arguments: Any) -> str:
        create = target.create

        def creating(name: str) -> Any:
            handle = create(name)
            handle.sync = lambda: None  # type: ignore[method-assign]
            return handle

        with patch.object(target, "create", creating):
            return copy(source, target, *arguments)

    with patch.object(copy_file, "copy_aside", copying), patch.object(files, "copy_aside", copying):
        yield


@contextmanager
def not_levelled() -> Iterator[None]:
    """A start does not make the members equal."""

    def nothing(source: Storage, target: Storage, **rest: Any) -> int:
        return 0

    with patch("backends.members.levelling.make_equal", nothing):
        yield


@contextmanager
def marker_of_newest() -> Iterator[None]:
    """A start notes the newest member's end at all members, before they are equal."""
    with patch.object(MirrorStorage, "is_level", lambda storage: True):
        yield


@contextmanager
def joined_early() -> Iterator[None]:
    """A member joins without the last bytes."""

    def adopt(self: CatchingUp, handles: Mapping[str, Any]) -> bool:
        for name, tail in self._tails.items():
            handles[name].adopt(self.name, tail.part)
        self._tails.clear()
        self.host.mirror.adopt(self.name, self.storage, None)
        return True

    with patch.object(CatchingUp, "_adopt", adopt):
        yield


@contextmanager
def started_alone() -> Iterator[None]:
    """A start believes the members that are here, whatever the node knows of the others."""
    from backends.members.start import StartWith

    def may_start(seen: Any, configured: Any, need: int, *_: Any, **__: Any) -> StartWith:
        from backends.members.newest import newest

        source = newest(seen)
        names = tuple(each.name for each in seen if each.document.epoch == source.document.epoch and each.end)
        in_sync = tuple(name for name in names if name in source.document.in_sync)
        return StartWith(source, in_sync, ())

    with patch("backends.members.opening.may_start", may_start):
        yield


BROKEN: dict[str, Break] = {
    rule.__name__: rule
    for rule in (
        no_intent,
        acknowledged_before_epoch,
        no_deep_pass,
        no_check_of_changes,
        no_first_document,
        unknown_epoch_overwritten,
        copy_not_synced,
        not_levelled,
        marker_of_newest,
        joined_early,
        started_alone,
    )
}
