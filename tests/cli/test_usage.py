"""Whatever is typed: an exit code, a sentence, and never a traceback."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backup_cli import main
from tests.end_to_end.world import World, backup_cli, command, spawned
from tests.fake_lightningd import History
from tests.log.histories import CAMPAIGN

COMMANDS = sorted(main.COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_by_short_and_long_option(name: str) -> None:
    for option in ("-h", "--help"):
        said = backup_cli(name, option)
        assert said.code == 0
        assert said.out.startswith(f"Usage: backup-cli {name} ")
    assert name in backup_cli("--help").out


def test_help_overview_cuts_no_line() -> None:
    for columns in ("80", "200"):
        said = spawned(*command("--help"), environment={"COLUMNS": columns})
        assert said.code == 0 and "..." not in said.out.partition("Commands:")[2]


def test_version_option_prints_the_version() -> None:
    assert backup_cli("--version").out.startswith("backup-cli, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unknown",),
        ("init",),
        ("init", "--need", "2", "file:///x"),
        ("init", "--lightning-dir"),
        ("restore",),
        ("restore", "file:///x"),
        ("restore", "--to-version", "-1", "file:///x", "y"),
        ("restore", "--to-version", "x", "file:///x", "y"),
        ("verify", "--repair", "file:///x"),
        ("verify", "--dry-run"),
        ("verify", "--no-such-option", "file:///x"),
        ("resync", "file:///x"),
        ("status", "--json", "--prometheus"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_usage_errors(arguments: tuple[str, ...]) -> None:
    said = backup_cli(*arguments)
    assert said.code == 2 or (not arguments and said.code in (0, 2))
    assert "Usage: " in said.text or "Error: " in said.err


def test_backup_cli_alone_prints_the_overview() -> None:
    assert backup_cli().err == backup_cli("--help").out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("file://mnt/nas/x", "file:///mnt/nas/x"),
        ("file://~/backup", "file://HOME/backup"),
        ("file:~/backup", "file://HOME/backup"),
        ("~/backup", "file://HOME/backup"),
        ("~nobody-of-that-name/backup", "file:///home/USER/lightning.bkp"),
        ("/mnt/nas/two words", "file:///mnt/nas/two%20words"),
        ("file:mnt/nas", "file:///mnt/nas"),
        ("file://THIS-MACHINE/mnt/nas", "file:///mnt/nas"),
        ("socket:nas.local:8700", "nfs://SERVER/EXPORT/lightning.bkp"),
        ("nas:/volume1/backup", "nfs://nas/volume1/backup"),
        ("192.168.1.5:/volume1/a b", "nfs://192.168.1.5/volume1/a%20b"),
        ("me@server:/backup", "write it as: sftp://me@server/backup"),
        ("me@server:backup", "write it as: sftp://me@server/~/backup"),
        ("me@server:~/two words", "write it as: sftp://me@server/~/two%20words"),
        ("me@server:", "write it as: sftp://me@server/~/lightning.bkp"),
        ("ssh://me@server:2222/backup", "Write this one as: sftp://me@server:2222/backup"),
        ("scp://server/backup", "Write this one as: sftp://server/backup"),
        ("sftp://server", "write it like sftp://server/path/lightning.bkp"),
        ("s3:my-bucket", "write it as: s3://my-bucket/lightning.bkp"),
        ("s3:my-bucket/node", "write it as: s3://my-bucket/node"),
        ("s3:https://minio.local:9000/my-bucket/node", "s3://my-bucket/node?endpoint=https://minio.local:9000"),
        ("s3://my-bucket", "write it like s3://my-bucket/lightning.bkp"),
        ("s3a://my-bucket/node", "Write this one as: s3://my-bucket/node"),
        ("https://my-bucket.s3.eu-west-1.amazonaws.com/node", "s3://my-bucket/node?region=eu-west-1"),
        ("https://s3.eu-west-1.amazonaws.com/my-bucket/", "s3://my-bucket/lightning.bkp?region=eu-west-1"),
        ("https://s3.amazonaws.com/my-bucket/node", "s3://my-bucket/node"),
        ("https://s3.server.example/my-bucket/node", "s3://my-bucket/node?endpoint=https://s3.server.example"),
        ("https://storage.googleapis.com/my-bucket/node", "gs://my-bucket/node"),
        ("https://me.blob.core.windows.net/box/node", "az://box/node?account=me"),
        ("gcs://my-bucket/node", "Write this one as: gs://my-bucket/node"),
        ("abfs://box/node", "Write this one as: az://box/node"),
        ("postgresql://me@db1,db2/lightning", "Write this one as: postgres://me@db1,db2/lightning"),
        ("postgres://me@db1", "names no database; write it like postgres://me@db1/DATABASE"),
        ("ftp://server/x", "mount that server"),
        ("smb://nas/backup", "nfs:///mnt/SHARE/lightning.bkp"),
    ],
)
def test_almost_right_url_gets_the_intended_one_suggested(typed: str, meant: str, tmp_path: Path) -> None:
    typed = typed.replace("THIS-MACHINE", socket.gethostname())
    said = backup_cli("init", "--lightning-dir", tmp_path, typed)
    assert said.code == 2
    assert meant.replace("HOME", str(Path.home())) in said.text, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@db/lightning",
        "postgres://me:s3cret@db",
        "ssh://me:s3cret@server/x",
        "https://me:s3cret@server/bucket/x",
        "ftp://me:s3cr@et@server/x",
        "sftp://me:s3cret@server/x#y",
        "http://me:s3cret@[::1",
    ],
)
def test_password_in_a_url_that_names_nothing_is_not_repeated(url: str, tmp_path: Path) -> None:
    said = backup_cli("init", "--lightning-dir", tmp_path, url)
    assert said.code == 2
    assert "s3cr" not in said.text, said


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("nfs://nas.local", "write it like nfs://nas.local/path/lightning.bkp"),
        ("usb://STICK", "write it like usb://STICK/path/lightning.bkp"),
        ("file:backup", "write it as: file:///backup"),
        ("file:///mnt/backup/lightning.bkp?timout=30", "there is no option 'timout'"),
        ("file:///mnt/backup/lightning.bkp?timeout=soon", "not a number of seconds"),
        ("nfs://nas..local/export/lightning.bkp", "cannot be a server's name"),
    ],
)
def test_init_with_a_mistake_in_the_url_makes_nothing(url: str, hint: str, tmp_path: Path) -> None:
    """Found before anything is made: the plugin would refuse them at the node's next start."""
    directory = tmp_path / "regtest"
    directory.mkdir()
    said = backup_cli("init", "--lightning-dir", directory, url)
    assert said.code == 2
    assert hint in said.text
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("name", ["restore", "verify", "status", "compact"])
@pytest.mark.parametrize("url", ["x", "s3://bucket/x", "file://host/x", "file:///", "file:///dev/null", "file:///proc"])
def test_commands_on_a_url_without_a_backup_print_an_error(name: str, url: str, tmp_path: Path) -> None:
    said = backup_cli(name, url, *([tmp_path / "x"] if name == "restore" else []))
    assert said.code in (1, 2)
    assert "error: " in said.err
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_are_no_utf8_print_no_traceback(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe\n\x1b[31m")
    for words in (["init", odd], ["init", f"file:///{odd}"], ["restore", f"file://{tmp_path}", odd], [odd]):
        said = spawned(*command(*words), environment={"HOME": str(tmp_path)}, directory=tmp_path)
        assert said.code in (1, 2)
        assert "Traceback" not in said.err


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1"])
def test_commands_in_an_ascii_locale_print_no_traceback(lived: World, locale: str) -> None:
    """Also one that cannot show all the characters that we use."""
    environment = {"LC_ALL": locale, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for words in (["verify", lived.url], ["status", lived.url], ["restore", lived.url, "missing/place"]):
        said = spawned(*command(*words), environment=environment)
        assert said.code in (0, 1)
        assert "Traceback" not in said.err


def test_commands_with_closed_output_print_no_traceback(lived: World) -> None:
    """`backup-cli verify … | head -0`."""
    for stream in ("1>&-", "2>&-", "| true"):
        said = spawned("sh", "-c", f'"$@" {stream}', "sh", *command("verify", lived.url))
        assert "Traceback" not in said.err


def test_progress_without_a_terminal_is_lines(lived: World) -> None:
    said = spawned(*command("verify", lived.url))
    lines = [line for line in said.err.splitlines() if line.startswith("Verifying")]
    assert lines[0] == "Verifying …"
    assert any(line.startswith("Verifying: 100 % after") for line in lines)
    assert "\r" not in said.err
    assert "\x1b" not in said.err


def test_progress_on_a_terminal_is_a_bar(lived: World) -> None:
    program = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    said = spawned(sys.executable, "-c", program, *command("verify", lived.url), environment={"TERM": "xterm"})
    assert said.code == 0
    assert re.search(r"Verifying +\[#+\]  100 %", said.out)
    assert "Verifying …" not in said.out


def test_progress_bar_shows_the_remaining_time() -> None:
    program = """
import time
from backup_cli.console import progress
with progress("Restoring") as show:
    for part in range(13):
        time.sleep(0.1)
        show(part, 100)
"""
    spawn = f"import pty; pty.spawn([{sys.executable!r}, '-c', {program!r}])"
    said = spawned(sys.executable, "-c", spawn, environment={"TERM": "xterm"})
    assert re.search(r"1\d %  00:00:\d\d left", said.out), said.out


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> World:
    world, history = World(tmp_path_factory.mktemp("fuzzed")), History()
    world.init().run([history.first(), *history.notes(5)])
    return world


PLACES = ["{url}", "{directory}", "{disk}", "{place}", "file://", "~", "~nobody", ".", "..", ""]
"""No path outside the test's own directories: the command may well succeed."""

OPTIONS = ["--", "-", "--json", "--replace", "--resume", "--lightning-dir", "--scratch", "--to-version", "3"]

relative = st.text(max_size=12).map(lambda text: text.replace("/", ""))


@settings(max_examples=50 * CAMPAIGN, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([name for name in COMMANDS if name != "drill"]),
    words=st.lists(
        st.sampled_from([*PLACES, *OPTIONS]) | relative | relative.map(lambda text: f"{{here}}/{text}"),
        max_size=5,
    ),
)
@example(name="restore", words=["{url}", "~nobody/x"])
@example(name="init", words=["--lightning-dir", "~nobody", "{here}/x"])
@example(name="status", words=["{here}/\x00"])
@example(name="verify", words=["{here}/" + "x" * 300])
@example(name="verify", words=["{here}/" + "x/" * 3000])
def test_random_arguments_raise_nothing_and_leave_backup_and_database_equal(
    fuzzed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    """No exception comes through, and the node's database and its backup are unchanged, or agree."""
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place)
    names = {
        "{url}": fuzzed.url,
        "{directory}": str(fuzzed.directory),
        "{disk}": fuzzed.backup.parent.as_uri(),
        "{place}": str(place),
        "{here}": place.as_uri(),
    }
    for key, value in names.items():
        words = [word.replace(key, value) for word in words]
    once = ["--once"] if name == "follow" else []  # otherwise it waits for a destination that is away
    said = backup_cli(name, *once, *words)
    assert said.code in (0, 1, 2, 3)
    if said.code == 1:
        assert "error: " in said.err
    assert backup_cli("verify", fuzzed.url).code == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_restore_started_without_standard_files_succeeds(lived: World, closed: str) -> None:
    """Some supervisors start commands this way. Every command used to fail at its first output."""
    place = lived.root / "restored.sqlite3"
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command("restore", lived.url, place)], check=False)
    assert done.returncode == 0
    assert place.stat().st_size == lived.database.stat().st_size
