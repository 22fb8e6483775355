"""The one writer of a log: appending, segments, snapshots, publishing, fencing, recovery."""
