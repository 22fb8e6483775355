"""`backup-cli keys`: lists and tries what opens an encrypted backup, adds and removes it, restores backup.key."""

from dataclasses import dataclass
from pathlib import Path

import click

from backends import backup_at
from backends.errors import BackupError, KeyNeeded
from backends.keyring import DataKey
from backends.log.format.attachments import Attachment
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import with_hsm_slot, with_passphrase, without
from backends.node.directory import DEFAULT_DIRECTORY
from backends.node.hsm_secret import HSM_SECRET
from backends.node.hsm_slots import slot_secret
from backends.node.key_file import KEY_FILE, earlier_key, read_key, write_key
from backends.node.lockfile import LOCK_FILE, read_settings
from backends.system.interrupts import ignored
from backends.text import printable
from backup_cli import as_owner, encrypting
from backup_cli.completing import offered_urls
from backup_cli.console import say, warn
from backup_cli.dry_run import dry_run_option, tell_steps
from backup_cli.finding_keys import find_key
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.given_secret import refuse_anothers_secret, refuse_anothers_seed, seed_of
from backup_cli.key_options import KeyOptions, at_terminal, key_options, passphrase_from
from backup_cli.options import A_PATH
from backup_cli.shared_slots import SharedSlots
from backup_cli.slots_listing import show_slots, slots_document
from backup_cli.trying_slots import State, try_slots, untried


@dataclass(frozen=True, slots=True)
class _Task:
    """What was asked for, and for which backup."""

    shared: SharedSlots
    urls: tuple[str, ...]
    directory: Path | None
    """The node's."""
    options: KeyOptions
    dry_run: bool
    as_json: bool

    @property
    def directories(self) -> list[Path]:
        """Where the key may be."""
        return [] if self.directory is None else [self.directory]


@click.command(short_help="List, test, add or remove what opens an encrypted backup.")
@click.argument("urls", metavar="[URL]...", nargs=-1, shell_complete=offered_urls)
@click.option("--lightning-dir", type=A_PATH, help="The node's directory.  [default: ~/.lightning, if no URL is named]")
@click.option("--add-passphrase", is_flag=True, help="Add a passphrase that opens the backup.")
@click.option("--add-hsm-secret", is_flag=True, help="Let the node's hsm_secret open the backup.")
@click.option("--remove", type=click.IntRange(min=1), metavar="SLOT", help="Remove the key slot with this number.")
@click.option("--test", is_flag=True, help="Try every key slot that what is at hand can open, and check backup.key.")
@click.option("--restore-key", is_flag=True, help="Write a lost backup.key again, with hsm_secret or a passphrase.")
@key_options
@dry_run_option
@json_option
@click.pass_context
def keys(
    context: click.Context,
    urls: tuple[str, ...],
    lightning_dir: Path | None,
    add_passphrase: bool,
    add_hsm_secret: bool,
    remove: int | None,
    test: bool,
    restore_key: bool,
    key: KeyOptions,
    dry_run: bool,
    as_json: bool,
) -> None:
    """List the key slots of the node's own encrypted backup; with URLs, of the backup (all its members) there.

    The node may be running. With --add-passphrase, --passphrase-file is the new passphrase; with --add-hsm-secret,
    --hsm-secret is the file that is to open the backup.
    """
    if sum([add_passphrase, add_hsm_secret, remove is not None, test, restore_key]) > 1:
        raise click.UsageError("--add-passphrase, --add-hsm-secret, --remove, --test and --restore-key: one at a time")
    directory, urls = _where(urls, lightning_dir, restore_key)
    task = _Task(SharedSlots.at(urls), urls, directory, key, dry_run, as_json)
    if add_passphrase:
        _add_passphrase(task)
    elif add_hsm_secret:
        _add_hsm_secret(task)
    elif remove is not None:
        _remove(task, remove)
    elif restore_key:
        _restore_key(task)
    else:
        _list(context, task, test)


