"""Detects a node on PostgreSQL: lightningd never calls the hook there, so nothing would ever be saved.

With SQLite the first call comes before `init`, and nothing is asked. If none has come, lightningd is asked for its
`wallet` setting: not from `init` itself, which lightningd waits for, but a moment later from another thread.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugin.pyln_client import LightningRpc

if TYPE_CHECKING:
    from backends.base import Report

ASK_AFTER = 1.0
"""Seconds from `init` to the first question; doubled after each failure, up to ASK_AT_LEAST_EVERY."""

ASK_AT_LEAST_EVERY = 60.0

UNPROTECTED = (
    "this node keeps its database in PostgreSQL, and lightningd shows plugins nothing of what it writes there: NOTHING "
    "is backed up. This plugin ends now, so that nobody relies on it; lightningd ends with it if it is an "
    "important-plugin. The database is as it was. Remove the plugin's line from lightningd's configuration, and "
    "protect PostgreSQL by its own means: synchronous replication, see docs/choosing.md"
)


class WalletQuestion:
    """Asks lightningd where its database is until it answers or the hook is called."""

    def __init__(self, rpc_file: Path, called: Callable[[], bool], unprotected: Callable[[], None]) -> None:
        """`called` says whether the hook was called; `unprotected` is called, once, when the node uses PostgreSQL."""
        self._rpc_file, self._called, self._unprotected = rpc_file, called, unprotected

    def start(self) -> None:
        """Ask in a separate thread: if lightningd's RPC hangs, that does no harm."""
        threading.Thread(target=self._ask, name="wallet", daemon=True).start()

    def _ask(self) -> None:
        pause = ASK_AFTER
        while True:
            time.sleep(pause)
            if self._called():
                return
            with suppress(Exception):  # no socket yet, lightningd is busy, an answer that makes no sense
                wallet = wallet_in(LightningRpc(str(self._rpc_file)).call("listconfigs", {"config": "wallet"}))
                if is_postgresql(wallet) and not self._called():
                    self._unprotected()
                return
            pause = min(2 * pause, ASK_AT_LEAST_EVERY)


def wallet_in(answer: Any) -> str | None:
    """The `wallet` setting in an answer of `listconfigs`: since v23.08 under `configs`, before that at the top level.

    None when it is not set. TypeError for anything that is not such an answer.
    """
    if not isinstance(answer, dict):
        raise TypeError("not an answer of listconfigs")
    configs = answer.get("configs", answer)
    wallet = configs.get("wallet") if isinstance(configs, dict) else None
    if isinstance(wallet, dict):
        wallet = wallet.get("value_str")
    if wallet is not None and not isinstance(wallet, str):
        raise TypeError("a wallet that is not text")
    return wallet


def is_postgresql(wallet: str | None) -> bool:
    """Whether lightningd uses PostgreSQL for this setting: it compares the beginning. Unset means SQLite."""
    return wallet is not None and wallet.startswith("postgres")


def end_unprotected(report: "Report", stop: Callable[[], None], end: Callable[[int], Any] = os._exit) -> None:
    """Report it, notify the operator (`stop` waits for that), and end the process, whatever its other threads do."""
    report("broken", UNPROTECTED)
    stop()
    end(1)
