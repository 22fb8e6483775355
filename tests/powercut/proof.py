"""The next start after a power cut, done as lightningd does it, and its outcome."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import DATABASE
from tests.fake_lightningd import Aborted, Call, Node, OutOfStep
from tests.powercut.machine import DurableDatabase, Machine, opened_by_sqlite
from tests.powercut.model import Model, digest


class Outcome(Enum):
    """The outcome of a start after a power cut."""

    WENT_ON = "went on, with every acknowledged change"
    LOST = "went on from an older state: acknowledged changes are lost"
    STRANGE = "went on from a state that the node was never in"
    REFUSED = "refused, and the database file is as it was"
    TOUCHED = "refused, and the database file is not as it was"
    NOT_RESTORED = "went on, but a restore gives something else"


GOOD = frozenset({Outcome.WENT_ON})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, the reason for it, and what the plugin logged."""

    outcome: Outcome
    why: str = ""
    logs: Sequence[tuple[str, str]] = ()
    rolled_forward: bool = False
    """The plugin changed the database before lightningd opened it."""
    snapshot: bool = False
    """A new snapshot was taken."""


@dataclass
class _Start:
    """A node that is being started, and what was seen meanwhile."""

    machine: Machine
    before: dict[str, bytes]
    at_manifest: dict[str, bytes] = field(default_factory=dict)
    opened: str = ""

    def open(self, directory: Path) -> DurableDatabase:
        """Called when lightningd opens its database, after the manifest has been answered."""
        self.at_manifest = database_files(directory)
        database = DurableDatabase(directory)
        self.opened = digest(directory / DATABASE)
        return database


def database_files(directory: Path) -> dict[str, bytes]:
    """The database and SQLite's files beside it."""
    return {path.name: path.read_bytes() for path in sorted(directory.glob(f"{DATABASE}*")) if path.is_file()}


def prove(
    machine: Machine, model: Model, allowed: Sequence[int], before_first_change: Callable[[], None] = lambda: None
) -> Verdict:
    """Start the node, make two changes, stop, restore. `allowed` are the model's states that it may continue from."""
    start = _Start(machine, database_files(machine.directory))
    node = machine.node(start.open)
    try:
        node.start()
        before_first_change()
        for _ in range(2):
            _make(node, machine.next_call())
        code = node.stop()
    except (Aborted, OutOfStep) as error:
        return _refused(machine, start, node, f"{type(error).__name__}: {error}")
    finally:
        node.die()
    rolled = start.at_manifest != start.before
    told = [text for _, text in node.logs]
    snapshot = any("new snapshot taken" in text for text in told)

    def verdict(outcome: Outcome, why: str = "") -> Verdict:
        return Verdict(outcome, why, list(node.logs), rolled, snapshot)

    if start.opened not in [model.states[state] for state in allowed]:
        behind = model.behind(start.opened, min(allowed))
        return verdict(Outcome.STRANGE) if behind is None else verdict(Outcome.LOST, f"{behind} behind")
    if code != 0 or node.stderr:
        return verdict(Outcome.STRANGE, f"the plugin ended with {code}: {node.stderr}")
    wrong = _restored(machine)
    return verdict(Outcome.NOT_RESTORED, wrong) if wrong else verdict(Outcome.WENT_ON)


def _make(node: Node, call: Call) -> None:
    node.db_write(call)
    if not node.initialised:
        node.init()


def _refused(machine: Machine, start: _Start, node: Node, why: str) -> Verdict:
    """A refusal must have changed nothing: the file must be what SQLite alone makes of it."""
    with tempfile.TemporaryDirectory(dir=machine.root) as scratch:
        untouched = opened_by_sqlite(start.before, Path(scratch))
    now = machine.database.read_bytes() if machine.database.exists() else b""
    same = start.at_manifest == start.before and now == untouched
    return Verdict(Outcome.REFUSED if same else Outcome.TOUCHED, why, list(node.logs))


def _restored(machine: Machine) -> str:
    """What is wrong with the restored database; empty if it equals the node's."""
    with tempfile.TemporaryDirectory(dir=machine.root) as scratch:
        target = Path(scratch) / DATABASE
        said = machine.restore(target)
        if said.code != 0:
            return said.text
        return "; ".join(differences(target, machine.database))
