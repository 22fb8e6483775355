"""What lightningd's configuration and the node's directory say about its protection: network, wallet, files, owners."""

import os
from collections.abc import Iterator
from contextlib import suppress

import psutil

from backends.node.config_files import Setting
from backends.node.directory import DATABASE, NETWORKS, database_path
from backends.node.following import why_following, why_unfinished
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
"""The files that lightningd and the plugin open in the node's directory, and cannot open if another user owns them."""


def check_files(config: NodeConfig) -> Iterator[Finding]:
    """Which config files there are, and whether this command runs as the node's own user."""
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
            f"{config.directory} belongs to another user; run by root or by that user, this command can see more: "
            + shell_line(*run_as(owner.st_uid, owner.st_gid), "backup-cli", "check-config")
            + " …",
        )


def check_network(config: NodeConfig) -> Iterator[Finding]:
    """Whether the config starts the node that is being checked: `network=testnet` means another directory."""
    said = next((setting for setting in reversed(config.settings) if _network(setting) is not None), None)
    if said is not None and config.directory.name in NETWORKS and _network(said) != config.directory.name:
        yield warning(
            "network",
            f"{said.where} makes lightningd work in {config.directory.parent / str(_network(said))}, but this checks "
            f"{config.directory}; that is right only if lightningd is started with --network={config.directory.name}",
        )


def _network(setting: Setting) -> str | None:
    """The name of the network directory that this setting selects; None if it selects none."""
    if setting.name == "network":
        return setting.value
    name = "bitcoin" if setting.name == "mainnet" else setting.name
    return name if name in NETWORKS else None


def check_wallet(config: NodeConfig) -> Iterator[Finding]:
    """Whether the node's database is the SQLite file that the plugin backs up."""
    setting, expected = config.last("wallet"), database_path(config.directory)
    if setting is None:
        yield ok("wallet", f"SQLite, {expected}")
        return
    scheme, _, rest = setting.value.partition("://")
    if scheme != "sqlite3":
        yield problem(
            "wallet",
            f"{setting.where} names a database ({scheme}) that this plugin cannot back up, so it will stop the node: "
            "remove the important-plugin line and back that database up with its own tools (docs/choosing.md)",
        )
        return
    main, _, replica = rest.partition(":")
    if replica and (config.directory / replica).resolve() == expected.resolve():
        yield problem(
            "wallet",
            f"{setting.where} names {expected} only as the replica, which lightningd overwrites, and {main} as the "
            f"database, which this plugin does not back up: stop the node, move {expected} aside, move {main} "
            f"there, and write: wallet=sqlite3://{expected} (add another path if there is to be a replica)",
        )
    elif (config.directory / main).resolve() != expected.resolve():
        yield problem(
            "wallet",
            f"{setting.where} names the database {config.directory / main}, but this plugin backs up {expected}: stop "
            f"the node, move the file there, and write: wallet=sqlite3://{expected}{replica and ':' + replica}",
        )
    elif replica:
        yield ok("wallet", f"SQLite, {expected}, with a replica of lightningd's own at {replica}")
    else:
        yield ok("wallet", f"SQLite, {expected}")


def check_database(config: NodeConfig) -> Iterator[Finding]:
    """Whether the node's database is one that a node may run from."""
    why = why_following(database_path(config.directory)) or why_unfinished(config.directory)
    if why is not None:
        yield problem("database", why)


def check_owners(config: NodeConfig) -> Iterator[Finding]:
    """Whether the node's user owns the node's files: lightningd cannot open what root has copied into its directory.

    This command does not change an owner itself. A link, or a second name of a file of root's, would be given away too,
    and the directory's user can replace a file after anybody has checked it. So whoever put the file there must do it.
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
            f"files in {config.directory} do not belong to the node's user, {user_name(owner)}, so the node cannot "
            f"open them and will not start: {', '.join(foreign)}. Whoever put them there should check with ls -l that "
            "they have not been replaced since, then make that user their owner. What backup-cli itself creates there "
            "belongs to that user from the start, even when root runs it",
        )


def check_notify(config: NodeConfig) -> Iterator[Finding]:
    """Whether the plugin will call the operator's own command, `backup.notify`, if there is one."""
    with suppress(OSError):
        try:
            trusted_program(config.directory / NOTIFY_FILE, config.directory.stat().st_uid)
        except Untrusted as why:
            yield warning(NOTIFY_FILE, f"it is not called: {why}")
        else:
            yield ok(NOTIFY_FILE, "is called when there is trouble")
