"""The legacy format: a backup file of the older plugin, `backup` of the lightningd/plugins collection. Only ever read.

`LegacyBackup` streams the changes that count, and `rebuild_legacy` makes a database from them. Only `backup-cli` uses
this; the plugin does not.
"""

from backends.legacy.backup import LegacyBackup
from backends.legacy.errors import LegacyDamaged
from backends.legacy.file import is_legacy_backup, legacy_backup_at, legacy_path
from backends.legacy.rebuild import rebuild_legacy

__all__ = ["LegacyBackup", "LegacyDamaged", "is_legacy_backup", "legacy_backup_at", "legacy_path", "rebuild_legacy"]
