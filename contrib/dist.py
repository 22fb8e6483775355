"""Builds what a release consists of: sdist, wheel and their SHA-256 sums, the same bytes from the same commit.

    python -m contrib.dist [DIRECTORY]

Both are built from a copy of the last commit, never from the working tree, and carry that commit's time. setuptools is
the one that is installed here: `make dist` has it from the lock file, so that anybody can build the same bytes.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

_HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def last_commit() -> int:
    """When the last commit was made, in seconds since 1970."""
    return int(_git("log", "-1", "--format=%ct"))


def export(directory: Path) -> Path:
    """The files of the last commit, in a new directory `source` in `directory`."""
    source = directory / "source"
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "HEAD"))) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(source, filter="data")
        else:  # Python before 3.11.4; the archive is git's own
            archive.extractall(source)
    return source


def build(source: Path, target: Path, epoch: int) -> tuple[Path, Path]:
    """Build sdist and wheel from the directory `source` into `target`. Returns their paths.

    `epoch` is the time that everything in them has, in seconds since 1970. Raises CalledProcessError.
    """
    with tempfile.TemporaryDirectory() as made:
        sdist, wheel = (_run_hook(name, source, Path(made), epoch) for name in ("build_sdist", "build_wheel"))
        target.mkdir(parents=True, exist_ok=True)
        _normalise(sdist, target / sdist.name, epoch)
        shutil.copyfile(wheel, target / wheel.name)
    return target / sdist.name, target / wheel.name


def _run_hook(name: str, source: Path, target: Path, epoch: int) -> Path:
    """Have setuptools build one file into `target`; a process for each, because setuptools leaves the first one's
    settings behind."""
    environment = {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run(
        [sys.executable, "-c", _HOOK, name, str(target)],
        cwd=source,
        env={"PATH": os.environ["PATH"], **environment},
        umask=0o022,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return target / done.stdout.split()[-1]


def _normalise(sdist: Path, target: Path, epoch: int) -> None:
    """Write an archive again without what differs between two machines: order, owner, times and the modes of files."""
    with tarfile.open(sdist) as old, io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as new:
            for member in sorted(old.getmembers(), key=lambda member: member.name):
                clean = tarfile.TarInfo(member.name)
                clean.type, clean.size, clean.mtime, clean.linkname = member.type, member.size, epoch, member.linkname
                clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                new.addfile(clean, old.extractfile(member) if member.isfile() else None)
        with target.open("wb") as file, gzip.GzipFile("", "wb", 9, file, epoch) as zipped:
            zipped.write(packed.getvalue())


def write_sums(paths: tuple[Path, ...], target: Path) -> None:
    """Write the SHA-256 of the files, as `sha256sum --check` reads it."""
    target.write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths))


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, stdout=subprocess.PIPE).stdout


def main(target: Path) -> None:
    """Build into `target`, and say what was built."""
    if _git("status", "--porcelain", "--untracked-files=no"):
        print("note: changes that are not committed are not in it", file=sys.stderr)
    with tempfile.TemporaryDirectory() as directory:
        built = build(export(Path(directory)), target, last_commit())
    write_sums(built, target / "SHA256SUMS")
    print((target / "SHA256SUMS").read_text(), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
