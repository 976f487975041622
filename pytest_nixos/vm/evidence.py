"""What a failed test leaves for people to look at: each machine's screen and journal, while it still runs."""

from contextlib import suppress

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.errors import CommandError, MachineDied
from pytest_nixos.vm.machine import Machine

_JOURNAL_SECONDS = 20.0
_HAS_JOURNAL = "test -d /run/systemd/system"


def collect(driver: Driver, error: BaseException) -> None:
    """Write what can be had into the output folder, without a word, and nothing else on failure of that.

    error: what the test failed by. A shell is asked again only where it has just answered.
    """
    answers = isinstance(error, CommandError | AssertionError | MachineDied)
    driver.polling_conditions.clear()  # one of them may be what has failed
    with driver.log.muted():
        for machine in driver.machines:
            # No screen, no journal, no room: what there is otherwise must do.
            with suppress(PytestNixosError, OSError):
                if machine.booted:
                    machine.screenshot(f"{machine.name}.failed.png")
            with suppress(PytestNixosError, OSError):
                if answers and machine.is_up():
                    _journal(machine)


def _journal(machine: Machine) -> None:
    status, text = machine.execute(
        f"{_HAS_JOURNAL} && journalctl --boot --no-pager --output=short-monotonic", timeout=_JOURNAL_SECONDS
    )
    if status == 0:
        (machine.out_dir / f"{machine.name}.journal.log").write_text(text)
