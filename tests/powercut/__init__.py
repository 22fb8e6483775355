"""Power cuts under real filesystems: a node and its backup on disks that lose whatever was not flushed.

- `recorder.c` serves the disks and records what reaches them; `disks.py` builds, starts and mounts it.
- `blocks.py` works out what a disk may hold after a cut at any moment of such a record.
- `machine.py` is a node on such disks; `life.py` is the recorded run of a node, `commands.py` that of commands.
- `cuts.py` chooses when the power fails; `model.py` knows what a node must hold then.
- `proof.py` starts the node after a cut and judges the outcome.
- `campaign.py` runs all of it: `make powercut`.
"""
