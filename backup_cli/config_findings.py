"""What lightningd's configuration says about the node's protection: plugin, wallet, and the node's own files."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from backends.errors import BackupError
from backends.node.directory import DATABASE, NETWORKS, database_path
from backends.node.lockfile import LOCK_FILE
from backends.node.session import SESSION_FILE
from backends.node.witness import WITNESS_FILE
from backends.node.writer_lock import WRITER_LOCK_FILE
from backends.words import shell_line
from backup_cli.findings import Finding, ok, problem, warning
from backup_cli.init import plugin_path
from backup_cli.node_config import NodeConfig, PluginLine, Setting
from backup_cli.options import user_name
from backup_cli.probe import PATIENCE, ask_for_manifest

PLUGIN = "lightningd-backup"
OLDER_PLUGIN = "backup.py"
NOTIFY_FILE = "backup.notify"

OWN_FILES = (
    *(DATABASE + suffix for suffix in ("", "-journal", "-wal", "-shm")),
    "hsm_secret",
    LOCK_FILE,
    WRITER_LOCK_FILE,
    WITNESS_FILE,
    SESSION_FILE,
)
"""What lightningd and the plugin open in the node's directory, and cannot when it is another user's."""

SECRET_SIZE = 32
"""Bytes of the smallest `hsm_secret`, the plain one; encrypted ones and those made of words have more."""

SLOW_START = 20.0
"""Seconds to a manifest from which on lightningd's patience is worth a thought."""


def look_at_files(config: NodeConfig) -> Iterator[Finding]:
    """Which config files there are, and whether this is the node's own user."""
    if config.files:
        yield ok("config", ", ".join(str(path) for path in config.files))
    else:
        yield warning(
            "config",
            f"there is no config file in {config.directory.parent} or {config.directory}; if lightningd reads another "
            "one, name it with --conf",
        )
    owner = config.directory.stat().st_uid
    if owner != os.geteuid():
        yield warning(
            "user",
            f"{config.directory} belongs to another user; run this as that one: "
            f"{shell_line('sudo', '-u', _for_sudo(owner), 'backup-cli')} …",
        )


def look_at_network(config: NodeConfig) -> Iterator[Finding]:
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


def look_at_plugin(config: NodeConfig) -> Iterator[Finding]:
    """Whether lightningd starts this plugin, cannot live without it, and starts no rival of it."""
    lines = config.plugins()
    for line in lines:
        if line.path.name == OLDER_PLUGIN and config.disabled(line.path) is None:
            yield problem(
                "plugin",
                f"{line.where} starts the older backup plugin {line.path}, which reads the same backup.lock: remove "
                "that line (docs/migrating.md)",
            )
    ours = [line for line in lines if PLUGIN in line.path.name or PLUGIN in line.path.resolve().name]
    if not ours:
        yield problem(
            "plugin",
            f"no line starts {PLUGIN}, so nothing is backed up; add to {_file_to_edit(config)}: "
            f"important-plugin={plugin_path()}",
        )
        return
    paths = list(dict.fromkeys(line.path.resolve() for line in ours))
    if len(paths) > 1:
        listed = " and ".join(f"{line.path} ({line.where})" for line in ours)
        yield problem("plugin", f"two of them are started, and the second will stop the node: {listed}; keep one line")
    yield from _look_at_line(config, ours)
    yield from _look_at_running(config)


def _look_at_line(config: NodeConfig, ours: list[PluginLine]) -> Iterator[Finding]:
    line = next((line for line in ours if line.important), ours[0])
    disabled = config.disabled(line.path)
    if disabled is not None:
        yield problem("plugin", f"{disabled.where} disables it: remove the line disable-plugin={disabled.value}")
        return
    if not line.important:
        yield problem(
            "plugin",
            f"{line.where} starts {line.path} as an ordinary plugin: were it to die, the node would go on without a "
            f"backup; write instead: important-plugin={line.path}",
        )
    try:
        manifest = ask_for_manifest(line.path)
    except BackupError as error:
        yield problem(
            "plugin", f"{error}, so the node will not start; reinstall it, or correct {line.where} (pip, pipx)"
        )
        return
    if manifest.disabled is not None or "db_write" not in manifest.hooks or "backup-status" not in manifest.methods:
        yield problem("plugin", f"{line.path} starts, but is not this plugin; correct {line.where}: {plugin_path()}")
    elif manifest.seconds > SLOW_START:
        yield warning(
            "plugin",
            f"{line.path} needs {manifest.seconds:.0f} s to start, and lightningd waits {PATIENCE:.0f} s; is the "
            "machine overloaded, or its disk slow?",
        )
    elif line.important:
        yield ok("plugin", f"important-plugin={line.path} starts ({manifest.seconds:.1f} s)")


