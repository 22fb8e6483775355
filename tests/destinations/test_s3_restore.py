"""A restore from a bucket far away: few requests, many of them at a time."""

import os
from pathlib import Path

from backends.storage.s3.store import PARALLEL
from tests.destinations.buckets import Proxied
from tests.destinations.restore_from_bucket import fill, restore

CAMPAIGN = bool(os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN"))


CHANGES = 20_000 if CAMPAIGN else 1100


def test_log_that_was_merged_while_it_grew_is_restored_soon_by_few_requests(bucket: Proxied, tmp_path: Path) -> None:
    """All but the last 1,000 changes at most are in large objects; the others are read in parallel."""
    fill(bucket, CHANGES)
    restored = restore(bucket, tmp_path / "restored.sqlite3", CHANGES, milliseconds=20 if CAMPAIGN else 10)
    assert restored.seconds <= 30, str(restored)
    assert restored.requests < (4500 if CAMPAIGN else 800), str(restored)
    assert PARALLEL // 2 < restored.at_once <= PARALLEL + 1, str(restored)


def test_log_that_was_never_merged_is_fetched_once(bucket: Proxied, tmp_path: Path) -> None:
    """To see where it ends, to check it, and, by a child process, to execute it."""
    changes = CHANGES if CAMPAIGN else 300
    fill(bucket, changes, tidy=False)
    restored = restore(bucket, tmp_path / "restored.sqlite3", changes, milliseconds=20 if CAMPAIGN else 5)
    assert restored.seconds <= 30, str(restored)
    assert restored.most_often == 1, str(restored)
    assert restored.requests < changes + 150, str(restored)
