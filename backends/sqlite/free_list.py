"""Follow the free list of a database from one transaction to the next.

A page that is freed need not come into the rollback journal, because nobody needs what it holds once that is committed;
and the next transaction may use it without journalling it, either. (So it is where SQLite is built without
SECURE_DELETE, as its own sources are.) Whoever wants to know what a page held earlier must therefore look at it when
the list names it for the first time.

The list is a chain of trunk pages. Each begins with the number of the next trunk and the number of leaves that it
names; the leaves hold nothing. A trunk is always journalled before it is changed.
"""

from collections.abc import Callable, Container, Iterator
from itertools import islice

HEAD, COUNT = 32, 36
"""Where page 1 has the number of the first trunk, and how many pages are free."""


class FreeListDamaged(Exception):
    """The chain leads in a circle, or out of the database."""


class FreeList:
    """What is known of the list: its trunks when it was last read."""

    def __init__(self) -> None:
        self._trunks: dict[int, int] = {}  # the number of each, and of the one that follows it

    def named(self, page: Callable[[int], bytes], changed: Container[int]) -> Iterator[int]:
        """The leaves that the list may name now and did not before.

        `page` returns a page as it was before the transaction under way; `changed` holds those that were journalled
        since the last call. Raises FreeListDamaged, and what `page` raises. To be read to its end.
        """
        first = page(1)
        number, most = number_at(first, HEAD), number_at(first, COUNT)
        before, self._trunks = self._trunks, {}
        while number:
            if number in self._trunks or len(self._trunks) >= most:
                raise FreeListDamaged
            known = before.get(number)
            if known is None or number in changed:
                trunk = page(number)
                known = number_at(trunk, 0)
                yield from _leaves(trunk)
            self._trunks[number] = known
            number = known


def _leaves(trunk: bytes) -> Iterator[int]:
    numbers = memoryview(trunk)[: len(trunk) // 4 * 4]
    count = min(number_at(trunk, 4), len(numbers) // 4 - 2)
    return islice((int.from_bytes(numbers[at : at + 4], "big") for at in range(8, len(numbers), 4)), count)


def number_at(page: bytes, at: int) -> int:
    """The number of a page, or of pages, that is stored there."""
    return int.from_bytes(page[at : at + 4], "big")
