"""What a bucket costs a month: an estimate from what a busy node does."""

from dataclasses import dataclass

PAYMENTS_A_DAY = 1000
COMMITS_A_PAYMENT = 13.4
"""1,500 payments of a real node made 20,084 commits."""

STORED_A_PAYMENT = 5600
"""Bytes: their 92 MB of SQL, of which 9 % are stored."""

CHECKS, CHECK_EVERY = 3, 60.0
"""Requests with which a running node looks whether it has been replaced, and seconds between two such looks."""

_DAYS = 30.0
_PIECE, _READ = 4 << 20, 1 << 20
"""Bytes of one request that writes or reads much at once."""

_COMPACT_AT = 16 << 20
"""Bytes that a log has at least before it is compacted."""

_SNAPSHOT = 100 << 20
"""Bytes of a large node's database, compressed."""


@dataclass(frozen=True, slots=True)
class Prices:
    """List prices in US dollars, without taxes and free allowances."""

    provider: str
    as_of: str
    put: float
    """A thousand requests that write or list."""

    get: float
    """A thousand requests that read."""

    stored: float
    """A GB for a month."""

    sent: float
    """A GB that is read over the Internet."""


AMAZON = Prices("Amazon S3 (Standard, us-east-1)", "2025", 0.005, 0.0004, 0.023, 0.09)
NOTHING_FOR_READING_BACK = Prices("Cloudflare R2", "2025", 0.0045, 0.00036, 0.015, 0.0)
SPACE_ONLY = Prices("a provider that charges for space only", "2025", 0.0, 0.0, 0.007, 0.0)
"""Such as Wasabi: often at least 1 TB is charged for, about 7 USD, and what is deleted for 90 days more."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a node does in a month."""

    puts: float
    gets: float
    stored: float
    """Bytes, on average."""

    sent: float
    """Bytes that are read back."""

    def cost(self, prices: Prices) -> float:
        """US dollars a month."""
        requests = self.puts / 1000 * prices.put + self.gets / 1000 * prices.get
        return requests + self.stored / 1e9 * prices.stored + self.sent / 1e9 * prices.sent


def usage(payments_a_day: float = PAYMENTS_A_DAY, snapshot: float = _SNAPSHOT) -> Usage:
    """What a node with so many payments does in a month; `snapshot` is the size of its database in bytes, compressed.

    Each commit is one request. Each of its objects is read once when it is merged into a larger one. Whether the node
    has been replaced is looked at all the time. When the log has outgrown the snapshot, both are read, and a new
    snapshot is written.
    """
    commits = payments_a_day * _DAYS * COMMITS_A_PAYMENT
    log = payments_a_day * _DAYS * STORED_A_PAYMENT
    compact_at = max(_COMPACT_AT, snapshot)
    compactions = log / compact_at
    read = log + compactions * (snapshot + compact_at)
    puts = commits + (log + compactions * snapshot) / _PIECE
    gets = commits + _DAYS * 86400 / CHECK_EVERY * CHECKS + compactions * (snapshot + compact_at) / _READ
    return Usage(puts, gets, snapshot + compact_at, read)


def estimate() -> str:
    """The estimate in one line."""
    used = usage()
    requests = (used.puts + used.gets) / 1e6
    return (
        f"a node with {PAYMENTS_A_DAY:,} payments a day makes about {requests:.1f} million requests a month and keeps "
        f"{used.stored / 1e9:.1f} GB: about {used.cost(AMAZON):.2f} USD at {AMAZON.provider}, by its list prices of "
        f"{AMAZON.as_of}"
    )