def _look_at_running(config: NodeConfig) -> Iterator[Finding]:
    """A line that was added since the node started protects nobody yet."""
    if config.pid is None:
        return
    with suppress(psutil.Error):
        words = [" ".join(child.cmdline()) for child in psutil.Process(config.pid).children()]
        if any(PLUGIN in line for line in words):
            yield ok("node", f"runs (process {config.pid}) with the plugin")
        else:
            yield problem("node", f"runs (process {config.pid}) without the plugin; restart it: lightning-cli stop")


def look_at_wallet(config: NodeConfig) -> Iterator[Finding]:
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


def look_at_secret(config: NodeConfig) -> Iterator[Finding]:
    """`hsm_secret`: there, whole, and nobody else's business."""
    secret = config.directory / "hsm_secret"
    try:
        status = secret.stat()
    except FileNotFoundError:
        if database_path(config.directory).exists():
            yield problem(
                "hsm_secret",
                f"{secret} is missing: nothing can be spent without it, and no backup of ours holds it; copy it back "
                "from where you keep it before you start the node",
            )
        else:
            yield ok(
                "hsm_secret", "the first start will make it; copy it then to a safe place, no backup of ours holds it"
            )
        return
    except OSError as error:
        yield warning("hsm_secret", f"{secret} cannot be looked at ({error.strerror})")
        return
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        yield problem("hsm_secret", f"{secret} is no file; {_COPY_IT_BACK}")
    elif status.st_size < SECRET_SIZE:
        what = f"has only {status.st_size} bytes, and no whole one has less than {SECRET_SIZE}"
        yield problem("hsm_secret", f"{secret} {what if status.st_size else 'is empty'}; {_COPY_IT_BACK}")
    elif not mode & stat.S_IRUSR:
        yield problem(
            "hsm_secret", f"not even its owner may read it (mode {mode:04o}): {shell_line('chmod', 400, secret)}"
        )
    elif mode & 0o077:
        yield problem(
            "hsm_secret",
            f"other users may get at it (mode {mode:04o}), and with it at all funds: "
            f"{shell_line('chmod', 400, secret)}",
        )
    else:
        yield ok("hsm_secret", f"mode {mode:04o}; keep a copy of it elsewhere, no backup of ours holds it")


_COPY_IT_BACK = "copy it back from where you keep it before you start the node"


def look_at_owners(config: NodeConfig) -> Iterator[Finding]:
    """What root has restored or copied into the node's directory is root's, and lightningd cannot open it."""
    owner = config.directory.stat().st_uid
    if config.pid is not None:
        with suppress(psutil.Error):
            owner = psutil.Process(config.pid).uids().effective
    foreign = []
    for name in OWN_FILES:
        with suppress(OSError):
            if (config.directory / name).stat().st_uid != owner:
                foreign.append(config.directory / name)
    if foreign and owner != 0:
        yield problem(
            "owner",
            f"{', '.join(path.name for path in foreign)} in {config.directory} belong to another user than the node's, "
            f"{user_name(owner)}, which cannot open them and will not start: "
            + shell_line("sudo", "chown", f"{user_name(owner)}:", *foreign),
        )


def look_at_notify(config: NodeConfig) -> Iterator[Finding]:
    """The operator's own command, where there is one."""
    command = config.directory / NOTIFY_FILE
    with suppress(OSError):
        mode = command.stat().st_mode
        if not os.access(command, os.X_OK) or mode & 0o022:
            yield warning(
                NOTIFY_FILE,
                f"it is not called, because of its mode ({mode & 0o777:04o}): {shell_line('chmod', 700, command)}",
            )
        else:
            yield ok(NOTIFY_FILE, "is called when there is trouble")


def _file_to_edit(config: NodeConfig) -> Path:
    return config.files[0] if config.files else config.directory.parent / "config"


def _for_sudo(uid: int) -> str:
    """A user without a name is a number behind a sign that a shell would take for a comment."""
    name = user_name(uid)
    return f"#{uid}" if name == str(uid) else name
