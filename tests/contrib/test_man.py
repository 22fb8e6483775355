"""The man pages: made from the commands as they are now, and readable by man."""

import subprocess

from backup_cli.main import COMMANDS
from contrib.man.generate import HERE, pages
from tests.destinations.tools import need


def test_man_pages_are_current() -> None:
    """If this fails, run: make man"""
    stored = {path.name: path.read_text() for path in HERE.glob("*.1")}
    assert stored == pages()


def test_every_command_has_a_man_page_with_its_options() -> None:
    made = pages()
    assert {f"backup-cli-{name}.1" for name in COMMANDS} == set(made) - {"backup-cli.1", "lightningd-backup.1"}
    assert "\\-\\-if\\-missing" in made["backup-cli-restore.1"]
    for name in COMMANDS:
        assert f"backup-cli-{name}".replace("-", "\\-") in made["backup-cli.1"]


def test_man_pages_render_without_warnings() -> None:
    need("groff")
    files = sorted(str(page) for page in HERE.glob("*.1"))
    done = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
