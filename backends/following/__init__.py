"""Keeping a copy of the database that follows a backup: what `backup-cli follow` does, above log and sqlite."""
