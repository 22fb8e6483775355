"""Power cuts beneath real filesystems: a node and its backup on disks that lose whatever was not flushed.

- `recorder.c` serves the disks and writes down what reaches them; `disks.py` builds, starts and mounts it.
- `blocks.py` says what a disk may hold after a cut at any moment of such a record.
- `machine.py` is a node on such disks; `life.py` is the run that is recorded, `commands.py` what else is.
- `cuts.py` says when the power goes, `model.py` what a node must hold then.
- `proof.py` starts the node after a cut and says what came of it.
- `campaign.py` puts them together: `make powercut`.
"""
