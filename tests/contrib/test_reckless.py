"""The repository is what lightningd's plugin manager `reckless` (v26.04) can install.

Its rules, as its source has them: the repository has the plugin's name; in its top directory are `NAME.py`, which is
run by Python, and `requirements.txt`; it is copied to `reckless/NAME/source/NAME`, with an environment beside it; a
wrapper runs the module NAME with that directory at the end of Python's path; run by hand, the wrapper ends with 0.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.world import World, backup_cli, spawned
from tests.fake_lightningd import History

ROOT = Path(__file__).parents[2]
NAME = "lightningd-backup"


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    """What reckless leaves: the sources, and the wrapper beside them. The environment is that of these tests.

    The sources are copied with their bytecode, which would be made again for each test: without what another process is
    just writing.
    """
    place = tmp_path / "reckless" / NAME
    source = place / "source" / NAME
    source.mkdir(parents=True)
    for package in ("backends", "backup_cli", "plugin"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(ROOT / f"{NAME}.py", source)
    path = place / f"{NAME}.py"
    path.write_text(
        f"#!{sys.executable}\nimport runpy, sys\nsys.path.append({str(source)!r})\nsys.path.remove({str(place)!r})\n"
        f"runpy.run_module({NAME!r}, {{}}, '__main__')\n"
    )
    path.chmod(0o755)
    return path


def test_files_have_the_names_that_reckless_looks_for() -> None:
    entry = ROOT / f"{NAME}.py"
    assert entry.stat().st_mode & 0o111 == 0o111
    assert entry.read_text().startswith("#!/usr/bin/env python3\n"), "with another interpreter it installs no packages"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert {"requirements.txt", f"{NAME}.py"} <= set(tracked)
    assert not {"uv.lock", "poetry.lock", "package.json", "Cargo.toml"} & set(tracked), "they mean other installers"


def test_requirements_of_reckless_are_the_locked_ones() -> None:
    """Copied by `make lock`: uv resolves a file that is named in another one from another directory than pip."""
    assert (ROOT / "requirements.txt").read_bytes() == (ROOT / "requirements.lock").read_bytes()


def test_wrapper_run_by_hand_ends_well_and_names_itself(wrapper: Path, tmp_path: Path) -> None:
    said = spawned(wrapper, directory=tmp_path)
    assert said.code == 0
    assert f"important-plugin={wrapper}" in said.out


def test_node_runs_with_what_reckless_installs(wrapper: Path, world: World, history: History) -> None:
    made = spawned(wrapper, "init", "--lightning-dir", world.directory, world.url)
    assert made.code == 0, made
    assert f"important-plugin={wrapper}" in made.out
    world.run([history.first(), *history.notes(2)], command=[str(wrapper)])
    world.assert_restored_equals_the_nodes()


def test_sed_line_of_the_page_leaves_one_important_line_whatever_reckless_has_written(
    wrapper: Path, world: World, tmp_path: Path
) -> None:
    """The own config has the line with `important-plugin`; reckless adds its own with each installation."""
    lightning, line = tmp_path / ".lightning", f"plugin={wrapper}"
    (lightning / "bitcoin").mkdir(parents=True, mode=0o700)
    managed = lightning / "reckless" / "bitcoin-reckless.conf"
    managed.parent.mkdir()
    managed.touch()
    (lightning / "bitcoin" / "config").write_text(f"# This config was autopopulated by reckless\n\ninclude {managed}")
    (lightning / "config").write_text(f"alias=x\nimportant-{line}\n")
    assert backup_cli("init", "--lightning-dir", lightning, world.url).code == 0

    def said(last: str) -> str:
        managed.write_text(f"# This configuration file is managed by reckless\n\n{last}")  # no line end, as it writes
        return backup_cli("check-config", "--lightning-dir", lightning).out

    [sed] = set(re.findall(r"^sed -i .*", (ROOT / "docs" / "installing.md").read_text(), re.M))
    assert "configured twice" in said(line)
    for _ in range(2):
        subprocess.run(sed, shell=True, check=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
        checked = backup_cli("check-config", "--lightning-dir", lightning).out
        assert checked.endswith("\nprotected\n"), checked
    assert (lightning / "config").read_text() == f"alias=x\nimportant-{line}\n"
    assert "disables it" in said(f"disable-{line}"), "what an update beside a running node leaves"
