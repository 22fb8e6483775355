"""A node's database: read beside the node, rebuilt from its changes, compared with another."""
