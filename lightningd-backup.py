#!/usr/bin/env python3
"""The plugin as lightningd's plugin manager `reckless` finds it: by the name of the repository, in its top directory.

lightningd starts it without arguments. With arguments it is backup-cli, which reckless installs no program for.
docs/installing.md says what else an installation with reckless needs.
"""

import sys
from os import environ
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # isolated takes the first entry away again

from backup_cli import isolated

if len(sys.argv) > 1 and "LIGHTNINGD_PLUGIN" not in environ:
    isolated.backup_cli()
else:
    isolated.lightningd_backup()
