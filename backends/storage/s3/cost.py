"""What a bucket costs a month: an estimate from what a busy node does."""

from dataclasses import dataclass

PAYMENTS_A_DAY = 1000
COMMITS_A_PAYMENT = 13.4
"""1,500 payments of a real node made 20,084 commits."""

STORED_A_PAYMENT = 5600
"""Bytes: their 92 MB of SQL, of which 9 % are stored."""

CHECK = 5.0
"""Seconds between two looks at the session marker while the node runs."""

_DAYS = 30.0
_PIECE = 8 << 20
_DATABASE = 100 << 20
"""Bytes: a snapshot of a node's database, compressed. The log is compacted when it has outgrown that."""


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


AMAZON = Prices("Amazon S3 Standard in us-east-1", "2026-11", 0.005, 0.0004, 0.023, 0.09)
EGRESS_FREE = Prices("Cloudflare R2", "2026-11", 0.0045, 0.00036, 0.015, 0.0)
REQUESTS_FREE = Prices("a provider without a price for requests, such as Wasabi", "2026-11", 0.0, 0.0, 0.0069, 0.0)


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


def usage(payments_a_day: float = PAYMENTS_A_DAY, database: float = _DATABASE) -> Usage:
    """What a node with so many payments does in a month; `database` is the size of its snapshot in bytes.

    Each commit is one request. Each of its objects is read once when it is merged into a larger one. The session marker
    is looked at all the time. When the log has outgrown the snapshot, both are read, and a new snapshot is written.
    """
    commits = payments_a_day * _DAYS * COMMITS_A_PAYMENT
    log = payments_a_day * _DAYS * STORED_A_PAYMENT
    compactions = log / max(16 << 20, database)
    compacted = compactions * (database + max(16 << 20, database))
    puts = commits + log / _PIECE + compactions * database / _PIECE
    gets = commits + _DAYS * 86400 / CHECK + compacted / (1 << 20)
    return Usage(puts, gets, database + max(16 << 20, database), log + compacted)


def estimate() -> str:
    """The estimate in one line."""
    used = usage()
    requests = (used.puts + used.gets) / 1e6
    return (
        f"a node with {PAYMENTS_A_DAY:,} payments a day makes about {requests:.1f} million requests a month and keeps "
        f"{used.stored / 1e9:.1f} GB: about {used.cost(AMAZON):.2f} USD at {AMAZON.provider} (list prices of "
        f"{AMAZON.as_of})"
    )
