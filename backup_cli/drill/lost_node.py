"""The recorded node of `drill --encrypt`: its machine is lost, and all that is left is a copy of its `hsm_secret`."""

import secrets
from pathlib import Path

from backends import keyring
from backends.keyring import DataKey
from backends.log.backup import Backup, StoreSlots
from backends.log.key_slots import new_keys, publish_keys
from backends.node.files import create_file
from backends.node.hsm_secret import HSM_SECRET, SECRET_SIZE
from backends.node.hsm_seed import read_seed
from backends.node.hsm_slots import slot_secret
from backends.node.key_file import write_key
from backup_cli.finding_keys import find_key
from backup_cli.key_options import KeyOptions


class LostNode:
    """A node with an hsm_secret that is made up. `kept` is a copy of it outside the node's directory."""

    def __init__(self, scratch: Path, node: Path) -> None:
        self._node, self.kept = node, scratch / HSM_SECRET
        secret = secrets.token_bytes(SECRET_SIZE)
        for path in (node / HSM_SECRET, self.kept):
            create_file(path, secret)

    def store_in(self, backup: Backup) -> StoreSlots:
        """What stores the key of the new backup: in a key slot for the hsm_secret, and in the node's backup.key."""

        def store(key: DataKey) -> None:
            derived = slot_secret(read_seed(self._node / HSM_SECRET))
            publish_keys(backup.storage, new_keys(key, hsm_derived=derived))
            write_key(self._node, key)

        return store

    def open_again(self, url: str) -> None:
        """Forget every key, and open the backup with the copy of hsm_secret alone, as after a fire."""
        keyring.forget()
        find_key(url, KeyOptions(hsm_secret=self.kept))
