"""`make drill` on a machine that lacks something: it says what is missing, and what to type.

From real reports: a Debian without python3-venv answered with a page about ensurepip and left half an environment,
which the next `make` took for a complete one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.destinations.tools import need

ROOT = Path(__file__).parents[2]
SET_UP = ROOT / "contrib" / "set-up"

_OLD = "#!/bin/sh\necho 3.9\n"
_BROKEN = "#!/bin/sh\necho 'python3: error while loading shared libraries: libpython3.11.so.1.0' >&2\nexit 127\n"
_WITHOUT_ENSUREPIP = (
    f'#!/bin/sh\n[ "$1" = -c ] || exit 1\nexec {sys.executable} -c \'import sys\nsys.modules["ensurepip"] = None\n'
    'exec(sys.argv[1])\' "$2"\n'
)
"""A python3 like Debian's without python3-venv: `python3 -m venv` exists, and fails."""


def make_drill(directory: Path, python3: str | None) -> str:
    """What `make drill` prints if python3 is this script, or is missing. It must fail, and make no environment."""
    need("make")
    programs = directory / "programs"
    programs.mkdir()
    for name in ("make", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    if python3 is not None:
        (programs / "python3").write_text(python3)
        (programs / "python3").chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "drill", f"VENV={directory / 'environment'}"],
        cwd=ROOT,
        env={"PATH": str(programs), "LANG": "C"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0 and not (directory / "environment").exists(), done.stdout
    assert "Traceback" not in done.stderr and "Then repeat the command." in done.stderr
    return done.stderr


def test_make_without_python_says_what_to_install(tmp_path: Path) -> None:
    said = make_drill(tmp_path, None)
    assert "There is no 'python3' here" in said
    assert "sudo apt install python3 python3-venv" in said


def test_make_with_a_too_old_python_says_which_is_needed(tmp_path: Path) -> None:
    said = make_drill(tmp_path, _OLD)
    assert "'python3' is Python 3.9, and this needs 3.10 or newer" in said
    assert "make drill PYTHON=" in said


def test_make_with_a_broken_python_shows_its_error(tmp_path: Path) -> None:
    said = make_drill(tmp_path, _BROKEN)
    assert "libpython3.11.so.1.0" in said and "'python3' does not start" in said


def test_make_without_python3_venv_says_what_to_install(tmp_path: Path) -> None:
    said = make_drill(tmp_path, _WITHOUT_ENSUREPIP)
    assert "cannot create an environment" in said
    assert "    sudo apt install python3-venv\n" in said
    assert f"sudo apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv\n" in said


def test_make_accepts_this_python() -> None:
    done = subprocess.run([SET_UP, "python", sys.executable], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def pip(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The real pip, as the Makefile calls it, with no index except a given one."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("PIP_", "HTTP"))}
    return subprocess.run(
        [SET_UP, "pip", sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments],
        env=kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", "PIP_NO_CACHE_DIR": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_make_without_a_network_says_that_the_index_is_unreachable(tmp_path: Path) -> None:
    index = "http://127.0.0.1:9/simple"  # nobody listens on port 9
    done = pip("--require-hashes", "-r", ROOT / "requirements.lock", "--target", tmp_path, PIP_INDEX_URL=index)
    assert done.returncode == 1
    assert "No matching distribution found" in done.stderr, "pip's own words"
    assert "pip could not reach the package index" in done.stderr and "HTTPS_PROXY" in done.stderr


def test_make_with_a_package_of_another_hash_warns_against_installing_it(tmp_path: Path) -> None:
    """The message must not lead anybody to install it without its hash."""
    (tmp_path / "some-1-py3-none-any.whl").write_bytes(b"not the one")
    (tmp_path / "lock").write_text(f"some==1 --hash=sha256:{'0' * 64}\n")
    done = pip("--no-index", "--find-links", tmp_path, "--require-hashes", "-r", tmp_path / "lock")
    assert done.returncode == 1
    assert "A package is not the one that the lock file names" in done.stderr
    assert "do not install it in another way" in done.stderr


def test_make_with_a_package_that_cannot_be_compiled_says_what_to_install(tmp_path: Path) -> None:
    program = tmp_path / "pip"
    program.write_text("#!/bin/sh\necho \"error: command 'gcc' failed: No such file or directory\" >&2\nexit 1\n")
    program.chmod(0o755)
    done = subprocess.run([SET_UP, "pip", program, "install"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "sudo apt install build-essential python3-dev libffi-dev" in done.stderr


def test_successful_pip_keeps_its_own_output(tmp_path: Path) -> None:
    done = subprocess.run([SET_UP, "pip", "echo", "a warning"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "a warning\n")


def test_set_up_script_passes_shellcheck() -> None:
    need("shellcheck")
    subprocess.run(["shellcheck", SET_UP], check=True, timeout=60)
