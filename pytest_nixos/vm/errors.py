"""What can go wrong with a machine. Each message names the machine and quotes what is needed to judge."""

from pytest_nixos.errors import PytestNixosError


class MachineError(PytestNixosError):
    """A machine could not do what the test asked for.

    detail: text of several lines that helps to judge, such as output or the console's last lines; or "".
    """

    def __init__(self, message: str, hint: str = "", detail: str = "") -> None:
        super().__init__(message, hint)
        self.detail = detail

    def __str__(self) -> str:
        return "\n".join(part for part in (super().__str__(), self.detail) if part)


class CommandError(MachineError):
    """A command in a guest ended with a status that the test did not want."""


class MachineTimeout(MachineError):
    """A machine did not do something within the time it was given."""


class MachineDied(MachineError):
    """QEMU ended, or the guest's kernel panicked, while the test still needed the machine."""


class GlobalTimeout(MachineError):
    """The time for the whole test is over."""


class SubtestsFailed(PytestNixosError):
    """A test script went on to its end, and some of its subtests have failed."""


class ConfigError(PytestNixosError):
    """The driver was started with arguments that make no test."""
