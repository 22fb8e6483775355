"""Which node an `hsm_secret` belongs to: checked against lightningd's own tests and databases of real nodes."""

import gzip
import hmac
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from backends.node import hsm_secret
from backends.node.hsm_secret import Checked, Verdict, check_secret
from tests.end_to_end.recordings import UPGRADES
from tests.known_secret import NODE_ID, SECRET

ABANDON = b"abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
ABANDON_ID = "03653e90c1ce4660fd8505dd6d643356e93cfe202af109d382787639dd5890e87d"
RITUAL = b"ritual idle hat sunny universe pluck key alpha wing cake have wedding"
RITUAL_SEED = bytes.fromhex("31bb58d1180831868fd5f562bb74659dca1e9673d034af635df53d677b9e5f03")
"""The first 32 bytes of the BIP-39 seed of "blame expire …", as in lightningd's tests."""

WITHOUT_PASSPHRASE = bytes(32)
WITH_PASSPHRASE = bytes(31) + b"\1"


def checked(tmp_path: Path, content: bytes, node_id: str | None = NODE_ID) -> Checked:
    path = tmp_path / "hsm_secret"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return check_secret(path, node_id)


# The derivation


@pytest.mark.parametrize(
    ("name", "node_id"),
    [
        ("lightning-1", "0266e4598d1d3c415f572a8488830b60f7e744ed9235eb0b1ba93283b315c03518"),
        ("lightning-2", "022d223620a359a47ff7f7ac447c85c46c923da53389221a0054c11c1e3ca31d59"),
        ("lightning-3", "035d2b1192dfba134e10e540875d366ebc8bc353d5aa766b80c090b39c3a5d885d"),
        ("lightning-4", "0382ce59ebf18be7d84677c2e35f23294b9992ceca95491fcf8a56c6cb2d9de199"),
    ],
)
def test_plain_secret_gives_node_id_that_lightningds_tests_expect(tmp_path: Path, name: str, node_id: str) -> None:
    """In lightningd's tests, a node's secret is the name of its directory."""
    secret = name.encode().ljust(32, b"\0")
    assert checked(tmp_path, secret, node_id) == Checked(Verdict.MATCHES, node_id, node_id)
    assert checked(tmp_path, secret, NODE_ID) == Checked(Verdict.DIFFERS, node_id, NODE_ID)
    assert checked(tmp_path, secret, None) == Checked(Verdict.NOT_COMPARED, node_id)


@pytest.mark.parametrize("recording", UPGRADES, ids=lambda recording: recording.name)
def test_plain_secret_gives_node_id_in_database_of_real_node(tmp_path: Path, recording: object) -> None:
    after = recording.after  # type: ignore[attr-defined]
    if not after.exists():
        pytest.skip(f"the recording is not at hand: {after}")
    (tmp_path / "db").write_bytes(gzip.decompress(after.read_bytes()))
    connection = sqlite3.connect(tmp_path / "db")
    [[node_id]] = connection.execute("SELECT hex(blobval) FROM vars WHERE name = 'node_id'")
    connection.close()
    verdicts = [
        checked(tmp_path, f"lightning-{number}".encode().ljust(32, b"\0"), node_id.lower()).verdict
        for number in range(1, 4)
    ]
    assert sorted(verdict.name for verdict in verdicts) == ["DIFFERS", "DIFFERS", "MATCHES"]


def test_mnemonic_gives_node_id_that_lightningds_tests_expect(tmp_path: Path) -> None:
    assert checked(tmp_path, WITHOUT_PASSPHRASE + ABANDON, ABANDON_ID).verdict is Verdict.MATCHES
    assert checked(tmp_path, WITHOUT_PASSPHRASE + ABANDON) == Checked(Verdict.DIFFERS, ABANDON_ID, NODE_ID)


def test_mnemonic_gives_node_id_of_its_seed(tmp_path: Path) -> None:
    words = b"blame expire peanut sell door zoo bundle motor truth outside artist siren"
    node_id = checked(tmp_path, RITUAL_SEED, None).made
    assert checked(tmp_path, WITHOUT_PASSPHRASE + words, node_id).verdict is Verdict.MATCHES


def test_salt_is_counted_up_when_derived_key_is_not_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lightningd's counter is a little-endian word. No secret is known for which it gets beyond zero."""
    real, seen = hmac.digest, []

    def digest(key: bytes, message: bytes, kind: str) -> bytes:
        seen.append(key)
        return bytes(32) if message == b"nodeid\x01" and len(seen) <= 4 else real(key, message, kind)

    monkeypatch.setattr(hmac, "digest", digest)
    assert checked(tmp_path, SECRET).verdict is Verdict.DIFFERS
    assert seen[::2] == [bytes(4), b"\1\0\0\0", b"\2\0\0\0"]


# Forms that do not show the node


def test_encrypted_secret_is_not_guessed_at(tmp_path: Path) -> None:
    assert checked(tmp_path, os.urandom(73)) == Checked(Verdict.NEEDS_PASSPHRASE, None, NODE_ID)


@pytest.mark.parametrize("count", [12, 15, 18, 21, 24])
def test_mnemonic_with_passphrase_is_not_guessed_at(tmp_path: Path, count: int) -> None:
    words = b" ".join((RITUAL.split() * 2)[:count])
    assert checked(tmp_path, WITH_PASSPHRASE + words) == Checked(Verdict.NEEDS_PASSPHRASE, None, NODE_ID)
    assert checked(tmp_path, WITHOUT_PASSPHRASE + words).verdict is Verdict.DIFFERS


