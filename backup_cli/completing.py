"""What a shell offers where a URL is typed: the kinds of destinations, and SSH servers from ~/.ssh/config."""

import click

from backends import SCHEMES

_WITHOUT_HOST = ("file",)


def offered_urls(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """How the URL that is being typed may go on. Nothing is contacted."""
    kinds = [f"{scheme}:///" if scheme in _WITHOUT_HOST else f"{scheme}://" for scheme in SCHEMES]
    if not incomplete.startswith("sftp:"):
        return [kind for kind in kinds if kind.startswith(incomplete)]
    from backup_cli.off_site import ssh_hosts

    servers = [f"sftp://{host}/" for host in dict.fromkeys(ssh_hosts())]
    return [url for url in ("sftp://", *servers) if url.startswith(incomplete)]
