"""A node's SQLite database: read while the node runs, rebuilt from its changes, compared with another database."""
