"""Fakes for the programs of the machine that a page is read on: `lightningd`, `lightning-cli`, `bitcoin-cli` and
`lightning-hsmtool`.

    python -m tests.docs.machine PROGRAM ARGUMENTS …

The lightningd is that of `tests/fake_lightningd`: it starts the plugin that the config names, keeps a real database,
and a block arrives as soon as it runs. What the plugin answers is its own answer; what lightningd would say about peers
and chain is made up. Without a plugin in the config nothing happens there.
"""

import ctypes
import hashlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from backends.node.hsm_secret import SECRET_SIZE, seed_of_words
from backends.sqlite.source import inspect
from tests.fake_lightningd import ANSWERING_PLUGIN, History, Node
from tests.fake_lightningd.ends import RpcError

NODE = Path("~/.lightning/bitcoin").expanduser()
SOCKET = NODE / "lightning-rpc"
BLOCK = "a-block-arrives"
"""Not a method of lightningd: the sandbox calls it when a page's node is to make a change."""

_PR_SET_NAME = 15
_NOW = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())

CHANNEL = {"peer_id": "02" + "a1" * 32, "peer_connected": True, "state": "CHANNELD_NORMAL", "to_us_msat": 612000000}


def lightningd() -> int:
    """`--daemon`: returns when it can be asked, and goes on in the background."""
    ours, theirs = os.pipe()
    if os.fork():
        os.close(theirs)
        said = os.read(ours, 4096)
        print(said.decode(), end="")
        return 0 if not said else 1
    os.setsid()
    for number in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    try:
        _run(theirs)
    except BaseException as error:
        os.write(theirs, f"{error}\n".encode())
        raise
    return 0


def _run(ready: int) -> None:
    config = dict(line.partition("=")[::2] for line in (NODE.parent / "config").read_text().splitlines())
    database = NODE / "lightningd.sqlite3"
    new = not database.exists()
    history = History(0 if new else inspect(database, writable=False).data_version or 0)
    plugin = config.get("important-plugin")
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"lightningd")
    try:
        with Node(NODE, [plugin] if plugin else ANSWERING_PLUGIN, network="bitcoin") as node:
            _live(node, history, new=new, plugin=plugin, ready=ready)
    finally:
        SOCKET.unlink(missing_ok=True)  # last: `lightning-cli stop` returns then


def _live(node: Node, history: History, *, new: bool, plugin: str | None, ready: int) -> None:
    if plugin:
        node.play([*([history.first()] if new else []), *history.notes(3)])
        node.wait_for_log("backing up to")
    _write_log(node)
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(NODE)  # a socket's path must be short
        listening.bind(SOCKET.name)
        listening.listen()
        listening.settimeout(0.1)
        os.close(ready)
        while _serve(node, history, listening):
            _write_log(node)


def _write_log(node: Node) -> None:
    node.wire.listen(0.05)
    lines = [f"{_NOW} {level.upper():<7} plugin-lightningd-backup: {line}\n" for level, line in node.logs]
    (NODE / "log").write_text("".join(lines))


def _serve(node: Node, history: History, listening: socket.socket) -> bool:
    """Answer one call of lightning-cli, if there is one; returns whether the node goes on."""
    try:
        connection, _ = listening.accept()
    except TimeoutError:
        return True
    with connection:
        connection.settimeout(None)
        method, *arguments = json.loads(connection.recv(4096))
        answer: Any = "Shutdown complete" if method == "stop" else _answer(node, history, method, arguments)
        connection.sendall(json.dumps(answer).encode())
    return bool(method != "stop")


def _answer(node: Node, history: History, method: str, arguments: list[str]) -> Any:
    if method.startswith("backup-"):
        try:
            return node.rpc(method, arguments)
        except RpcError as error:
            return {"code": error.code, "message": error.message}
    if method == BLOCK:
        node.play(history.notes(1))
        return {}
    identity = inspect(NODE / "lightningd.sqlite3", writable=False).node_id
    return {
        "getinfo": {"id": identity, "num_active_channels": 1, "blockheight": 900000, "network": "bitcoin"},
        "listpeerchannels": {"channels": [CHANNEL]},
        "emergencyrecover": {"stubs": ["a1" * 32]},
        "listfunds": {"outputs": [], "channels": []},
    }[method]


def lightning_cli(method: str, *arguments: str) -> int:
    """Ask the fake lightningd, and print as lightning-cli does; after `stop`, wait until it has ended."""
    os.chdir(NODE)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET.name)
        connection.sendall(json.dumps([method, *arguments]).encode())
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    print(json.dumps(json.loads(answer), indent=3).strip('"'))
    while method == "stop" and SOCKET.exists():
        time.sleep(0.05)
    return 0


def bitcoin_cli() -> int:
    """Answer like a synchronised bitcoind."""
    print(json.dumps({"chain": "main", "blocks": 900000, "headers": 900000}, indent=2))
    return 0


def hsmtool(method: str, path: str) -> int:
    """`generatehsm`: make hsm_secret from the words and the passphrase that are typed, as v25.12 and later do."""
    assert method == "generatehsm"
    print("Introduce your BIP39 word list separated by space (at least 12 words):")
    words = sys.stdin.readline().rstrip("\n").encode()
    print("Warning: remember that different passphrases yield different bitcoin wallets.")
    print("If left empty, no password is used (echo is disabled).")
    print("Enter your passphrase: ")
    passphrase = sys.stdin.readline().rstrip("\n").encode()
    before = hashlib.sha256(seed_of_words(memoryview(words), passphrase)).digest() if passphrase else bytes(SECRET_SIZE)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o400)) as file:
        file.write(before + words)
    print(f"New hsm_secret file created at {path}")
    print(f"Format: mnemonic {'with' if passphrase else 'without'} passphrase")
    return 0


def main(program: str, *arguments: str) -> int:
    """Run as that program."""
    if program == "lightningd":
        return lightningd()
    if program == "lightning-hsmtool":
        return hsmtool(*arguments)
    return bitcoin_cli() if program == "bitcoin-cli" else lightning_cli(*arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
