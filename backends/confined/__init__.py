"""What unpacks or executes the bytes of a backup, in a process of its own that has limits and can be ended.

A backup may come from a stranger's disk, and SQLite can be kept busy for ever by a single call that no signal ends.
So the commands that restore, verify, import and compact leave that to a child process: `parent` starts one and watches
it, `child` is what runs there, `jobs` what it can be asked for, `messages` what the two say to each other, `limits` how
much memory, processor time and disk there is for a backup of a given size. `work` is what the commands call.

Nothing of the child is believed without a look: it may have been taken over by what it reads.
"""
