"""One `Storage` made of several: every change of a file goes to all members in sync, in parallel and byte for byte.

``workers`` runs an operation on several members at once, each in a thread of its own; ``in_sync`` decides what its
results mean, and which members there are; ``storage`` and ``handles`` are the directory and the open files that the log
sees. What an epoch is, they do not know: a member that fails is handed to ``OnFailure`` (``backends/members``).
"""
