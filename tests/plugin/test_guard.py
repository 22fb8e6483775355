"""What stands between a call and its answer, where no process can be brought to the moment that matters."""

from pathlib import Path

from backends import backup_at
from backends.change import Change
from backends.database.taking import nothing
from plugin.before_manifest import Start
from plugin.guard import Guard
from tests.standin.calls import transaction


def test_what_is_saved_after_the_watchdog_gave_up_is_not_continued(tmp_path: Path) -> None:
    """lightningd has been told that the call failed; a second answer must not say anything else."""
    backup = backup_at((tmp_path / "lightning.bkp").as_uri())
    backup.create(nothing())
    writer = backup.open(lambda level, line: None)
    guard = Guard(tmp_path, lambda level, line: None, Start(None))
    guard.writer = writer
    call = transaction(1, "CREATE TABLE a (x)")
    append = writer.append

    def slowly(change: Change) -> None:
        guard.give_up("the destination has not answered")
        append(change)

    writer.append = slowly  # type: ignore[method-assign]
    refused = {"result": "fail", "message": "backup: the destination has not answered"}
    assert guard.db_write(call.data_version, list(call.writes)) == refused
    assert guard.db_write(call.data_version, list(call.writes)) == refused
    guard.close()
