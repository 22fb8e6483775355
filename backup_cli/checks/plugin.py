"""Whether lightningd starts this plugin, only once and as an important plugin, and not the older backup plugin."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from backends.errors import BackupError
from backends.node.writer_lock import WRITER_LOCK_FILE
from backends.system.owners import only_roots
from backends.text import shell_line
from backup_cli.checks.our_plugin import PLUGIN, is_older, is_ours, looks_like_ours
from backup_cli.checks.probe import PATIENCE, Manifest, ask_for_manifest
from backup_cli.findings import Finding, ok, problem, warning
from backup_cli.node_config import NodeConfig, PluginLine
from backup_cli.paths import plugin_path

SLOW_START = 20.0
"""Seconds to a manifest above which a warning is due: lightningd does not wait much longer."""

STRANGER = 10.0
"""Seconds that an unknown plugin gets to show its manifest, when only that can tell whether it is this plugin."""


def check_plugin(config: NodeConfig) -> Iterator[Finding]:
    """Whether lightningd starts this plugin, only once and as an important plugin, and not the older backup plugin."""
    lines = config.plugins()
    twice = config.named_twice()
    yield from _named_twice(config, twice)
    for line in lines:
        if is_older(line.path) and config.disabled(line.path) is None:
            yield problem(
                "plugin",
                f"{line.where} starts the older backup plugin {line.path}, which reads the same backup.lock: remove "
                "that line (docs/migrating.md)",
            )
    asked = _Asked(config)
    ours = _ours(config, lines, asked)
    if not ours:
        yield problem(
            "plugin",
            f"no line starts {PLUGIN}, so nothing is backed up; add to {_file_to_edit(config)}: "
            f"important-plugin={plugin_path()}",
        )
        return
    ours = [line for line in ours if config.disabled(line.path) is None] or ours
    reals = {line.real for line in ours}
    if len(reals) > 1:
        listed = " and ".join(f"{line.path} ({line.where})" for line in ours)
        yield problem(
            "plugin", f"this plugin is started twice, and the second one will stop the node: {listed}; keep one line"
        )
    yield from _check_line(config, ours, asked, told=any(group[0].real in reals for group in twice))
    yield from _check_running(config, ours)


class NotStarted(BackupError):
    """A plugin was not started, because this is root, and another user can change what would run."""


def _decided_by_others(config: NodeConfig, plugin: Path) -> Path | None:
    """The config file or plugin through which another user decides what root would run; None if there is none, or if
    this is not root."""
    if os.geteuid() != 0:
        return None
    return next((file for file in (*config.files, plugin) if not only_roots(file)), None)


class _Asked:
    """The manifests of the plugins that were asked; each plugin is started once at most."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._said: dict[Path, Manifest | BackupError] = {}

    def manifest(self, path: Path, patience: float) -> Manifest:
        """The plugin's manifest, waited for up to `patience` seconds.

        Raises BackupError when the plugin does not answer, NotStarted when it was not started at all.
        """
        others = _decided_by_others(self._config, path)
        if others is not None:
            raise NotStarted(
                f"users other than root can change {others}, so {path} was not started here: whoever can write there "
                "decides what root runs, also when lightningd starts it. Give that file, and every directory above it, "
                "to root"
            )
        real = path.resolve()
        if real not in self._said:
            try:
                self._said[real] = ask_for_manifest(path, patience)
            except BackupError as error:
                self._said[real] = error
        said = self._said[real]
        if isinstance(said, BackupError):
            raise said
        return said

    def is_ours(self, path: Path) -> bool:
        """Whether the plugin's manifest is this plugin's; False if the plugin does not answer."""
        try:
            return is_ours(self.manifest(path, STRANGER))
        except BackupError:
            return False


def _ours(config: NodeConfig, lines: list[PluginLine], asked: _Asked) -> list[PluginLine]:
    """The lines that start this plugin, or are meant to. If no line looks like it, the plugins are asked."""
    alike = [line for line in lines if looks_like_ours(line.path)]
    if alike:
        # Another plugin may have a name that only begins like ours, or mention ours in its text.
        return [line for line in alike if PLUGIN in (line.path.name, line.real.name) or asked.is_ours(line.path)]
    for line in lines:
        if not is_older(line.path) and config.disabled(line.path) is None and asked.is_ours(line.path):
            return [other for other in lines if other.real == line.real]
    return []


def _named_twice(config: NodeConfig, groups: list[list[PluginLine]]) -> Iterator[Finding]:
    """Plugins that are named twice, even under different names: lightningd then does not start."""
    for lines in groups:
        listed = " and ".join(f"{line.path} ({line.where})" for line in lines)
        yield problem(
            "plugin",
            f"lightningd does not start, because it refuses a plugin that is configured twice (Failed to register): "
            f"{listed}. {_how_to_name_it_once(config, lines)}",
        )


