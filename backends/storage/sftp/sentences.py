"""What a failure of `ssh` means, and what to do about it: a sentence for a person, found in what `ssh` says."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from backends.storage.sftp.address import Address
from backends.system.owners import user_name
from backends.text import printable

NO_SSH = (
    "there is no program `ssh` on this machine, through which sftp:// reaches its server; install it (Debian: "
    "apt-get install openssh-client)"
)

_SOFTWARE = re.compile(r"remote software version ([^\r\n]{1,100})")
_ACCEPTED = re.compile(r"Server accepts key: (\S{1,200})")
_ANSWERED = re.compile(r"Authentications that can continue|Authenticated using")
_DEBUG = re.compile(r"debug\d: |Warning: Permanently added|Authenticated to |OpenSSH_|Transferred: |Bytes per second")
_MAX_SHOWN = 300


def software_in(text: str) -> str:
    """What the server said its software is; empty if it did not come that far."""
    found = _SOFTWARE.search(text)
    return printable(found[1].strip(), 60) if found else ""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why `ssh` has ended."""

    sentence: str
    lasting: bool
    """Whether it would end in the same way again until somebody changes something."""


def why_it_failed(text: str, ended: int | None, address: Address, *, began: bool) -> Reason:
    """Why a process of `ssh` that has said `text` has `ended` with this exit status.

    `began` is whether the session was in use already: then a lost connection is all that there is to say.
    """
    own = _own_words(text)
    shown = printable(" / ".join(own[-3:]), _MAX_SHOWN)
    said = f" (ssh: {shown})" if own else ""
    for meaning in _MEANINGS:
        if meaning.pattern.search("\n".join(own)):
            return Reason(meaning.sentence(address, text) + said, meaning.lasting and not began)
    if began:
        return Reason(f"the connection to {address.shown} broke{said}", False)
    status = "" if ended is None else f" with exit status {ended}"
    return Reason(
        f"ssh could not log in to {address.shown}, and ended{status}{said}; try the same by hand: {address.typed()}",
        False,
    )


def _own_words(text: str) -> list[str]:
    """The lines that `ssh` would show to a person who logs in, without its debugging output and empty ones."""
    lines = [line.strip() for line in text.splitlines()]
    own = [line for line in lines if line and not _DEBUG.match(line) and not set(line) <= set("@ ")]
    return [line.removeprefix("ssh: ") for line in own]  # what it says is introduced as what ssh says


def _me() -> str:
    return user_name(os.geteuid())


def _unknown_key(address: Address, text: str) -> str:
    return (
        f"the server {address.shown} is not known to this user ({_me()}) yet. Log in once by hand as this user, and "
        f"compare the fingerprint that is shown with the server's own: {address.typed()}"
    )


def _changed_key(address: Address, text: str) -> str:
    return (
        f"the server {address.shown} shows another host key than before: it was installed anew, or somebody stands "
        "between it and this node. Ask whoever runs it, and compare its fingerprint; only if the new key is right, "
        f"remove the old one (ssh-keygen -R, as ssh advises) and log in once by hand: {address.typed()}"
    )


def _refused(address: Address, text: str) -> str:
    accepted = _ACCEPTED.search(text)
    if accepted and _ANSWERED.search(text, accepted.end()):
        return (
            f"the server {address.shown} knows the key {printable(accepted[1])}, but does not let this account in: it "
            "may be locked, or its shell, its home or logins of root may be the reason. The server's log says why"
        )
    if accepted:
        return (
            f"the server {address.shown} would accept the key {printable(accepted[1])}, but this user ({_me()}) cannot "
            "use it without its passphrase, and there is nobody to ask. Use a key without one for the backup "
            "(ssh-keygen -p removes it), or an ssh-agent whose SSH_AUTH_SOCK this program gets"
        )
    return (
        f"the server {address.shown} accepts no key of this user ({_me()}). Make one if there is none (ssh-keygen), "
        f"and tell the server: {address.typed().replace('ssh ', 'ssh-copy-id ', 1)}"
    )


def _no_subsystem(address: Address, text: str) -> str:
    return (
        f"the server {address.shown} lets this user in, but serves no SFTP. Put this line into its sshd_config and "
        "reload it: Subsystem sftp internal-sftp"
    )


def _plainly(sentence: str) -> Callable[[Address, str], str]:
    return lambda address, text: sentence.format(server=address.shown, typed=address.typed(), me=_me())


@dataclass(frozen=True, slots=True)
class _Meaning:
    pattern: "re.Pattern[str]"
    sentence: Callable[[Address, str], str]
    lasting: bool = False


def _says(pattern: str, sentence: Callable[[Address, str], str] | str, *, lasting: bool = False) -> _Meaning:
    return _Meaning(
        re.compile(pattern, re.IGNORECASE), _plainly(sentence) if isinstance(sentence, str) else sentence, lasting
    )


_MEANINGS = [
    _says("host identification has changed|host key for .* has changed|offending .*key", _changed_key, lasting=True),
    _says("host key is known for|host key verification failed|authenticity of host", _unknown_key, lasting=True),
    _says(
        "too many authentication failures",
        "the server {server} gave up before the right key was tried, because the agent or the configuration offers "
        "too many; name the one for it in ~/.ssh/config (IdentityFile and IdentitiesOnly yes)",
        lasting=True,
    ),
    _says(
        r"permission denied \(|no supported authentication methods|no more authentication methods",
        _refused,
        lasting=True,
    ),
    _says("subsystem request failed", _no_subsystem, lasting=True),
    _says(
        "could not resolve hostname|name or service not known|temporary failure in name resolution",
        "the name of the server {server} cannot be resolved: is it spelled right, and is there a network",
    ),
    _says(
        "connection refused",
        "nothing accepts SSH connections at {server}: is sshd running there, and is the port right",
    ),
    _says(
        "timed out|timeout, server|no route to host|network is unreachable|host is down",
        "the server {server} does not answer: is it switched on, and does the network reach it",
    ),
    _says(
        "bad owner or permissions|bad configuration option|can't open user config file|terminating, ",
        "ssh refuses its own configuration; try the same by hand as the user {me}: {typed}",
        lasting=True,
    ),
    _says(
        "no user exists for uid",
        "ssh works only for a user who has a name on this machine, and {me} has none. In a container, run this as a "
        "user of its image (its /etc/passwd), or add one there",
        lasting=True,
    ),
    _says(
        "no matching (host key|key exchange|cipher|mac)",
        "this ssh and the server {server} have no common algorithm; one of them is too old",
        lasting=True,
    ),
]
