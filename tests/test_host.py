"""What the machine has to give, by files as Linux writes them."""

from pathlib import Path

import pytest

from pytest_nixos import host

GIB = 1 << 30


class Machine:
    """A tree of files in place of /proc and /sys/fs/cgroup."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        # Path(...) / "x" of an absolute path stays below the folder.
        monkeypatch.setattr(host, "Path", lambda *parts: folder / str(Path(*parts)).lstrip("/"))
        monkeypatch.setattr(host, "_V2", (folder / "cg2", *host._V2[1:]))
        monkeypatch.setattr(host, "_V1", (folder / "cg1", *host._V1[1:]))
        self.write("proc/meminfo", "MemTotal:  16777216 kB\nMemAvailable:    8388608 kB\nSwapFree: 1 kB\n")
        self.write("proc/self/cgroup", "0::/\n")

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def group(self, name: str, limit: str, used: int, cache: int) -> None:
        """A group of version 2."""
        self.write(f"cg2/{name}/memory.max", limit)
        self.write(f"cg2/{name}/memory.current", str(used))
        self.write(f"cg2/{name}/memory.stat", f"anon 1\ninactive_file {cache}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_what_is_available_counts(machine: Machine) -> None:
    assert host.free_memory_bytes() == 8 * GIB


def test_no_such_files(machine: Machine) -> None:
    (machine.folder / "proc/self/cgroup").unlink()
    assert host.free_memory_bytes() == 8 * GIB
    machine.write("proc/meminfo", "MemTotal: 1 kB\n")
    assert host.free_memory_bytes() > 0


def test_every_group_above_counts_with_its_page_cache(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/user/session\n")
    machine.group("user/session", "max\n", 1 * GIB, 0)
    machine.group("user", f"{6 * GIB}\n", 4 * GIB, 1 * GIB)
    assert host.free_memory_bytes() == 3 * GIB
    machine.group("user/session", f"{2 * GIB}\n", 1 * GIB, 0)
    assert host.free_memory_bytes() == 1 * GIB


def test_a_group_beyond_its_limit_leaves_nothing(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/a\n")
    machine.group("a", f"{GIB}\n", 2 * GIB, 0)
    assert host.free_memory_bytes() == 0


def test_a_container_sees_its_own_group_as_the_root(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/../../elsewhere\n")
    machine.group(".", f"{5 * GIB}\n", 1 * GIB, 0)
    assert host.free_memory_bytes() == 4 * GIB


def test_version_1(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "12:cpu,cpuacct:/x\n4:memory:/docker/abc\n1:name=systemd:/x\n")
    # In a container the group of that name is not there, and the mount's root is it.
    machine.write("cg1/memory.limit_in_bytes", str(3 * GIB))
    machine.write("cg1/memory.usage_in_bytes", str(2 * GIB))
    machine.write("cg1/memory.stat", f"inactive_file 5\ntotal_inactive_file {GIB}\n")
    assert host.free_memory_bytes() == 2 * GIB
    machine.write("cg1/memory.limit_in_bytes", "9223372036854771712")  # none
    assert host.free_memory_bytes() == 8 * GIB


def test_cores() -> None:
    assert host.cores() >= 1
