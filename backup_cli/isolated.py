"""How both executables begin: only modules of this installation are used, whatever else Python would find first.

From real failures: an old pyln-client on PYTHONPATH, a `plugin.py` or `json.py` of the operator's, a package of the
user's own site-packages: the node did not start. PYTHONOPTIMIZE=2 takes away the docstrings that pyln-client asks for.

What a pip-made script imports first is this module: its name is not one that anybody has by accident, as `plugin` and
`backends` are. Until it is done, it imports nothing that lies in a file. Where the environment or the user's own
packages could have a say, Python is started once more without them, which takes some 15 ms, and changes no pid.
"""

import _signal  # type: ignore[import-not-found]  # in no file, unlike signal
import sys
from posix import environ, execv

_HARMLESS = frozenset({
    b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE", b"PYTHONHASHSEED", b"PYTHONIOENCODING", b"PYTHONUTF8",
    b"PYTHONSAFEPATH", b"PYTHONNOUSERSITE", b"PYTHONSTARTUP",
})  # fmt: skip
"""Variables that change nothing here. Those of container images (PYTHON_VERSION) are none of Python's own."""

_ROOT = __file__.rpartition("/")[0].rpartition("/")[0] or "/"
"""Where this installation lies: its packages, and, but for an editable one, all that they need."""


def backup_cli() -> None:
    """The executable `backup-cli`."""
    _end_quietly()
    _isolate("backup-cli")
    _run("backup-cli")


def lightningd_backup() -> None:
    """The executable `lightningd-backup`."""
    _isolate("lightningd-backup")
    _run("lightningd-backup")


def _run(name: str) -> None:
    """With nothing from the directory that the script lies in, nor from the working directory, which is the node's."""
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
    """At a Ctrl-C before the program proper listens: nothing is begun yet, and Python would print a traceback."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def _isolate(name: str) -> None:
    """Start Python once more, if need be."""
    ignore = bool(sys.flags.ignore_environment)
    flags = ["-E"] if ignore or any(map(_matters, environ)) else []
    flags += ["-s"] if sys.flags.no_user_site or _user_site(sys.argv[0].rpartition("/")[0]) else []
    had = ["-E"] * ignore + ["-s"] * bool(sys.flags.no_user_site)
    if flags != had and sys.executable and not getattr(sys, "frozen", False):
        flags += ["-X", "utf8"] * sys.flags.utf8_mode
        try:  # noqa: SIM105 (contextlib lies in a file)
            execv(sys.executable, [sys.executable, *flags, __file__, name, *sys.argv])
        except OSError:  # then as well as it goes from here
            pass


def _matters(variable: bytes) -> bool:
    return variable.startswith(b"PYTHON") and not variable.startswith(b"PYTHON_") and variable not in _HARMLESS


def _user_site(script: str) -> bool:
    """Whether modules of the user's own come before the installed ones, and this is not installed among them."""
    site = sys.modules.get("site")
    there = getattr(site, "USER_SITE", None)
    base = getattr(site, "USER_BASE", None)
    return there in sys.path and there != _ROOT and script != f"{base}/bin"


if __name__ == "__main__":  # started once more: sys.argv is this file, the name, and then what it was
    named = sys.argv[1]
    del sys.argv[:2]
    _run(named)
