"""What `backup-cli follow` is made of: the copy's directory, the loop that keeps it, and its promotion."""
