"""Writes the man pages again: one for each command of backup-cli, one for itself, and one for the plugin.

    python -m contrib.man.generate

What they say is the commands' own help; nothing in them depends on the machine or on the time.
"""

import re
from pathlib import Path

import click

from backends import __version__
from backup_cli.main import cli

HERE = Path(__file__).parent

_PLUGIN = """\
.SH SYNOPSIS
.B important\\-plugin=\\fI/path/to/\\fPlightningd\\-backup
.SH DESCRIPTION
A plugin for lightningd: every change of the node's database is on the disk of the backup before lightningd commits it.
lightningd starts it, by the line above in its config file. It has no options: what it is to do stands in the file
backup.lock in the node's network directory, which
.BR backup\\-cli\\-init (1)
writes. Name it as an important plugin, always: as a plain one, the node would go on without its backup if the plugin
ended.
.PP
While the node runs, it answers
.BR "lightning\\-cli backup\\-status" ,
.BR backup\\-compact ,
.B backup\\-member\\-add
and
.BR backup\\-member\\-remove .
"""

_EXIT_STATUS = """\
.SH EXIT STATUS
0 done, 1 refused or failed, 2 usage, 3 the backup is damaged, 130 stopped with Ctrl\\-C.
"""


def pages() -> dict[str, str]:
    """The text of each man page, by the name of its file."""
    context = click.Context(cli, info_name="backup-cli", **cli.context_settings)
    names = cli.list_commands(context)
    made = {"backup-cli.1": _main_page(context, names), "lightningd-backup.1": _plugin_page()}
    for name in names:
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        made[f"backup-cli-{name}.1"] = _command_page(command, inner)
    return made


def _main_page(context: click.Context, names: list[str]) -> str:
    listed = "".join(
        f".TP\n.BR {_escaped(f'backup-cli-{name}')} (1)\n{_escaped(_short(context, name))}\n" for name in names
    )
    return (
        _head("backup-cli", "a backup of a Core Lightning node that holds every committed transaction")
        + ".SH SYNOPSIS\n.B backup\\-cli\n.I command\n[options]\n"
        + _description(cli)
        + f".SH COMMANDS\n{listed}{_options(cli, context)}{_EXIT_STATUS}"
        + _see_also(["lightningd-backup"])
    )


def _command_page(command: click.Command, context: click.Context) -> str:
    name = f"backup-cli-{context.info_name}"
    usage = " ".join(command.collect_usage_pieces(context))
    short = command.get_short_help_str(limit=200).rstrip(".")
    return (
        _head(name, short[:1].lower() + short[1:])
        + f".SH SYNOPSIS\n.B {_escaped(f'backup-cli {context.info_name}')}\n{_escaped(usage)}\n"
        + _description(command)
        + _options(command, context)
        + _EXIT_STATUS
        + _see_also(["backup-cli"])
    )


def _plugin_page() -> str:
    head = _head("lightningd-backup", "the plugin that backs up every commit of a Core Lightning node")
    return head + _PLUGIN + _see_also(["backup-cli", "backup-cli-init"])


def _head(name: str, short: str) -> str:
    title = f'.TH "{_escaped(name.upper())}" "1" "" "lightningd\\-backup {_escaped(__version__)}" "User Commands"\n'
    return f'.\\" Made by contrib/man/generate.py\n{title}.SH NAME\n{_escaped(name)} \\- {_escaped(short)}\n'


def _description(command: click.Command) -> str:
    paragraphs = re.split(r"\n\s*\n", (command.help or "").replace("\b", "").strip())
    return ".SH DESCRIPTION\n" + ".PP\n".join(f"{_lines(one)}\n" for one in paragraphs)


def _options(command: click.Command, context: click.Context) -> str:
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    rows = [record for option in options if (record := option.get_help_record(context))]
    return ".SH OPTIONS\n" + "".join(f".TP\n.B {_escaped(names)}\n{_lines(text)}\n" for names, text in rows)


def _see_also(names: list[str]) -> str:
    listed = ",\n".join(f".BR {_escaped(name)} (1)" for name in names)
    return f".SH SEE ALSO\n{listed.replace(',', ' ,') if len(names) > 1 else listed}\n"


def _short(context: click.Context, name: str) -> str:
    command = cli.get_command(context, name)
    assert command is not None
    return command.get_short_help_str(limit=200)


def _lines(text: str) -> str:
    """One line of roff, of any length: it fills lines by itself."""
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    """Text that roff shows as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text


def main() -> None:
    """Write all pages, and remove those of commands that are gone."""
    made = pages()
    for old in HERE.glob("*.1"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
