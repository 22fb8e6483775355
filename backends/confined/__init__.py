"""Unpacking and executing the bytes of a backup, in a separate process that has limits and can be killed.

A backup may come from a stranger's disk, and a single call that no signal interrupts can keep SQLite busy for ever.
So the commands that restore, verify, import and compact leave that work to a child process. `work` has the functions
that the commands call, `parent` starts and watches the child, `child` is the program that runs in it, `jobs` has the
tasks it can be given, and `messages` the messages between the two. `backends.sqlite.limits` sets how much memory,
processor time and disk space a backup of a given size may take.

Everything from the child is checked before it is used: what the child reads may have taken it over.
"""
