"""Which of the plugins that lightningd starts is this one, even under another name, through a link or in a script."""

import os
import stat
from pathlib import Path

from backup_cli.checks.probe import Manifest
from backup_cli.paths import plugin_path

PLUGIN = "lightningd-backup"
"""The name under which the executable is installed."""

OLDER_PLUGIN = "backup.py"

_MENTIONS = (b"lightningd-backup", b"lightningd_backup", b"plugin.main")
"""Each of these in a script means that it starts this plugin, or is its executable under another name."""

_BEGINNING = 1 << 14
"""How many bytes of a script are searched for `_MENTIONS`."""


def looks_like_ours(path: Path) -> bool:
    """Whether this file is probably the plugin, as far as can be told without starting it."""
    real = path.resolve()
    if PLUGIN in path.name or PLUGIN in real.name or real == Path(plugin_path()).resolve():
        return True
    beginning = _beginning(real)
    return beginning.startswith(b"#!") and any(words in beginning for words in _MENTIONS)


def is_older(path: Path) -> bool:
    """Whether this file is probably the older backup plugin: by its own name, or that of a link to it."""
    return OLDER_PLUGIN in (path.name, path.resolve().name) and not looks_like_ours(path)


def is_ours(manifest: Manifest) -> bool:
    """Whether the plugin with this manifest is this one, and not disabled."""
    return manifest.disabled is None and "db_write" in manifest.hooks and "backup-status" in manifest.methods


def _beginning(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _BEGINNING) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)
