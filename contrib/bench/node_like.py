"""A large database as a node has it after years of payments: the recording's, with many more rows of the usual tables.

Most bytes are onions, signatures, hashes and transactions, which do not compress; the rest is text (invoices and their
descriptions) and numbers. `zstd -1` makes about 0.7 of it.

python -m contrib.bench.node_like FILE [--megabytes N]
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import apsw

from backup_cli.drill.player import recorded_calls
from contrib.bench.contestants import Call

_ROUND = 5000
"""Payments that are made at once."""

_TEXT = "lower(hex(randomblob(20))) || ' payment for order ' || n || ' at the shop around the corner'"
_BOLT11 = "'lnbcrt100u1p' || lower(hex(randomblob(150)))"

_A_PAYMENT = (
    """INSERT INTO channel_htlcs (id, channel_id, channel_htlc_id, direction, msatoshi, cltv_expiry, payment_hash,
    payment_key, routing_onion, hstate, shared_secret, received_time, min_commit_num, max_commit_num, updated_index)
    SELECT n, 1, n, n % 2, 10000 + n % 977, 1300 + n / 1000, randomblob(32), randomblob(32),
    CASE n % 2 WHEN 0 THEN NULL ELSE randomblob(1366) END, 9 + n % 2 * 10, randomblob(32),
    1795365263004640197 + n * 1000000, n, n + 3, n FROM n""",
    f"""INSERT INTO payments (id, timestamp, status, payment_hash, destination, msatoshi, payment_preimage,
    path_secrets, route_channels, msatoshi_sent, description, bolt11, total_msat, partid, groupid, updated_index)
    SELECT n, 1795365263 + n, 1 + n % 2, randomblob(32), randomblob(33), 10001, randomblob(32), randomblob(160),
    randomblob(40), 10001, {_TEXT}, {_BOLT11}, 10001, 0, n, n FROM n WHERE n % 3 = 0""",
    f"""INSERT INTO invoices (id, state, msatoshi, payment_hash, payment_key, label, expiry_time, pay_index,
    msatoshi_received, paid_timestamp, bolt11, description, features, updated_index)
    SELECT n, 1, 10000, randomblob(32), randomblob(32), 'order-' || n, 1795970062 + n, n, 10000, 1795365263 + n,
    {_BOLT11}, {_TEXT}, randomblob(7), n FROM n WHERE n % 2 = 0""",
    """INSERT INTO forwards (in_channel_scid, in_htlc_id, out_channel_scid, out_htlc_id, in_msatoshi, out_msatoshi,
    state, received_time, resolved_time, forward_style, updated_index)
    SELECT 1433763162685440, n, 1433763162685440 + n % 7, n, 10100, 10000, n % 3, 1795365263004640197 + n, n, 1, n
    FROM n WHERE n % 5 > 1""",
    """INSERT INTO transactions (id, blockheight, rawtx)
    SELECT randomblob(32), NULL, randomblob(200 + abs(random() % 500)) FROM n WHERE n % 11 = 0""",
    """INSERT INTO utxoset (txid, outnum, txindex, scriptpubkey, satoshis)
    SELECT randomblob(32), n % 3, n % 1000, randomblob(34), n * 100 FROM n WHERE n % 2 = 0""",
    """INSERT INTO channel_moves (id, tag_bitmap, credit_or_debit, timestamp, payment_hash, payment_part_id,
    payment_group_id, fees) SELECT n, 32, -10000, 1795365263 + n, randomblob(32), 0, n, 7 FROM n""",
)
"""What each payment leaves in the tables."""


def node_like_database(path: Path, calls: Iterable[Call], size: int) -> None:
    """Create the database of a node with the recorded changes, and as many more payments as make it `size` bytes."""
    database = apsw.Connection(str(path))
    database.execute("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; PRAGMA foreign_keys = ON")
    database.execute("PRAGMA cache_size = -200000")
    for call in calls:
        for statement in call["writes"]:
            database.execute(statement)
    first = 1_000_000  # far beyond the recording's own ids
    with database:
        while path.stat().st_size < size:
            last = first + _ROUND
            rows = f"WITH RECURSIVE n(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM n WHERE n < {last - 1})"
            for insert in _A_PAYMENT:
                into, select = insert.split("SELECT", 1)
                database.execute(f"{into} {rows} SELECT {select}")
            first = last
            database.cache_flush()
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()


def main() -> None:
    """Create the file that the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the database to create, such as DIR/lightningd.sqlite3")
    parser.add_argument("--megabytes", type=int, default=1024, help="its size in MiB")
    options = parser.parse_args()
    node_like_database(options.file, recorded_calls(), options.megabytes << 20)


if __name__ == "__main__":
    main()
