"""What the operating system does for the rest: locks, signals, owners of directories, scratch directories."""
