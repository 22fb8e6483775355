"""Whether a server's name in a URL means this machine. Two questions, because two things depend on it."""

import socket
from ipaddress import IPv6Address, ip_address


def stays_here(host: str) -> bool:
    """Whether what is sent to this server never leaves the machine, so that nobody on the way can read or change it.

    That is certain for an address of the loopback (a whole network, 127.0.0.0/8), for `localhost`, and for a Unix
    socket, which is a path. It is not certain for the machine's own name: a name server says which address that has,
    and a name that only begins like an address (127.example.org) is any machine's. IPv6 addresses may be in brackets.
    """
    name = host.lower().removeprefix("[").removesuffix("]")
    if name == "localhost" or name.startswith("/"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def is_this_machine(host: str) -> bool:
    """Whether the server is most likely this machine itself, and lost with it: what `stays_here`, and its own name.

    A tunnel may begin at such an address, so this is good for a warning or a proposal, not for a refusal.
    """
    own = socket.gethostname().lower()
    return stays_here(host) or host.lower() in (own, own.partition(".")[0])
