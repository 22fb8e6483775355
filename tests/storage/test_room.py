"""How much memory there is for files, as `/proc` and the control groups of both versions tell it."""

from pathlib import Path

import pytest

from backends.system.room import room_for_pages

MEMINFO = "MemTotal:  8000000 kB\nMemFree:  100 kB\nMemAvailable:  4000 kB\n"
MIB = 1 << 20


def system(root: Path, **files: str) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_this_machine_tells() -> None:
    room = room_for_pages()
    assert room is not None
    assert room > MIB


def test_machine_without_control_groups_has_what_is_available(tmp_path: Path) -> None:
    assert room_for_pages(system(tmp_path)) == 4000 << 10


def test_unreadable_system_tells_nothing(tmp_path: Path) -> None:
    assert room_for_pages(tmp_path) is None


def test_group_of_version_2_limits_what_its_processes_leave(tmp_path: Path) -> None:
    system(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/node.slice/lightningd.service\n",
            "sys/fs/cgroup/node.slice/lightningd.service/memory.max": "max\n",
            "sys/fs/cgroup/node.slice/lightningd.service/memory.stat": "anon 5\n",
            "sys/fs/cgroup/node.slice/memory.max": f"{3 * MIB}\n",
            "sys/fs/cgroup/node.slice/memory.stat": f"file 7\nanon {MIB}\nanon_thp 9\n",
        },
    )
    assert room_for_pages(tmp_path) == 2 * MIB


def test_group_of_version_1_limits_what_its_processes_leave(tmp_path: Path) -> None:
    system(
        tmp_path,
        **{
            "proc/self/cgroup": "9:cpu:/other\n4:memory:/docker/1234\n0::/\n",
            "sys/fs/cgroup/memory/docker/1234/memory.limit_in_bytes": f"{3 * MIB}\n",
            "sys/fs/cgroup/memory/docker/1234/memory.stat": f"rss 1\ntotal_rss {MIB}\n",
        },
    )
    assert room_for_pages(tmp_path) == 2 * MIB


def test_group_of_a_container_whose_path_is_the_hosts(tmp_path: Path) -> None:
    system(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/system.slice/docker-1234.scope\n",
            "sys/fs/cgroup/memory.max": f"{MIB}\n",
            "sys/fs/cgroup/memory.stat": f"anon {2 * MIB}\n",
        },
    )
    assert room_for_pages(tmp_path) == 0


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::/../../etc\n", "4:memory:/a\0b\n"])
def test_nonsense_limits_nothing(tmp_path: Path, text: str) -> None:
    assert room_for_pages(system(tmp_path, **{"proc/self/cgroup": text})) == 4000 << 10
