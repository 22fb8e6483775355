"""The commands in README and docs that need no root: run, and their output compared.

    UPDATE_DOCS=1 pytest tests/docs        writes what came out into the pages, where it differs

```console blocks are run in a sandbox (see sandbox.py), in sequence, one sandbox for each page. What is for a machine
(mount, systemctl, pip) is run by test_machine.py; here it is asked only whether every backup-cli in it is one of ours.
"""

import re
from pathlib import Path

import pytest

from backends import SCHEMES, backup_at
from backends.members.urls import split_trailing
from backup_cli.drill.report import histogram
from tests.docs.click_check import calls_of_backup_cli, complaint
from tests.docs.markdown import Block, Command, Event, Page, read_page
from tests.docs.normal import normal, same
from tests.docs.sandbox import Sandbox
from tests.docs.verdict import Wrong, settle, update

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "contrib").rglob("*.md")]
)

# A refusal that the page shows is intended.
_REFUSED = re.compile(r'^(error: |NOT protected|DIFFERENT: |DAMAGED: |backup: |\{"error": )', re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=name)
def page(request: pytest.FixtureRequest) -> Page:
    return read_page(request.param)


def test_commands_of_a_page_print_what_it_shows(page: Page, tmp_path: Path) -> None:
    if not any(isinstance(step, Command) for step in page.steps):
        return
    sandbox = Sandbox(tmp_path)
    wrong: Wrong = []
    exported = _exported(page)
    try:
        for step in page.steps:
            while exported and exported[0][0] < _line(step):
                sandbox.run(exported.pop(0)[1])
            if isinstance(step, Event):
                sandbox.happen(step.text)
                continue
            code, actual = sandbox.run(step.text)
            assert (code == 0) != bool(_REFUSED.search("\n".join(actual))), f"$ {step.text}\n" + "\n".join(actual)
            if not same(step.expected, actual):
                wrong.append((step, actual))
    finally:
        sandbox.close()
    settle(page, wrong)


def test_machine_commands_of_a_page_are_valid_backup_cli_calls(page: Page) -> None:
    """Checked for every user, although only root can run them."""
    calls = [call for script in _scripts(page) for call in calls_of_backup_cli(script)]
    complaints = {" ".join(call): why for call in calls if (why := complaint(call)) is not None}
    assert complaints == {}


def test_commands_mentioned_in_the_text_of_a_page_exist(page: Page) -> None:
    """`backup-cli …` in a sentence may leave arguments out, but names commands and options that there are."""
    mentioned = [span.split()[1:] for span in page.spans if span.startswith("backup-cli ")]
    complaints = {
        " ".join(words): why
        for words in mentioned
        if (why := complaint(words)) is not None and not why.startswith("Missing argument")
    }
    assert complaints == {}


def test_urls_of_a_page_are_valid(page: Page) -> None:
    """In the sandbox all of them are file://, so here they are taken as they are. This touches nothing."""
    commands = [step.text for step in page.steps if isinstance(step, Command)]
    text, kinds = "\n".join([*commands, *_scripts(page)]), "|".join(SCHEMES)
    for url in re.findall(rf"\b(?:{kinds})://[^\s'\"`)|;]+", text):
        if "…" not in url:
            backup_at(split_trailing(url)[0])


def test_page_shows_no_output_twice(page: Page) -> None:
    """recovery.md had `status` five times, with nothing but the URL between them."""
    outputs = [step.expected for step in page.steps if isinstance(step, Command) and len(step.expected) > 4]
    shown = [re.sub(r"\w+://\S+", "URL", "\n".join(normal(output))) for output in outputs]
    assert sorted(shown) == sorted(set(shown))


def _line(step: Command | Event) -> int:
    return step.first if isinstance(step, Command) else step.line


def _exported(page: Page) -> list[tuple[int, str]]:
    """Line and text of each `export PATH=` in a script for a machine, which counts for the commands after it."""
    scripts = [command for block in page.blocks for command in block.commands]
    return [(one.first, line) for one in scripts for line in one.text.splitlines() if line.startswith("export PATH=")]


def _scripts(page: Page) -> list[str]:
    return [command.text for block in page.blocks for command in block.commands]


