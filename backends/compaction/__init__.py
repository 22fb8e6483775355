"""Compaction: the history becomes a new snapshot, beside a writer that continues."""
