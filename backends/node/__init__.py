"""The node's side: its directory, which process holds it, `backup.lock`, the writer's lock, the sync point."""
