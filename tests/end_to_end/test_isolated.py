"""The installed executables, in an environment where other modules have the names of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.world import World, said_at, spawned
from tests.fake_lightningd import History

BIN = Path(sys.executable).parent
PLUGIN, CLI = BIN / "lightningd-backup", BIN / "backup-cli"

pytestmark = pytest.mark.skipif(not PLUGIN.exists(), reason="the executables are not installed beside this Python")

NAMES = [
    "pyln/client",
    "pyln",
    "plugin",
    "backends",
    "psutil",
    "apsw",
    "click",
    "json",
    "inspect",
    "logging",
    "sitecustomize",
]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory of somebody else's modules, with the names of ours and of our dependencies."""
    modules = tmp_path / "modules"
    for name in NAMES:
        package = modules / name
        package.mkdir(parents=True, exist_ok=True)
        # An exception of sitecustomize's is printed by Python, and no more comes of it.
        text = "" if name in ("pyln", "sitecustomize") else f"raise SystemExit('{name} was run')"
        (package / "__init__.py").write_text(text)
    (modules / "psutil.py").write_text("raise SystemExit('psutil was run')")
    return modules


def only_path(modules: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(modules)}


def working_directory(modules: Path) -> dict[str, str]:
    return {"PYTHONPATH": f":{modules}:"}


def optimized(modules: Path) -> dict[str, str]:
    return {"PYTHONOPTIMIZE": "2"}


def everything(modules: Path) -> dict[str, str]:
    return only_path(modules) | optimized(modules) | {
        "PYTHONSTARTUP": str(modules / "json" / "__init__.py"),
        "PYTHONWARNINGS": "error",
        "PYTHONINSPECT": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHON_VERSION": "3.99",
    }  # fmt: skip


@pytest.mark.parametrize("environment", [only_path, working_directory, optimized, everything])
def test_plugin_runs_with_hostile_modules_on_pythonpath(
    lived: World, history: History, hostile: Path, environment: Callable[[Path], dict[str, str]]
) -> None:
    lived.environment = environment(hostile)
    with lived.node(command=[str(PLUGIN)]) as node:
        assert {"backup-status", "backup-compact"} <= {method["name"] for method in node.manifest["rpcmethods"]}
        node.play(history.notes(20))
        if environment is everything:  # the process that compacts is another Python
            node.rpc("backup-compact")
            assert node.wire.listen(30, lambda: any("compaction ended" in line for _, line in node.logs)), node.logs
    assert node.stderr == ""
    assert said_at(node, "broken") == []
    lived.assert_restored_equals_the_nodes()
    said = spawned(CLI, "verify", lived.url, environment=environment(hostile), directory=hostile)
    assert said.code == 0, said


def test_plugin_ignores_modules_in_the_users_own_site_packages(lived: World, hostile: Path, tmp_path: Path) -> None:
    """With the system's Python, a user's own packages come before the installed ones."""
    user = tmp_path / "base" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    user.parent.mkdir(parents=True)
    hostile.rename(user)
    venv = tmp_path / "venv"
    # One that sees the system's packages sees the user's, too.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", venv], check=True)
    script = venv / "bin" / "lightningd-backup"
    script.write_text(PLUGIN.read_text().replace(str(BIN), str(venv / "bin")))
    script.chmod(0o755)
    packages = next((venv / "lib").glob("python*/site-packages"))
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "ours.pth").write_text("\n".join(f"import site; site.addsitedir({path!r})" for path in ours))
    lived.environment = {"PYTHONUSERBASE": str(tmp_path / "base")}
    assert "json was run" not in spawned(script, environment=lived.environment).err
    with lived.node(command=[str(script)]) as node:
        node.play(History(lived.version).notes(2))
    assert said_at(node, "broken") == []


def test_plugin_installed_with_pip_target_finds_its_modules_by_pythonpath(lived: World, tmp_path: Path) -> None:
    """pip install --target DIR puts the packages into DIR and the scripts into DIR/bin."""
    root = Path(__file__).parents[2]
    target = tmp_path / "target"
    (target / "bin").mkdir(parents=True)
    for name in ("plugin", "backends", "backup_cli"):
        (target / name).symlink_to(root / name)
    script = target / "bin" / "lightningd-backup"
    script.write_text(PLUGIN.read_text())
    script.chmod(0o755)
    lived.environment = {"PYTHONPATH": str(target)}
    with lived.node(command=[str(script)]) as node:
        node.play(History(lived.version).notes(2))
    assert said_at(node, "broken") == []


def test_second_start_of_python_keeps_arguments_and_exit_code(lived: World, tmp_path: Path) -> None:
    said = spawned(CLI, "verify", "no url", "--json x", environment={"PYTHONPATH": "/nowhere"})
    plain = spawned(CLI, "verify", "no url", "--json x")
    assert said == plain
    assert said.code != 0
    said = spawned(PLUGIN, environment={"PYTHONPATH": "/nowhere"}, directory=tmp_path)
    assert f"important-plugin={PLUGIN}" in said.out
    assert said.code == 0  # lightningd's plugin manager takes anything else for a broken plugin


def test_python_is_started_again_only_if_pythonpath_is_set(tmp_path: Path) -> None:
    harmless = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHON_VERSION": "3.99", "PYTHONUTF8": "1"}
    for environment, starts in ((harmless, 1), (harmless | {"PYTHONPATH": "/nowhere"}, 2)):
        trace = tmp_path / f"trace-{starts}"
        command = ["strace", "-f", "-e", "trace=execve", "-o", str(trace), str(CLI), "--version"]
        try:
            subprocess.run(command, check=True, capture_output=True, env=_bare() | environment)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("strace does not work here")
        assert trace.read_text().count("execve(") == starts


def _bare() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.mark.parametrize("delay", [0.01, 0.03, 0.06, 0.1])
def test_ctrl_c_while_modules_are_loaded_prints_no_traceback(delay: float) -> None:
    """Python's own SIGINT handler prints one until the program has installed its own."""
    program = "from backup_cli.isolated import backup_cli; print('begins', flush=True); backup_cli()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begins\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert said == ""
