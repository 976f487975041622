"""KVM or TCG: found out by running a guest, since a /dev/kvm that opens may still not run one."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.vm.probe_guest import EXIT_TOO_SLOW, EXIT_WORKS, PROBE_ARGS, PROBE_SECONDS, probe_image

_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROGRAMS = ("qemu-kvm", "qemu-system-x86_64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """What the VMs use: name is `kvm` or `tcg`, why says how that is known."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def known(cache: Path) -> Accelerator | None:
    """The result of a probe since this machine was booted, None when there is none."""
    try:
        entry = json.loads((cache / "accelerator.json").read_text())
        return Accelerator(name=entry["name"], why=entry["why"]) if entry["for"] == _fingerprint() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def choose(cache: Path, store_paths: Sequence[str], progress: Callable[[str], None]) -> Accelerator:
    """KVM where a guest runs under it, else TCG; probed with the QEMU among `store_paths`, once per boot."""
    if (answer := known(cache)) is not None:
        return answer
    progress("running a small guest to see whether KVM works")
    answer = probe(_find_qemu(store_paths))
    _remember(cache, answer)
    return answer


def probe(qemu: str) -> Accelerator:
    """Run the probe's guest under KVM; any answer but its own `it works` means TCG."""
    if platform.machine() != "x86_64":
        return Accelerator(name="kvm", why="not probed on this CPU") if _may_open() else _tcg("no /dev/kvm")
    if not _DEVICE.exists():
        return _tcg("no /dev/kvm")
    if not _may_open():
        return _tcg("/dev/kvm may not be opened: add yourself to the group kvm")
    match _run_guest(qemu):
        case status if status == EXIT_WORKS:
            return Accelerator(name="kvm", why="a guest runs under it")
        case status if status == EXIT_TOO_SLOW:
            return _tcg("KVM opens, but a guest crawls under it")
    return _tcg("KVM opens, but no guest runs under it")


def _run_guest(qemu: str) -> int:
    """The exit status of the probe's guest; -1 when it had to be ended or could not be started."""
    with tempfile.TemporaryDirectory(prefix="pnx-") as folder:
        image = Path(folder, "guest")
        image.write_bytes(probe_image())
        try:
            argv = (qemu, *PROBE_ARGS, "-accel", "kvm", "-bios", str(image))
            return proc.run(argv, timeout=PROBE_SECONDS, cwd=Path(folder), check=False).status
        except PytestNixosError:
            return -1


def _tcg(why: str) -> Accelerator:
    return Accelerator(name="tcg", why=why)


def _may_open() -> bool:
    return os.access(_DEVICE, os.R_OK | os.W_OK)


def _find_qemu(store_paths: Sequence[str]) -> str:
    """The QEMU that the machines will use; the one on PATH when none is among the store paths."""
    candidates = (Path(path, "bin", program) for path in store_paths for program in _PROGRAMS)
    return next((str(found) for found in candidates if found.exists()), _PROGRAMS[-1])


def _fingerprint() -> str:
    """What the answer holds for: this boot, this user's access to the device."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{boot} {_DEVICE.exists()} {_may_open()}"


def _remember(cache: Path, answer: Accelerator) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache, delete=False) as file:
            json.dump({"name": answer.name, "why": answer.why, "for": _fingerprint()}, file)
        Path(file.name).replace(cache / "accelerator.json")
    except OSError:
        return  # a cache that can't be written costs a probe in each session, nothing else
