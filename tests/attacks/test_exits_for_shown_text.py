"""All text that a person sees leaves by a few exits, which make it harmless: a new message cannot forget to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import backends
import backup_cli
import plugin

EXITS = {
    "backup_cli/console.py": {"click.echo", "click.style"},
    "plugin/hook_handler.py": {"plugin.log"},
    "plugin/compactor.py": {"print"},  # to the plugin, which reads it
    "plugin/scrubber.py": {"print"},  # to the plugin, which reads it
    "plugin/main.py": {"print", "plugin.log"},  # how to start it; the kind of an error that ends it
    "plugin/misread.py": {"plugin.log"},  # a method that nobody asked for, printable
}

WRITING = {"print", "plugin.log", "sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write"}
CLICKS = {"echo", "secho", "style", "prompt", "confirm", "progressbar", "pause", "edit", "echo_via_pager"}


def written_by(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).removeprefix("self.").removeprefix("_")
            if called in WRITING or called in {f"click.{name}" for name in CLICKS}:
                yield called


def test_no_module_prints_except_through_the_known_exits() -> None:
    found: dict[str, set[str]] = {}
    for package in (backends, backup_cli, plugin):
        root = Path(str(package.__file__)).parent
        for source in root.rglob("*.py"):
            if calls := set(written_by(source)):
                found[str(source.relative_to(root.parent))] = calls
    assert found == EXITS
