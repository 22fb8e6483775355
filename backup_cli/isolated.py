"""The start of both executables: makes sure that only modules of this installation are used, whatever else Python would
find first.

Real failures: with an old pyln-client on PYTHONPATH, with the operator's own `plugin.py` or `json.py`, and with a
package in the user's site-packages, the node did not start. PYTHONOPTIMIZE=2 removes docstrings that pyln-client needs.

The scripts that pip makes import this module first: unlike `plugin` and `backends`, its name is not one that somebody
else's module has by accident. Until it is done, it imports no module that is in a file. If the environment or the
user's own packages could interfere, Python is started again without them; that takes about 15 ms and keeps the pid.
"""

import _signal  # type: ignore[import-not-found]  # in no file, unlike signal
import sys
from posix import environ, execv

_HARMLESS = frozenset({
    b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE", b"PYTHONHASHSEED", b"PYTHONIOENCODING", b"PYTHONUTF8",
    b"PYTHONSAFEPATH", b"PYTHONNOUSERSITE", b"PYTHONSTARTUP",
})  # fmt: skip
"""Python's variables that do no harm here. Variables of container images, such as PYTHON_VERSION, are not Python's."""

_ROOT = __file__.rpartition("/")[0].rpartition("/")[0] or "/"
"""The directory of this installation: its packages and, unless it is an editable one, everything they need."""


def backup_cli() -> None:
    """The entry point of the executable `backup-cli`."""
    _end_quietly()
    _isolate("backup-cli")
    _run("backup-cli")


def lightningd_backup() -> None:
    """The entry point of the executable `lightningd-backup`."""
    _isolate("lightningd-backup")
    _run("lightningd-backup")


def _run(name: str) -> None:
    """Run the program without modules from the script's directory or the working directory, which is the node's."""
    if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    sys.path[:] = [path for path in sys.path if path]
    if _ROOT not in sys.path:
        sys.path.insert(0, _ROOT)
    if name == "backup-cli":
        from backup_cli import main as cli

        cli.main()
    else:
        from plugin import main as plugin

        plugin.main()


def _end_quietly() -> None:
    """Let Ctrl-C simply end the process until the program handles it: nothing has begun yet, and Python would print a
    traceback."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def _isolate(name: str) -> None:
    """Start Python again, with -E and -s as needed, if the environment or the user's packages could interfere."""
    ignore = bool(sys.flags.ignore_environment)
    flags = ["-E"] if ignore or any(map(_matters, environ)) else []
    flags += ["-s"] if sys.flags.no_user_site or _user_site(sys.argv[0].rpartition("/")[0]) else []
    had = ["-E"] * ignore + ["-s"] * bool(sys.flags.no_user_site)
    if flags != had and sys.executable and not getattr(sys, "frozen", False):
        flags += ["-X", "utf8"] * sys.flags.utf8_mode
        try:  # noqa: SIM105 (contextlib is a module in a file)
            execv(sys.executable, [sys.executable, *flags, __file__, name, *sys.argv])
        except OSError:  # go on in this process, as well as possible
            pass


def _matters(variable: bytes) -> bool:
    return variable.startswith(b"PYTHON") and not variable.startswith(b"PYTHON_") and variable not in _HARMLESS


def _user_site(script: str) -> bool:
    """Whether the user's own site-packages come before the installed modules, and this is not installed in them."""
    site = sys.modules.get("site")
    there = getattr(site, "USER_SITE", None)
    base = getattr(site, "USER_BASE", None)
    return there in sys.path and there != _ROOT and script != f"{base}/bin"


if __name__ == "__main__":  # started again: sys.argv is this file, the program's name, then the original sys.argv
    named = sys.argv[1]
    del sys.argv[:2]
    _run(named)
