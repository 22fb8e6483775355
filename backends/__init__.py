"""Where changes go and how they come back.

A URL's scheme names the kind of destination. A new kind is one module and one entry in SCHEMES.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

from backends import meant
from backends.urls import BadURL, Destination, parse_url

if TYPE_CHECKING:  # the plugin answers lightningd before it loads all that
    from backends.base import Backend

__version__ = "0.1.0"

SCHEMES = {
    "file": "backends.file:FileBackend",
    "nfs": "backends.nfs:nfs_backend",
    "usb": "backends.usb:UsbBackend",
}
"""Scheme → module and what makes the backend in it. Imported when used: what one needs is no burden for another."""


def backend_for(url: str) -> "Backend":
    """The backend that this URL names, not yet opened. Raises BadURL; touches nothing."""
    destination = parse_url(url)
    try:
        module, name = SCHEMES[destination.scheme].split(":")
    except KeyError:
        known = [f"{scheme}://" for scheme in SCHEMES]
        raise BadURL(f"{url!r}: {meant.unknown_scheme(url, destination.scheme, known)}") from None
    make = cast("Callable[[Destination], Backend]", getattr(import_module(module), name))
    return make(destination)
