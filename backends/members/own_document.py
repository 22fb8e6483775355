"""The document `members` of a member that is being caught up: it never says more than the member holds."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from backends.log.format.members import MEMBERS, Epoch, OutOfSync
from backends.members.epochs import Epochs
from backends.members.examine import epoch_in, is_readable
from backends.storage.base import Storage


@dataclass(frozen=True, slots=True)
class OwnDocument:
    """The document of the member `name`. `check_ours` raises if another node has taken it or the others over."""

    name: str
    storage: Storage
    epochs: Epochs
    check_ours: Callable[[], None]

    def prepare(self, *, there: bool) -> None:
        """Before anything is copied: give the member a document if it has none, seal it if everybody can read it.
        `there`: its directory existed before."""
        if not there or MEMBERS not in self.storage.names():
            self.storage.publish(MEMBERS, self._unknown())
        elif self.epochs.key is not None and is_readable(self.storage):
            self._seal()

    def publish(self) -> None:
        """For a member that trails: it holds at least what all held when the epoch began."""
        data = self.epochs.current_document(self.name).encode()
        with suppress(FileNotFoundError):
            if self.storage.read_small(MEMBERS) == data:
                return
        self.check_ours()
        self.storage.publish(MEMBERS, data)

    def _seal(self) -> None:
        """The backup was encrypted while the member was away: nobody else may read any longer where the others are.

        Its epoch is kept, which this node knows (`examine`) and which must be an earlier one: the present one began
        after that. Whatever else it said is not repeated, because anybody may have written it: that it is in sync,
        above all.
        """
        epochs, epoch = self.epochs, epoch_in(self.storage)
        if epoch is not None and epoch.number < epochs.note.epoch.number:
            data = epochs.document(self.name, epoch, (), epochs.note.out).encode()
        else:
            data = self._unknown()
        self.check_ours()
        self.storage.publish(MEMBERS, data)

    def _unknown(self) -> bytes:
        """The document of a member that was filled for the first time: it is older than any other."""
        out = {self.name: OutOfSync(int(time.time()), "it is being filled for the first time")}
        return self.epochs.document(self.name, Epoch(0, ""), (), out).encode()
