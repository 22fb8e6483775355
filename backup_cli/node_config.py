"""lightningd's configuration, including the command line of a running one, and which plugins it starts."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backends.node.config_files import Setting, read_settings
from backends.node.running import running_lightningd

_PUNCTUATION = re.compile(r"[!-,/:-@\[-^`{-~]")
"""lightningd starts no file of a plugin directory whose name has any of these; it allows only `-`, `_` and `.`."""


@dataclass(frozen=True, slots=True)
class PluginLine:
    """A plugin that lightningd will start."""

    path: Path
    important: bool
    where: str
    directory: Path | None = None
    """The plugin directory in which the plugin was found; None when a line names the plugin itself."""
    tolerated: bool = False
    """The plugin is in lightningd's own plugin directory: if it is also named elsewhere, lightningd skips it here."""

    @property
    def real(self) -> Path:
        """The file itself, by which lightningd tells plugins apart."""
        return self.path.resolve()


@dataclass(slots=True)
class NodeConfig:
    """A node's settings, in the order in which lightningd applies them."""

    directory: Path
    files: list[Path] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    pid: int | None = None
    """The running lightningd's process; None when none runs, or none that can be inspected."""

    def last(self, name: str) -> Setting | None:
        """The setting of this name that counts, where only one can: the last."""
        return next((setting for setting in reversed(self.settings) if setting.name == name), None)

    def disabled(self, path: Path) -> Setting | None:
        """The disable-plugin line that keeps lightningd from starting this plugin; None if there is none."""
        for setting in self.settings:
            if setting.name == "disable-plugin":
                given = setting.value
                if given == path.name or ("/" in given and _canonical(self.directory / given) == _canonical(path)):
                    return setting
        return None

    def plugins(self) -> list[PluginLine]:
        """Every plugin that is named or is in a plugin directory, except lightningd's built-in ones."""
        found: list[PluginLine] = []
        for setting in self.settings:
            # lightningd works in its network directory, so relative paths start there.
            path = self.directory / setting.value
            if setting.name == "clear-plugins":
                found.clear()
            elif setting.name in ("plugin", "important-plugin"):
                found.append(PluginLine(path, setting.name == "important-plugin", setting.where))
            elif setting.name == "plugin-dir":
                where = f"plugin-dir in {setting.where}: {path}"
                found.extend(PluginLine(file, False, where, path) for file in _plugins_in(path))
        own = self.directory.parent / "plugins"
        for place in (own, *_directories_in(own)):
            found.extend(PluginLine(file, False, f"the directory {place}", place, True) for file in _plugins_in(place))
        return found

    def named_twice(self) -> list[list[PluginLine]]:
        """The lines of each plugin that is configured more than once: lightningd then does not start."""
        groups: dict[Path, list[PluginLine]] = {}
        for line in self.plugins():
            if not line.tolerated and self.disabled(line.path) is None:
                groups.setdefault(line.real, []).append(line)
        return [lines for lines in groups.values() if len(lines) > 1]

    def is_alone(self, line: PluginLine) -> bool:
        """Whether this plugin is in a plugin directory, and the only one in it."""
        return line.directory is not None and len(_plugins_in(line.directory)) == 1


def read_config(directory: Path, conf: Path | None) -> NodeConfig:
    """The configuration of the node in this network directory. Raises BackupError when a config file cannot be read."""
    pid, arguments = _running(directory)
    files, settings = read_settings(directory, arguments, conf)
    return NodeConfig(directory, files, settings, pid)


def _running(directory: Path) -> tuple[int | None, list[str]]:
    pid = running_lightningd(directory)
    if not pid:
        return None, []
    try:
        process = psutil.Process(pid)
        words = process.cmdline()
    except psutil.Error:
        return None, []
    if "lightningd" not in (process.name(), Path(words[0]).name if words else ""):
        return None, []  # another program has the database open
    return pid, words[1:]


def _plugins_in(directory: Path) -> list[Path]:
    """The files that lightningd starts from this directory: executable by somebody, and with plain names."""
    return [path for path in _entries(directory) if _is_plugin(path)]


def _is_plugin(path: Path) -> bool:
    if path.name == "README.md" or _PUNCTUATION.search(path.name) is not None:
        return False
    try:
        return path.is_file() and path.stat().st_mode & 0o111 != 0
    except OSError:
        return False  # gone meanwhile, or out of reach: then lightningd cannot start it either


def _directories_in(directory: Path) -> list[Path]:
    return [path for path in _entries(directory) if path.is_dir()]


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []  # missing or unreadable: lightningd starts nothing from there


def _canonical(path: Path) -> Path:
    return path.resolve()
