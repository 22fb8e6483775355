"""From the files of a backup to its changes. Nothing here writes."""
