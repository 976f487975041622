"""From an unpacked kernel package make the tree `debian-kernel`: vmlinux, modules/*.ko, modules/order*."""

import gzip
import lzma
import re
import shutil
from pathlib import Path

from debian import SetupError
from programs import unpacked

# What each guest needs, and what some need besides, by the name of the list that the guest reads. What these need
# themselves is found in the modules. ext4's checksums ask for crc32c by name.
MODULES = {
    "order": (
        "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "9p", "9pnet_virtio",
        "crc32c_generic", "ext4",
    ),
    "order-systemd": ("autofs4", "erofs", "overlay"),
    "order-graphics": ("bochs",),
}  # fmt: skip


def make_kernel(packages: Path, tree: Path) -> None:
    """Write the uncompressed kernel (it boots through its PVH entry) and the modules in loading order."""
    image = next((packages / "kernel" / "boot").glob("vmlinuz-*"), None)
    if image is None:
        raise SetupError("the kernel's package holds no /boot/vmlinuz-*")
    (tree / "modules").mkdir(parents=True)
    (tree / "vmlinux").write_bytes(_vmlinux(packages, image.read_bytes()))
    files = {_name(file): file for file in (packages / "kernel").glob("**/lib/modules/**/*.ko*")}
    seen: list[str] = []
    for order, names in MODULES.items():
        start = len(seen)
        for name in names:
            _add_module(packages, files, name, tree / "modules", seen)
        (tree / "modules" / order).write_text("".join(f"{name}\n" for name in seen[start:]))


def _vmlinux(packages: Path, image: bytes) -> bytes:
    """The payload of a bzImage; where it lies is in the header (Linux boot protocol 2.08)."""
    start = (image[0x1F1] + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    # The last four bytes are the size of the result, not part of the compressed stream.
    vmlinux = _decompress(packages, image[start : start + length - 4])
    if not vmlinux.startswith(b"\x7fELF"):
        raise SetupError("the kernel's image holds no ELF file")
    return vmlinux


def _decompress(packages: Path, data: bytes) -> bytes:
    if data.startswith(b"\xfd7zXZ"):
        return lzma.decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return unpacked(packages / "all", "zstd", "-dc", stdin=data)
    return data


def _name(file: Path) -> str:
    return file.name.split(".ko")[0].replace("-", "_")


def _add_module(packages: Path, files: dict[str, Path], name: str, folder: Path, order: list[str]) -> None:
    """Add a module after the modules it depends on; one that is missing is built into the kernel."""
    name = name.replace("-", "_")
    if name in order or name not in files:
        return
    data = _decompress(packages, files[name].read_bytes())
    depends = re.search(rb"\0depends=([^\0]*)\0", data)
    for other in depends[1].decode().split(",") if depends else []:
        _add_module(packages, files, other, folder, order)
    (folder / f"{name}.ko").write_bytes(data)
    shutil.copymode(files[name], folder / f"{name}.ko")
    order.append(name)
