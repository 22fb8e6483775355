"""What lightningd's configuration says about the node's protection: plugin, wallet, and the node's own files."""

import os
from collections.abc import Iterator
from contextlib import suppress

import psutil

from backends.node.config_files import Setting
from backends.node.directory import DATABASE, NETWORKS, database_path
from backends.node.hsm_secret import HSM_SECRET
from backends.node.lockfile import LOCK_FILE
from backends.node.session import SESSION_FILE
from backends.node.sync_point import SYNC_POINT_FILE
from backends.node.trusted import Untrusted, trusted_program
from backends.node.writer_lock import WRITER_LOCK_FILE
from backends.system.owners import run_as, user_name
from backends.text import shell_line
from backup_cli.findings import Finding, ok, problem, warning
from backup_cli.node_config import NodeConfig

NOTIFY_FILE = "backup.notify"

OWN_FILES = (
    *(DATABASE + suffix for suffix in ("", "-journal", "-wal", "-shm")),
    HSM_SECRET,
    LOCK_FILE,
    WRITER_LOCK_FILE,
    SYNC_POINT_FILE,
    SESSION_FILE,
)
"""What lightningd and the plugin open in the node's directory, and cannot when it is another user's."""


def check_files(config: NodeConfig) -> Iterator[Finding]:
    """Which config files there are, and whether this is the node's own user."""
    if config.files:
        yield ok("config", ", ".join(str(path) for path in config.files))
    else:
        yield warning(
            "config",
            f"there is no config file in {config.directory.parent} or {config.directory}; if lightningd reads another "
            "one, name it with --conf",
        )
    owner = config.directory.stat()
    if owner.st_uid != os.geteuid():
        yield warning(
            "user",
            f"{config.directory} belongs to another user; as root, or as that one, this can see more: "
            + shell_line(*run_as(owner.st_uid, owner.st_gid), "backup-cli", "check-config")
            + " …",
        )


def check_network(config: NodeConfig) -> Iterator[Finding]:
    """Whether the node that the config starts is the one that is looked at: `network=testnet` is another directory."""
    said = next((setting for setting in reversed(config.settings) if _network(setting) is not None), None)
    if said is not None and config.directory.name in NETWORKS and _network(said) != config.directory.name:
        yield warning(
            "network",
            f"{said.where} makes lightningd work in {config.directory.parent / str(_network(said))}, and this looks at "
            f"{config.directory}; that is right only if lightningd is started with --network={config.directory.name}",
        )


def _network(setting: Setting) -> str | None:
    """The directory's name that this setting leads to, if it does."""
    if setting.name == "network":
        return setting.value
    name = "bitcoin" if setting.name == "mainnet" else setting.name
    return name if name in NETWORKS else None


def check_wallet(config: NodeConfig) -> Iterator[Finding]:
    """Whether the database is the SQLite file that the plugin looks after."""
    setting, expected = config.last("wallet"), database_path(config.directory)
    if setting is None:
        yield ok("wallet", f"SQLite, {expected}")
        return
    scheme, _, rest = setting.value.partition("://")
    if scheme != "sqlite3":
        yield problem(
            "wallet",
            f"{setting.where} names a database ({scheme}) that this plugin cannot back up, and it will stop the node: "
            "remove the important-plugin line and protect that database by its own means (docs/choosing.md)",
        )
        return
    main, _, replica = rest.partition(":")
    if replica and (config.directory / replica).resolve() == expected.resolve():
        yield problem(
            "wallet",
            f"{setting.where} names {expected} as the replica only, which lightningd overwrites, and {main} as the "
            f"database, which this plugin does not look after: stop the node, move {expected} aside, move {main} "
            f"there, and write: wallet=sqlite3://{expected} (with another path after it, should there be a replica)",
        )
    elif (config.directory / main).resolve() != expected.resolve():
        yield problem(
            "wallet",
            f"{setting.where} names the database {config.directory / main}, and this plugin looks after {expected}: "
            f"move the file there, node stopped, and write: wallet=sqlite3://{expected}{replica and ':' + replica}",
        )
    elif replica:
        yield ok("wallet", f"SQLite, {expected}, with a replica of lightningd's own at {replica}")
    else:
        yield ok("wallet", f"SQLite, {expected}")


def check_owners(config: NodeConfig) -> Iterator[Finding]:
    """What root has copied into the node's directory is root's, and lightningd cannot open it.

    Giving it away is left to whoever put it there: a link, or a second name of a file of root's, would be given away
    just so, and the directory's user can exchange what lies in it after anybody has looked.
    """
    owner = config.directory.stat().st_uid
    if config.pid is not None:
        with suppress(psutil.Error):
            owner = psutil.Process(config.pid).uids().effective
    foreign = []
    for name in OWN_FILES:
        with suppress(OSError):
            if (config.directory / name).stat().st_uid != owner:
                foreign.append(name)
    if foreign and owner != 0:
        yield problem(
            "owner",
            f"{', '.join(foreign)} in {config.directory} belong to another user than the node's, {user_name(owner)}, "
            "which cannot open them and will not start. Whoever put them there should look whether they are still the "
            "files that he means (ls -l), and make them that user's. What backup-cli itself makes there, also when "
            "root runs it, is that user's at once",
        )


def check_notify(config: NodeConfig) -> Iterator[Finding]:
    """The operator's own command, where there is one."""
    with suppress(OSError):
        try:
            trusted_program(config.directory / NOTIFY_FILE, config.directory.stat().st_uid)
        except Untrusted as why:
            yield warning(NOTIFY_FILE, f"it is not called: {why}")
        else:
            yield ok(NOTIFY_FILE, "is called when there is trouble")
