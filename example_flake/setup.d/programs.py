"""From unpacked packages make the trees `debian-busybox` and `debian-programs`.

The trees hold the packages' files unchanged, sorted into bin, lib and share: programs still look for their
loader in /lib64. The derivation in lib/tools.nix gives them the store's one.
"""

import shutil
import subprocess
from pathlib import Path

from debian import SetupError, run

ARCH = "x86_64-linux-gnu"
BINARIES = (
    "bash", "mke2fs", "nc.openbsd", "patchelf", "python3.*", "qemu-img", "qemu-system-x86_64", "vde_switch",
)  # fmt: skip
FIRMWARE = (
    "qemu/kvmvapic.bin", "qemu/linuxboot*.bin", "qemu/multiboot*.bin", "qemu/pvh.bin",
    "seabios/bios-256k.bin", "seabios/vgabios-stdvga.bin",
)  # fmt: skip
# Loaded by name at run time, so no program lists them as needed.
PLUGINS = ("qemu/accel-tcg-x86_64.so", "vdeplug/libvdeplug_vde.so", "libgcc_s.so.1")
PYTHON_DROPS = (
    "__pycache__", "config-*", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sitecustomize.py",
    "sqlite3", "test", "tkinter", "turtledemo", "venv", "EXTERNALLY-MANAGED",
    "_dbm.*", "_gdbm.*", "_curses*.so", "_sqlite3.*", "_tkinter.*", "nis.*",
)  # fmt: skip


def make_busybox(packages: Path, tree: Path) -> None:
    """The static busybox with a relative link for each of its applets."""
    binary = _find(packages / "all", "busybox", _BIN)
    target = tree / "bin" / "busybox"
    target.parent.mkdir(parents=True)
    shutil.copy2(binary, target)
    for applet in run(target, "--list").split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")


def make_programs(packages: Path, tree: Path) -> None:
    """QEMU, VDE, Python and the shell's tools, with exactly the libraries that they need."""
    root = packages / "all"
    names = [*BINARIES, *sorted(file.name for file in (packages / "coreutils").glob("**/bin/*"))]
    for name in names:
        _copy(_find(root, name, _BIN), tree / "bin")
    for pattern in FIRMWARE:
        for file in (root / "usr/share").glob(pattern):
            _copy(file, tree / "share/qemu")
    _copy(_find(root, PLUGINS[0], _LIB), tree / "lib" / ARCH / "qemu")  # where QEMU looks, seen from its bin
    for name in PLUGINS[1:]:
        _copy(_find(root, name, _LIB), tree / "lib")
    _copy_python(root / "usr/lib", tree / "lib")
    _copy_libraries(root, tree)


_BIN = ("usr/bin", "bin", "usr/sbin", "sbin")
_LIB = (f"usr/lib/{ARCH}", f"lib/{ARCH}", "usr/lib64", "lib64")


def _find(root: Path, name: str, folders: tuple[str, ...]) -> Path:
    for folder in folders:
        for file in sorted((root / folder).glob(name)):
            if file.exists() and not (name == "python3.*" and file.name.endswith("-config")):
                return file
    raise SetupError(f"the packages hold no {name}")


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, folder / file.name)  # follows links: a library lies under the name it is asked for


def _copy_python(libs: Path, target: Path) -> None:
    ignore = shutil.ignore_patterns(*PYTHON_DROPS)
    version = sorted(libs.glob("python3.[0-9]*"))[-1]
    shutil.copytree(version, target / version.name, ignore=ignore, ignore_dangling_symlinks=True)
    for name in ("pexpect", "ptyprocess"):
        source = libs / "python3/dist-packages" / name
        shutil.copytree(source, target / "python3/dist-packages" / name, ignore=ignore)


def _copy_libraries(root: Path, tree: Path) -> None:
    """Add what the programs need, what that needs, and so on."""
    todo = [file for file in tree.glob("**/*") if file.is_file() and _is_elf(file)]
    while todo:
        for name in _needed(root, todo.pop()):
            target = tree / "lib" / name
            if not target.exists():
                _copy(_find(root, name, _LIB), tree / "lib")
                todo.append(target)


def _is_elf(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _needed(root: Path, file: Path) -> list[str]:
    return unpacked(root, "patchelf", "--print-needed", file).decode().split()


def unpacked(root: Path, program: str, *args: str | Path, stdin: bytes = b"") -> bytes:
    """Run a program of the unpacked packages by their own loader; returns stdout, SetupError when it fails."""
    loader = _find(root, "ld-linux-x86-64.so.2", _LIB)
    libraries = ":".join(str(root / folder) for folder in _LIB)
    argv = [loader, "--library-path", libraries, _find(root, program, _BIN), *args]
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise SetupError(f"{program} of the unpacked packages failed: {done.stderr.decode()[-300:]}")
    return done.stdout
