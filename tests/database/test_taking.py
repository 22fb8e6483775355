"""The private directory that a whole database lies in for a while."""

from pathlib import Path

from backends.database.taking import scratch_directory


def test_a_link_among_the_left_over_is_not_followed(tmp_path: Path) -> None:
    """/var/tmp is everybody's: a link of such a name must not empty the directory that it leads to."""
    precious, shared = tmp_path / "precious", tmp_path / "shared"
    for directory in (precious, shared):
        directory.mkdir()
    (precious / "hsm_secret").touch()
    for name in ("999999999-x", "99999999999999999999-x", "²-x"):
        (shared / f".lightningd-backup-{name}").symlink_to(precious)
    with scratch_directory(shared):
        pass
    assert (precious / "hsm_secret").exists()
