"""`make dist`: the same bytes from the same commit, with all that an installation needs and none of the tests."""

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from backends import __version__
from contrib.dist import build, export, write_sums

EPOCH = 1_800_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """sdist and wheel of the last commit."""
    directory = tmp_path_factory.mktemp("one")
    return build(export(directory), directory / "dist", EPOCH)


def test_second_build_elsewhere_has_the_same_bytes(
    built: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another directory, by somebody with another umask and time zone, from files with other times."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    before = os.umask(0o077)
    try:
        source = export(tmp_path / "elsewhere")
        for path in source.rglob("*"):
            os.utime(path, (1, 1))
        again = build(source, tmp_path, EPOCH)
    finally:
        os.umask(before)
    assert [path.name for path in again] == [path.name for path in built]
    for one, other in zip(built, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_wheel_holds_what_an_installation_needs_and_no_tests(built: tuple[Path, Path]) -> None:
    wheel = zipfile.ZipFile(built[1])
    names = wheel.namelist()
    tracked = subprocess.run(["git", "ls-files"], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    packages = ("backends/", "backup_cli/", "plugin/")
    wanted = {name for name in tracked.stdout.splitlines() if name.startswith(packages)}
    assert wanted <= set(names), "modules, recordings of the drill, py.typed"
    info = f"lightningd_backup-{__version__}.dist-info"
    data = f"lightningd_backup-{__version__}.data/data/share"
    assert {name.partition("/")[0] for name in names} == {"backends", "backup_cli", "plugin", info, data.split("/")[0]}
    for name in (
        f"{data}/man/man1/backup-cli-restore.1",
        f"{data}/man/man1/lightningd-backup.1",
        f"{data}/bash-completion/completions/backup-cli.bash",
        f"{data}/zsh/site-functions/_backup-cli",
        f"{data}/fish/vendor_completions.d/backup-cli.fish",
        f"{info}/licenses/LICENSE",
    ):
        assert name in names
    assert b"lightningd-backup = backup_cli.isolated:lightningd_backup" in wheel.read(f"{info}/entry_points.txt")


def test_sdist_holds_docs_and_contrib_and_no_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        members = {member.name.partition("/")[2]: member for member in sdist.getmembers()}
    for name in ("docs/recovery.md", "contrib/systemd/lightningd.service", "CHANGELOG.md", "requirements.lock"):
        assert name in members
    assert not any(name.startswith("tests") or "__pycache__" in name for name in members)
    assert {member.mtime for member in members.values()} == {EPOCH}
    assert members["contrib/completion/generate"].mode == 0o755


def test_sums_are_as_sha256sum_reads_them(built: tuple[Path, Path]) -> None:
    write_sums(built, built[0].with_name("SHA256SUMS"))
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=built[0].parent, check=True)
