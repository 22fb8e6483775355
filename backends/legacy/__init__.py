"""A backup file of the older plugin, `backup` of the lightningd/plugins collection: read only, never written.

`OlderBackup` streams the changes that count, `rebuild_older` makes a database of them. The plugin uses none of it.
"""

from backends.legacy.backup import OlderBackup
from backends.legacy.errors import OlderDamaged
from backends.legacy.file import is_older_backup, older_backup_at, older_path
from backends.legacy.rebuild import rebuild_older

__all__ = ["OlderBackup", "OlderDamaged", "is_older_backup", "older_backup_at", "older_path", "rebuild_older"]
