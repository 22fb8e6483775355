"""What a commit costs over NFS: this project's client beside nfs-rs of PyPI (the table in docs/development.md).

    pip install nfs-rs; python -m tests.destinations.compare_clients        (as root; needs NFS-Ganesha)

Each client writes records into a preallocated file. A proxy counts the calls; times are measured without the proxy.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from backends import backup_at
from tests.destinations.places import Places
from tests.destinations.proxy import Proxy
from tests.destinations.servers import Ganesha

RECORD = b"r" * 900
COUNTED, TIMED = 20, 500

Write = Callable[[bytes, int], Any]


def main() -> None:
    """Print a line for each client and version."""
    import_module("nfs_rs")  # before there are other threads: one import beside them failed
    with ExitStack() as stack:
        places = Places(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)
        for client in (ours, nfs_rs):
            for version in ("3", "4.1"):
                compare(places.ganesha, client, version)


def compare(server: Ganesha, client: Callable[[Ganesha, str, int, str], Write], version: str) -> None:
    """One client, one version."""
    name = f"{client.__name__}-{version}"
    proxy = Proxy(server.port)
    write = client(server, version, proxy.port, f"{name}-counted")
    write(RECORD, 0)
    before = proxy.calls
    for number in range(COUNTED):
        write(RECORD, number * len(RECORD))
    calls = (proxy.calls - before) / COUNTED
    write = client(server, version, server.port, f"{name}-timed")
    took = []
    for number in range(TIMED):
        began = time.perf_counter()
        write(RECORD, number * len(RECORD))
        took.append(time.perf_counter() - began)
    print(f"{name:<12}{calls:.0f} calls a commit, {statistics.median(took) * 1000:.2f} ms")


def ours(server: Ganesha, version: str, port: int, name: str) -> Write:
    """A function that writes a record through backends/storage/nfs."""
    url = server.url(version, name).replace(f"nfsport={server.port}", f"nfsport={port}")
    backup = backup_at(url)
    backup.storage.make()
    handle = backup.storage.create("segment")
    handle.extend(0, 1 << 20)
    return lambda data, offset: handle.write_durably(offset, data)


def nfs_rs(server: Ganesha, version: str, port: int, name: str) -> Write:
    """A function that writes a record through nfs-rs."""
    top = "/backup" if version == "4.1" else str(server.exported)
    connected = import_module("nfs_rs").Client.connect(
        f"nfs://127.0.0.1{top}",
        versions=[version],
        nfs_port=port,
        mount_port=server.mount_port,
        noresvport=True,
    )
    handle = connected.open(name, "w+b")
    handle.write_at(bytes(1 << 20), 0)
    return lambda data, offset: handle.write_at(data, offset)


if __name__ == "__main__":
    main()
