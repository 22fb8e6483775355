"""Giving memory back to the system: glibc keeps what was freed, and beside a node that counts as used for weeks."""

from contextlib import suppress


def give_back() -> None:
    """Return what is free to the system. Best effort: other C libraries have no such function.

    It takes about a millisecond, in which other threads run but may wait when they ask for memory: for a thread that
    nobody waits for, and not after each small piece of work.
    """
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
