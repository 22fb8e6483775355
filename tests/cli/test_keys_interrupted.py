"""Ctrl-C while `backup-cli keys` writes: what it says afterwards is true."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends.log.key_slots import publish_keys
from backends.node.key_file import KEY_FILE, write_key
from backends.system import interrupts
from backup_cli import encrypting
from tests.cli.encrypted import COST, cli
from tests.cli.made_encrypted import kinds, lose_key, passphrase_file, with_secret
from tests.cli.several import NAMES, place_of, url_of
from tests.cli.test_stopped_at_every_step import stopped_at
from tests.end_to_end.world import World


@pytest.fixture
def several(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A node with three members, opened by hsm_secret (slot 1) and by a passphrase (slot 2)."""
    monkeypatch.setattr(encrypting, "COST", COST)
    urls = [url_of(world, name) for name in NAMES]
    options = ["--passphrase-file", passphrase_file(world)]
    assert cli("init", "--encrypt", *options, "--lightning-dir", with_secret(world).directory, *urls).code == 0
    return world


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches the commands of this test as it does those that a person has typed."""
    before = [signal.getsignal(number) for number in interrupts.STOPPING]
    interrupts.listen()
    yield
    for number, handler in zip(interrupts.STOPPING, before, strict=True):
        signal.signal(number, handler)


def then_interrupted(change: Callable[..., None]) -> Callable[..., None]:
    """The function, and Ctrl-C right after it has done its work."""

    def done(*arguments: Any, **named: Any) -> None:
        change(*arguments, **named)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)  # the main thread, which the signal is for, may not be this one

    return done


def test_slot_whose_removal_has_begun_is_removed_everywhere_and_said_to_be(
    several: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_cli.shared_slots.publish_keys", then_interrupted(publish_keys))
    code, said, _ = stopped_at(0, ["keys", "--remove", "2", "--lightning-dir", str(several.directory)])
    assert "nothing that was there before has changed" not in said
    assert (code, "Key slot 2 is removed" in said) == (0, True), said
    assert [kinds(place_of(several, name)) for name in NAMES] == [["hsm"]] * len(NAMES)


def test_backup_key_that_is_written_again_is_said_to_be(several: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_key(several)
    monkeypatch.setattr("backup_cli.commands.keys.write_key", then_interrupted(write_key))
    code, said, _ = stopped_at(0, ["keys", "--restore-key", "--lightning-dir", str(several.directory)])
    assert (code, "is written" in said) == (0, True), said
    assert (several.directory / KEY_FILE).exists()
