"""Whatever a node and the older plugin did together, a restore gives what the node had committed."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_lightningd import Call, History
from tests.legacy.conftest import Bench
from tests.legacy.written import SNAPSHOT, Written, payload
from tests.log.histories import CAMPAIGN

EVENTS = st.lists(
    st.sampled_from(
        ["note", "note", "long", "restart", "uncommitted", "migration", "first pragma", "compact", "new snapshot"]
    ),
    max_size=25,
)
ENDS = st.sampled_from(["clean", "header behind", "tail", "torn"])


class Life:
    """A node and its backup; `calls` are those that it has committed."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.file, self.history = bench, Written(), History()
        self.calls: list[Call] = []
        self.commit(self.history.first())

    def commit(self, call: Call, *, starts: bool = False) -> None:
        if starts:
            self.file.starts_with(call)
        else:
            self.file.change(call)
        self.calls.append(call)

    def do(self, event: str) -> None:
        {
            "note": self.note,
            "long": lambda: self.commit(self.history.note("x" * 3000)),
            "restart": lambda: self.commit(self.history.note(), starts=True),
            "uncommitted": self.die_before_commit,
            "migration": self.migrate,
            "first pragma": lambda: self.commit(
                self.history.foreign_keys(on=True), starts=self.may_start_with_pragma()
            ),
            "compact": self.compact,
            "new snapshot": self.take_snapshot,
        }[event]()

    def note(self) -> None:
        self.commit(self.history.note("it's"))

    def may_start_with_pragma(self) -> bool:
        """Whether the older plugin accepts a PRAGMA as first call; otherwise it stops the node."""
        version = self.history.version
        return self.file.version == version - 1 or (0 < self.file.previous_version == version - 1)

    def die_before_commit(self) -> None:
        if self.file.version < 1:
            return
        self.file.change(self.history.note("never committed"))
        self.history.version -= 1
        self.commit(self.history.note("sent instead"), starts=True)

    def migrate(self) -> None:
        self.commit(self.history.foreign_keys(on=False))
        self.note()
        self.commit(self.history.foreign_keys(on=True))

    def compact(self) -> None:
        """Compact as the older plugin does, where it does it correctly: when its last change is a transaction."""
        if len(self.calls) < 2 or self.calls[-1].outside_transaction:
            return
        before = self.bench.node(*self.calls[:-1])
        last = self.calls[-1]
        self.file = Written().add(last.data_version - 1, before.read_bytes(), SNAPSHOT).change(last)

    def take_snapshot(self) -> None:
        """Append a snapshot to the same file."""
        self.file.snapshot(self.history.version, self.bench.node(*self.calls))

    def end(self, how: str) -> bytes:
        if how == "header behind":
            call = self.history.note("last")
            self.file.change(call, dies_before_header=True)
            self.calls.append(call)
        tail = {"tail": b"\0" * 100, "torn": payload(self.history.note("torn"))}.get(how, b"")
        if how == "torn":
            torn = Written().add(self.history.version, tail).records
            return self.file.data() + torn[: len(torn) // 2]
        return self.file.data() + tail


@settings(deadline=None, max_examples=60 * CAMPAIGN)
@given(events=EVENTS, end=ENDS)
def test_legacy_backup_of_random_history_restores_what_was_committed(events: list[str], end: str) -> None:
    with TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        life = Life(bench)
        for event in events:
            life.do(event)
        restored = bench.restore(life.end(end))
        assert restored.holds_what(bench.node(*life.calls))
