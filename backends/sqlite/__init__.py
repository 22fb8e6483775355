"""Everything that is done with SQLite: copying, replaying, rebuilding, comparing."""
