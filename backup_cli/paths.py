"""Where the installed executables are."""

import shutil
import sys
from pathlib import Path


def plugin_path() -> str:
    """The plugin's executable: the one installed next to this command, else the one on PATH."""
    beside = Path(sys.argv[0]).absolute().with_name("lightningd-backup")
    found = beside if beside.exists() else shutil.which("lightningd-backup")
    return str(found or "/path/to/lightningd-backup")
