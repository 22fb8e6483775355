"""What `check-config` checks about `hsm_secret`: that it is there, whole, this node's, and closed to other users."""

import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backends import backup_at
from backends.errors import BackupError
from backends.log.format.attachments import Attachment
from backends.node.directory import database_path
from backends.node.hsm_secret import HSM_SECRET, Checked, Verdict, check_secret
from backends.node.key_file import KEY_FILE
from backends.node.lockfile import read_settings
from backends.text import shell_line
from backup_cli.findings import Finding, ok, problem, warning
from backup_cli.node_config import NodeConfig
from backup_cli.restore_attached import secret_is_stored
from backup_cli.secret_text import how_to_tell, known_node, why_wrong
from backup_cli.seen_members import names_at


def check_hsm_secret(config: NodeConfig) -> Iterator[Finding]:
    """Whether `hsm_secret` is the right file, and no other user can read it."""
    secret = config.directory / HSM_SECRET
    try:
        status = secret.stat()
    except FileNotFoundError:
        yield _missing(config)
        return
    except OSError as error:
        yield warning(HSM_SECRET, f"{secret} cannot be checked ({error.strerror})")
        return
    mode, is_file = stat.S_IMODE(status.st_mode), stat.S_ISREG(status.st_mode)
    if is_file and not mode & stat.S_IRUSR:
        yield problem(HSM_SECRET, f"not even its owner may read it (mode {mode:04o}): {_chmod(secret)}")
        return
    node = known_node(config.directory)
    checked = check_secret(secret, None if node is None else node.node_id)
    wrong = why_wrong(secret, checked, "" if node is None else node.source)
    if wrong is not None:
        yield problem(HSM_SECRET, wrong)
    if is_file and mode & 0o077:
        yield problem(
            HSM_SECRET, f"other users may read it (mode {mode:04o}), and with it take all funds: {_chmod(secret)}"
        )
    elif checked.verdict is Verdict.UNREADABLE:
        yield warning(HSM_SECRET, f"{secret} cannot be compared with the node's id: {checked.why}")
    elif wrong is None:
        yield ok(HSM_SECRET, _in_order(config, mode, checked))


_HELD = "a backup holds it only if made --with-hsm-secret"


def _missing(config: NodeConfig) -> Finding:
    secret = config.directory / HSM_SECRET
    if not database_path(config.directory).exists():
        return ok(HSM_SECRET, f"the node's first start will make it; then copy it to a safe place, {_HELD}")
    url = _stored_at(config.directory)
    if url is not None:
        empty = config.directory.with_name("restored")
        typed = f"{shell_line('mkdir', empty)} && {shell_line('backup-cli', 'restore', url, empty)}"
        return problem(
            HSM_SECRET,
            f"{secret} is missing: nothing can be spent without it. This node's backup holds it: restore that to an "
            "empty directory, with the backup's passphrase, copy hsm_secret from there, and remove that directory "
            f"again: {typed}",
        )
    return problem(
        HSM_SECRET,
        f"{secret} is missing: nothing can be spent without it, and {_HELD}; copy it back from "
        "where you keep it before you start the node",
    )


def _in_order(config: NodeConfig, mode: int, checked: Checked) -> str:
    keep = f"keep a copy of it elsewhere, {_HELD}"
    if _stored_at(config.directory) is not None:
        keep = "this node's backup holds it, and only the backup's passphrase opens that: keep that on paper, elsewhere"
    if checked.verdict is Verdict.MATCHES:
        return f"mode {mode:04o}, and it is this node's; {keep}"
    if checked.verdict is Verdict.NEEDS_PASSPHRASE:
        return f"mode {mode:04o}; {how_to_tell(config.directory / HSM_SECRET, checked)}; {keep}"
    return f"mode {mode:04o}; {keep}"


def _stored_at(directory: Path) -> str | None:
    """The URL of this node's backup, if that holds `hsm_secret`, too (`init --with-hsm-secret`).

    Only an encrypted one can. A plain one is not asked: one that hangs costs 5 seconds. Of several members, any that
    has the file will do: it never changes, and the names of files can be seen without the key.
    """
    if not (directory / KEY_FILE).exists():
        return None
    with suppress(BackupError, OSError):  # that the backup cannot be reached is reported elsewhere
        urls = read_settings(directory).urls
        if len(urls) == 1:
            return urls[0] if secret_is_stored(urls[0], backup_at(urls[0])) else None
        return next((url for url, names in names_at(urls).items() if Attachment.SECRET.value in names), None)
    return None


def _chmod(secret: Path) -> str:
    return shell_line("chmod", 400, secret)