def _where(urls: tuple[str, ...], given: Path | None, needs_node: bool) -> tuple[Path | None, tuple[str, ...]]:
    """The node's directory, if it is concerned, and the URLs of the backup: of all its members, if the node knows
    them."""
    directory = None
    if given is not None or needs_node or not urls:
        directory = as_owner.node_directory(given or DEFAULT_DIRECTORY)
    else:
        as_owner.backups(urls)
    if not urls:
        assert directory is not None
        return directory, tuple(read_settings(directory).urls)
    if directory is not None and (directory / LOCK_FILE).exists():
        own = tuple(read_settings(directory).urls)
        if set(urls) <= set(own):
            return directory, own
    return directory, urls


# Listing and trying


def _list(context: click.Context, task: _Task, test: bool) -> None:
    document = task.shared.read()
    if test:
        secret = task.options.hsm_secret or _secret_in(task.directory)
        tried = try_slots(document, task.shared.members[0].key_id, task.options, task.directory, secret)
    else:
        tried = untried(document)
    for url in task.shared.away:
        warn(f"{printable(url)} could not be read: its key slots may be others")
    for trouble in tried.troubles:
        warn(trouble)
    if task.as_json:
        result = slots_document(task.urls, task.shared, document, tried)
        hand_out_result({**result, "ok": not tried.troubles} if test else result)
    else:
        show_slots(task.urls, task.shared, document, tried)
    if tried.troubles:
        context.exit(3 if document.lost else 1)
    if test and State.OPENS not in tried.states.values():
        say("No key slot was tried: name what opens one, with --hsm-secret FILE or --passphrase-file FILE")
        context.exit(1)


def _secret_in(directory: Path | None) -> Path | None:
    path = None if directory is None else directory / HSM_SECRET
    return path if path is not None and (path.is_symlink() or path.exists()) else None


# Changing


def _known(task: _Task, options: KeyOptions) -> DataKey:
    """The key, by what opens the backup until now. Raises KeyNeeded."""
    key = find_key(list(task.urls), options, task.directories)
    assert key is not None  # the backup is encrypted
    return key


def _add_passphrase(task: _Task) -> None:
    key = _known(task, KeyOptions(task.options.hsm_secret, None, task.options.key_file))
    if task.dry_run:
        if task.options.passphrase_file is not None or not at_terminal():
            passphrase_from(task.options, new=True)
        with_number = task.shared.as_it_counts(key).next
        tell_steps([f"add a passphrase as key slot {with_number}", *_at(task)], task.as_json)
        return
    passphrase = passphrase_from(task.options, new=True)
    known = False

    def added(found: KeysDocument) -> KeysDocument:
        nonlocal known
        known = encrypting.opens(found, passphrase)  # with two slots it would still open the backup without one of them
        return found if known else with_passphrase(found, key, passphrase, encrypting.COST)

    document = task.shared.change(key, added)
    new = f"The passphrase opens this backup now (key slot {document.slots[-1].number}). Write it on paper"
    _tell(task, document, "The passphrase opens this backup already: no key slot was added" if known else new)


def _add_hsm_secret(task: _Task) -> None:
    path = task.options.hsm_secret or _secret_in(task.directory)
    if path is None:
        raise BackupError(
            f"there is no {HSM_SECRET} here. Nothing was changed; name it with --hsm-secret FILE, or name the node's "
            "directory with --lightning-dir DIR"
        )
    key = _known_for_secret(task)
    if any(Attachment.SECRET.value in storage.names() for storage in task.shared.storages.values()):
        raise BackupError(
            f"{HSM_SECRET} itself is in this backup, so it must not be what opens it. Nothing was changed; add another "
            "passphrase, if you want: backup-cli keys --add-passphrase"
        )
    node_id = backup_at(task.shared.members[0].url).node_id()
    refuse_anothers_secret(path, node_id)
    if task.dry_run:
        tell_steps([f"let {path} open the backup, by a key slot", *_at(task)], task.as_json)
        return
    passphrase = None
    if task.options.passphrase_file is not None:
        passphrase = passphrase_from(task.options, new=False, of=printable(path))
    seed = seed_of(path, passphrase)
    refuse_anothers_seed(path, seed, node_id)
    derived = slot_secret(seed)
    document = task.shared.change(key, lambda found: with_hsm_slot(found, key, derived))
    _tell(task, document, f"{path} opens this backup now")


