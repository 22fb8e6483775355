"""What lies on the node's side: its directory, who holds it, `backup.lock`, the writer's lock and the witness."""
