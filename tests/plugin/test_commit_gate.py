"""The commit gate's table: a state, the call that meets it, the answer, and what was changed by then.

Everything runs in this process, on a real directory and a real database. The node has run before: three changes, and a
clean stop; what may have happened to it since is in tests/plugin/gate_states.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from backends.base import SnapshotSource
from backends.change import Change
from backends.node.hand_over import hand_over
from backends.node.session import SESSION_FILE
from backends.node.sync_point import read_sync_point
from plugin.commit_gate import CONTINUE, CommitGate
from tests.fake_lightningd import Call, foreign_keys, transaction
from tests.plugin.gate_states import AFTER, LIFE, NEXT, OTHER_NODE_ID, STATES, Node, call_hook, segments
from tests.sqlite.databases import made


class Answer(Enum):
    """What lightningd is told, and what was changed by then."""

    APPENDED = "continue; the change is in the log"
    NEW_SNAPSHOT = "continue; the change is in the log of a new snapshot"
    REFUSED = "fail; nothing was changed"
    REFUSED_LATE = "fail; nothing was changed but the node's own list of sessions, which must come first"
    NOT_ACKNOWLEDGED = "fail; the change may be in the log, which is another writer's"


@dataclass(frozen=True)
class Row:
    """A state of the world, and the call that meets it."""

    state: str
    call: Call
    answer: Answer
    why: str = ""
    """Words that the node's log must contain about it."""


PRAGMA = foreign_keys(3, on=True)

FIRST_CALLS = [
    Row("stopped cleanly", NEXT, Answer.APPENDED),
    Row("stopped cleanly", PRAGMA, Answer.APPENDED),
    Row("an old copy of the database was put back", AFTER, Answer.APPENDED, "was 1 change behind its backup"),
    # The content is in doubt, or there is more in the database than in the backup
    Row("its sync point is gone", NEXT, Answer.NEW_SNAPSHOT, "nothing on this machine says what the database held"),
    Row("its sync point is gone", PRAGMA, Answer.NEW_SNAPSHOT, "nothing on this machine says what the database held"),
    Row("the file was touched since", NEXT, Answer.NEW_SNAPSHOT, "touched while this plugin did not run"),
    Row("the last run ended with a failure", NEXT, Answer.NEW_SNAPSHOT, "with a failure (the disk is full)"),
    Row("it was started without the plugin, and wrote a change", AFTER, Answer.NEW_SNAPSHOT, "the database is 1 ahead"),
    Row("the backup is known to be damaged", NEXT, Answer.NEW_SNAPSHOT, "known to be damaged"),
    Row("an older copy of the backup was put back", AFTER, Answer.NEW_SNAPSHOT, "is not older than what the node"),
    # The database has lost what the backup holds
    Row("an old copy of the database was put back, and changed", NEXT, Answer.REFUSED, "backup-cli restore --resume"),
    Row("the database was lost, and lightningd has made a new one", LIFE[0], Answer.REFUSED, "lost 29 changes"),
    Row("older copies of both were put back", NEXT, Answer.REFUSED, "Nothing was changed"),
    Row("stopped cleanly", LIFE[2], Answer.REFUSED, "lost 1 change"),
    # Not the node's database, or not its backup
    Row("the database was lost", LIFE[0], Answer.REFUSED, "no database at"),
    Row("lightningd's wallet is elsewhere", NEXT, Answer.REFUSED, "keeps its database in"),
    Row("its database was exchanged for another node's", NEXT, Answer.REFUSED, f"belongs to the node {OTHER_NODE_ID}"),
    Row("stopped cleanly", transaction(9), Answer.REFUSED, "is not the one that lightningd uses"),
    Row("there is no backup.lock", NEXT, Answer.REFUSED, "this node has no backup yet"),
    Row("backup.lock makes no sense", NEXT, Answer.REFUSED, "backup.lock"),
    Row("backup.lock names no destination", NEXT, Answer.REFUSED, "names no destination"),
    Row("the destination is away", NEXT, Answer.REFUSED, "lightning.bkp"),
    Row("the destination holds another backup", NEXT, Answer.REFUSED, "backup.lock expects the backup"),
    Row("the manifest is damaged", NEXT, Answer.REFUSED, "the backup is damaged"),
    Row("the log is damaged", NEXT, Answer.REFUSED, "the backup is damaged"),
    # Somebody else writes, or did
    Row("another node has written to the backup since", NEXT, Answer.REFUSED, "has taken over the backup"),
    Row(
        "it is a copy of the directory, made while the node ran, and both went on",
        transaction(7),
        Answer.REFUSED,
        "looks like a copy",
    ),
    Row("a command works on the node", NEXT, Answer.REFUSED, "backup-cli resync"),
    Row("another process of this machine writes the backup", NEXT, Answer.REFUSED_LATE, "backup-cli compact"),
]

