"""Download packages with apt and unpack them with dpkg-deb, without installing anything."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = (
    "bash", "busybox-static", "coreutils", "e2fsprogs", "erofs-utils", "netcat-openbsd", "patchelf", "python3",
    "python3-pexpect", "python3-ptyprocess", "qemu-system-x86", "qemu-utils", "vde2", "zstd",
)  # fmt: skip
# What a systemd guest holds, with all that these depend on.
SYSTEMD = (
    "base-files", "bash", "coreutils", "curl", "dash", "dbus", "dbus-user-session", "findutils", "grep", "gzip",
    "hostname", "iproute2", "iputils-ping", "kmod", "less", "libc-bin", "libnss-systemd", "libpam-systemd", "login",
    "mawk", "mount", "netcat-openbsd", "nginx-light", "openssh-client", "openssh-server", "passwd", "procps", "sed",
    "systemd", "systemd-sysv", "tar", "udev", "util-linux", "x11-utils", "xvfb",
)  # fmt: skip
# What stays away with all that it depends on, for apt believes that it is installed: drivers of graphics cards (with
# LLVM) and fonts, which an X server in memory can do without.
SPARED = ("fontconfig-config", "libglx-mesa0")
KERNELS = ("linux-image-amd64", "linux-image-generic")  # Debian's, Ubuntu's
NO_APT = (
    "the example needs Debian's or Ubuntu's apt, and apt-get is not on PATH; "
    "on NixOS use the flake in example_flake/nixos"
)


class SetupError(Exception):
    """Something the user can act on; the message is one sentence."""


def require(program: str, message: str) -> None:
    """Raise SetupError with message unless program is on PATH."""
    if shutil.which(program) is None:
        raise SetupError(message)


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """Run a program and return its stdout; SetupError quotes the end of its stderr when it fails."""
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SetupError(f"`{argv[0]}` cannot be started: {error.strerror}") from None
    if done.returncode:
        raise SetupError(f"`{argv[0]} {argv[1]} …` failed: {done.stderr.strip()[-600:]}")
    return done.stdout


def unpack_packages(cache: Path, work: Path) -> Path:
    """Unpack all packages that the example needs; returns the folder with one root folder per role.

    `all` holds the programs with everything they depend on, `coreutils` that package alone (its list of
    programs), `kernel` the kernel's image and modules, `systemd` a guest's root file system. Archives stay in
    cache for the next time.
    """
    if platform.machine() != "x86_64":
        raise SetupError("the example is for x86_64 machines only")
    require("apt-get", NO_APT)
    require("dpkg-deb", NO_APT)
    debs = _download(cache)
    systemd = debs.pop("systemd")
    coreutils = [deb for deb in debs["all"] if deb.name.startswith("coreutils_")]
    for role, files in {**debs, "coreutils": coreutils}.items():
        (work / role).mkdir()
        for deb in files:
            run("dpkg-deb", "-x", deb, work / role)
    _unpack_merged(systemd, work / "systemd")
    return work


def _unpack_merged(debs: list[Path], root: Path) -> None:
    """Unpack below /usr what packages still have in /bin and /lib: `dpkg-deb -x` would replace these links."""
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    command = 'dpkg-deb --fsys-tarfile "$0" | tar -xp --no-same-owner --keep-directory-symlink -C "$1"'
    for deb in debs:
        run("bash", "-o", "pipefail", "-c", command, deb, root)


def _download(cache: Path) -> dict[str, list[Path]]:
    archives = cache / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "status").write_text("\n".join(map(_installed, SPARED)))  # and nothing else is, apt believes
    print("downloading packages (about 170 MB the first time)", flush=True)
    try:
        return _fetch(cache, archives)
    except SetupError as error:
        print(f"{error}\nrefreshing apt's package lists", file=sys.stderr, flush=True)
        run(*([] if os.geteuid() == 0 else ["sudo"]), "apt-get", "-q", "update")
        return _fetch(cache, archives)


def _installed(package: str) -> str:
    """What apt's status file says of a package that is installed, in a version that is recent enough for all."""
    lines = (f"Package: {package}", "Status: install ok installed", "Architecture: amd64", "Version: 9999")
    return "".join(f"{line}\n" for line in lines)


def _fetch(cache: Path, archives: Path) -> dict[str, list[Path]]:
    options = (
        "-q", "-y", "-o", f"Dir::State::status={cache / 'status'}", "-o", f"Dir::Cache={cache}",
        "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "APT::Install-Recommends=0",
    )  # fmt: skip
    names = _file_names(cache, *options, "install", *PROGRAMS)
    guests = _file_names(cache, *options, "install", *SYSTEMD)
    run("apt-get", *options, "install", "--download-only", *PROGRAMS, *SYSTEMD)
    return {
        "all": [archives / name for name in names],
        "kernel": _fetch_kernel(cache, archives),
        "systemd": [archives / name for name in guests],
    }


def _fetch_kernel(cache: Path, archives: Path) -> list[Path]:
    """Only the image and its modules: installing would add an initramfs, firmware and their tools."""
    debs = []
    for package in _kernel_packages():
        (name,) = _file_names(cache, "download", package)
        if not (archives / name).exists():
            run("apt-get", "-q", "-o", "APT::Sandbox::User=", "download", package, cwd=archives)
        debs.append(archives / name)
    return debs


def _file_names(cache: Path, *argv: str) -> list[str]:
    """The archives that an apt-get command is about; apt keeps silent on those in its cache, so give it none."""
    (cache / "none" / "partial").mkdir(parents=True, exist_ok=True)
    uris = run("apt-get", *argv, "-o", f"Dir::Cache::archives={cache / 'none'}", "--print-uris")
    return re.findall(r"^'\S+' (\S+\.deb) ", uris, re.MULTILINE)


def _kernel_packages() -> list[str]:
    listed = run("apt-cache", "pkgnames", "linux-image-").split()
    meta = next((name for name in KERNELS if name in listed), None)
    if meta is None:
        raise SetupError(f"apt knows none of the packages {', '.join(KERNELS)}")
    found: list[str] = []
    todo = [meta]
    while todo:
        depends = run("apt-cache", "depends", "--important", todo.pop())
        new = re.findall(r"^ +\|?Depends: (linux-(?:image|modules)-\S+)$", depends, re.MULTILINE)
        todo += [name for name in new if name not in found]
        found += [name for name in new if name not in found]
    return found
