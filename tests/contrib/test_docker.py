"""The entrypoint of a container, run for real, with a fake lightningd that starts the real plugin.

Not run here: an image, and a container. docs/docker.md says what was tried of them by hand.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.click_check import calls_of_backup_cli, complaint
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import Said, World, spawned
from tests.known_secret import SECRET

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "contrib" / "docker"

LIGHTNINGD = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.fake_lightningd import History, Node, committed_version
options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
directory = Path(options["lightning-dir"]) / options["network"]
history = History(committed_version(directory) or 0)
first = [] if history.version else [history.first()]
with Node(directory, [options["important-plugin"]], network=options["network"]) as node:
    node.play([*first, *history.notes(2)])
print("lightningd ran:", *sys.argv[1:])
"""


class Container:
    """A container of the world's node: its volume is the node's directory, and a bind mount leads to its backup."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.programs = world.root / "programs"
        self.programs.mkdir()
        for name, text in (
            ("lightningd", LIGHTNINGD),
            ("backup-cli", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m backup_cli.main "$@"\n'),
            ("lightningd-backup", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m plugin.main "$@"\n'),
        ):
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> Said:
        """Start it, and wait until it has ended."""
        return spawned(
            DOCKER / "entrypoint",
            *arguments,
            environment={
                "PATH": f"{self.programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "LIGHTNINGD_DATA": str(self.world.directory.parent),
                "LIGHTNINGD_NETWORK": self.world.directory.name,
                "BACKUP_URL": self.world.url,
                **environment,
            },
        )

    def refuses(self, words: str, **environment: str) -> None:
        """Starting it ends with these words, and lightningd was not started."""
        said = self.start(**environment)
        assert said.code == 1, said
        assert re.search(words, said.err, re.DOTALL), said.err
        assert said.out == ""


@pytest.fixture
def container(world: World) -> Container:
    return Container(world)


def test_container_without_a_backup_starts_no_node(container: Container) -> None:
    container.refuses("BACKUP_URL is not set", BACKUP_URL="")
    container.refuses("Only if it has never run.*backup-cli init")
    assert not container.world.database.exists()


def test_container_lives_through_first_start_restart_and_lost_volume(container: Container) -> None:
    world = container.world
    world.init()
    said = container.start("--alias=x")
    assert said.code == 0, said
    plugin = container.programs / "lightningd-backup"
    assert said.out.endswith(f"--network={world.directory.name} --important-plugin={plugin} --alias=x\n")
    (world.directory / "hsm_secret").write_bytes(SECRET)
    before = world.version

    said = container.start()
    assert said.code == 0, said
    assert "is there, so nothing was restored" in said.err
    assert world.version == before + 2

    lost = Path(shutil.copy(world.database, world.root / "lost.sqlite3"))
    shutil.rmtree(world.directory.parent)
    world.directory.parent.mkdir()
    container.refuses("Restored version.*there is a database in .* and no hsm_secret")
    assert differences(world.database, lost) == []
    (world.directory / "hsm_secret").write_bytes(SECRET)
    said = container.start()
    assert said.code == 0, said
    assert world.version == before + 4
    world.assert_restored_equals_the_nodes()


def test_plugin_line_in_the_config_is_not_given_twice(lived: World) -> None:
    container = Container(lived)
    plugin = container.programs / "lightningd-backup"
    (lived.directory / "hsm_secret").write_bytes(SECRET)
    (lived.directory.parent / "config").write_text(f"important-plugin={plugin}\n")
    (container.programs / "lightningd").write_text('#!/bin/sh\necho "$@"\n')
    said = container.start()
    assert said.out == f"--lightning-dir={lived.directory.parent} --network={lived.directory.name}\n"


def test_commands_of_the_entrypoint_exist() -> None:
    text = (DOCKER / "entrypoint").read_text().replace("${BACKUP_OPTIONS:-} ", "")
    calls = list(calls_of_backup_cli(text))
    assert [why for call in calls if (why := complaint(call)) is not None] == []
    assert ["restore", "--if-missing", "--resume"] in [call[:3] for call in calls]


def test_files_for_docker_name_what_is_there() -> None:
    dockerfile, compose = ((DOCKER / name).read_text() for name in ("Dockerfile", "compose.yaml"))
    for path in re.findall(r"^COPY (\S+)", dockerfile, re.M):
        assert (ROOT / path).exists(), path
    entry = re.search(r'^ENTRYPOINT \["(.+)"\]', dockerfile, re.M)
    assert entry is not None and f"/usr/local/bin/{entry[1]}" in dockerfile
    seconds = 60 * int(re.findall(r"stop_grace_period: (\d+)m", compose)[0])
    unit = (ROOT / "contrib" / "systemd" / "lightningd.service").read_text()
    assert seconds >= int(re.findall(r"^TimeoutStopSec=(\d+)", unit, re.M)[0]), "as long as the unit gives it"
    used = set(re.findall(r"\$\{?((?:LIGHTNINGD|BACKUP)_\w+)", (DOCKER / "entrypoint").read_text()))
    assert set(re.findall(r"^      ([A-Z_]+):", compose, re.M)) <= used


def test_shellcheck_has_nothing_to_say_about_the_entrypoint() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", DOCKER / "entrypoint"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
