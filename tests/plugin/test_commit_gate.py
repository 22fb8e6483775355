"""What stands between a call and its answer, where no process can be brought to the moment that matters."""

from pathlib import Path

from backends import backend_for
from backends.change import Change
from backends.database.taking import nothing
from plugin.before_manifest import Start
from plugin.commit_gate import CommitGate
from tests.standin.calls import transaction


def test_what_is_saved_after_the_watchdog_gave_up_is_not_continued(tmp_path: Path) -> None:
    """lightningd has been told that the call failed; a second answer must not say anything else."""
    backend = backend_for((tmp_path / "lightning.bkp").as_uri())
    backend.create(nothing())
    backend.open(lambda level, line: None)
    gate = CommitGate(tmp_path, lambda level, line: None, Start(None))
    gate.backend = backend
    call = transaction(1, "CREATE TABLE a (x)")
    append = backend.append

    def slowly(change: Change) -> None:
        gate.give_up("the destination has not answered")
        append(change)

    backend.append = slowly  # type: ignore[method-assign]
    refused = {"result": "fail", "message": "backup: the destination has not answered"}
    assert gate.db_write(call.data_version, list(call.writes)) == refused
    assert gate.db_write(call.data_version, list(call.writes)) == refused
    gate.close()
