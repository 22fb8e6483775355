"""One `Storage` made of several: every change of a file goes to all members in sync, in parallel and byte for byte.

``workers`` runs an operation on several members at once, each in a thread of its own; ``storage`` decides what its
results mean; ``handles`` are the open files. What an epoch is, they do not know: a member that fails is handed to
``MirrorStorage.on_failure`` (``backends/members``).
"""
