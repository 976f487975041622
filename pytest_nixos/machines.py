"""The machines of a check in a test that is written in Python: built once a session, booted in this process."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pytest_nixos.errors import CheckFailed
from pytest_nixos.execution import private_folder
from pytest_nixos.model import Built, Check, EvalFailed
from pytest_nixos.session import Session
from pytest_nixos.vm import wrapper
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.spec import DEFAULT_GLOBAL_TIMEOUT, DriverSpec, machine_specs

_VLAN = re.compile(r"QEMU_VDE_SOCKET_(\d+)")


@contextmanager
def boot(role: Session, name: str, out_dir: Path) -> Iterator[Driver]:
    """A driver with the machines of the check of that name; they are stopped when the block is left.

    A name with a `#` is an installable of Nix, such as `.#nixosConfigurations.web.config.system.build.vm`, a package
    with start scripts. Consoles and screenshots go to out_dir. Raises CheckFailed when there are no machines to be had.
    """
    spec, env = _package(role, name) if "#" in name else machines_of(role, named(role, name))
    # Its script is not run, so its limit means nothing: a fixture may live as long as the session.
    spec = replace(spec, global_timeout=DEFAULT_GLOBAL_TIMEOUT)
    with (
        private_folder(role.run_dir.path) as tmp,
        Driver(spec, out_dir=out_dir, env=env | {"TMPDIR": str(tmp)}) as driver,
    ):
        yield driver


def machines_of(role: Session, check: Check) -> tuple[DriverSpec, dict[str, str]]:
    """What a check's driver is for, and the environment for its machines. Raises CheckFailed, ConfigError."""
    built = role.bootable(check)
    if not isinstance(built.driver, Built):
        raise CheckFailed(f"the test driver of {check.attr} does not build:\n{built.driver.log_tail}")
    wrapped = wrapper.read(Path(built.driver.out_path, "bin", "nixos-test-driver"), os.environ)
    return wrapped.spec, _environment(role, wrapped.env, built.accelerator)


def _package(role: Session, installable: str) -> tuple[DriverSpec, dict[str, str]]:
    """The same of a package of VMs."""
    package = role.package(installable)
    scripts = sorted(Path(package.path, "bin").glob("run-*-vm"))
    if not scripts:
        raise CheckFailed(f"{installable} has no bin/run-NAME-vm, so it is no VM: {package.path}")
    vlans = sorted({int(number) for script in scripts for number in _VLAN.findall(script.read_text(errors="replace"))})
    spec = DriverSpec(machines=machine_specs(map(str, scripts)), vlans=tuple(vlans))
    return spec, _environment(role, os.environ, package.accelerator)


def _environment(role: Session, env: Mapping[str, str], accelerator: str) -> dict[str, str]:
    return {
        **env,
        "QEMU_OPTS": f"-machine accel={accelerator} {os.environ.get('QEMU_OPTS', '')}".strip(),
        # The guests stay among themselves, as in a check; ports that lead into them work all the same.
        **({} if role.options.network else {"QEMU_NET_OPTS": "restrict=on"}),
    }


def named(role: Session, name: str) -> Check:
    """The check of that name, which has machines. Raises CheckFailed."""
    checks = (planned.check for planned in role.plan.planned)
    check = next((check for check in checks if check.attr == name), None)
    if check is None:
        raise CheckFailed(f"there is no check {name!r} in {', '.join(flake.ref for flake in role.plan.flakes)}")
    if isinstance(check, EvalFailed):
        raise CheckFailed(f"{name} does not evaluate: {check.message}")
    if check.driver is None:
        raise CheckFailed(f"{name} has no test driver, and so no machines")
    return check
