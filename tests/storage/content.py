"""The content of a file on the simulated disk, and what a power cut leaves of it.

Everything that was synced stays. Of what was written since, each part is kept or lost on its own:

- a sector holds what it held at the sync or after any write since (zeros where the file was shorter); a sector
  itself is never torn;
- the size is the synced one, one the file had since, or any between, whatever became of the sectors.

The odds differ from file to file and from cut to cut, so that all kept, all lost and every mixture come up.
"""

import random
from collections import Counter
from dataclasses import dataclass

SECTOR = 512
ODDS = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class _Write:
    """Bytes that are not synced yet, and the size of the file after they were written."""

    offset: int
    data: bytes
    size: int

    def sectors(self) -> range:
        return range(self.offset // SECTOR, -(-(self.offset + len(self.data)) // SECTOR))

    def put(self, image: bytearray, start: int = 0, stop: int | None = None) -> None:
        """Copy the bytes that fall in [start, stop) into the image."""
        start = max(start, self.offset)
        stop = self.offset + len(self.data) if stop is None else min(stop, self.offset + len(self.data))
        if start < stop:
            _resize(image, max(len(image), start))
            image[start:stop] = self.data[start - self.offset : stop - self.offset]


class Content:
    """The bytes as programs see them (`now`), as they were when last synced, and the writes between the two."""

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self.now, self._synced = bytearray(content), bytearray(content)
        self._pending: list[_Write] = []

    def write(self, offset: int, data: bytes) -> None:
        if data:
            self._do(_Write(offset, bytes(data), max(len(self.now), offset + len(data))))

    def truncate(self, size: int) -> None:
        self._do(_Write(size, bytes(max(0, len(self.now) - size)), size))

    def _do(self, write: _Write) -> None:
        self._pending.append(write)
        write.put(self.now)
        _resize(self.now, write.size)

    def sync(self) -> None:
        for write in self._pending:
            write.put(self._synced)
        _resize(self._synced, len(self.now))
        self._pending.clear()

    def after_power_cut(self, rng: random.Random) -> "Content":
        if not self._pending:
            return Content(self._synced)
        likely = rng.choice(ODDS)
        writes = Counter(sector for write in self._pending for sector in write.sectors())
        kept = {sector: n if rng.random() < likely else rng.randrange(n) for sector, n in writes.items()}
        image = bytearray(self._synced)
        for write in self._pending:
            for sector in write.sectors():
                kept[sector] -= 1
                if kept[sector] >= 0:
                    write.put(image, sector * SECTOR, (sector + 1) * SECTOR)
        sizes = [len(self._synced), *(write.size for write in self._pending)]
        sizes.append(rng.randint(min(sizes), max(sizes)))
        _resize(image, sizes[-2] if rng.random() < likely else rng.choice(sizes))
        return Content(image)


def _resize(image: bytearray, size: int) -> None:
    if len(image) > size:
        del image[size:]
    else:
        image.extend(bytes(size - len(image)))