def test_links_of_a_page_have_targets(page: Page) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", "\n".join(page.lines)):
        if "://" not in target:
            there = page.path.parent / target if target else page.path
            assert there.exists(), target
            assert not anchor or anchor in _anchors(there), f"{target}#{anchor}"


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


# The tools of these tests


def test_sandbox_finds_backup_cli_only_after_the_page_sets_the_path(tmp_path: Path) -> None:
    """From a real report: README went on with `backup-cli` after an installation that puts it on no PATH."""
    sandbox = Sandbox(tmp_path)
    try:
        code, said = sandbox.run("backup-cli --version")
        assert code == 127 and "command not found" in said[0]
        assert sandbox.run("~/lightningd-backup/bin/backup-cli --version")[0] == 0
        sandbox.run('export PATH="$HOME/lightningd-backup/bin:$PATH"')
        assert sandbox.run("backup-cli --version")[0] == 0
    finally:
        sandbox.close()


def test_comparison_of_outputs_ignores_times_and_notices_other_changes() -> None:
    assert same(["done in 1.5 s, version 7"], ["done in 23.0 s, version 7"])
    assert not same(["done, version 7"], ["done, version 8"])
    assert same(["Restoring …", "ok"], ["Restoring …", "Restoring: 25 % after 0.1 s", "ok"])
    assert same(["first", "…", "last"], ["first", "last"])
    assert same(["first", "…", "last"], ["first", "a", "b", "last"])
    assert same(["it holds … backups"], ["it holds three backups"])
    assert not same(["first"], ["first", "second"])
    assert same(["free space   1.0 GiB of 2.0 GiB"], ["free space  100.3 MiB of 20.0 GiB"])


def test_bars_of_a_histogram_are_left_out_however_long_a_commit_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine that is very busy one takes more than a second, and that bar begins at the margin."""
    histogram([0.00005, *(0.0015,) * 40, 0.3, 0.7, 2.0])
    bars = capsys.readouterr().out.splitlines()
    assert bars[-1].startswith("over 1000.0 ms ")
    assert normal(["identical", *bars]) == ["identical"]


def test_calls_of_backup_cli_are_found_in_shell() -> None:
    def of(script: str) -> list[list[str]]:
        return list(calls_of_backup_cli(script))

    assert of("sudo -u x /opt/bin/backup-cli verify URL && backup-cli status | less") == [["verify", "URL"], ["status"]]
    assert of("backup-cli restore \\\n  URL DEST  # and so on") == [["restore", "URL", "DEST"]]
    assert of("sh -c 'backup-cli status \"$X\" > y'") == [["status", "$X"]]
    assert complaint(["verify", "URL"]) is None
    assert complaint(["--version"]) is None
    assert complaint(["restore", "--help"]) is None
    assert "No such command" in (complaint(["unmake"]) or "")
    assert "No such option" in (complaint(["verify", "URL", "--hard"]) or "")
    assert "Missing argument" in (complaint(["restore", "URL"]) or "")


def test_console_and_sh_blocks_are_read_from_a_page(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "text `a b`\n<!-- sandbox: x: y -->\n```console\n$ one \\\n    two\nout\n\n$ three\n```\n```sh\nfour\n```\n"
    )
    page = read_page(path)
    assert page.steps == [Event("x: y", 1), Command("one two", ["out", ""], 5), Command("three", [], 8)]
    assert page.blocks == [Block([Command("four", [], 11)], script=True)]
    assert page.spans == ["a b"]


def test_machine_blocks_and_indented_lines_are_read_from_a_page(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    script = "text\n\n    one  # x\n    two\n\n"
    path.write_text(f"{script}<!-- machine -->\n```console\n$ three\nout\n```\ntext\n    text\n")
    page = read_page(path)
    assert page.blocks == [
        Block([Command("one  # x\ntwo", [], 4)], script=True),
        Block([Command("three", ["out"], 8)], script=False),
    ]
    assert page.steps == []


def test_block_in_a_list_is_read_and_updated(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("1. text\n\n   ```console\n   $ one\n     out\n   ```\n")
    page = read_page(path)
    assert page.steps == [Command("one", ["  out"], 4)]
    update(page, [(Command("one", ["  out"], 4), ["new"])])
    assert path.read_text().endswith("   $ one\n   new\n   ```\n")
