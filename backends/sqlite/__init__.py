"""Everything that is done with SQLite: a node's database is copied, rebuilt from its changes, and compared."""
