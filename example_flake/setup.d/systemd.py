"""From unpacked packages make `debian-systemd`: a read-only image (erofs) of a guest's root file system.

An image because the Nix store keeps neither setuid bits nor owners, and because a guest reads it several times
faster than a shared folder. No script of a package runs: what a guest needs of these is in ../guest/systemd.
"""

import re
import shutil
from pathlib import Path

from debian import run
from programs import unpacked

# Ballast, among it what only the packages' own scripts need.
DROPS = (
    "etc/apt", "etc/cron*", "etc/dpkg", "etc/init.d", "etc/logrotate.d", "etc/rc?.d", "etc/ufw", "etc/update-motd.d",
    "usr/bin/*perl*", "usr/bin/dpkg*", "usr/bin/localedef", "usr/include", "usr/lib/*/gconv", "usr/lib/*/libperl*",
    "usr/lib/*/perl*", "usr/lib/dpkg", "usr/lib/locale", "usr/lib/udev/hwdb.*", "usr/share/bash-completion",
    "usr/share/bug", "usr/share/common-licenses", "usr/share/debconf", "usr/share/doc*", "usr/share/gcc*",
    "usr/share/i18n", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/perl*",
    "usr/share/X11/locale/*/Compose", "usr/share/X11/xkb/rules/*.xml", "usr/share/zoneinfo", "usr/share/zsh",
    "var/cache/*", "var/lib/dpkg",
)  # fmt: skip

# What systemd would do at each boot for nothing, or what a test would have to wait for: the guest's initrd has
# mounted the file systems, loaded the modules and made the accounts.
IDLE = (
    "*-generators/*",
    "catalog",
    "system-preset/*",
    "system/modprobe@.service",
    "system/multi-user.target.wants/*-wall.path",
    "system/*.wants/systemd-update-utmp-runlevel.service",
    "system/sysinit.target.wants/*crypt*",
    "system/sysinit.target.wants/*ask-password*",
    "system/sysinit.target.wants/*setup.target",
    "system/sysinit.target.wants/dev-*.mount",
    "system/sysinit.target.wants/kmod-*",
    "system/sysinit.target.wants/proc-*",
    "system/sysinit.target.wants/sys-*",
    "system/sysinit.target.wants/systemd-[bfmpr]*",
    "system/sysinit.target.wants/systemd-journal-flush.service",
    "system/sysinit.target.wants/systemd-sys*.service",
    "system/sysinit.target.wants/systemd-tmpfiles-setup-dev.service",
    "system/sysinit.target.wants/systemd-update-utmp.service",
    "system/sockets.target.wants/systemd-initctl.socket",
    "system/sockets.target.wants/systemd-journald-audit.socket",
    "system/timers.target.wants/*",
    "system/getty.target.wants/*",
)  # fmt: skip
UDEV_RULES = (
    "50-udev-default.rules",
    "60-persistent-storage.rules",
    "70-uaccess.rules",
    "71-seat.rules",
    "73-seat-late.rules",
    "99-systemd.rules",
)  # fmt: skip
TMPFILES = (
    "debian.conf", "home.conf", "static-nodes-permissions.conf", "systemd.conf", "systemd-nologin.conf", "var.conf",
)  # fmt: skip
# Systemd's walls around its own services: namespaces and filters that take an emulated processor seconds.
SANDBOX = re.compile(
    "^(Capability|DeviceAllow|IPAddress|Lock|MemoryDeny|NoNew|Private|Protect|Read|Restrict|SystemCall|LoadCred).*\n",
    re.M,
)
# What packages' scripts would make.
LINKS = {
    "etc/profile": "/usr/share/base-files/profile",
    "bin/sh": "dash",
    "usr/bin/awk": "mawk",
    "usr/bin/nc": "nc.openbsd",
    "usr/bin/pager": "less",
    "var/run": "/run",
}


def make_image(packages: Path, image: Path) -> None:
    """Leave out what no test needs and write the image; the same packages always give the same bytes."""
    root = packages / "systemd"
    _remove(root, DROPS)
    _remove(root / "usr/lib/systemd", IDLE)
    _keep(root / "usr/lib/udev/rules.d", UDEV_RULES)
    _keep(root / "usr/lib/tmpfiles.d", TMPFILES)
    for unit in (root / "usr/lib/systemd/system").glob("systemd-*.service"):
        unit.write_text(SANDBOX.sub("", unit.read_text()))
    (root / "var/run").rmdir()
    for link, target in LINKS.items():
        (root / link).unlink(missing_ok=True)
        (root / link).symlink_to(target)
    for folder in ("dev", "nix/store", "proc", "run", "sys", "tmp/shared", "tmp/xchg"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    run(root / "usr/sbin/ldconfig", "-r", root)  # linked statically
    shutil.rmtree(root / "var/cache/ldconfig")  # its memory of this machine's inodes
    options = ("--quiet", "--all-root", "-T0", "-x-1", "-U00000000-0000-0000-0000-000000000000")
    unpacked(packages / "all", "mkfs.erofs", *options, image, root)


def _remove(root: Path, patterns: tuple[str, ...]) -> None:
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _keep(folder: Path, names: tuple[str, ...]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
