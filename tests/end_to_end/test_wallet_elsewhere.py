"""A node whose `wallet` setting names another database than the one in its network directory, which is all that the
plugin protects: it is told so at its first start, and nothing takes a stale file there for the node's."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.node.wallet import wallet_elsewhere
from plugin.at_start import WhyLeft
from plugin.before_manifest import before_manifest
from tests.end_to_end.refusal import content
from tests.end_to_end.test_set_back import play_and_set_back
from tests.end_to_end.world import PLUGIN, World, backup_cli, spawned
from tests.fake_lightningd import Call, History, Refused, committed_version
from tests.fake_lightningd.database import Database
from tests.legacy.written import written


def elsewhere(world: World) -> Path:
    """The directory of the database that lightningd really uses."""
    place = world.root / "other disk"
    place.mkdir(exist_ok=True)
    return place


def set_wallet(world: World, value: str) -> None:
    (world.directory.parent / "config").write_text(f"alias=x\nwallet={value}\n")


def refused(world: World, call: Call, command: Sequence[str] = PLUGIN, database: Path | None = None) -> str:
    """Start a node that keeps its database elsewhere; what the operator reads. The backup stays as it is."""
    before = content(world)
    place = elsewhere(world) if database is None else database
    node = world.node(database=lambda _: Database(place), command=command)
    node.start()
    with pytest.raises(Refused) as caught:
        node.db_write(call)
    assert content(world) == before
    message = caught.value.message
    assert message.isascii() and "Traceback" not in node.stderr
    return message


def follow(message: str, world: World) -> None:
    """Type what the message says, where that is about files that are there."""
    for command in re.findall(r"mv (?:'[^']*'|[^' ,;]+) (?:'[^']*'|[^' ,;]+)", message):
        _, old, _ = shlex.split(command)
        if Path(old).exists():
            subprocess.run(shlex.split(command), check=True)
    assert "remove the wallet setting" in message
    (world.directory.parent / "config").write_text("alias=x\n")


# The first start


def test_fresh_node_with_wallet_elsewhere_is_refused_at_its_first_start(world: World, history: History) -> None:
    place = elsewhere(world)
    world.init()
    set_wallet(world, f"sqlite3://{place}/lightningd.sqlite3")
    message = refused(world, history.first())
    assert f"lightningd keeps its database in {place}/lightningd.sqlite3 (wallet, " in message
    assert f"{world.directory.parent}/config line 2" in message
    assert f"this plugin protects {world.database}" in message
    assert "restore" not in message
    assert not world.database.exists()


def test_wallet_elsewhere_is_refused_alike_at_a_second_start(world: World, history: History) -> None:
    world.init()
    set_wallet(world, f"sqlite3://{elsewhere(world)}/lightningd.sqlite3")
    assert refused(world, history.first()) == refused(world, history.first())


def test_advice_for_wallet_elsewhere_leads_to_a_protected_node(world: World, history: History) -> None:
    """A node that has lived with its database elsewhere, and not with this plugin."""
    place = elsewhere(world)
    world.init()
    world.run_without_plugin([history.first(), *history.notes(5)])
    world.database.rename(place / "lightningd.sqlite3")
    set_wallet(world, f"sqlite3://{place}/lightningd.sqlite3")
    follow(refused(world, history.note("refused")), world)
    history.version = world.version
    world.run(history.notes(2))
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("told", [True, False])
def test_missing_database_is_refused_even_if_no_config_names_another(
    world: World, history: History, told: bool
) -> None:
    """The config may be one that cannot be read."""
    world.init()
    if told:
        (world.directory.parent / "config").write_text("include missing\n")
    message = refused(world, history.first())
    assert f"lightningd has no database at {world.database}" in message and "wallet" in message


@pytest.mark.parametrize("way", ["--wallet={}", "--wallet {}", "--conf={conf}", "--conf {conf}"])
@pytest.mark.parametrize("behind_a_script", [False, True])
def test_wallet_on_lightningds_command_line_is_refused_as_in_a_config(
    world: World, history: History, way: str, behind_a_script: bool
) -> None:
    place = elsewhere(world)
    world.init()
    world.database.touch()
    conf = world.root / "lightningd.conf"
    conf.write_text(f"wallet=sqlite3://{place}/lightningd.sqlite3\n")
    words = [word.format(f"sqlite3://{place}/lightningd.sqlite3", conf=conf) for word in way.split()]
    script = ["sh", "-c", f"{shlex.join(PLUGIN)}; exit $?"] if behind_a_script else PLUGIN
    message = refused(world, history.first(), command=below_lightningd(script, *words))
    assert f"lightningd keeps its database in {place}/lightningd.sqlite3" in message
    assert ("the command line" if "wallet" in way else "lightningd.conf line 1") in message


def below_lightningd(command: Sequence[str], *options: str) -> list[str]:
    """The command, started by a process that is called lightningd and has these options."""
    program = f"import subprocess, sys; sys.exit(subprocess.call({list(command)!r}))"
    words = ["lightningd", "-c", program, *options]
    return [sys.executable, "-c", f"import os, sys; os.execv(sys.executable, {words!r})"]


# Beside a stale file


def test_stale_database_in_the_directory_is_not_backed_up(lived: World, history: History) -> None:
    """The node's database was copied to another disk, and the old file was left."""
    place = elsewhere(lived)
    shutil.copy(lived.database, place)
    set_wallet(lived, f"sqlite3://{place}/lightningd.sqlite3")
    stale = lived.database.read_bytes()
    assert f"move {lived.database} aside" in refused(lived, history.note("on the other disk"))
    assert lived.database.read_bytes() == stale


