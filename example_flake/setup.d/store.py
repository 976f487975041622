"""The Nix side: settings for this process, and trees added to the store by their content."""

import grp
import os
from pathlib import Path

from debian import run

DAEMON_SOCKET = Path("/nix/var/nix/daemon-socket/socket")


def nix_config(existing: str) -> str:
    """The user's NIX_CONFIG with what the example needs; nothing is written to any configuration file."""
    wanted = ["extra-experimental-features = nix-command flakes", "substituters ="]
    if os.geteuid() == 0 and not DAEMON_SOCKET.exists() and not _has_build_users():
        wanted.append("build-users-group =")
    lines = existing.splitlines()
    return "\n".join(lines + [line for line in wanted if line not in lines])


def _has_build_users() -> bool:
    try:
        return bool(grp.getgrnam("nixbld").gr_mem)
    except KeyError:
        return False


def are_valid(paths: list[str]) -> bool:
    """Whether all paths are in the store."""
    return run("nix-store", "--check-validity", "--print-invalid", *paths) == ""


def add(tree: Path, root: Path) -> dict[str, str]:
    """Add a tree under its folder's name and keep it alive by the link root; returns its path and sha256."""
    path = run("nix-store", "--add-fixed", "--recursive", "sha256", tree).strip()
    root.parent.mkdir(parents=True, exist_ok=True)
    run("nix-store", "--realise", path, "--add-root", root, "--indirect")
    digest = run("nix-store", "--query", "--hash", path).strip()
    return {"path": path, "sha256": digest.removeprefix("sha256:")}
