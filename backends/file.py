"""`file:///path/lightning.bkp`: a directory on any mounted filesystem."""

from backends.log.backend import LogBackend
from backends.patience import patience_of
from backends.storage.local import LocalStorage
from backends.urls import BadURL, Destination


class FileBackend(LogBackend):
    """A backup in a directory of this machine."""

    def __init__(self, destination: Destination) -> None:
        if not destination.names_no_other_machine:
            raise BadURL(
                f"{destination} names the machine {destination.host!r}, and file:// only reaches this one; write it "
                f"with three slashes: file://{destination.path}"
            )
        patience_of(destination)
        destination.allow_options("timeout")
        super().__init__(LocalStorage(destination.local_path))
