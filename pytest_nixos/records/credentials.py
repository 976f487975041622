"""Secrets out of the environment: once taken, no child of this process sees them, not even in /proc."""

import ctypes
import os
from collections.abc import Iterable, MutableMapping
from pathlib import Path

# By kind of store: the variables that are secrets of it.
OF_SCHEME = {
    "git": ("GITHUB_TOKEN", "GH_TOKEN"),
    "gha": ("GITHUB_TOKEN", "GH_TOKEN", "ACTIONS_RUNTIME_TOKEN"),
    "github-runs": ("GITHUB_TOKEN", "GH_TOKEN"),
    "nix": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "CACHIX_AUTH_TOKEN",
        "CACHIX_SIGNING_KEY",
        "ATTIC_TOKEN",
    ),
}
SECRET_KEY = "PYTEST_NIXOS_SECRET_KEY"
_ENV_START, _ENV_END = 50, 51  # fields of proc_pid_stat(5)


def take(names: Iterable[str], env: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """The values of these variables, those that have one, which are then gone from `env`.

    Of this process's own environment they are wiped where the kernel shows them to others of the same user, too:
    /proc/PID/environ, which shows what a process was started with.
    """
    taken = {name: value for name in dict.fromkeys(names) if (value := env.pop(name, ""))}
    if env is os.environ:
        _wipe(taken)
    return taken


def _wipe(names: Iterable[str]) -> None:
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()  # from the third on
        start, end = int(fields[_ENV_START - 3]), int(fields[_ENV_END - 3])
        block = Path("/proc/self/environ").read_bytes()
    except (OSError, ValueError, IndexError):
        return  # a kernel that does not show it has nothing to wipe
    if len(block) != end - start:
        return
    position = 0
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and os.fsdecode(name) in names:
            ctypes.memset(start + position + len(name) + 1, ord("*"), len(value))
        position += len(entry) + 1
