"""The secret in every form of `hsm_secret`, and what lightningd derives from it: against values from its own tests."""

import base64
import hashlib
import hmac
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.poly1305 import Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupError
from backends.node import hsm_passphrase, hsm_seed
from backends.node.hsm_secret import check_secret
from backends.node.hsm_seed import SeedNeedsPassphrase, WrongSeedPassphrase, derived_secret, needs_passphrase, read_seed
from tests.known_secret import NODE_ID, SECRET

ABANDON = b"abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
ABANDON_SEED = bytes.fromhex(
    "5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc1"
    "9a5ac40b389cd370d086206dec8aa6c43daea6690f20ad3d8d48b2d2ce9e38e4"
)
ABANDON_ID = "03653e90c1ce4660fd8505dd6d643356e93cfe202af109d382787639dd5890e87d"
RITUAL = b"ritual idle hat sunny universe pluck key alpha wing cake have wedding"
BLAME = b"blame expire peanut sell door zoo bundle motor truth outside artist siren"

PASSPHRASE = "Zoë's pässword 1 ✓".encode()
KEY = bytes.fromhex("ee2738274e0f6af1e1152ba1ea2e29eba250eda0a59717857204507883a60698")
ENCRYPTED = bytes.fromhex(
    "4cf1a9723274b4468b449ef99e3239ddb279f0313704161ac01bcee573a596fd1469449954b97a10127548d536b2e6932824b248a004f70b3b"
    "ca7d013cfaf54fc631dba5087a6adc84"
)
"""SECRET, encrypted with PASSPHRASE by libsodium (PyNaCl 1.6.2) with lightningd's salt and limits; KEY is what its
argon2id made."""

Write = Callable[[bytes], Path]


def with_passphrase(words: bytes, passphrase: bytes) -> bytes:
    """The file of a mnemonic with a passphrase, as lightningd makes it."""
    seed = hashlib.pbkdf2_hmac("sha512", words, b"mnemonic" + passphrase, 2048)
    return hashlib.sha256(seed).digest() + words


def sealed(key: bytes, header: bytes, tag: int, secret: bytes) -> bytes:
    """A secretstream of one message of 32 bytes, block by block as libsodium makes it."""
    subkey = hsm_passphrase._hchacha20(key, header[:16])
    nonce = b"\1\0\0\0" + header[16:]

    def encrypt(block: int, data: bytes) -> bytes:
        cipher = Cipher(algorithms.ChaCha20(subkey, struct.pack("<I", block) + nonce), mode=None)
        return cipher.encryptor().update(data)

    block = encrypt(1, bytes([tag]) + bytes(63))
    message = encrypt(2, secret)
    mac = Poly1305.generate_tag(encrypt(0, bytes(32)), block + message + struct.pack("<QQ", 0, 64 + 32))
    return header + block[:1] + message + mac


