"""A backup on an NFS server that belongs to another user: the client names the owner if the server gives it."""

import os
import shutil

import pytest

from tests.cli.cli_asserts import assert_refused
from tests.destinations.places import Places
from tests.end_to_end.world import World, backup_cli

OWNER, READER = 12345, 12346


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["nfs3", "nfs41"])
def test_backup_owned_by_another_user_is_refused_and_names_the_owner(
    lived: World, places: Places, kind: str, named: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: files are given to another user")
    url = places.url(kind)
    place, _, query = url.partition("?")
    exported = places.ganesha.exported / place.split("/")[-2]
    shutil.copytree(lived.backup, exported / "theirs.bkp")
    exported.chmod(0o755)
    for path in (exported / "theirs.bkp", *(exported / "theirs.bkp").iterdir()):
        os.chown(path, OWNER, OWNER)
    where = place.rpartition("/")[0] + ("/theirs.bkp" if named else "")
    said = backup_cli("status", f"{where}?{query}&uid={READER}&gid={READER}")
    assert_refused(said, "run this as the user")
    assert "there is no backup" not in said.text
    if kind == "nfs3":
        assert f"of the user {OWNER}" in said.text
    else:
        assert "another user's" in said.text
    theirs = place.rpartition("/")[0] + "/theirs.bkp"
    assert backup_cli("status", f"{theirs}?{query}&uid={OWNER}&gid={OWNER}").code == 0