# Files that lightningd would not accept


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (SECRET[:31], "only 31 bytes"),
        (SECRET + b"\n", "none of lightningd's forms"),
        (bytes(100), "none of lightningd's forms"),
        (bytes(1 << 20), "more than 1024 bytes"),
        (WITHOUT_PASSPHRASE + RITUAL.rpartition(b" ")[0], "none of lightningd's forms"),
        (SECRET.hex().encode(), "(of this node) as text, in hexadecimal digits: xxd -r -p"),
        (SECRET.hex().upper().encode() + b"\n", "(of this node) as text, in hexadecimal digits: xxd -r -p"),
        (WITHOUT_PASSPHRASE.hex().encode(), "as text, in hexadecimal digits"),
        (ABANDON + b"\n", f"only the words (of another node, {ABANDON_ID}, if they have no passphrase)"),
        (WITHOUT_PASSPHRASE + ABANDON + b"\n", f"its words (of another node, {ABANDON_ID}) are not written as"),
        (WITHOUT_PASSPHRASE + ABANDON.replace(b" ", b"  "), "with single spaces"),
        (WITHOUT_PASSPHRASE + ABANDON.upper(), "in lower case"),
        (WITH_PASSPHRASE + ABANDON + b"\n", "its words are not written as"),
        (b"cl10leetsllhdmn9m42vcsamx24zrxgs3qrl7ahwvhw4fnzrhve25gvezzyqqcsnm5m6ac\n", "codex32"),
    ],
)
def test_hsm_secret_in_no_form_of_lightningd_is_malformed(tmp_path: Path, content: bytes, why: str) -> None:
    found = checked(tmp_path, content)
    assert found.verdict is Verdict.MALFORMED
    assert why in found.why


@pytest.mark.parametrize("form", ["\n", "", " \r\n"])
def test_mnemonic_written_by_hand_is_malformed_but_named_as_of_this_node(tmp_path: Path, form: str) -> None:
    written = (b"" if form == "" else WITHOUT_PASSPHRASE) + ABANDON + form.encode()
    assert "of this node" in checked(tmp_path, written, ABANDON_ID).why


# Not a regular file


def test_hsm_secret_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(SECRET)
    (tmp_path / "hsm_secret").symlink_to(tmp_path / "elsewhere")
    found = check_secret(tmp_path / "hsm_secret", NODE_ID)
    assert (found.verdict, found.made) == (Verdict.UNREADABLE, None)
    assert "link" in found.why


def test_hsm_secret_that_is_missing_or_no_file_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "hsm_secret"
    assert check_secret(secret, NODE_ID).verdict is Verdict.MISSING
    os.mkfifo(secret)
    assert check_secret(secret, NODE_ID).verdict is Verdict.MALFORMED, "and the check does not wait for a writer"
    secret.unlink()
    secret.mkdir()
    assert check_secret(secret, NODE_ID).verdict is Verdict.MALFORMED
    assert check_secret(Path("/dev/zero"), NODE_ID).verdict is Verdict.MALFORMED
    assert check_secret(tmp_path / "x" / "hsm_secret", NODE_ID).verdict is Verdict.MISSING


def test_hsm_secret_of_another_user_is_unreadable(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from backends.node.hsm_secret import check_secret\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "os.fchdir(int(sys.argv[1]))\nprint(check_secret(Path('hsm_secret'), None))\n"
    )
    secret = tmp_path / "hsm_secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o400 if os.geteuid() == 0 else 0)
    tmp_path.chmod(0o755)
    directory = os.open(tmp_path, os.O_RDONLY)
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)], capture_output=True, text=True, pass_fds=[directory]
    )
    os.close(directory)
    assert "UNREADABLE" in done.stdout and "Permission denied" in done.stdout, done.stderr


# The secret stays a secret


@pytest.mark.parametrize(
    "content",
    [SECRET, WITHOUT_PASSPHRASE + RITUAL, RITUAL, SECRET.hex().encode(), WITHOUT_PASSPHRASE + RITUAL + b"\n"],
    ids=["plain", "mnemonic", "bare mnemonic", "hexadecimal", "mnemonic and line end"],
)
def test_verdict_shows_nothing_of_the_secret(tmp_path: Path, content: bytes) -> None:
    told = repr(checked(tmp_path, content)) + str(checked(tmp_path, content, None))
    assert not any(word.decode() in told.split() for word in RITUAL.split() if word != b"have")
    assert SECRET.hex() not in told and repr(SECRET)[2:-1] not in told


def test_failure_while_deriving_wipes_the_secret_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken package fails while the secret is in memory."""
    buffers: list[bytearray] = []

    def breaks(content: memoryview, expected: str | None) -> str | None:
        assert bytes(content) == SECRET
        buffers.append(content.obj)  # type: ignore[arg-type]
        raise ImportError("No module named '_cffi_backend'")

    monkeypatch.setattr(hsm_secret, "_node_made_by", breaks)
    found = checked(tmp_path, SECRET)
    assert found.verdict is Verdict.UNREADABLE and "coincurve" in found.why
    assert not any(buffers[0])


def test_coincurve_is_not_loaded_before_a_secret_is_checked() -> None:
    program = "import sys, backends.node.hsm_secret, backup_cli.main; print('coincurve' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