def _known_for_secret(task: _Task) -> DataKey:
    """The key, without the hsm_secret that does not open it yet; the passphrase may be that of a slot, or of the
    hsm_secret."""
    without_file = KeyOptions(None, None, task.options.key_file)
    if task.options.passphrase_file is None:
        return _known(task, without_file)
    try:
        found = find_key(list(task.urls), without_file, task.directories, needed=False)
    except BackupError:
        found = None
    return found or _known(task, KeyOptions(None, task.options.passphrase_file, None))


def _remove(task: _Task, number: int) -> None:
    key = _known(task, task.options)
    document = without(task.shared.read(), number)
    if task.dry_run:
        tell_steps([f"remove key slot {number}", *_at(task)], task.as_json)
        return
    document = task.shared.change(key, lambda found: without(found, number))
    if task.shared.away:
        warn(f"where nothing was changed, key slot {number} still opens the backup")
    _tell(
        task,
        document,
        f"Key slot {number} is removed. Anyone who has an earlier copy of the destination and what opened that slot "
        "still has the key; to be safe from that, make a new backup, with another key: backup-cli init --encrypt URL",
    )


def _at(task: _Task) -> list[str]:
    return [f"write the key slots to {url}" for url in task.shared.storages]


def _tell(task: _Task, document: KeysDocument, what: str) -> None:
    if task.as_json:
        hand_out_result(slots_document(task.urls, task.shared, document))
        return
    say(f"{what}.")


# backup.key


def _restore_key(task: _Task) -> None:
    directory = task.directory
    assert directory is not None
    backup_id = task.shared.backup_id.hex()
    _refuse_another_backup(directory, backup_id)
    path = directory / KEY_FILE
    key = _key_to_restore(task, directory)
    there = _readable_key(directory)
    if there is not None and there == key:
        say(f"{path} is there, and opens this backup: nothing was changed.")
    elif task.dry_run:
        aside = [f"keep the present {KEY_FILE} under another name"] if path.exists() else []
        tell_steps([*aside, f"write {path}"], task.as_json)
        return
    else:
        with ignored():
            write_key(directory, key)
        say(f"{path} is written: the node can use its backup again.")
    if task.as_json:
        hand_out_result({"backup_id": backup_id, "key_id": key.id, "path": str(path)})


def _readable_key(directory: Path) -> DataKey | None:
    try:
        found = read_key(directory)
    except KeyNeeded:
        return None
    return None if found is None else found.key


def _key_to_restore(task: _Task, directory: Path) -> DataKey:
    """From what was named; else from a copy that was set aside; else as every command finds it."""
    aside = None if task.options.named else earlier_key(directory, task.shared.backup_id.hex())
    if aside is not None and aside.key.id == task.shared.members[0].key_id and _readable_key(directory) != aside.key:
        return aside.key
    return _known(task, task.options)


def _refuse_another_backup(directory: Path, backup_id: str) -> None:
    """Raise BackupError if the node has another backup: its key must stay where it is."""
    if not (directory / LOCK_FILE).exists():
        return
    own = read_settings(directory)
    if own.backup_id is not None and own.backup_id != backup_id:
        raise BackupError(
            f"the node in {directory} has the backup {own.backup_id}, and this one is {backup_id}; nothing was "
            f"changed. Name the URL of the node's own backup ({' '.join(own.urls)}), or no URL"
        )