UNSAVABLE = [
    (Call(-1, NEXT.writes), "cannot save"),
    (Call(1 << 32, NEXT.writes), "cannot save"),
    (Call(4, ("INSERT INTO vars (name) VALUES ('\0')",)), "cannot save"),
    (Call(4, ("INSERT INTO vars (name) VALUES ('\ud800')",)), "cannot save"),
    (Call(4, ()), "PostgreSQL"),
    (Call(4, LIFE[0].writes), "a statement that leads to another one"),
    (Call(3, ("PRAGMA user_version = 3",)), "a PRAGMA that this release does not know"),
    (transaction(4, "ATTACH 'x' AS y"), "a statement that this release does not know"),
]
FIRST_CALLS += [Row("stopped cleanly", call, Answer.REFUSED, why) for call, why in UNSAVABLE]

LATER_CALLS = [
    Row("stopped cleanly", AFTER, Answer.APPENDED),
    Row("stopped cleanly", foreign_keys(4, on=True), Answer.APPENDED),
    Row("the backup is known to be damaged", AFTER, Answer.NEW_SNAPSHOT, "known to be damaged"),
    Row("it was started without the plugin, and wrote a change", transaction(6), Answer.NEW_SNAPSHOT, "1 ahead"),
    Row("stopped cleanly", NEXT, Answer.REFUSED, "lost 1 change"),
    Row("stopped cleanly", transaction(9), Answer.REFUSED, "is not the one that lightningd uses"),
    Row(
        "another writer has made the segments its own",
        AFTER,
        Answer.NOT_ACKNOWLEDGED,
        "and its last change was not committed",
    ),
    Row("the watchdog has given up", AFTER, Answer.REFUSED, "has not answered"),
    *(Row("stopped cleanly", call, Answer.REFUSED, why) for call, why in UNSAVABLE),
]
"""The state is what happens between the first call, `NEXT`, and this one."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    node.live(*LIFE)
    yield node
    for lock in node.held:
        lock.release()


def named(row: Row) -> str:
    return f"{row.state}: {row.call.data_version} {row.why} {row.answer.name}"


@pytest.mark.parametrize("row", FIRST_CALLS, ids=named)
def test_first_call_in_each_state_is_answered_by_the_table(node: Node, row: Row) -> None:
    STATES[row.state](node)
    node.said.clear()
    gate = node.start()  # which may bring the database forward, or copy it aside until the end
    started_with = {name: what for name, what in node.everything().items() if "/.lightningd-backup-" not in name}
    answer = call_hook(gate, row.call)
    assert row.why in " ".join([*(line for _, line in gate._found_at_start.lines), *node.said])
    if row.answer in (Answer.APPENDED, Answer.NEW_SNAPSHOT):
        assert answer == CONTINUE, gate.refusal
        assert_saved(node, row)
        gate.close()
        return
    assert answer == {"result": "fail", "message": f"backup: {gate.refusal}"}
    assert_refused_from_now_on(gate, answer)
    gate.close()
    changed = {Path(name).name for name, _ in node.everything().items() ^ started_with.items()}
    assert changed == ({SESSION_FILE} if row.answer is Answer.REFUSED_LATE else set())


@pytest.mark.parametrize("row", LATER_CALLS, ids=named)
def test_later_call_in_each_state_is_answered_by_the_table(node: Node, row: Row) -> None:
    gate = node.start()
    assert call_hook(gate, NEXT) == CONTINUE, gate.refusal
    node.commit(NEXT)
    happen_meanwhile(node, gate, row.state)
    assert gate.writer is not None
    before = gate.writer.position
    answer = call_hook(gate, row.call)
    assert row.why in " ".join(node.said)
    if row.answer in (Answer.REFUSED, Answer.NOT_ACKNOWLEDGED):
        assert answer == {"result": "fail", "message": f"backup: {gate.refusal}"}
        assert node.log().end().sequence == before.sequence + (row.answer is Answer.NOT_ACKNOWLEDGED)
        assert_refused_from_now_on(gate, answer)
        sync_point = read_sync_point(node.directory)
        assert sync_point is not None
        assert sync_point.failure == gate.refusal, "the next start must not believe that all is well"
    else:
        assert answer == CONTINUE, gate.refusal
        assert_saved(node, row)
    gate.close()


def happen_meanwhile(node: Node, gate: CommitGate, what: str) -> None:
    assert gate.writer is not None
    match what:
        case "the backup is known to be damaged":
            gate.damage.found(gate.writer, "verify", "a lie", 1)
        case "it was started without the plugin, and wrote a change":
            node.commit(AFTER)
        case "another writer has made the segments its own":
            for segment in segments(node):
                segment.chmod(0o400)
        case "the watchdog has given up":
            gate.give_up("it has not answered")
        case _:
            assert what == "stopped cleanly"


def assert_saved(node: Node, row: Row) -> None:
    """The acknowledged change is the last in the log, in the expected generation."""
    with node.log().read() as generation:
        changes = list(generation.changes())
        assert (changes[-1].data_version, tuple(changes[-1].statements)) == (row.call.data_version, row.call.writes)
        assert generation.manifest.generation == (2 if row.answer is Answer.NEW_SNAPSHOT else 1)
        if row.answer is Answer.NEW_SNAPSHOT:
            assert len(changes) == 1


def assert_refused_from_now_on(gate: CommitGate, answer: dict[str, str]) -> None:
    """Every later call is refused, however good it is: lightningd may not have stopped yet."""
    for call in (NEXT, AFTER):
        assert call_hook(gate, call) == answer


OFF = foreign_keys(3, on=False)


def test_healing_snapshot_is_put_off_while_foreign_keys_are_off(node: Node) -> None:
    """A snapshot would say that foreign keys are on. Nothing depends on it: the call is saved as any other."""
    gate = node.start()
    assert call_hook(gate, OFF) == CONTINUE
    happen_meanwhile(node, gate, "the backup is known to be damaged")
    assert call_hook(gate, NEXT) == CONTINUE
    assert_saved(node, Row("", NEXT, Answer.APPENDED))
    assert "no new snapshot could be taken yet" in node.said[-1]
    gate.close()


@pytest.mark.parametrize("found_after", [1, 2])
def test_healing_snapshot_is_taken_once_a_migration_has_switched_foreign_keys_on_again(
    node: Node, found_after: int
) -> None:
    """It was put off until the node's next start. The PRAGMA itself is no moment for it: it begins no transaction."""
    gate = node.start()
    for number, call in enumerate([OFF, PRAGMA], 1):
        assert call_hook(gate, call) == CONTINUE
        if number == found_after:
            happen_meanwhile(node, gate, "the backup is known to be damaged")
    assert call_hook(gate, NEXT) == CONTINUE
    assert_saved(node, Row("", NEXT, Answer.NEW_SNAPSHOT))
    assert not any("could be taken" in line for line in node.said)
    gate.close()