def rune(secret: bytes) -> str:
    """The first unrestricted rune of a node whose runes are made from this derived secret."""
    padded = secret + b"\x80" + bytes(64 - 33 - 8) + (8 * 32).to_bytes(8, "big")
    return base64.urlsafe_b64encode(hashlib.sha256(padded + b"=0").digest() + b"=0").decode()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: bytes) -> Path:
        path = tmp_path / "hsm_secret"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def argon2id() -> None:
    """The real one, which the oldest `cryptography` that setup.cfg allows lacks."""
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        Argon2id(salt=bytes(16), length=32, iterations=1, lanes=1, memory_cost=8)
    except (ImportError, UnsupportedAlgorithm) as error:
        pytest.skip(f"no argon2id here: {error}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """argon2id is not run: a test that runs it takes seconds. Only PASSPHRASE makes KEY."""
    monkeypatch.setattr(
        hsm_passphrase, "_key_of", lambda given: KEY if given == PASSPHRASE else hashlib.sha256(given).digest()
    )


def node_of(seed: bytes, tmp_path: Path) -> str | None:
    """The id of the node that has this secret."""
    (tmp_path / "plain").write_bytes(seed[:32])
    return check_secret(tmp_path / "plain", None).made


# The four forms


def test_plain_secret_is_itself_and_needs_no_passphrase(write: Write) -> None:
    assert read_seed(write(SECRET)) == read_seed(write(SECRET), b"not needed") == SECRET
    assert not needs_passphrase(write(SECRET))


@pytest.mark.usefixtures("argon2id")
def test_secret_encrypted_by_libsodium_is_opened(write: Write, tmp_path: Path) -> None:
    assert needs_passphrase(write(ENCRYPTED))
    seed = read_seed(write(ENCRYPTED), PASSPHRASE)
    assert seed == SECRET
    assert node_of(seed, tmp_path) == NODE_ID


def test_mnemonic_is_its_whole_bip39_seed(write: Write, tmp_path: Path) -> None:
    path = write(bytes(32) + ABANDON)
    assert not needs_passphrase(path)
    assert read_seed(path) == read_seed(path, b"not needed") == ABANDON_SEED
    assert node_of(ABANDON_SEED, tmp_path) == ABANDON_ID


@pytest.mark.parametrize(
    ("words", "passphrase", "node_id"),
    [
        (RITUAL, b"test_passphrase", "039020371fb803cd4ce1e9a909b502d7b0a9e0f10cccc35c3e9be959c52d3ba6bd"),
        (
            RITUAL,
            b"This is actually not a passphrase",
            "02244b73339edd004bc6dfbb953a87984c88e9e7c02ca14ef6ec593ca6be622ba7",
        ),
    ],
)
def test_mnemonic_with_passphrase_gives_node_id_that_lightningds_tests_expect(
    write: Write, tmp_path: Path, words: bytes, passphrase: bytes, node_id: str
) -> None:
    path = write(with_passphrase(words, passphrase))
    assert needs_passphrase(path)
    assert node_of(read_seed(path, passphrase), tmp_path) == node_id


@pytest.mark.parametrize(
    ("words", "passphrase", "seed"),
    [
        (BLAME, b"passphrase", "161d740bcfd3c5e2a1769159bee86868ab35e7544e83e825042a43b929ad950c"),
        (
            ABANDON,
            b"TREZOR",
            "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553"
            "1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04",
        ),
    ],
    ids=["lightningd's tests", "BIP-39's test vectors"],
)
def test_mnemonic_with_passphrase_is_known_seed(write: Write, words: bytes, passphrase: bytes, seed: str) -> None:
    read = read_seed(write(with_passphrase(words, passphrase)), passphrase)
    assert len(read) == 64
    assert read.hex().startswith(seed)


def test_passphrase_of_mnemonic_is_not_normalized(write: Write) -> None:
    """libwally takes the bytes as typed; BIP-39 would make both the same."""
    composed, decomposed = "Zoë".encode(), "Zoe\u0308".encode()
    path = write(with_passphrase(RITUAL, composed))
    assert len(read_seed(path, composed)) == 64
    with pytest.raises(WrongSeedPassphrase):
        read_seed(path, decomposed)


@settings(max_examples=40, deadline=None)
@given(passphrase=st.binary(max_size=100), wrong=st.binary(max_size=100))
def test_mnemonic_opens_with_its_own_passphrase_only(
    tmp_path_factory: pytest.TempPathFactory, passphrase: bytes, wrong: bytes
) -> None:
    path = tmp_path_factory.mktemp("secret") / "hsm_secret"
    path.write_bytes(with_passphrase(RITUAL, passphrase))
    assert hashlib.sha256(read_seed(path, passphrase)).digest() == path.read_bytes()[:32]
    if wrong != passphrase:
        with pytest.raises(WrongSeedPassphrase):
            read_seed(path, wrong)


# No passphrase, a wrong one, damage


@pytest.mark.parametrize("content", [ENCRYPTED, with_passphrase(RITUAL, b"x")], ids=["encrypted", "mnemonic"])
def test_secret_without_its_passphrase_says_how_to_give_it(write: Write, content: bytes) -> None:
    with pytest.raises(SeedNeedsPassphrase, match="--passphrase-file FILE") as refused:
        read_seed(write(content))
    assert refused.value.kind == "key_needed"


@pytest.mark.usefixtures("argon2id")
def test_wrong_passphrase_of_encrypted_secret_is_recognized(write: Write) -> None:
    """One letter is in the other case."""
    with pytest.raises(WrongSeedPassphrase, match="lightning-hsmtool getnodeid") as refused:
        read_seed(write(ENCRYPTED), PASSPHRASE.replace(b"Z", b"z"))
    assert refused.value.kind == "wrong_key"


@pytest.mark.parametrize("given", [b"", b"X", b"x\n", b"x\0"])
def test_wrong_passphrase_of_mnemonic_is_recognized(write: Write, given: bytes) -> None:
    with pytest.raises(WrongSeedPassphrase) as refused:
        read_seed(write(with_passphrase(RITUAL, b"x")), given)
    assert refused.value.kind == "wrong_key"


@pytest.mark.usefixtures("quick")
def test_any_flipped_bit_of_encrypted_secret_is_noticed(write: Write) -> None:
    assert read_seed(write(ENCRYPTED), PASSPHRASE) == SECRET
    for bit in range(8 * len(ENCRYPTED)):
        damaged = bytearray(ENCRYPTED)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WrongSeedPassphrase):
            read_seed(write(bytes(damaged)), PASSPHRASE)


@pytest.mark.parametrize("at", range(0, 32 + len(RITUAL), 5))
def test_damaged_mnemonic_with_passphrase_gives_no_secret(write: Write, at: int) -> None:
    content = bytearray(with_passphrase(RITUAL, b"x"))
    content[at] ^= 1
    with pytest.raises(BackupError):
        read_seed(write(bytes(content)), b"x")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("size", [72, 74])
def test_encrypted_secret_of_wrong_size_is_no_secret(write: Write, size: int) -> None:
    for ask in (needs_passphrase, lambda path: read_seed(path, PASSPHRASE)):
        with pytest.raises(BackupError, match="is no hsm_secret that lightningd accepts"):
            ask(write((ENCRYPTED + b"x")[:size]))


# Files that are no secret to read


@pytest.mark.parametrize("ask", [needs_passphrase, read_seed])
def test_missing_secret_says_how_to_name_it(tmp_path: Path, ask: Callable[[Path], object]) -> None:
    with pytest.raises(BackupError, match=r"there is no .*hsm_secret\. .*--hsm-secret FILE"):
        ask(tmp_path / "hsm_secret")


@pytest.mark.parametrize("ask", [needs_passphrase, read_seed])
def test_link_to_secret_is_not_followed(tmp_path: Path, ask: Callable[[Path], object]) -> None:
    (tmp_path / "elsewhere").write_bytes(SECRET)
    (tmp_path / "hsm_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackupError, match="cannot be read: it is a link, and links to a secret are not followed"):
        ask(tmp_path / "hsm_secret")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (SECRET[:31], "it has only 31 bytes"),
        (bytes(1 << 20), "more than 1024 bytes"),
        (SECRET.hex().encode(), f"it holds the secret \\(of the node {NODE_ID}\\) as text"),
        (bytes(32) + ABANDON + b"\n", f"its words \\(of the node {ABANDON_ID}\\) are not written"),
        (ABANDON, "it holds only the words"),
    ],
)
@pytest.mark.parametrize("ask", [needs_passphrase, read_seed])
def test_secret_in_no_form_of_lightningd_says_what_is_wrong(
    write: Write, ask: Callable[[Path], object], content: bytes, why: str
) -> None:
    with pytest.raises(BackupError, match=f"is no hsm_secret that lightningd accepts: .*{why}"):
        ask(write(content))


def test_pipe_and_directory_are_no_secret(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BackupError, match="it is not a file"):
            read_seed(path)


def test_secret_of_another_user_says_as_whom_to_read_it(write: Write, tmp_path: Path) -> None:
    write(SECRET).chmod(0o400 if os.geteuid() == 0 else 0)
    tmp_path.chmod(0o755)
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from backends.errors import BackupError\nfrom backends.node.hsm_seed import read_seed\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "os.fchdir(int(sys.argv[1]))\n"
        "try: read_seed(Path('hsm_secret'))\n"
        "except BackupError as error: print(error)\n"
    )
    directory = os.open(tmp_path, os.O_RDONLY)
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)], capture_output=True, text=True, pass_fds=[directory]
    )
    os.close(directory)
    assert "cannot be read: Permission denied" in done.stdout and "as the user that lightningd" in done.stdout, done


# The old cryptography, and small machines


def test_cryptography_without_argon2id_names_the_upgrade(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.kdf.argon2", None)
    with pytest.raises(BackupError, match=r"from release 44 on.*untouched.*pip install --upgrade .*cryptography>=44"):
        read_seed(write(ENCRYPTED), PASSPHRASE)
    assert read_seed(write(with_passphrase(RITUAL, b"x")), b"x"), "and nothing else needs it"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UnsupportedAlgorithm("no"), r"OpenSSL has it from 3\.2 on.*untouched.*cryptography>=44"),
        (MemoryError("no"), "takes 256 MiB of memory.*untouched"),
    ],
    ids=["old OpenSSL", "little memory"],
)
def test_machine_that_cannot_run_argon2id_says_why(
    write: Write, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fails(passphrase: bytes) -> bytes:
        raise error

    monkeypatch.setattr(hsm_passphrase, "_key_of", fails)
    with pytest.raises(BackupError, match=says):
        read_seed(write(ENCRYPTED), PASSPHRASE)


# The cryptography of the encrypted form


def test_hchacha20_gives_the_vector_of_its_draft() -> None:
    """draft-irtf-cfrg-xchacha-03, section 2.2.1."""
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    subkey = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    assert hsm_passphrase._hchacha20(bytes(range(32)), nonce).hex() == subkey


LIBSODIUM = [
    "58cfa1685b0426e679fa3c3586dc901cf7f44c2cf83aa5c96888e2821b6b0eff2bf5615bde4c04c7dfd5d82f8a5eaad2b6197ac286c9e618ee"
    "d559189d2b812fa2a81a7549cff4c26a",
    "641e79f633615b0546282316726e154e539f3f87cd19e1b578f0f9bc25646e123dfcbff30cbb6f7cd8b3d1983954b80d80bfcb51e0e6dd6944"
    "d44402a3c5f50b51512561735a653236",
]
"""The bytes 0 to 31, encrypted by libsodium (PyNaCl 1.6.2) with the key of the bytes 100 to 131; tags 0 and 3."""


@pytest.mark.parametrize(("tag", "stream"), [(0, LIBSODIUM[0]), (3, LIBSODIUM[1])])
def test_message_that_libsodium_encrypted_is_opened(tag: int, stream: str) -> None:
    key, content = bytes(range(100, 132)), bytes.fromhex(stream)
    assert hsm_passphrase._message_in(content, key) == SECRET
    assert sealed(key, content[:24], tag, SECRET) == content, "and what the tests encrypt is encrypted alike"
    assert hsm_passphrase._message_in(content, bytes(32)) is None


@settings(max_examples=200, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32),
    header=st.binary(min_size=24, max_size=24),
    tag=st.integers(0, 255),
    secret=st.binary(min_size=32, max_size=32),
    bit=st.integers(0, 8 * 73 - 1),
)
def test_any_message_is_opened_whole_and_refused_with_a_flipped_bit(
    key: bytes, header: bytes, tag: int, secret: bytes, bit: int
) -> None:
    content = bytearray(sealed(key, header, tag, secret))
    assert len(content) == 73
    assert hsm_passphrase._message_in(bytes(content), key) == secret
    content[bit // 8] ^= 1 << bit % 8
    assert hsm_passphrase._message_in(bytes(content), key) is None


# Derived secrets


def test_derived_secret_is_what_makesecret_of_lightningds_tests_returns() -> None:
    """The first node of lightningd's tests, and the example of lightning-makesecret(7)."""
    secret = "a9a2e742405c28f059349132923a99337ae7f71168b7485496e3365f5bc664ed"
    assert derived_secret(b"lightning-1".ljust(32, b"\0"), b"scb secret").hex() == secret


def test_first_half_of_mnemonics_seed_gives_rune_that_lightningds_tests_expect(write: Write) -> None:
    """lightning-hsmtool derives a rune from half of the seed, and lightningd, by its source, from all of it.

    Only the first rune is from lightningd's tests; the second one is computed here, to notice a change.
    """
    seed = read_seed(write(bytes(32) + ABANDON))
    assert rune(derived_secret(seed[:32], b"commando")) == "6VkrWMI2hm2a2UTkg-EyUrrBJN0RcuPB80I1pCVkTD89MA=="
    assert rune(derived_secret(seed, b"commando")) == "RecGdscAgEvYRuj7L78yg_T98XLA5_wKyGYlpV6ehbA9MA=="


@settings(max_examples=100, deadline=None)
@given(seed=st.one_of(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)), info=st.binary())
def test_derived_secret_is_hkdf_without_salt_twice(seed: bytes, info: bytes) -> None:
    """RFC 5869, written out: without a salt, extracting takes a key of zeros."""

    def hkdf(secret: bytes, info: bytes) -> bytes:
        return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\1", "sha256")

    assert derived_secret(seed, info) == hkdf(hkdf(seed, b"derived secrets"), info)


