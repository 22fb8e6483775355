"""lightningd's config files and its command line, read as lightningd reads them.

As of v26.06: `config` above the network directory, then `config` in it, or only the file that `--conf` names; then the
command line. A line is `name=value` or `name`; a line that begins with `#` is a comment; `include FILE` (relative to
the file that contains it) stands for the content of another file. Blanks at the end of a line are ignored, blanks at
its beginning are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.errors import BackupError
from backends.mounts.missing import is_it_mounted
from backends.node.directory import CONFIG

DEEPEST = 100
"""How deep includes may nest; lightningd gives up at the same depth."""

_WITH_VALUE = ("conf", "important-plugin", "plugin", "plugin-dir", "disable-plugin", "wallet")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: a line of a config file, or an option of the command line."""

    name: str
    value: str
    where: str
    """Where it was set, in words, for the person who must change it."""


def read_settings(
    directory: Path, arguments: Sequence[str] = (), conf: Path | None = None
) -> tuple[list[Path], list[Setting]]:
    """The config files that were read, and all settings in lightningd's order: the last one of a name counts.

    `directory` is the network directory, `arguments` the command line that lightningd was started with, if that is
    known, and `conf` the file to read instead of the usual ones. Raises BackupError when a file cannot be read.
    """
    given = list(_command_line(arguments))
    named = [setting.value for setting in given if setting.name == "conf"]
    if conf is None and named:
        conf = Path(named[-1])
    files: list[Path] = []
    settings: list[Setting] = []
    if conf is not None:
        settings += _lines_of(files, conf.absolute(), must_exist=True)
    else:
        settings += _lines_of(files, directory.parent / CONFIG, must_exist=False)
        settings += _lines_of(files, directory / CONFIG, must_exist=False)
    return files, settings + given


def _lines_of(files: list[Path], path: Path, *, must_exist: bool, depth: int = 0) -> Iterator[Setting]:
    try:
        text = path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        if must_exist:
            raise BackupError(
                f"lightningd's config file {path} does not exist; lightningd will not start{is_it_mounted(path)}"
            ) from None
        return
    except OSError as error:
        raise BackupError(
            f"lightningd's config file {path} cannot be read ({error.strerror}); run this as the user that lightningd "
            "runs as"
        ) from None
    if depth > DEEPEST:
        raise BackupError(f"the config file {path} includes itself over and over; lightningd will not start with it")
    files.append(path)
    for number, line in enumerate(text.replace("\r", "\n").split("\n"), 1):
        if line.startswith("include "):
            yield from _lines_of(files, path.parent / line.removeprefix("include "), must_exist=True, depth=depth + 1)
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield Setting(name, value.rstrip(), f"{path} line {number}")


def _command_line(words: Sequence[str]) -> Iterator[Setting]:
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals and name in _WITH_VALUE:
            value = next(rest, "")
        yield Setting(name, value, "the command line of the running lightningd")
