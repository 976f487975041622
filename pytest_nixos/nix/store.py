"""The closure of store paths, and a store of the session's own that holds it and nothing else."""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.errors import CommandFailed, StoreError
from pytest_nixos.model import Closure
from pytest_nixos.nix.command import Nix

Progress = Callable[[int, int], None]
_COPIES = 4  # more `cp` side by side than that are slower on every disk tried
_HEADROOM_BYTES = 64 << 20


def closure(nix: Nix, roots: Sequence[str]) -> Closure:
    """All store paths that `roots` need, in the registration format of nixpkgs' closureInfo.

    Asked from the store's own graph (`nix-store --query --requisites`, `--dump-db`), which every version of
    Nix answers alike, in milliseconds. Raises CommandFailed when a root is not in the store.
    """
    if not roots:
        return Closure(paths=(), nar_bytes=0, registration="")
    paths = sorted(set(nix.run(nix.store("--query", "--requisites", *roots)).stdout.decode().split()))
    registration = nix.run(nix.store("--dump-db", *paths)).stdout.decode()
    return Closure(paths=tuple(paths), nar_bytes=nar_bytes(registration), registration=registration)


def nar_bytes(registration: str) -> int:
    """The sum of the NAR sizes, in bytes, in a registration: path, hash, size, deriver, count, references."""
    lines = registration.splitlines()
    total = at = 0
    while at + 4 < len(lines):
        total += int(lines[at + 2])
        at += 5 + int(lines[at + 4])
    return total


def copy_closure(nix: Nix, wanted: Closure, root: Path, progress: Progress = lambda done, total: None) -> None:
    """Make `root` a Nix store (`root/nix/store` and its database) that holds `wanted`.

    Files are copied as `cp --reflink=auto` does: shared blocks where the file system can, else real copies.
    progress is called with (paths copied, all paths).
    Raises StoreError when there is no room for it, before or during the copy.
    """
    target = root / nix.store_dir.lstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    _check_room(wanted, target)
    done = 0
    with ThreadPoolExecutor(_COPIES) as pool:
        for copied in pool.map(lambda paths: _copy(paths, target), _shares(wanted.paths, 4 * _COPIES)):
            done += copied
            progress(done, len(wanted.paths))
    nix.run(nix.store("--store", str(root), "--load-db"), stdin=wanted.registration.encode())


def _shares(paths: Sequence[str], count: int) -> list[Sequence[str]]:
    return [share for share in (paths[at::count] for at in range(count)) if share]


def _copy(paths: Sequence[str], target: Path) -> int:
    try:
        proc.run(("cp", "--archive", "--reflink=auto", "--no-clobber", "--", *paths, str(target)))
    except CommandFailed as error:
        reason = error.output.strip().splitlines()[-1:] or ["cp failed"]
        raise StoreError(
            f"the store paths could not be copied to {target}: {reason[0]}",
            "free some space, or name another folder with --nixos-dir",
        ) from None
    return len(paths)


def _check_room(wanted: Closure, target: Path) -> None:
    """Fail before the disk is full; file systems with reflinks need next to nothing."""
    free = shutil.disk_usage(target).free
    if free > wanted.nar_bytes + _HEADROOM_BYTES or _reflinks(wanted.paths, target):
        return
    raise StoreError(
        f"copying {len(wanted.paths)} store paths needs {wanted.nar_bytes + _HEADROOM_BYTES >> 20} MiB, "
        f"but {target} has {free >> 20} MiB free",
        "free some space, or name another folder with --nixos-dir",
    )


def _reflinks(paths: Iterable[str], target: Path) -> bool:
    """Whether files of the store can be cloned to `target` (same file system, btrfs or XFS or the like)."""
    sample = next((path for path in paths if Path(path).is_file()), None)
    if sample is None:
        return False
    clone = target / ".reflink-probe"
    done = proc.run(("cp", "--reflink=always", "--", sample, str(clone)), check=False)
    clone.unlink(missing_ok=True)
    return done.status == 0


def remove_tree(root: Path) -> None:
    """Delete a folder, read-only store paths in it included; nothing is raised for what resists."""
    for folder, _, _ in os.walk(root):
        with contextlib.suppress(OSError):
            Path(folder).chmod(stat.S_IRWXU)
    shutil.rmtree(root, ignore_errors=True)
