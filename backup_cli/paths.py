"""Where the installed executables are."""

import shutil
import sys
from pathlib import Path

RECKLESS_ENTRY = "lightningd-backup.py"
"""The plugin and backup-cli in one file, as lightningd's plugin manager installs it."""


def plugin_path() -> str:
    """The plugin's executable: the one installed next to this command, else the one on PATH."""
    typed = Path(sys.argv[0]).absolute()
    if typed.name == RECKLESS_ENTRY:
        return str(typed)
    beside = typed.with_name("lightningd-backup")
    found = beside if beside.exists() else shutil.which("lightningd-backup")
    return str(found or "/path/to/lightningd-backup")
