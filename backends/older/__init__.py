"""A backup file of the older plugin, `backup` of the lightningd/plugins collection: read only, never written.

`OlderBackup` streams the changes that count, `rebuild_older` makes a database of them. The plugin uses none of it.
"""

from backends.older.backup import OlderBackup
from backends.older.errors import OlderDamaged
from backends.older.file import is_older_backup, older_backup_at, older_path
from backends.older.rebuild import rebuild_older

__all__ = ["OlderBackup", "OlderDamaged", "is_older_backup", "older_backup_at", "older_path", "rebuild_older"]
