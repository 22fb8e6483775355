"""Destinations: where changes are saved and where they are read back from.

A URL's scheme names the kind of destination. A new kind is one module and one entry in SCHEMES.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

from backends import near_miss as meant
from backends.keep import keep_of, without_keep
from backends.urls import BadURL, Destination, parse_url

if TYPE_CHECKING:  # the plugin must answer lightningd before it imports all of this
    from backends.log.backup import Backup
    from backends.places.base import Place

__version__ = "0.1.0"

SCHEMES = {
    "file": "backends.places.file:FilePlace",
    "nfs": "backends.places.nfs:nfs_place",
    "usb": "backends.places.usb:UsbPlace",
    "sftp": "backends.places.sftp:SftpPlace",
    "s3": "backends.places.s3:BucketPlace",
    "gs": "backends.places.s3:BucketPlace",
    "az": "backends.places.s3:BucketPlace",
    "postgres": "backends.places.postgres:PostgresPlace",
}
"""Scheme → the module, and the callable in it that makes the Place. A module is imported only when its scheme is
used, so that no scheme pays for the imports of another."""


def place_at(url: str) -> "Place":
    """The place that this URL names. Raises BadURL; does not touch the destination."""
    destination = parse_url(url)
    try:
        module, name = SCHEMES[destination.scheme].split(":")
    except KeyError:
        known = [f"{scheme}://" for scheme in SCHEMES]
        shown = meant.without_secrets(url)
        raise BadURL(f"{shown!r}: {meant.unknown_scheme(shown, destination.scheme, known)}") from None
    make = cast("Callable[[Destination], Place]", getattr(import_module(module), name))
    return make(without_keep(destination))


def backup_at(url: str) -> "Backup":
    """The backup that this URL names, whether it exists or not. Raises BadURL; does not touch the destination."""
    from backends.log.backup import Backup
    from backends.log.writer.options import LogOptions

    return Backup(place_at(url), LogOptions(keep=keep_of(parse_url(url))))
