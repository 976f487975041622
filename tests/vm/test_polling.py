"""Conditions that must hold while a test goes on."""

import pytest

from pytest_nixos.vm.errors import GlobalTimeout, MachineTimeout
from pytest_nixos.vm.polling import PollingConditionError
from tests.vm.conftest import MakeDriver


def test_a_condition_that_breaks_ends_the_next_command(make_driver: MakeDriver) -> None:
    script = """
@polling_condition(seconds_interval=0)
def is_there():
    "the file is there"
    machine.succeed("test -e $TMPDIR/flag")

machine.succeed("touch $TMPDIR/flag")
with is_there:
    machine.succeed("true")
    machine.succeed("rm $TMPDIR/flag")
    machine.succeed("echo unreached > $TMPDIR/late")
"""
    driver = make_driver("web", script=script)
    with pytest.raises(PollingConditionError, match="polling condition failed: the file is there"):
        driver.run_tests()
    driver.polling_conditions.clear()
    driver.machines[0].fail("test -e $TMPDIR/late")


def test_a_condition_counts_while_it_is_entered_only(make_driver: MakeDriver) -> None:
    driver = make_driver("web")
    calls: list[int] = []

    def no() -> bool:
        calls.append(1)
        return False

    condition = driver.polling_condition(no, seconds_interval=0, description="never")
    machine = driver.machines[0]
    machine.succeed("true")
    assert not calls
    with pytest.raises(PollingConditionError, match="never"), condition:
        machine.send_monitor_command("info version")
    machine.succeed("true")
    assert len(calls) == 1


def test_a_condition_is_not_looked_at_too_often(make_driver: MakeDriver) -> None:
    driver = make_driver("web")
    calls: list[int] = []
    with driver.polling_condition(lambda: calls.append(1), seconds_interval=1000, description="often"):
        for _ in range(3):
            driver.machines[0].execute("true")
    assert len(calls) == 1


def test_a_condition_can_be_waited_for(make_driver: MakeDriver) -> None:
    driver = make_driver()
    answers = [False]
    condition = driver.polling_condition(lambda: answers.pop(0) if answers else None, description="soon")
    condition.wait(timeout=5)
    never = driver.polling_condition(lambda: 1 / 0 > 0, description="broken")
    with pytest.raises(MachineTimeout, match="does not hold after 0 s: broken"):
        never.wait(timeout=0)


def test_the_end_of_the_whole_test_is_no_broken_condition(make_driver: MakeDriver) -> None:
    driver = make_driver()

    def late() -> bool:
        raise GlobalTimeout("over")

    with pytest.raises(GlobalTimeout):
        driver.polling_condition(late).check()
