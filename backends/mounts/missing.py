"""What to add to a message about a file that does not exist, where a mount is likely to be missing."""

import os
from pathlib import Path


def is_it_mounted(path: Path) -> str:
    """A sentence that asks whether something is mounted, after a full stop; "" if nothing suggests that it is not.

    Where a disk or share is not mounted, the directory of the file that should be on it is missing or empty.
    """
    directory = path.absolute().parent
    try:
        with os.scandir(directory) as entries:
            return "" if next(entries, None) is not None else f". {_EMPTY}"
    except FileNotFoundError:
        return f". {_MISSING}"
    except OSError:
        return ""


_MISSING = "Its directory does not exist either: is the disk or share that holds it mounted?"
_EMPTY = "Its directory is empty: is the disk or share that belongs there mounted?"
