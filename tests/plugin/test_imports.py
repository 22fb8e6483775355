"""What the plugin loads: nothing of a kind of destination whose URL is not used, and a sentence if that is missing."""

import os
import sys
from pathlib import Path

import pytest

from backends import SCHEMES
from tests.cli.several import init_several
from tests.end_to_end.world import World, command, spawned
from tests.fake_lightningd import History

OFF_SITE = (
    "obstore", "psycopg", "psycopg_binary", "backends.places.sftp", "backends.places.s3", "backends.places.postgres",
    "backends.storage.sftp", "backends.storage.objects", "backends.storage.s3", "backends.storage.postgres",
)  # fmt: skip

EXTRAS = {"s3": "obstore", "postgres": "psycopg"}
"""The package that each kind needs."""


NEEDED_BY_NO_CALL = (
    "pyln.client.gossmap", "pyln.proto", "pyln.spec", "cryptography", "coincurve", "bitstring", "socks",
)  # fmt: skip
"""What `import pyln.client` would load as well."""


def of_these(modules: tuple[str, ...], imports: str) -> list[str]:
    """Those modules and what is below them, as far as Python says it has imported them (`-X importtime`)."""
    names = {line.rpartition("|")[2].strip() for line in imports.splitlines() if line.startswith("import time:")}
    assert "backends.log.backup" in names
    return sorted(name for name in names for one in modules if name == one or name.startswith(f"{one}."))


def of_off_site(imports: str) -> list[str]:
    """The modules of destinations elsewhere that were imported."""
    return of_these(OFF_SITE, imports)


def test_node_with_local_members_loads_nothing_of_places_elsewhere(world: World, history: History) -> None:
    """From the manifest to the stop."""
    assert init_several(world, "disk", "nas").code == 0
    with world.node(command=[sys.executable, "-X", "importtime", "-m", "plugin.main"]) as node:
        node.play([history.first(), *history.notes(5)])
        assert node.rpc("backup-status", {})["health"] == "ok"
        node.stop()
        assert of_off_site(node.stderr) == []
        assert of_these(NEEDED_BY_NO_CALL, node.stderr) == []


@pytest.mark.parametrize(
    "asked",
    [
        "from pyln.client import Gossmap, Plugin as Same; assert Same is Plugin",
        "import pyln.client; assert pyln.client.Gossmap and pyln.client.Plugin is Plugin",
    ],
)
def test_rest_of_pyln_client_is_there_for_whoever_asks(asked: str) -> None:
    said = spawned(sys.executable, "-c", f"from plugin.pyln_client import Plugin; {asked}")
    assert (said.code, said.err) == (0, ""), said


def test_pyln_client_whose_plugin_needs_the_package_is_imported_as_usual(tmp_path: Path) -> None:
    """A later release may be built differently; a node's start must not depend on how."""
    client = tmp_path / "pyln" / "client"
    client.mkdir(parents=True)
    (client / "__init__.py").write_text("LEVEL = 1\nfrom .lightning import LightningRpc\n")
    (client / "lightning.py").write_text("from . import LEVEL\nclass LightningRpc: ...\n")
    (client / "plugin.py").write_text(
        "import pyln.client\nfrom .lightning import LightningRpc\npyln.client.LEVEL + 1\n"
        "class Plugin: ...\nclass Request: ...\nclass RequestState: ...\nclass RpcException(Exception): ...\n"
    )
    said = spawned(
        *(sys.executable, "-c", "from plugin.pyln_client import Plugin; print(Plugin.__module__)"),
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert (said.code, said.out, said.err) == (0, "pyln.client.plugin\n", ""), said


@pytest.mark.parametrize("words", [("status",), ("check-config",)])
def test_command_about_a_local_backup_loads_nothing_of_places_elsewhere(lived: World, words: tuple[str, ...]) -> None:
    said = spawned(*command(*words, "--lightning-dir", lived.directory), environment={"PYTHONPROFILEIMPORTTIME": "1"})
    assert of_off_site(said.err) == []


@pytest.fixture
def without_extras(tmp_path: Path) -> dict[str, str]:
    """The environment of a base installation: no extra is installed."""
    for package in {*EXTRAS.values()}:
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / f"{package}.py").write_text(f"raise ModuleNotFoundError({package!r}, name={package!r})\n")
    return {"PYTHONPATH": f"{tmp_path / 'base'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


@pytest.mark.parametrize("scheme", [scheme for scheme in ("s3", "postgres") if scheme in SCHEMES])
def test_missing_extra_is_said_with_what_to_type(scheme: str, world: World, without_extras: dict[str, str]) -> None:
    url = f"{scheme}://me.example/lightning"
    said = spawned(*command("init", "--lightning-dir", world.directory, url), environment=without_extras)
    assert said.code == 1, said
    assert f"/bin/pip install --require-hashes --only-binary :all: -r requirements-{scheme}.lock" in said.err, said
    assert "Traceback" not in said.text
    assert list(world.directory.iterdir()) == []


def test_base_installation_keeps_a_backup_at_a_local_place(world: World, without_extras: dict[str, str]) -> None:
    said = spawned(*command("init", "--lightning-dir", world.directory, world.url), environment=without_extras)
    assert said.code == 0, said
    assert world.backup.is_dir()
