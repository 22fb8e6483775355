"""The lock files: they name everything that is installed by its hash, and nothing else under the same name is
installed."""

import base64
import configparser
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.destinations.tools import need

ROOT = Path(__file__).parents[2]
BASE, TEST, UV = (ROOT / f"requirements{which}.lock" for which in ("", "-test", "-uv"))

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64", "armv7l")


def locked(path: Path) -> list[tuple[Requirement, list[str]]]:
    """Each line of a lock file, and its hashes."""
    text = re.sub(r" \\\n", " ", re.sub(r"^ *#.*\n", "", path.read_text(), flags=re.M))
    lines = [line.split(" --hash=") for line in text.splitlines()]
    return [(Requirement(line), [one.strip() for one in hashes]) for line, *hashes in lines]


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def pins(path: Path, where: dict[str, str]) -> dict[str, str]:
    """The versions by name that are installed in this environment; a name never occurs twice."""
    there = [one for one, _ in locked(path) if one.marker is None or one.marker.evaluate(where)]
    found = {one.name: str(one.specifier).removeprefix("==") for one in there}
    assert len(found) == len(there)
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def demands(section: str, key: str) -> list[Requirement]:
    """The requirements in this key of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in parser[section][key].splitlines() if line.strip()]


def build_system() -> Requirement:
    found = re.search(r'^requires = \["(.*)"\]$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found is not None
    return Requirement(found[1])


@pytest.mark.parametrize("path", [BASE, TEST, UV], ids=lambda path: path.name)
def test_each_line_of_a_lock_file_is_one_version_with_hashes(path: Path) -> None:
    lines = locked(path)
    assert lines
    for line, hashes in lines:
        assert re.fullmatch(r"==[\w.]+", str(line.specifier)) and line.url is None and not line.extras
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes)
    assert not re.search("^ *-(?!-hash=)", path.read_text(), re.M), "no other option: no index, no file, no link"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_of_setup_cfg_is_locked_at_an_allowed_version(python: str, machine: str) -> None:
    where = environment(python, machine)
    base, test = pins(BASE, where), pins(TEST, where)
    needed = [*demands("options", "install_requires"), build_system()]
    for path, wanted in ((base, needed), (test, demands("options.extras_require", "test"))):
        for one in wanted:
            if one.marker is None or one.marker.evaluate(where):
                assert normal(one.name) in path and one.specifier.contains(path[normal(one.name)]), f"{one}: make lock"
    there = {name: version for name, version in base.items() if name != build_system().name}
    assert {name: test.get(name) for name in there} == there, "the tests run with what operators install"


@pytest.mark.parametrize("path", [BASE, TEST], ids=lambda path: path.name)
def test_dependencies_of_locked_packages_are_locked(path: Path) -> None:
    """Checked for the packages that are installed here."""
    there = pins(path, {})
    for name in there:
        try:
            brought = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # this environment need not have all
            continue
        for one in map(Requirement, brought):
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                assert normal(one.name) in there, f"{name} needs {one.name}"


# The attack: an index, or somebody on the way to it, delivers something else


def wheel(directory: Path, name: str, version: str, text: str = "") -> Path:
    """A whole and installable package of this name."""
    module = name.replace("-", "_")
    path = directory / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"# {text}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {
        at: base64.urlsafe_b64encode(hashlib.sha256(data.encode()).digest()).rstrip(b"=") for at, data in files.items()
    }
    files[f"{info}/RECORD"] = "".join(f"{at},sha256={sums[at].decode()},\n" for at in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for at, data in files.items():
            archive.writestr(at, data)
    return path


def offline(wheels: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return kept | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}


def test_make_installs_no_foreign_package_under_a_locked_name(tmp_path: Path) -> None:
    need("make")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, version in pins(BASE, {}).items():
        wheel(wheels, name, version)
    venv, into = tmp_path / "venv", tmp_path / "into"
    (venv / "bin").mkdir(parents=True)
    pip = venv / "bin" / "pip"  # making a whole environment takes longer than all the rest
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@" --target {into}\n')
    pip.chmod(0o755)
    done = subprocess.run(
        ["make", "PYTHON=true", f"VENV={venv}", f"{venv}/.ready"],
        cwd=ROOT,
        env={name: value for name, value in offline(wheels).items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and not (venv / ".ready").exists()
    assert "DO NOT MATCH THE HASHES" in done.stderr, done.stderr
    assert not into.exists(), "nothing is installed of what was checked before"


def test_package_is_refused_if_one_digit_of_its_hash_differs(tmp_path: Path) -> None:
    made = wheel(tmp_path, "lightningd-backup-test-of-hashes", "1.0", "as its author has made it")
    good = hashlib.sha256(made.read_bytes()).hexdigest()
    lock = tmp_path / "a.lock"

    def install() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pip", "install", "--require-hashes", "--requirement", str(lock)]
        target = ["--target", str(tmp_path / "into")]
        return subprocess.run([*command, *target], env=offline(tmp_path), capture_output=True, text=True, timeout=60)

    for digits, wanted in ((f"{int(good[0], 16) ^ 1:x}{good[1:]}", 1), (good, 0)):
        lock.write_text(f"lightningd-backup-test-of-hashes==1.0 --hash=sha256:{digits}\n")
        done = install()
        assert done.returncode == wanted, done.stderr
        assert (tmp_path / "into").exists() == (wanted == 0)
    assert "DO NOT MATCH THE HASHES" not in done.stderr
