"""What a start script and its QEMU are told: options and environment. Pure."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDirs:
    """Where a machine lives: state (disk, QEMU's TMPDIR), shared (seen by all guests), sockets."""

    state: Path
    shared: Path
    sockets: Path

    @property
    def shell(self) -> Path:
        """The socket that the guest's root shell talks through."""
        return self.sockets / "sh"

    @property
    def qmp(self) -> Path:
        """The socket of QEMU's machine protocol."""
        return self.sockets / "qmp"


def options(dirs: MachineDirs, *, allow_reboot: bool, display: bool) -> tuple[str, ...]:
    """QEMU's options for the sockets and the console that the driver needs."""
    return (
        *("-qmp", f"unix:{_value(dirs.qmp)}"),
        *("-chardev", f"socket,id=shell,path={_value(dirs.shell)}"),
        *("-device", "virtio-serial", "-device", "virtconsole,chardev=shell"),
        *("-device", "virtio-rng-pci"),
        *("-serial", "stdio"),
        *(() if allow_reboot else ("-no-reboot",)),
        *(() if display else ("-nographic",)),
    )


def environment(
    base: Mapping[str, str], name: str, dirs: MachineDirs, vlans: Mapping[int, Path], *, allow_reboot: bool
) -> dict[str, str]:
    """The start script's environment. The caller's QEMU_OPTS come last, so that they win."""
    opts = options(dirs, allow_reboot=allow_reboot, display="DISPLAY" in base)
    return {
        **base,
        "TMPDIR": str(dirs.state),
        "USE_TMPDIR": "1",
        "SHARED_DIR": str(dirs.shared),
        "NIX_DISK_IMAGE": str(dirs.state / f"{name}.qcow2"),
        "QEMU_OPTS": " ".join((shlex.join(opts), base.get("QEMU_OPTS", ""))).strip(),
        **{f"QEMU_VDE_SOCKET_{number}": str(path) for number, path in vlans.items()},
    }


def vlan_cards(info_network: str) -> list[str]:
    """The network cards that lead to a VLAN, by the monitor's `info network`."""
    cards: list[str] = []
    card = ""
    for line in info_network.splitlines():
        if found := re.match(r"(\S+): .*type=nic", line):
            card = found[1]
        elif card and re.search(r"type=(?!user\b)", line):
            cards.append(card)
            card = ""
    return cards


def _value(path: Path) -> str:
    """A path as a value in QEMU's comma-separated options."""
    return str(path).replace(",", ",,")
