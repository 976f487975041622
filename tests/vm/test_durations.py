"""The newest scripts' durations: `datetime.timedelta` where older ones give seconds."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pytest_nixos.vm.errors import CommandError, MachineTimeout
from pytest_nixos.vm.machine import Machine
from tests.vm.conftest import MakeDriver

MOMENT: Any = timedelta(seconds=0.3)  # the API's types say seconds, which test scripts do not read


def test_waits_take_a_timedelta(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(MachineTimeout, match=r"after 0.3 s"):
        machine.wait_for_file(f"{tmp_path}/none", timeout=MOMENT)
    with pytest.raises(MachineTimeout, match=r"after 0.3 s"):
        machine.wait_until_succeeds("false", MOMENT)
    with pytest.raises(MachineTimeout, match=r"after 0.3 s"):
        machine.wait_for_console_text("none", timeout=MOMENT)
    with pytest.raises(CommandError, match=r"did not end within 0.3 s"):
        machine.succeed("sleep 30", timeout=MOMENT)
    assert machine.execute("sleep 30", timeout=MOMENT)[0] == 124
    machine.sleep(MOMENT)
    machine.sleep(duration=MOMENT)
    machine.send_key("a", delay=MOMENT)


def test_so_do_a_script_s_own_names(make_driver: MakeDriver) -> None:
    driver = make_driver("web")
    symbols = driver.test_symbols()
    with pytest.raises(MachineTimeout, match=r"timed out after 0.3 s"):
        symbols["retry"](lambda last: False, timeout=MOMENT)
    condition = symbols["polling_condition"](interval=MOMENT)(lambda: False)
    with pytest.raises(MachineTimeout, match=r"after 0.3 s"):
        condition.wait(MOMENT)
