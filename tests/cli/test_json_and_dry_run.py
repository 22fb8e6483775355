"""`--json`: stdout holds one document, however a command ends, and it says what the exit code says."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from backends.node.writer_lock import WriterLock
from backends.sqlite.compare import compare
from backup_cli.main import main
from tests.end_to_end.world import Said, World, backup_cli, tree


def document(said: Said) -> Any:
    assert "Traceback" not in said.err
    return json.loads(said.out)


def error(said: Said) -> dict[str, Any]:
    found: dict[str, Any] = document(said)["error"]
    assert found["exit_code"] == said.code
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "--dry-run"],
        ["restore", "x"],
        ["init"],
        ["drill", "--nonsense"],
        ["check-config", "x"],
        ["nonsense"],
        [],
    ],
)
def test_json_usage_error_is_one_document(words: list[str]) -> None:
    said = backup_cli(*words, "--json")
    assert error(said)["kind"] == "usage"
    assert said.code == 2


def test_json_error_of_a_missing_backup_is_unreachable(tmp_path: Path) -> None:
    for words in (["verify"], ["status"], ["versions"], ["restore", "--dry-run"]):
        dest = [str(tmp_path)] if words[0] == "restore" else []
        said = backup_cli(*words, "--json", (tmp_path / "none").as_uri(), *dest)
        assert error(said)["kind"] == "unreachable"
        assert error(said)["message"] in said.err


def test_json_error_of_damage_names_file_and_offset(old_node: World, tmp_path: Path) -> None:
    old_node.init()
    snapshot = old_node.backup / "snapshot-00000001"
    data = bytearray(snapshot.read_bytes())
    data[len(data) // 2] ^= 1
    snapshot.write_bytes(data)
    for words in (["verify", "--json", old_node.url], ["restore", "--json", old_node.url, str(tmp_path / "x.sqlite3")]):
        found = error(backup_cli(*words))
        assert (found["kind"], found["file"], found["exit_code"]) == ("damaged", "snapshot-00000001", 3)
        assert isinstance(found["offset"], int)
        assert found["last_good"] is None
        assert "finding" in found


def test_json_of_init_verify_restore_and_check_config_agrees_with_status(old_node: World, place: Path) -> None:
    made = document(backup_cli("init", "--json", "--lightning-dir", old_node.directory, old_node.url))
    status = document(backup_cli("status", "--json", old_node.url))
    assert {name: made[name] for name in ("backup_id", "node_id", "data_version")} == {
        name: status[name] for name in ("backup_id", "node_id", "data_version")
    }
    assert made["important_plugin"].endswith("lightningd-backup")
    seen = document(backup_cli("verify", "--json", "--lightning-dir", old_node.directory, old_node.url))
    for name in ("url", "backup_id", "node_id", "data_version", "last_change", "generation"):
        assert seen[name] == status[name], name
    assert seen["compared"]["tables"] > 0
    restored = document(backup_cli("restore", "--json", "--resume", old_node.url, place))
    assert restored["path"] == str(place / "lightningd.sqlite3")
    assert restored["resumed"]
    assert compare(Path(restored["path"]), old_node.database).differences == []
    said = backup_cli("check-config", "--json", "--lightning-dir", old_node.directory)
    found = document(said)
    assert (said.code, found["protected"]) == (1, False)
    assert found["problems"] == sum(each["level"] == "problem" for each in found["findings"]) > 0


def test_json_of_both_drills_holds_their_findings(old_node: World, tmp_path: Path) -> None:
    seen = document(backup_cli("drill", "--json", tmp_path.as_uri()))
    assert seen["identical"]
    assert 0 < seen["commit_seconds"]["median"] <= seen["commit_seconds"]["p99"] <= seen["commit_seconds"]["max"]
    old_node.init()
    own = document(backup_cli("drill", "--json", "--lightning-dir", old_node.directory))
    assert own["database"]["level"] == "ok"


def test_json_error_of_verify_lists_the_differences(old_node: World) -> None:
    old_node.init()
    with sqlite3.connect(old_node.database) as connection:
        connection.execute("CREATE TABLE another (a)")
    connection.close()
    found = error(backup_cli("verify", "--json", "--lightning-dir", old_node.directory, old_node.url))
    assert found["kind"] == "refused"
    assert "another" in " ".join(found["listed"])


def test_stdout_without_json_is_empty_on_errors(tmp_path: Path) -> None:
    assert backup_cli("verify", (tmp_path / "none").as_uri()).out == ""


# --dry-run


def test_dry_init_says_what_init_does_and_changes_nothing(old_node: World) -> None:
    before = tree(old_node.root, locks=True)
    said = backup_cli("init", "--dry-run", "--lightning-dir", old_node.directory, old_node.url)
    assert said.code == 0, said
    assert tree(old_node.root, locks=True) == before
    assert f"would create a backup at {old_node.url}" in said.out
    assert f"would write {old_node.directory / 'backup.lock'}" in said.out
    assert backup_cli("init", "--lightning-dir", old_node.directory, old_node.url).code == 0
    before = tree(old_node.root, locks=True)
    again = backup_cli("init", "--dry-run", "--lightning-dir", old_node.directory, old_node.url)
    real = backup_cli("init", "--lightning-dir", old_node.directory, old_node.url)
    assert (again.code, again.err) == (real.code, real.err)
    assert again.code == 1
    assert tree(old_node.root, locks=True) == before


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_dry_restore_changes_nothing(old_node: World, tmp_path: Path, options: list[str]) -> None:
    old_node.init()
    new = tmp_path / "new" / "regtest"
    new.parent.mkdir()
    before = tree(old_node.root, new.parent, locks=True)
    said = backup_cli("restore", "--dry-run", *options, old_node.url, new)
    assert said.code == 0, said
    assert tree(old_node.root, new.parent, locks=True) == before
    assert f"would create the directory {new}" in said.out
    assert (f"would write {new / 'backup.lock'}" in said.out) == bool(options)
    assert backup_cli("restore", *options, old_node.url, new).code == 0
    before = tree(old_node.root, new.parent, locks=True)
    refused = backup_cli("restore", "--dry-run", *options, old_node.url, new)
    assert (refused.code, "exists already" in refused.err) == (1, True)
    said = backup_cli("restore", "--dry-run", "--replace", *options, old_node.url, new)
    assert said.code == 0, said
    assert f"would move {new / 'lightningd.sqlite3'} aside" in said.out
    assert tree(old_node.root, new.parent, locks=True) == before


def test_dry_resync_and_compact_change_nothing(old_node: World) -> None:
    old_node.init()
    before = tree(old_node.root, locks=True)
    said = backup_cli("resync", "--dry-run", "--lightning-dir", old_node.directory)
    assert said.code == 0, said
    assert f"would write a new snapshot of {old_node.database}" in said.out
    assert backup_cli("compact", "--dry-run", old_node.url).code == 0
    assert tree(old_node.root, locks=True) == before


def test_dry_resync_beside_a_running_writer_is_refused_as_in_use(old_node: World) -> None:
    old_node.init()
    with WriterLock(old_node.directory, "a node"):
        text = (old_node.directory / "backup.pid").read_text()
        said = backup_cli("resync", "--dry-run", "--json", "--lightning-dir", old_node.directory)
        assert error(said)["kind"] == "in_use"
        assert "a node" in error(said)["message"]
        assert (old_node.directory / "backup.pid").read_text() == text


@pytest.mark.parametrize("json_wanted", [False, True])
def test_command_that_runs_out_of_memory_says_so_and_does_not_call_it_a_bug(
    json_wanted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_memory(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr("backup_cli.main.run", no_memory)
    monkeypatch.setattr("backup_cli.main.interrupts.listen", lambda: None)
    with pytest.raises(SystemExit, match="1"):
        main(["status", *(["--json"] if json_wanted else [])])
    said = capsys.readouterr()
    assert "error: there is not enough memory for this. Nothing was replaced" in said.err
    assert "bug" not in said.err
    if json_wanted:
        found = json.loads(said.out)["error"]
        assert (found["kind"], found["exit_code"]) == ("system", 1)
