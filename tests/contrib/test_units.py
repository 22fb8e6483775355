"""The systemd units: well-formed, with what the plugin needs, and calling commands that exist."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.click_check import calls_of_backup_cli, complaint

CONTRIB = Path(__file__).parents[2] / "contrib"
UNITS = sorted(
    path for path in CONTRIB.rglob("*") if path.suffix in (".service", ".timer", ".conf") and "systemd" in str(path)
)
SERVICES = [path for path in UNITS if path.suffix == ".service"]
SECTIONS = {".service": {"Unit", "Service", "Install"}, ".timer": {"Unit", "Timer", "Install"}}


class Settings(dict[str, str]):
    """Systemd's files may give one key several times: later lines are added to the first."""

    def __setitem__(self, key: str, value: str) -> None:
        if key in self and isinstance(self[key], list) and isinstance(value, list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


def read(path: Path) -> dict[str, dict[str, list[str]]]:
    parser = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=("#", ";"), dict_type=Settings, empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return {name: {key: value.split("\n") for key, value in parser[name].items()} for name in parser.sections()}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_unit_file_has_only_known_sections_and_well_formed_keys(path: Path) -> None:
    if path.name == "backup.conf":
        assert set(re.findall(r"^(\w+)=", path.read_text(), re.M)) == {"BACKUP_URL", "NETWORK_DIR", "TEXTFILES"}
        return
    unit = read(path)
    assert set(unit) <= SECTIONS.get(path.suffix, SECTIONS[".service"])
    assert all(re.fullmatch("[A-Z][A-Za-z]+", key) for section in unit.values() for key in section)


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_backup_cli_commands_in_units_exist(path: Path) -> None:
    calls = list(calls_of_backup_cli(path.read_text().replace("ExecStart=", "")))
    assert [(call, why) for call in calls if (why := complaint(call)) is not None] == []
    assert calls or path.name in ("lightningd.service", "backup-disk@.service", "backup-metrics-publish@.service")


@pytest.mark.parametrize(
    "path",
    [path for path in SERVICES if not path.name.startswith(("backup-disk", "backup-metrics-publish"))],
    ids=lambda path: path.name,
)
def test_hardening_of_units_leaves_the_plugin_what_it_needs(path: Path) -> None:
    service = read(path)["Service"]
    assert service["ProtectSystem"] == ["strict"] and service["NoNewPrivileges"] == ["yes"]
    assert not any("~" in line and "@resources" in line for line in service["SystemCallFilter"]), "nice and ionice"
    assert "PrivateDevices" not in service, "usb:// is found by the links in /dev/disk"
    assert "ProcSubset" not in service, "psutil reads /proc/filesystems"
    assert "PrivateNetwork" not in service, "nfs://server/"
    assert service["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]


@pytest.mark.parametrize("name", ["lightningd.service", "lightningd.service.d/50-backup.conf"])
def test_stop_of_the_unit_leaves_the_plugin_alive_as_long_as_the_node(name: str) -> None:
    unit = read(CONTRIB / "systemd" / name)
    assert unit["Service"]["KillMode"] == ["mixed"]
    assert int(unit["Service"]["TimeoutStopSec"][0]) >= 120
    assert unit["Unit"]["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize(
    "name", [*(path.name for path in SERVICES), "lightningd.service.d/50-backup.conf"], ids=lambda name: Path(name).name
)
def test_units_never_dump_core(name: str) -> None:
    assert read(CONTRIB / "systemd" / name)["Service"]["LimitCORE"] == ["0"]


@pytest.mark.parametrize("name", ["lightningd.service", "lightningd.service.d/50-backup.conf"])
def test_compaction_killed_for_lack_of_memory_does_not_stop_the_units_node(name: str) -> None:
    """The compaction makes itself the first process to be killed, and it runs in the node's unit."""
    assert read(CONTRIB / "systemd" / name)["Service"]["OOMPolicy"] == ["continue"]


def test_every_timer_has_its_service() -> None:
    for timer in (path for path in UNITS if path.suffix == ".timer"):
        assert timer.with_suffix(".service") in SERVICES


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_analyze_accepts_all_units(tmp_path: Path) -> None:
    """Checks copies of the units in which all programs exist."""
    for path in UNITS:
        text = re.sub(r"^(Exec\w+=[-+]?)/(usr/local|opt)\S*", r"\1/bin/true", path.read_text(), flags=re.M)
        target = tmp_path / path.relative_to(CONTRIB).relative_to(path.relative_to(CONTRIB).parts[0])
        target.parent.mkdir(exist_ok=True)
        target.write_text(text.replace("/usr/local/lib/lightningd-backup/", "/bin/"))
    names = [path.name.replace("@.", "@bitcoin.") for path in UNITS if path.suffix in (".service", ".timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *names],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if any(name in line for name in names)]
    assert ours == [] and done.returncode == 0, done.stderr


def test_units_run_by_root_keep_only_the_capabilities_they_need() -> None:
    rights = {}
    for path in SERVICES:
        service = read(path)["Service"]
        assert service["NoNewPrivileges"] == ["yes"] and service["UMask"] == ["0077"]
        assert not [line for key in service if key.startswith("Exec") for line in service[key] if line[0] in "+!"]
        rights[path.name] = set(" ".join(service["CapabilityBoundingSet"]).split())
        assert rights[path.name] == set() or "User" not in service
    becomes_another = {"CAP_SETUID", "CAP_SETGID"}
    assert {name: kept for name, kept in rights.items() if kept} == {
        "backup-metrics-publish@.service": becomes_another,
        "backup-disk@.service": becomes_another | {"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"},
    }


@pytest.mark.parametrize(
    ("url", "given"), [("file:///mnt/my disk/b", "file:///mnt/my disk/b"), ("", "--lightning-dir|/var/lib/my node")]
)
def test_metrics_unit_reads_its_url_or_every_destination_of_the_node(tmp_path: Path, url: str, given: str) -> None:
    (line,) = read(CONTRIB / "systemd" / "backup-metrics@.service")["Service"]["ExecStart"]
    stub = tmp_path / "backup-cli"
    stub.write_text("#!/bin/sh\nIFS='|'\necho \"$*\"\nexit 3\n")
    stub.chmod(0o755)
    words = shlex.split(line.replace("/opt/lightningd-backup/bin/backup-cli", str(stub)))
    variables = {"BACKUP_URL": url, "NETWORK_DIR": "/var/lib/my node", "RUNTIME_DIRECTORY": str(tmp_path)}
    subprocess.run(words, env=variables, check=True)
    assert (tmp_path / "figures").read_text() == f"status|{given}|--prometheus\n"


@pytest.mark.parametrize(
    ("url", "given"), [("file:///mnt/my disk/b", "file:///mnt/my disk/b"), ("", "--lightning-dir|/var/lib/my node")]
)
def test_verify_unit_verifies_its_url_or_every_destination_of_the_node(tmp_path: Path, url: str, given: str) -> None:
    """Its exit code is that of the command: with another one, nobody would hear of damage."""
    (line,) = read(CONTRIB / "systemd" / "backup-verify@.service")["Service"]["ExecStart"]
    stub = tmp_path / "backup-cli"
    stub.write_text("#!/bin/sh\nIFS='|'\necho \"$*\"\nexit 3\n")
    stub.chmod(0o755)
    words = shlex.split(line.replace("/opt/lightningd-backup/bin/backup-cli", str(stub)))
    variables = {"BACKUP_URL": url, "NETWORK_DIR": "/var/lib/my node"}
    done = subprocess.run(words, env=variables, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (3, f"verify|{given}|--scratch|/var/tmp\n")


def test_metrics_unit_adds_the_figures_of_a_copy_that_follows(tmp_path: Path) -> None:
    (line,) = read(CONTRIB / "systemd" / "backup-metrics@.service")["Service"]["ExecStart"]
    (follows,) = read(CONTRIB / "systemd" / "backup-follow@.service")["Service"]["ExecStart"]
    assert "/run/backup-follow-%i/figures" in line and follows.endswith("--prometheus /run/backup-follow-%i/figures")
    stub = tmp_path / "backup-cli"
    stub.write_text("#!/bin/sh\necho of the backup\n")
    stub.chmod(0o755)
    (tmp_path / "of-the-copy").write_text("of the copy\n")
    line = line.replace("/run/backup-follow-%i/figures", str(tmp_path / "of-the-copy"))
    words = shlex.split(line.replace("/opt/lightningd-backup/bin/backup-cli", str(stub)))
    variables = {"BACKUP_URL": "u", "NETWORK_DIR": "", "RUNTIME_DIRECTORY": str(tmp_path)}
    subprocess.run(words, env=variables, check=True)
    assert (tmp_path / "figures").read_text() == "of the backup\nof the copy\n"


def test_follow_unit_keeps_its_copy_in_a_directory_that_only_it_may_enter() -> None:
    unit = read(CONTRIB / "systemd" / "backup-follow@.service")
    (words,) = unit["Service"]["ExecStart"]
    assert words.split()[1:4] == ["follow", "${BACKUP_URL}", "/var/lib/" + unit["Service"]["StateDirectory"][0]]
    assert unit["Service"]["StateDirectoryMode"] == ["0700"] and unit["Service"]["User"] == ["lightning"]


def test_empty_metrics_file_does_not_replace_the_published_one(tmp_path: Path) -> None:
    """Otherwise the metrics would vanish, and every alert of this node with them, as long as another node has
    metrics."""
    published, figures = tmp_path / "lightningd-backup-bitcoin.prom", tmp_path / "figures"
    publish = [str(CONTRIB / "systemd" / "publish"), "bitcoin", f"{tmp_path}/", str(figures)]
    one, two = 'lightningd_backup_readable{url="file:///mnt/\u00fc"} 1\n', "lightningd_backup_readable 2\n"
    for written, code, text in ((one, 0, one), ("", 1, one), (two, 0, two)):
        figures.write_text(written)
        assert subprocess.run(publish, capture_output=True, timeout=30).returncode == code
        assert published.read_text() == text
        assert sorted(tmp_path.iterdir()) == [figures, published]


# tell


def tell(directory: Path, sentence: str) -> None:
    done = subprocess.run([CONTRIB / "systemd" / "tell", directory, "broken", sentence], timeout=30)
    assert done.returncode == 0


def test_tell_calls_the_nodes_command_and_does_not_repeat_itself(tmp_path: Path) -> None:
    tell(tmp_path, "nobody listens")
    command = tmp_path / "backup.notify"
    command.write_text('#!/bin/sh\necho "$1 $2 $LIGHTNINGD_BACKUP_DIRECTORY" >> told\n')
    command.chmod(0o700)
    for sentence in ("one", "one", "two  words", "two  words"):
        tell(tmp_path, sentence)
    assert (tmp_path / "told").read_text() == f"broken one {tmp_path}\nbroken two  words {tmp_path}\n"
    stamp = tmp_path / "backup.told-by-unit"
    old = stamp.stat().st_mtime - 3700
    os.utime(stamp, (old, old))
    tell(tmp_path, "two  words")
    assert len((tmp_path / "told").read_text().splitlines()) == 3


# What is written in shell


SCRIPTS = sorted(
    path
    for path in [*CONTRIB.rglob("*"), *(CONTRIB.parent / "tests" / "docs").rglob("*")]
    if path.is_file()
    and path.suffix in ("", ".sh")
    and path.read_bytes()[:2] == b"#!"
    and b"python" not in path.read_bytes()[:40]
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_executable_and_well_formed(path: Path) -> None:
    assert os.access(path, os.X_OK)
    shell = path.read_text().partition("\n")[0].rpartition("/")[2].split()[-1]
    subprocess.run([shell, "-n", path], check=True, timeout=30)
    if shutil.which("shellcheck") is not None:
        subprocess.run(["shellcheck", path], check=True, timeout=60)
