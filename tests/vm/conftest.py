"""Machines without a VM: a start script that speaks the same protocols, with a bash for a guest."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.machine import Machine
from pytest_nixos.vm.spec import DriverSpec, machine_specs

FAKE = Path(__file__).parent / "run-fake-vm"
MakeDriver = Callable[..., Driver]


@pytest.fixture
def start_script(tmp_path: Path) -> Callable[[str], str]:
    """Makes a start script of a machine with that name."""

    def make(name: str) -> str:
        return str(shutil.copy(FAKE, tmp_path / f"run-{name}-vm"))

    return make


@pytest.fixture
def make_driver(
    tmp_path: Path, start_script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeDriver]:
    """Makes a driver with machines of these names; it is left at the test's end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with ExitStack() as stack:

        def make(
            *names: str,
            before: str = "",
            script: str = "",
            seconds: float = 60,
            vlans: tuple[int, ...] = (),
            keep: bool = False,
        ) -> Driver:
            monkeypatch.setenv("FAKE_BEFORE", before)
            file = tmp_path / "script.py"
            file.write_text(script)
            machines = machine_specs(start_script(name) for name in names)
            spec = DriverSpec(machines=machines, vlans=vlans, script=str(file), global_timeout=seconds)
            return stack.enter_context(Driver(spec, out_dir=tmp_path / "out", keep_state=keep))

        (tmp_path / "out").mkdir()
        yield make


@pytest.fixture
def machine(make_driver: MakeDriver) -> Machine:
    """A machine, not started."""
    return make_driver("web").machines[0]