def test_new_node_is_saved_from_its_first_call_on(tmp_path: Path) -> None:
    node = Node(tmp_path)
    gate = node.start()
    node.database.touch()  # lightningd has opened it
    assert call_hook(gate, LIFE[0]) == CONTINUE, gate.refusal
    assert_saved(node, Row("", LIFE[0], Answer.APPENDED))
    gate.close()


def test_change_for_which_there_is_no_memory_is_refused_with_its_size(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 32 bit, a statement of 500 MiB ended as "something unexpected"."""

    def no_memory(*_: object) -> None:
        raise MemoryError

    gate = node.start()
    assert call_hook(gate, PRAGMA) == CONTINUE
    with monkeypatch.context() as patched:
        patched.setattr("backends.log.writer.writer.Writer.append", no_memory)
        answer = call_hook(gate, NEXT)
    assert "not enough memory to save a change of 0.0 MB" in (gate.refusal or "")
    assert_refused_from_now_on(gate, answer)
    gate.close()


@pytest.mark.parametrize("noted", [False, True])
def test_empty_database_does_not_replace_a_backup_at_version_0(tmp_path: Path, noted: bool) -> None:
    """Old nodes keep no version, and at 2^32 it wraps."""
    node = Node(tmp_path)
    node.log().remove()
    old = made(node.database, "CREATE TABLE version (version INTEGER)", "INSERT INTO version VALUES (1)")
    position = node.log().create(SnapshotSource([old.read_bytes()], 0, None))
    hand_over(node.directory, node.backup.as_uri(), node.log().id(), position)
    node.database.unlink()
    if noted:
        STATES["the backup is known to be damaged"](node)
    gate = node.start()
    node.database.touch()
    started_with = node.everything()
    assert call_hook(gate, LIFE[0])["result"] == "fail"
    assert "the database is empty, but its backup is not" in node.said[-1]
    assert ("do not restore from it yet. To see whether" in node.said[-1]) == noted
    gate.close()
    assert node.everything() == started_with


def test_call_saved_after_the_watchdog_gave_up_does_not_get_continue(node: Node) -> None:
    """lightningd has been told that the call failed; a second answer must not say anything else."""
    gate = node.start()
    assert call_hook(gate, NEXT) == CONTINUE
    assert gate.writer is not None
    append = gate.writer.append

    def slowly(change: Change) -> None:
        gate.give_up("the destination has not answered")
        append(change)

    gate.writer.append = slowly  # type: ignore[method-assign]
    refused = {"result": "fail", "message": "backup: the destination has not answered"}
    assert call_hook(gate, AFTER) == refused
    assert call_hook(gate, AFTER) == refused
    gate.close()
