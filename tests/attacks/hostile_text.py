"""What a stranger puts into statements, names and files, and what it must never do."""

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
    """Parametrize a test with the named cases only, or with all if none is named; `make fuzz` always runs all of
    them."""
    chosen = cases if CAMPAIGN > 1 or not names else {name: cases[name] for name in names}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen.keys())


EVERY_SEQUENCE = {"all": "".join(SEQUENCES.values()), **SEQUENCES}


def assert_calm(text: str, lines: int | None = None) -> None:
    """Assert that the text has no character that a terminal obeys, and no line that a stranger has begun."""
    obeyed = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")}
    assert not obeyed, text
    assert not [line for line in text.splitlines() if line.startswith("error: send")], text
    assert lines is None or len(text.splitlines()) == lines, text


def append_change(world: World, *statements: str) -> None:
    """Append one change of these statements to the backup, as whoever can write to the destination can do."""
    writer = backup_at(world.url).open(silent)
    call = transaction(writer.position.data_version + 1, *statements)
    writer.append(Change(call.data_version, list(call.writes)))
    writer.close()


def quoted(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
