"""What the commands say about a backup on an SSH server, in a bucket and in a cluster."""

import json
import os
from collections.abc import Iterator

import pytest

from backends import place_at
from tests.cli.made_encrypted import with_secret
from tests.destinations.conftest import Elsewhere, WorldAt
from tests.destinations.places import Places
from tests.end_to_end.world import backup_cli
from tests.fake_lightningd import History

KINDS = ("openssh", "s3", "postgres")

CAMPAIGN = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0"
ONE_OF_THEM = KINDS if CAMPAIGN else ("s3",)
"""The kinds for what takes long; each kind has such tests of its own."""

SAYS = {
    "openssh": ("Found: the SFTP server ", "fsync@openssh.com"),
    "s3": ("Found: bucket ", "a node with 1,000 payments a day makes about"),
    "postgres": ("Found: PostgreSQL ", "synchronous standby: "),
}
"""What `init` says that it has found."""


@pytest.fixture
def node(kind: str, places: Places, world_at: WorldAt, history: History) -> Iterator[Elsewhere]:
    """A node with a database, whose backup is to be there."""
    world = world_at(places.url(kind))
    world.run_without_plugin([history.first(), *history.notes(3)])
    yield with_secret(world)  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_init_says_what_it_found_how_long_a_commit_takes_and_who_can_read_it(node: Elsewhere, kind: str) -> None:
    said = backup_cli("init", "--lightning-dir", node.directory, node.url)
    assert said.code == 0, said
    for words in SAYS[kind]:
        assert words in said.err
    assert "A commit takes " in said.err
    assert f"the backup at {node.url} is not encrypted, and whoever runs the server there can read" in said.err
    assert "on the same disk" not in said.err


@pytest.mark.parametrize("kind", KINDS)
def test_commands_work_there_and_show_no_size_that_nobody_knows(node: Elsewhere, kind: str, history: History) -> None:
    own = ("--lightning-dir", node.directory)
    assert backup_cli("init", "--encrypt", *own, node.url).code == 0
    node.run(history.notes(3))
    opened = ("--hsm-secret", node.directory / "hsm_secret")
    status = backup_cli("status", *own)
    document = json.loads(backup_cli("status", "--json", *own).out)
    figures = backup_cli("status", "--prometheus", *own).out
    assert (document["free_bytes"] is None) == (kind != "openssh")
    assert ("free space   not known" in status.out) == (kind != "openssh")
    assert ("destination_free_bytes" in figures) == (kind == "openssh")
    assert "\nlightningd_backup_space_low{" in figures
    for words in (
        ("verify", *own),
        ("versions", *opened, node.url),
        ("members", *own),
        ("compact", *opened, node.url),
        ("restore", *opened, node.url, node.root / "restored.sqlite3"),
    ):
        said = backup_cli(*words)
        assert said.code == 0, said
        assert "EiB" not in said.text
        assert "mounted" not in said.text
    checked = backup_cli("check-config", "--json", *own)
    findings = {each["about"]: each for each in json.loads(checked.out)["findings"]}
    assert findings["destination"]["level"] == "ok", findings
    assert "is reached at this machine's own address" in findings["disk"]["text"]
    assert "encryption" not in findings


@pytest.mark.parametrize("kind", KINDS)
def test_url_of_a_backup_that_is_not_there_is_not_answered_by_advice_to_mount_something(
    node: Elsewhere, kind: str
) -> None:
    missing = node.url.replace("/node-", "/none-")
    for words in (("status", missing), ("verify", missing), ("restore", missing, node.root / "restored.sqlite3")):
        said = backup_cli(*words)
        assert said.code == 1, said
        assert "there is no backup " in said.err
        assert "mount it" not in said.err and "share" not in said.err


@pytest.mark.parametrize("kind", ONE_OF_THEM)
def test_member_there_trails_beside_a_local_one(node: Elsewhere, kind: str, history: History) -> None:
    """The set-up that docs/several-destinations.md recommends, made while the node runs."""
    trailing = f"{node.url}{'&' if '?' in node.url else '?'}trailing"
    own = ("--lightning-dir", node.directory)
    (node.root / "disk").mkdir(exist_ok=True)
    assert backup_cli("init", *own, (node.root / "disk" / "lightning.bkp").as_uri()).code == 0
    with node.node() as running:
        running.play(history.notes(3))
        added = running.rpc("backup-member-add", {"url": trailing})
        lasting = place_at(node.url).durable_url(node.url)
        assert f"the backup at {lasting} is not encrypted" in added["warning"]
        running.play(history.notes(3))
        assert running.wire.listen(30, lambda: _behind(own) == 0), backup_cli("members", *own)
        running.stop()
    said = backup_cli("members", *own)
    assert said.out.count(" stored") == 2, said
    assert said.out.count(" free") == (2 if kind == "openssh" else 1)


def _behind(own: tuple[object, ...]) -> int:
    members = json.loads(backup_cli("members", "--json", *own).out)["members"]
    (trails,) = [member for member in members if member["trailing"]]
    lag: int | None = trails["lag_changes"]
    return -1 if lag is None else lag


@pytest.mark.parametrize("kind", ONE_OF_THEM)
def test_drill_works_below_a_url_of_the_kind(kind: str, places: Places) -> None:
    above, _, options = places.url(kind).partition("?")
    above = above.rpartition("/node-")[0]
    said = backup_cli("drill", f"{above}?{options}" if options else above)
    assert said.code == 0, said
    assert "identical" in said.out
