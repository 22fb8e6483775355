"""Imports go one way: no module imports from a layer above its own, and no modules import each other in a circle."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    # What everything uses. A module's name means that module; a folder's name everything in it.
    ["text", "times", "this_machine", "sqlite_header"],
    ["near_miss", "holder", "errors"],
    ["change", "base", "urls", "commit_timeout", "keep", "keyring"],
    ["mounts"],
    ["system"],
    ["storage"],
    ["places"],
    ["log.format"],
    ["log.reader"],
    ["log.known_damage", "log.member_status"],
    ["log.status"],
    ["log.writer"],
    ["log"],
    [""],  # backends/__init__: the list of the schemes
    ["sqlite"],
    ["compaction", "following"],
    ["node"],
    ["members"],
    ["legacy"],
    ["confined"],
    ["/plugin"],
    ["/backup_cli"],
    ["/backup_cli.checks", "/backup_cli.consent", "/backup_cli.drill"],
    ["/backup_cli.following", "/backup_cli.restore_order"],
    ["/backup_cli.restore_rebuilt"],
    ["/backup_cli.commands"],
    ["/backup_cli.main"],
    ["/backup_cli.isolated"],  # the executables
]
"""From the lowest up, as in CONTRIBUTING.md. Names are below `backends`, unless they begin with a slash."""

NAMES = {
    name[1:] if name.startswith("/") else f"backends.{name}".rstrip("."): number
    for number, layer in enumerate(LAYERS)
    for name in layer
}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in ("backends", "plugin", "backup_cli"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str) -> Iterator[str]:
    """The modules that this module imports, at its top or later."""
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else node.module for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name in modules())


def layer_of(module: str) -> int:
    """The layer of the longest name in LAYERS that the module's name begins with."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in NAMES and (name != "backends" or length == len(parts)):
            return NAMES[name]
    raise AssertionError(f"{module} is in no layer; add it to LAYERS, and to the table in CONTRIBUTING.md")


@pytest.mark.parametrize("module", sorted(modules()))
def test_module_imports_nothing_from_a_layer_above_its_own(module: str) -> None:
    above = {name for name in imported(module) if layer_of(name) > layer_of(module)}
    assert not above, f"{module} imports from above: {sorted(above)}"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module in done:
            return
        for name in set(imported(module)):
            visit(name, (*way, module))
        done.add(module)

    for module in modules():
        visit(module, ())


def test_commands_are_imported_by_main_only() -> None:
    """A helper that two commands need belongs beside them, not in one of them."""
    users = {
        module
        for module in modules()
        for name in imported(module)
        if name.startswith("backup_cli.commands.") and module != "backup_cli.main"
    }
    assert not users