def _how_to_name_it_once(config: NodeConfig, lines: list[PluginLine]) -> str:
    kept = next((line for line in lines if line.important), lines[0])
    inside = next((line for line in lines if line.directory is not None), None)
    if inside is None or kept.directory is not None:
        return f"Keep one of them: {_as_written(kept)}"
    if config.is_alone(inside):
        return f"Remove the line plugin-dir={inside.directory}, and keep: {_as_written(kept)}"
    if inside.path.is_symlink():
        return f"Keep {_as_written(kept)}, and remove the link: {shell_line('rm', inside.path)}"
    aside = inside.path.parent.parent / inside.path.name
    return (
        f"Move it out of that directory, {shell_line('mv', inside.path, aside)}, and write instead of "
        f"{_as_written(kept)}: important-plugin={aside}"
    )


def _as_written(line: PluginLine) -> str:
    return f"{'important-plugin' if line.important else 'plugin'}={line.path}"


def _check_line(config: NodeConfig, ours: list[PluginLine], asked: _Asked, *, told: bool) -> Iterator[Finding]:
    """Whether the line that starts this plugin is effective, makes it important, and starts it in time.

    `told` is whether it was reported already that lightningd does not start.
    """
    line = next((line for line in ours if line.important), ours[0])
    disabled = config.disabled(line.path)
    if disabled is not None:
        yield problem("plugin", f"{disabled.where} disables it: remove the line disable-plugin={disabled.value}")
        return
    if not line.important and not told:
        yield problem(
            "plugin",
            f"{line.where} starts {line.path} as an ordinary plugin: if it died, the node would go on without a "
            f"backup; {_how_to_make_it_important(config, line)}",
        )
    try:
        manifest = asked.manifest(line.path, PATIENCE)
    except NotStarted as error:
        yield warning("plugin", str(error))
        return
    except BackupError as error:
        yield problem(
            "plugin", f"{error}, so the node will not start; reinstall it, or correct {line.where} (pip, pipx)"
        )
        return
    if not is_ours(manifest):
        yield problem("plugin", f"{line.path} starts, but is not this plugin; correct {line.where}: {plugin_path()}")
    elif manifest.seconds > SLOW_START:
        yield warning(
            "plugin",
            f"{line.path} needs {manifest.seconds:.0f} s to start, and lightningd waits {PATIENCE:.0f} s; is the "
            "machine overloaded, or its disk slow?",
        )
    elif line.important and not told:
        yield ok("plugin", f"important-plugin={line.path} starts ({manifest.seconds:.1f} s)")


def _how_to_make_it_important(config: NodeConfig, line: PluginLine) -> str:
    """How to get an important-plugin line that lightningd accepts: it refuses one for a file that is also in a
    plugin-dir, unless that is its own directory `plugins`."""
    if line.directory is None:
        return f"write instead: important-plugin={line.path}"
    if line.tolerated:
        return f"add to {_file_to_edit(config)}: important-plugin={line.path}"
    if config.is_alone(line):
        return f"write instead of the line plugin-dir={line.directory}: important-plugin={line.path}"
    twice = "it must not stay in that directory as well, or lightningd does not start"
    if line.path.is_symlink():
        return f"{twice}: {shell_line('rm', line.path)}, and add: important-plugin={line.real}"
    aside = line.path.parent.parent / line.path.name
    return f"{twice}: {shell_line('mv', line.path, aside)}, and add: important-plugin={aside}"


def _check_running(config: NodeConfig, ours: list[PluginLine]) -> Iterator[Finding]:
    """Whether a running node runs with the plugin: a line added since it started has no effect yet."""
    if config.pid is None:
        return
    with suppress(psutil.Error):
        writer = _writer(config.directory)
        if any(_is_plugin(child, ours, writer) for child in psutil.Process(config.pid).children(recursive=True)):
            yield ok("node", f"runs (process {config.pid}) with the plugin")
        else:
            yield problem("node", f"runs (process {config.pid}) without the plugin; restart it: lightning-cli stop")


def _is_plugin(child: psutil.Process, ours: list[PluginLine], writer: int | None) -> bool:
    with suppress(psutil.Error, OSError):
        words = child.cmdline()
        named = any(PLUGIN in word or word == "plugin.main" for word in words)
        files = {os.path.realpath(Path(child.cwd()) / word) for word in words[:3]}
        return named or child.pid == writer or any(str(line.real) in files for line in ours)
    return False


def _writer(directory: Path) -> int | None:
    """The pid that this node's writer lock names as the backup's writer; that process may have ended since."""
    with suppress(OSError, ValueError):
        return int((directory / WRITER_LOCK_FILE).read_text(errors="replace").partition(" ")[0])
    return None


def _file_to_edit(config: NodeConfig) -> Path:
    return config.files[0] if config.files else config.directory.parent / "config"
