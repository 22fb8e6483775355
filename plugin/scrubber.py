"""The process that scrubs the members. Its arguments are their names; the plugin starts it in the node's directory.

It prints one line of JSON for each damaged file, and a last one with what was read. It ends when its stdin is closed,
because then the plugin is dead.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from backends import place_at
from backends.errors import BackupError
from backends.members.compare import compare_members
from backends.members.comparison import Comparison, GenerationChanged
from backends.members.peers import Peer, peer_at
from backends.members.repair import Mended, Mending, mend
from backends.node.key_file import load_key
from backends.node.lockfile import read_settings
from backends.sqlite import limits
from backends.text import one_line, unexpected

RATE = 32 << 20
"""Bytes a second at which a good copy is written: the node's commits go to the same disk."""

MAX_TOLD = 100
"""The most damaged files that are told one by one."""

_ATTEMPTS = 3
_MAX_TEXT = 200


def main() -> int:
    """0 when all was read, whatever was found; 1 with a sentence on stderr when it could not be."""
    limits.confine()
    threading.Thread(target=_end_with_the_plugin, daemon=True).start()
    try:
        comparison, mended = scrub(Path.cwd(), sys.argv[1:])
    except MemoryError:
        print(limits.out_of_memory().what, file=sys.stderr)
        return 1
    except (BackupError, OSError) as error:
        print(one_line(str(error)), file=sys.stderr)
        return 1
    except Exception as error:
        print(unexpected(error), file=sys.stderr)
        return 1
    # The plugin reads this only at the end, so all of it must fit into a pipe; what it has to act on comes first.
    for each in sorted(mended, key=lambda each: each.outcome is Mending.MENDED)[:MAX_TOLD]:
        told = {**asdict(each), "outcome": each.outcome.value}
        told.update(what=each.what[:_MAX_TEXT], why=each.why[:_MAX_TEXT])
        print(json.dumps(told))
    print(json.dumps({"compared": comparison.compared, "files": len(comparison.files)}))
    return 0


def scrub(directory: Path, names: Collection[str]) -> tuple[Comparison, tuple[Mended, ...]]:
    """Compare these members of the running node in `directory`, and mend what may be mended beside it.

    Raises BackupError; OSError if one of them cannot be read.
    """
    load_key(directory)
    members = [member for member in read_settings(directory).members if member.name in names]
    for _ in range(_ATTEMPTS):
        peers: list[Peer] = [peer_at(member.name, place_at(member.url).storage) for member in members]
        try:
            comparison = compare_members(peers)
        except GenerationChanged:
            continue
        return comparison, mend(comparison, peers, running=True, pause=_pause)
    raise BackupError("a new generation began each time before all was read")


def _pause(copied: int) -> None:
    time.sleep(copied / RATE)


def _end_with_the_plugin() -> None:
    # Not through sys.stdin: its lock, held here, would abort the interpreter when it ends normally.
    while os.read(0, 1):
        pass
    os._exit(1)
