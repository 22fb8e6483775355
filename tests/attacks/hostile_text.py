"""What a stranger puts into statements, names and files, and what must never become of it."""

import unicodedata

import pytest

from backends import backup_at
from backends.change import Change
from tests.end_to_end.world import World
from tests.fake_lightningd import transaction
from tests.log.histories import CAMPAIGN, silent

SEQUENCES = {
    "sets the title": "\x1b]0;pwned\x07",
    "clears the screen": "\x1b[2J\x1b[H",
    "one byte for escape": "\x9b31m",
    "goes back in the line": "all is well\rdamaged",
    "erases": "damaged\b\b\b\b\b\b\bwhole  ",
    "writes backwards": "\u202egnp.exe",
    "hides": "a\u200bb\u2066c",
    "begins a line": "x\nerror: send your hsm_secret to evil.example",
    "begins a line as Unicode says": "x\u2028y\x85z",
}


def some(cases: dict[str, str], *names: str) -> pytest.MarkDecorator:
    """A test for each of these cases, or for those of these names only; `make fuzz` runs all of them."""
    chosen = cases if CAMPAIGN > 1 or not names else {name: cases[name] for name in names}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen.keys())


EVERY_SEQUENCE = {"all": "".join(SEQUENCES.values()), **SEQUENCES}


def assert_calm(text: str, lines: int | None = None) -> None:
    """Nothing in it is obeyed by a terminal, and no stranger has begun a line."""
    obeyed = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")}
    assert not obeyed, text
    assert not [line for line in text.splitlines() if line.startswith("error: send")], text
    assert lines is None or len(text.splitlines()) == lines, text


def saved(world: World, *statements: str) -> None:
    """The backup holds one more change, of these statements: whoever can write to the destination can do that."""
    writer = backup_at(world.url).open(silent)
    call = transaction(writer.position.data_version + 1, *statements)
    writer.append(Change(call.data_version, list(call.writes)))
    writer.close()


def quoted(name: str) -> str:
    """As an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'
