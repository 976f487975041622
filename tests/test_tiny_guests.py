"""The driver's methods on two real machines that see each other: what concerns several of them, or their ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nixos.nix.command import Nix
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.machine import Machine
from tests.machines import driver_of, start_script

pytestmark = [pytest.mark.vm, pytest.mark.nix]
CLUSTER = "checks.x86_64-linux.cluster"


@pytest.fixture(scope="module")
def driver(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver with two of the example's cluster."""
    with driver_of(nix, CLUSTER, ["alpha", "beta"], tmp_path_factory.mktemp("pair"), vlans=[1]) as driver:
        yield driver


@pytest.fixture(scope="module")
def pair(driver: Driver) -> list[Machine]:
    """The machines, booted."""
    driver.start_all()
    return driver.machines


def test_a_machine_is_up_when_its_shell_answers(pair: list[Machine]) -> None:
    for machine in pair:
        machine.wait_for_open_port(80, timeout=300)
        assert machine.is_up()
        assert machine.booted


def test_a_cable_is_unplugged_and_plugged_in_again(pair: list[Machine]) -> None:
    alpha, beta = pair
    alpha.succeed("ping -c 1 beta")
    beta.block()
    alpha.wait_until_fails("ping -c 1 -W 1 beta", timeout=60)
    beta.unblock()
    alpha.wait_until_succeeds("ping -c 1 -W 1 beta", timeout=60)


def test_what_guests_write_is_printed_unless_it_is_switched_off(
    pair: list[Machine], driver: Driver, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha, _ = pair
    driver.serial_stdout_off()
    alpha.succeed("echo the first >&2")
    alpha.wait_for_console_text("the first", timeout=60)
    driver.serial_stdout_on()
    alpha.succeed("echo the second >&2")
    alpha.wait_for_console_text("the second", timeout=60)
    printed = capsys.readouterr().out
    assert "alpha # the first" not in printed
    assert "alpha # the second" in printed
    assert "the first" in alpha.get_console_log()


def test_qemu_answers_its_own_client(pair: list[Machine]) -> None:
    assert pair[0].qmp_client.command("query-status")["running"] is True


def test_a_reboot(pair: list[Machine]) -> None:
    alpha, _ = pair
    alpha.crash()
    assert not alpha.is_up()
    alpha.start(allow_reboot=True)
    alpha.succeed("touch /run/before")
    alpha.reboot()
    alpha.fail("test -e /run/before")


def test_one_more_machine(driver: Driver, nix: Nix, tmp_path: Path) -> None:
    more = driver.create_machine(start_script(nix, "checks.x86_64-linux.db", "db", tmp_path), name="more")
    assert more in driver.machines
    assert more.succeed("hostname") == "db\n"


def test_a_script_and_its_symbols(driver: Driver, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("with subtest('both'):\n    assert alpha.succeed('hostname') != beta.succeed('hostname')\n")
    driver.spec = type(driver.spec)(machines=driver.spec.machines, script=str(script))
    driver.run_tests()
    assert [(step.name, step.error) for step in driver.subtests] == [("both", "")]
    assert {"alpha", "beta", "machines", "vlan1", "t", "retry"} <= driver.test_symbols().keys()


def test_all_end_well(driver: Driver) -> None:
    """The last test, for it powers the machines off."""
    for machine in driver.machines:
        machine.execute("poweroff", check_return=False)
    driver.join_all()
    assert [machine.booted for machine in driver.machines] == [False] * 3
