"""How long a restore from a bucket takes when every request takes 20 ms.

python -m tests.destinations.restore_from_bucket [CHANGES] [MILLISECONDS]
"""

import os
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from backends import place_at
from backends.log.backup import Backup
from backends.storage.objects.storage import ObjectStorage
from tests.destinations.buckets import Proxied, proxied
from tests.destinations.fault_proxy import PASS, Treatment
from tests.destinations.places import Places
from tests.end_to_end.world import command, spawned
from tests.fake_lightningd.calls import History, fresh_schema
from tests.log.histories import change, database, noise, silent, source


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore took."""

    changes: int
    seconds: float
    requests: int
    at_once: int
    most_often: int
    """How often the same extent of the log was asked for."""

    def __str__(self) -> str:
        return (
            f"{self.changes} changes restored in {self.seconds:.1f} s by {self.requests} requests, "
            f"{self.at_once} at a time at most"
        )


def fill(bucket: Proxied, changes: int, *, tidy: bool = True) -> None:
    """Make a backup and append so many changes, as a node does whose plugin was killed at the end.

    Unless it is to `tidy` up, the maintenance never comes to merge what was appended.
    """
    backup = Backup(place_at(bucket.at(bucket.server.endpoint)))
    backup.create(source(database((change(fresh_schema()),)), 1))
    writer = backup.open(silent, "filled")
    history = History(1)
    for number in range(changes):
        writer.append(change(history.note(noise(60, number))))
        if tidy and number % 100 == 99:
            writer.maintain()
            assert isinstance(backup.storage, ObjectStorage)
            backup.storage.upkeep.wait()  # merging goes on beside the commits, which are faster here than any node's


def restore(bucket: Proxied, target: Path, changes: int, milliseconds: float) -> Restored:
    """Restore with this delay of each request."""
    bucket.asked()
    bucket.proxy.seen.at_once = 0
    bucket.always(Treatment(delay=milliseconds / 1000))
    began = time.monotonic()
    said = spawned(*command("restore", bucket.url, target))  # not here, where the proxy works
    seconds = time.monotonic() - began
    bucket.always(PASS)
    assert said.code == 0, said
    assert f"version {changes + 1}" in said.out + said.err, said
    asked = bucket.asked()
    extents = Counter(each.path for each in asked if _EXTENT.search(each.path))
    return Restored(changes, seconds, len(asked), bucket.proxy.seen.at_once, max(extents.values()))


_EXTENT = re.compile(r"/data/[0-9a-f]{32}/[0-9]{12}$")


def main() -> None:
    """One filled while it was tidied up, one whose node never came to that."""
    changes, milliseconds = int((sys.argv[1:2] or ["20000"])[0]), float((sys.argv[2:3] or ["20"])[0])
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp"))))
        places = Places(directory, stack)
        for tidy in (True, False):
            bucket = stack.enter_context(proxied(places))
            began = time.monotonic()
            fill(bucket, changes, tidy=tidy)
            print(f"{changes} changes appended in {time.monotonic() - began:.0f} s", flush=True)
            result = restore(bucket, directory / f"restored-{tidy}.sqlite3", changes, milliseconds)
            print("merged while it grew:" if tidy else "never merged:", result, flush=True)


if __name__ == "__main__":
    main()
