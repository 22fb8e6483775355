"""Which of the plugins that lightningd starts is this one: under whatever name, through links, behind a script."""

import os
import stat
from pathlib import Path

from backup_cli.checks.probe import Manifest
from backup_cli.paths import plugin_path

PLUGIN = "lightningd-backup"
"""The executable's name, as it is installed."""

OLDER_PLUGIN = "backup.py"

_MENTIONS = (b"lightningd-backup", b"lightningd_backup", b"plugin.main")
"""What a script says that starts this plugin, or that is its executable under another name."""

_BEGINNING = 1 << 14
"""Bytes of a script in which it must say so."""


def looks_like_ours(path: Path) -> bool:
    """Whether this is probably the plugin, as far as can be told without starting it."""
    real = path.resolve()
    if PLUGIN in path.name or PLUGIN in real.name or real == Path(plugin_path()).resolve():
        return True
    beginning = _beginning(real)
    return beginning.startswith(b"#!") and any(words in beginning for words in _MENTIONS)


def is_older(path: Path) -> bool:
    """Whether this is probably the older backup plugin: by name, which it may only have from a link."""
    return OLDER_PLUGIN in (path.name, path.resolve().name) and not looks_like_ours(path)


def is_ours(manifest: Manifest) -> bool:
    """Whether the plugin that says this of itself is this one."""
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
