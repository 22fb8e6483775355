"""A backup file of the older plugin, `backup` of the lightningd/plugins collection: read only, never written.

`LegacyBackup` streams the changes that count, `rebuild_legacy` makes a database of them. The plugin uses none of it.
"""

from backends.legacy.backup import LegacyBackup
from backends.legacy.errors import LegacyDamaged
from backends.legacy.file import is_legacy_backup, legacy_backup_at, legacy_path
from backends.legacy.rebuild import rebuild_legacy

__all__ = ["LegacyBackup", "LegacyDamaged", "is_legacy_backup", "legacy_backup_at", "legacy_path", "rebuild_legacy"]