def test_stale_database_is_not_brought_forward(lived: World, history: History) -> None:
    """It looks as after a power cut; but it is not what lightningd is about to open."""
    newest = play_and_set_back(lived, history.notes(8), keep=6)
    place = elsewhere(lived)
    newest.rename(place / "lightningd.sqlite3")
    set_wallet(lived, f"sqlite3://{place}/lightningd.sqlite3")
    stale = lived.database.read_bytes()
    start = before_manifest(lived.directory)
    assert start.left is WhyLeft.OTHER_DATABASE
    assert lived.database.read_bytes() == stale
    (lived.directory.parent / "config").write_text("")
    start = before_manifest(lived.directory)
    assert start.left is None, "and without the setting it is"
    assert committed_version(lived.directory) == committed_version(place)


def test_replica_in_the_directory_with_database_elsewhere_is_refused(lived: World, history: History) -> None:
    place = elsewhere(lived)
    shutil.copy(lived.database, place)
    set_wallet(lived, f"sqlite3://{place}/lightningd.sqlite3:{lived.database}")
    message = refused(lived, history.note())
    assert f"lightningd keeps its database in {place}/lightningd.sqlite3" in message
    assert "remove the wallet setting" in message, "one file is never its own replica"


def test_advice_for_wallet_elsewhere_keeps_the_replica(lived: World, history: History) -> None:
    place = elsewhere(lived)
    shutil.copy(lived.database, place)
    set_wallet(lived, f"sqlite3://{place}/lightningd.sqlite3:/mnt/replica.sqlite3")
    assert f"write wallet=sqlite3://{lived.database}:/mnt/replica.sqlite3" in refused(lived, history.note())


# What is no other database


@pytest.mark.parametrize("how", ["itself", "relative", "with a replica", "through a link", "a comment", "none"])
def test_wallet_that_names_the_file_in_the_directory_is_accepted(world: World, history: History, how: str) -> None:
    (world.root / "link").symlink_to(world.directory)
    set_wallet(
        world,
        {
            "itself": f"sqlite3://{world.database}",
            "relative": "sqlite3://lightningd.sqlite3",
            "with a replica": f"sqlite3://{world.database}:{world.root}/replica.sqlite3",
            "through a link": f"sqlite3://{world.root}/link/lightningd.sqlite3",
            "a comment": f"sqlite3:///x\n#wallet=sqlite3:///y\nwallet=sqlite3://{world.database}",
            "none": f"sqlite3://{world.database}",
        }[how],
    )
    if how == "none":
        (world.directory.parent / "config").unlink()
    world.init().run([history.first(), *history.notes(2)])
    world.run(history.notes(2))
    world.assert_restored_equals_the_nodes()


def test_config_beside_a_linked_network_directory_is_found(world: World, tmp_path: Path) -> None:
    """The config file is beside the link, and not above its target."""
    home = world.root / "home"
    home.mkdir()
    (home / "regtest").symlink_to(world.directory)
    (home / "config").write_text("wallet=sqlite3:///srv/other.sqlite3\n")
    program = (
        "from pathlib import Path; from backends.node.wallet import wallet_elsewhere;"
        f"print(wallet_elsewhere(Path({str(world.directory)!r})))"
    )
    for option in (f"--lightning-dir={home}", f"--lightning-dir {home}"):
        said = spawned(*below_lightningd([sys.executable, "-c", program], *option.split()))
        assert "/srv/other.sqlite3" in said.out, said
    assert wallet_elsewhere(world.directory) is None


@pytest.mark.parametrize("value", ["postgres://x", "", "nonsense", "sqlite3:/x"])
def test_wallet_that_is_no_sqlite_file_is_not_reported_as_elsewhere(world: World, value: str) -> None:
    set_wallet(world, value)
    assert wallet_elsewhere(world.directory) is None


# The commands


def test_resync_refuses_a_stale_database_when_wallet_is_elsewhere(lived: World, history: History) -> None:
    place = elsewhere(lived)
    set_wallet(lived, f"sqlite3://{place}/lightningd.sqlite3")
    before = content(lived)
    said = backup_cli("resync", "--lightning-dir", lived.directory)
    assert said.code == 1 and f"its database is {place}/lightningd.sqlite3" in said.text
    assert content(lived) == before


def test_import_refuses_a_stale_database_when_wallet_is_elsewhere(lived: World, history: History) -> None:
    place = elsewhere(lived)
    set_wallet(lived, f"sqlite3://{place}/lightningd.sqlite3")
    older = lived.root / "older.bkp"
    written([History().first()]).save(older)
    said = backup_cli("import", "--lightning-dir", lived.directory, older, f"file://{lived.root}/new.bkp")
    assert said.code == 1 and f"its database is {place}/lightningd.sqlite3" in said.text
    assert not (lived.root / "new.bkp").exists()


def test_restore_warns_that_lightningd_would_run_from_another_file(lived: World) -> None:
    place = lived.root / "restored" / "regtest"
    place.mkdir(parents=True)
    (place.parent / "config").write_text("wallet=sqlite3:///srv/other.sqlite3\n")
    said = backup_cli("restore", lived.url, place)
    assert said.code == 0
    assert f"warning: {place.parent}/config line 1 sets wallet" in said.err
    assert "lightningd runs from /srv/other.sqlite3, and NOT from the restored database" in said.text


def test_init_with_wallet_elsewhere_says_where_to_move_the_database(world: World, history: History) -> None:
    place = elsewhere(world)
    world.run_without_plugin([history.first()])
    world.database.rename(place / "db")
    set_wallet(world, f"sqlite3://{place}/db")
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1 and not world.backup.exists()
    follow(said.text, world)
    world.init()
    world.assert_restored_equals_the_nodes()