# The secret stays a secret


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (ENCRYPTED, None),
        (ENCRYPTED, b"hunter2-hunter2"),
        (with_passphrase(RITUAL, b"x"), None),
        (with_passphrase(RITUAL, b"x"), b"hunter2-hunter2"),
        (RITUAL, None),
        (SECRET.hex().encode(), None),
        (bytes(32) + RITUAL + b"\n", b"hunter2-hunter2"),
    ],
)
def test_message_shows_nothing_of_secret_or_passphrase(write: Write, content: bytes, passphrase: bytes | None) -> None:
    with pytest.raises(BackupError) as refused:
        read_seed(write(content), passphrase)
    told = str(refused.value) + repr(refused.value)
    assert "hunter2" not in told and SECRET.hex() not in told
    assert not any(word.decode() in told.split() for word in RITUAL.split() if word not in (b"have", b"key"))


def test_failure_while_opening_wipes_the_content_from_memory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers: list[bytearray] = []

    def fails(content: memoryview, passphrase: bytes) -> bytes:
        assert bytes(content) == ENCRYPTED
        buffers.append(content.obj)  # type: ignore[arg-type]
        raise BackupError("no memory")

    monkeypatch.setattr(hsm_seed, "secret_in", fails)
    with pytest.raises(BackupError, match="no memory"):
        read_seed(write(ENCRYPTED), PASSPHRASE)
    assert not any(buffers[0])


def test_cryptography_is_not_loaded_before_a_secret_is_read() -> None:
    program = "import sys, backends.node.hsm_seed; print('cryptography' in sys.modules, 'coincurve' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr
