"""What lightningd is told to do: its config files, as it reads them itself, and the command line of a running one.

As of v26.06: `config` above the network directory, then `config` in it, or only the file that `--conf` names; then the
command line. A line is `name=value` or `name`; one that begins with `#` is none; `include FILE` (relative to the file
it stands in) puts another file in its place. Blanks at a line's end count for nothing, those at its beginning do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backends.errors import BackupError
from backends.node.running import running_lightningd
from backends.words import printable

DEEPEST = 100
"""How many files may include each other; lightningd gives up there, too."""

_WITH_VALUE = ("conf", "important-plugin", "plugin", "plugin-dir", "disable-plugin", "wallet")


@dataclass(frozen=True, slots=True)
class Setting:
    """One line, or one option of the command line."""

    name: str
    value: str
    where: str
    """The place in words, for whoever must change it."""


@dataclass(frozen=True, slots=True)
class PluginLine:
    """A plugin that lightningd will start."""

    path: Path
    important: bool
    where: str


@dataclass(slots=True)
class NodeConfig:
    """All settings, in the order in which lightningd takes them."""

    directory: Path
    files: list[Path] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    pid: int | None = None
    """The running lightningd, when there is one that can be looked at."""

    def last(self, name: str) -> Setting | None:
        """The one that counts, where only one can."""
        return next((setting for setting in reversed(self.settings) if setting.name == name), None)

    def disabled(self, path: Path) -> Setting | None:
        """The line that keeps lightningd from starting this plugin, whatever other lines say."""
        for setting in self.settings:
            if setting.name == "disable-plugin":
                given = setting.value
                if given == path.name or ("/" in given and _canonical(self.directory / given) == _canonical(path)):
                    return setting
        return None

    def plugins(self) -> list[PluginLine]:
        """Every plugin that is named or lies in a plugin directory; built-in ones are not among them."""
        found = list(_lying_in(self.directory.parent / "plugins", "the directory"))
        for setting in self.settings:
            # lightningd works in its network directory: that is where relative paths begin.
            path = self.directory / setting.value
            if setting.name == "clear-plugins":
                found.clear()
            elif setting.name in ("plugin", "important-plugin"):
                found.append(PluginLine(path, setting.name == "important-plugin", setting.where))
            elif setting.name == "plugin-dir":
                found.extend(_lying_in(path, f"plugin-dir in {setting.where}:"))
        return found


def read_config(directory: Path, conf: Path | None) -> NodeConfig:
    """The configuration of the node in this network directory. Raises BackupError when a file of it cannot be read."""
    config = NodeConfig(directory)
    config.pid, arguments = _running(directory)
    given = list(_command_line(arguments))
    named = [setting.value for setting in given if setting.name == "conf"]
    if conf is None and named:
        conf = Path(named[-1])
    if conf is not None:
        _read(config, conf.absolute(), must_exist=True)
    else:
        _read(config, directory.parent / "config", must_exist=False)
        _read(config, directory / "config", must_exist=False)
    config.settings.extend(given)
    return config


def _read(config: NodeConfig, path: Path, *, must_exist: bool, depth: int = 0) -> None:
    try:
        text = path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        if must_exist:
            raise BackupError(f"lightningd's config file {path} does not exist; lightningd will not start") from None
        return
    except OSError as error:
        raise BackupError(
            f"lightningd's config file {path} cannot be read ({error.strerror}); run this as the user that lightningd "
            "runs as"
        ) from None
    if depth > DEEPEST:
        raise BackupError(f"the config file {path} includes itself over and over; lightningd will not start with it")
    config.files.append(path)
    for number, line in enumerate(text.replace("\r", "\n").split("\n"), 1):
        if line.startswith("include "):
            _read(config, path.parent / line.removeprefix("include "), must_exist=True, depth=depth + 1)
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            config.settings.append(Setting(name, value.rstrip(), f"{printable(path)} line {number}"))


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
        return None, []  # some other program that has the database open
    return pid, words[1:]


def _command_line(words: list[str]) -> Iterator[Setting]:
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals and name in _WITH_VALUE:
            value = next(rest, "")
        yield Setting(name, value, "the command line of the running lightningd")


def _lying_in(directory: Path, where: str) -> Iterator[PluginLine]:
    """Executable files in the directory, and in those directly in it."""
    try:
        entries = sorted(directory.iterdir())
        below = [path for entry in entries if entry.is_dir() for path in sorted(entry.iterdir())]
        for path in entries + below:
            if path.is_file() and path.stat().st_mode & 0o111:
                yield PluginLine(path, False, f"{where} {printable(path.parent)}")
    except OSError:
        return  # missing, or not to be read: nothing is started from there


def _canonical(path: Path) -> Path:
    return path.resolve()
