"""What this machine has to give: memory and cores that are free for us. Standard library only."""

import os
from collections.abc import Iterator
from pathlib import Path

# Control groups by version: where they are mounted, the files of a group's limit and use, both in bytes.
_V2 = (Path("/sys/fs/cgroup"), "memory.max", "memory.current")
_V1 = (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def free_memory_bytes() -> int:
    """Memory that can be taken without swapping, in bytes: the machine's, or what our control groups leave of it."""
    return min([_machine_free_bytes(), *_group_free_bytes()])


def _machine_free_bytes() -> int:
    """`MemAvailable` of proc(5)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_free_bytes() -> Iterator[int]:
    """What each of our groups leaves, from our own upwards: its limit less what it uses, unused page cache apart."""
    for (mount, limit, used), group in _own_groups():
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            try:
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                # Version 1 has a figure of the group alone, and one with the groups below it, which its use includes.
                cache = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
                yield max(0, int((folder / limit).read_text()) - int((folder / used).read_text()) + cache)
            except (OSError, ValueError):
                continue  # no such group, or no limit ("max")


def _own_groups() -> Iterator[tuple[tuple[Path, str, str], Path]]:
    """This process's memory groups, by cgroups(7): `0::PATH` is version 2, `N:memory:PATH` version 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield _V2, _V2[0] / path.lstrip("/")
        elif "memory" in controllers.split(","):
            yield _V1, _V1[0] / path.lstrip("/")
