"""A node's directory, its backup on another path, and the commands that a person types; all in one temporary place."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.node.key_file import KEY_FILE
from backup_cli.main import run
from tests.encrypted import EVERYTHING, encrypted_for_node
from tests.end_to_end.db_compare import differences
from tests.fake_lightningd import Call, Node, committed_version, run_without_plugin
from tests.fake_lightningd.database import Database, NodeDatabase
from tests.fake_lightningd.warm import Warm

_BESIDE = Path(sys.executable).with_name("lightningd-backup")

PLUGIN = [str(_BESIDE)] if _BESIDE.exists() else [sys.executable, "-m", "plugin.main"]
"""The command that lightningd would have in its `important-plugin` line."""

DATABASE = "lightningd.sqlite3"


@dataclass(frozen=True, slots=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both outputs as one line with single spaces, to search for words."""
        return " ".join((self.out + " " + self.err).split())


def backup_cli(*arguments: object) -> Said:
    """Run `backup-cli` in this process; an exception that it lets through comes through here, too."""
    out, err, user = io.StringIO(), io.StringIO(), os.geteuid()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    assert os.geteuid() == user, "for good: what root does in another user's directory needs a process of its own"
    return Said(code, out.getvalue(), err.getvalue())


def command(*arguments: object) -> list[str]:
    """`backup-cli` as a command line of its own."""
    return [sys.executable, "-m", "backup_cli.main", *map(str, arguments)]


def spawned(*words: object, environment: dict[str, str] | None = None, directory: Path | None = None) -> Said:
    """Run a whole command line in a process of its own."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        cwd=directory,
        env=os.environ | (environment or {}),
    )
    return Said(done.returncode, done.stdout, done.stderr)


def as_mortal() -> list[str]:
    """What to put before a command so that file modes count for it: root ignores them. Skips where that cannot be."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("root ignores file modes, and there is no setpriv to take that away")
    return prefix


def tree(*roots: Path, locks: bool = False) -> dict[str, str]:
    """Everything under these directories: each name with its mode and a digest of what it holds.

    Without `locks`, the files that locks are held on are left out: one that a killed process has left means nothing,
    and whoever takes that lock next removes it.
    """
    found = {}
    for root in roots:
        for path in [root, *sorted(root.rglob("*"))] if root.exists() else []:
            if locks or path.name not in ("backup.pid", "lock"):
                found[str(path)] = f"{path.lstat().st_mode:o} {_digest(path)}"
    return found


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


class World:
    """One node and its backup."""

    warm = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") == "0"
    """Whether plugins are forked from a process that has imported their modules; otherwise each is executed."""

    def __init__(self, root: Path, network: str = "regtest") -> None:
        self.root = root
        self.directory = root / "lightning" / network
        self.directory.mkdir(parents=True)
        self.backup = root / "disk" / "lightning.bkp"
        self.backup.parent.mkdir(exist_ok=True)
        self.environment: dict[str, str] = {}
        self.restores = 0

    @property
    def url(self) -> str:
        """Where the backup is."""
        return self.backup.as_uri()

    @property
    def key_options(self) -> tuple[object, ...]:
        """What a command that is given only the URL needs besides, with LIGHTNINGD_BACKUP_ENCRYPTED=1."""
        return ("--key-file", self.directory / KEY_FILE) if EVERYTHING else ()

    @property
    def database(self) -> Path:
        """The node's database file."""
        return self.directory / DATABASE

    @property
    def version(self) -> int:
        """The committed data version of the node's database; 0 when it has none."""
        return committed_version(self.directory) or 0

    # What a person does

    def init(self) -> "World":
        """Make the backup. With LIGHTNINGD_BACKUP_ENCRYPTED=1 it is encrypted, and the node has the key."""
        with encrypted_for_node(self.directory) if EVERYTHING else nullcontext():
            said = backup_cli("init", "--lightning-dir", self.directory, self.url)
        assert said.code == 0, said
        return self

    def restore(self) -> Path:
        """Restore to a new place; the database file there."""
        self.restores += 1
        target = self.root / f"restored-{self.restores}.sqlite3"
        said = backup_cli("restore", *self.key_options, self.url, target)
        assert said.code == 0, said
        return target

    def status(self) -> dict[str, Any]:
        """What the writer or the files say."""
        said = backup_cli("status", *self.key_options, self.url, "--json")
        assert said.code == 0, said
        document: dict[str, Any] = json.loads(said.out)
        return document

    # What the node does

    def node(self, database: Callable[[Path], NodeDatabase] = Database, **options: Any) -> Node:
        """A run of the node with the plugin, not yet started."""
        environment = self.environment | options.pop("environment", {})
        command = options.pop("command", Warm(PLUGIN) if World.warm and not environment else PLUGIN)
        return Node(self.directory, command, database=database, environment=environment, **options)

    def run(self, calls: Iterable[Call], **options: Any) -> Node:
        """A whole run, from start to clean stop."""
        with self.node(**options) as node:
            node.play(calls)
        return node

    def run_without_plugin(self, calls: Iterable[Call]) -> None:
        """A whole run that no backup hears of."""
        run_without_plugin(self.directory, calls)

    # What must hold

    def assert_restored_equals_the_nodes(self) -> Path:
        """The project's promise: a restore equals the node's database. The node must not be in the middle of a
        transaction."""
        target = self.restore()
        assert differences(target, self.database) == []
        return target

    def everything_on_disk(self) -> dict[str, str]:
        """The node's directory and the destination, to show that nothing was changed."""
        return tree(self.directory, self.backup.parent)


def said_at(node: Node, level: str) -> Sequence[str]:
    """What the plugin logged at this level."""
    return [message for at, message in node.logs if at == level]


def snapshots_taken(node: Node) -> list[str]:
    """The log lines that say that a new snapshot of the database was taken."""
    return [line for line in said_at(node, "unusual") if "new snapshot taken" in line]
