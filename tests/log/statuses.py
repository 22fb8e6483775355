"""A status to begin with."""

from backends.log.status import Status

FINE = Status(
    url="file:///mnt/nas/lightning.bkp",
    backup_id="00" * 16,
    node_id=None,
    data_version=1008,
    last_change=1_700_000_000,
    records=12,
    generation=3,
    generation_begun=1_600_000_000,
    generation_reason="init",
    last_compaction=None,
    snapshot_bytes=100,
    segment_bytes=200,
    free_bytes=1 << 40,
    total_bytes=1 << 41,
    damaged=False,
    troubles=(),
)
"""The status of a healthy backup with one destination."""
