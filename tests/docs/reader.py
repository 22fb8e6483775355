"""Somebody who works through a page on a machine, block by block (markdown.py says which blocks those are)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs.machine_root import ROOT, Machine
from tests.docs.markdown import Command, read_page
from tests.docs.normal import same
from tests.docs.verdict import Wrong, settle


class Reader:
    """The reader of one page; `machine` is where it is read."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.page = read_page(ROOT / name)
        self.machine = machine
        self.left = list(self.page.blocks)
        self.wrong: Wrong = []

    def run(
        self,
        *,
        cwd: Path = ROOT,
        user: str = "",
        network: bool = False,
        then: str = "",
        ends_with: int = 0,
        **variables: str,
    ) -> list[str]:
        """The page's next block. Every command must succeed, but for the last one, whose exit code is `ends_with`.

        What a console block shows is compared. Of a script, gives what it said; `then` goes on in the same shell.
        """
        assert self.left, f"{self.page.path} has no further block"
        block = self.left.pop(0)
        said: list[str] = []
        for command in block.commands:
            text = f"{command.text}\n{then}"
            code, said = self.machine.run(text, cwd=cwd, user=user, network=network, **variables)
            wanted = ends_with if command is block.commands[-1] else 0
            assert code == wanted, f"$ {text}\n" + "\n".join(said)
            if not block.script and not same(command.expected, said):
                self.wrong.append((command, said))
        return said

    def looks_as_shown(self, url: str) -> None:
        """`status URL` says what the page shows of one URL, which is run in the sandbox; here it is for real."""
        steps = [step for step in self.page.steps if isinstance(step, Command)]
        shown = next(step for step in steps if step.text.startswith("backup-cli status "))
        backup = url if url.endswith("/lightning.bkp") else f"{url}/lightning.bkp"
        expected = [re.sub(r"\S+/lightning\.bkp", backup, line) for line in shown.expected]
        said = self.machine.must(f"backup-cli status {url}")
        assert same(expected, said), "\n".join(said)


@contextmanager
def reading(name: str, directory: Path, share: Path | None = None) -> Iterator[Reader]:
    """Read a page from its first block to its last; AssertionError if one of them was not run."""
    machine = Machine(directory, share)
    try:
        reader = Reader(name, machine)
        yield reader
        settle(reader.page, reader.wrong)
        assert not reader.left, f"nobody runs this: {reader.left}"
    finally:
        machine.close()
