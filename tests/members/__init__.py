"""Backups with several members."""
