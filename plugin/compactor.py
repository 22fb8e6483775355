"""The process that compacts. It prints what the writer must publish, in one line.

Its arguments are a URL; the descriptor that shows when the plugin commits (empty if there is none); and, if the
snapshot is to be made of a copy of the node's database, which copy that is (backends/compaction/from_copy.py).

The plugin starts it in the node's directory. It ends when its stdin is closed, because then the plugin is dead.
"""

import json
import os
import sys
import threading
from pathlib import Path

from backends import backup_at
from backends.compaction.compact import compact_log
from backends.compaction.from_copy import CopiedDatabase, snapshot_of_copy
from backends.errors import BackupError, Damaged, NoSpace, Unrestorable
from backends.log.backup import Backup
from backends.log.reader.opening import read_manifest
from backends.log.writer.compacted import CompactedSnapshot
from backends.log.writer.pace import Pace
from backends.node.key_file import load_key
from backends.node.lockfile import read_settings
from backends.sqlite import limits
from backends.system.commits import read_shared
from backends.system.overlap import keep_to_one_thread
from backends.system.pulse import pulse
from backends.text import one_line, unexpected
from plugin.compaction import NO_SPACE, NOTHING, UNRESTORABLE
from plugin.node_key import check_key


def main() -> int:
    """0 when done, 1 or NO_SPACE with a sentence on stderr when it failed, UNRESTORABLE when that was proved."""
    limits.confine()
    keep_to_one_thread()  # the node commits meanwhile
    limits.end_when_stuck(lambda error: print(_advice(error), file=sys.stderr, flush=True))
    threading.Thread(target=_end_with_the_plugin, daemon=True).start()
    backup = backup_at(sys.argv[1])
    generation = -1
    try:
        load_key(Path.cwd())
        # If the node begins another generation at this very moment, the finding must not count against that one.
        generation = _generation_to_read(backup)
        compacted = _made(backup)
    except MemoryError:
        error = limits.out_of_memory()
        print(_advice(error) if isinstance(error, limits.BeyondLimits) else one_line(str(error)), file=sys.stderr)
        return 1
    except limits.BeyondLimits as error:
        print(_advice(error), file=sys.stderr)
        return 1
    except (BackupError, OSError) as error:
        print(one_line(str(error)), file=sys.stderr)
        if not isinstance(error, Unrestorable) or generation < 0:
            return NO_SPACE if isinstance(error, NoSpace) else 1
        of_the_files = isinstance(error, Damaged)  # and not of what the changes say
        print(json.dumps({"what": error.finding, "generation": generation, "of_the_files": of_the_files}))
        return UNRESTORABLE
    except Exception as error:
        print(unexpected(error), file=sys.stderr)
        return 1
    print(compacted.encode() if compacted is not None else NOTHING)
    return 0


def _made(backup: Backup) -> CompactedSnapshot | None:
    if len(sys.argv) > 3:
        return snapshot_of_copy(backup.storage, CopiedDatabase.decode(sys.argv[3]), pulse.read, pace=_pace())
    return compact_log(backup.storage, Path.cwd(), pulse.read, keep_reserve=True, pace=_pace())


def _pace() -> Pace | None:
    """To yield to the plugin's commits; None if they cannot be seen."""
    seen = read_shared(int(sys.argv[2])) if sys.argv[2:3] not in ([], [""]) else None
    return None if seen is None else Pace(seen)


def _generation_to_read(backup: Backup) -> int:
    """The number of the current generation. Raises BackupError, also if it is encrypted and its key is not here."""
    manifest = read_manifest(backup.storage)
    if manifest.key is not None:  # this process reads backup.key anew, and somebody may have removed it
        check_key(Path.cwd(), read_settings(Path.cwd()), manifest)
    return manifest.generation


def _advice(error: limits.BeyondLimits) -> str:
    return f"{error.what}. If that is expected, stop the node and run: backup-cli compact --no-limits URL"


def _end_with_the_plugin() -> None:
    # Not through sys.stdin: its lock, held here, would abort the interpreter when it ends normally.
    while os.read(0, 1):
        pass
    os._exit(1)  # no cleanup: the next writer removes what is left
