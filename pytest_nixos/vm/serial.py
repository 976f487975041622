"""A machine's serial console, seen from a test script."""

import re
from abc import abstractmethod

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.console import Console
from pytest_nixos.vm.hardware import Hardware
from pytest_nixos.vm.prompt import command_prompt


class Serial(Hardware):
    """What the guest's kernel and services write on ttyS0, and what is typed there."""

    _console: Console | None  # the last one, after QEMU's end too

    @property
    @abstractmethod
    def console(self) -> Console:
        """The console of the machine that runs; raises MachineError for one that does not."""

    def log_serial(self, msg: str) -> None:
        """Print a line as if the guest had written it on its console."""
        self.log_to.log_serial(msg, self.name)

    def console_tail(self, lines: int) -> str:
        """The console's last lines, as harmless text."""
        return "\n".join(list(self._console.tail)[-lines:]) if self._console else ""

    def settle(self) -> None:
        """Let the console's last lines arrive: they take another way than a command's answer."""
        if self._console:
            self._console.settle()

    def get_console_log(self) -> str:
        """Everything that the console has shown since the last start."""
        return self._console.text() if self._console else ""

    def wait_for_console_text(self, regex: str, timeout: float | None = None) -> None:
        """Wait for a console line that matches; lines that an earlier wait has looked at do not count."""
        with (
            self.nested(f"waiting for {regex} to appear on console"),
            self._doing(f"waiting for `{regex}` on the console", timeout),
        ):
            self.console.wait_for(re.compile(regex), Deadline(timeout, self.deadline), self.check)

    def send_console(self, chars: str) -> None:
        """Type on the serial console."""
        self.console.send(chars.encode())

    def console_interact(self) -> None:
        """Connect the terminal to the serial console, until ctrl-] or the end of the input."""
        self.log("connected to the serial console; ctrl-] leaves it")
        printed, self.log_to.serial = self.log_to.serial, False
        try:
            self.console.interact()
        finally:
            self.log_to.serial = printed

    def shell_interact(self, address: str | None = None) -> None:
        """A prompt whose lines run in the guest's root shell, each on its own; ctrl-d ends it.

        address is there for scripts of other drivers and must be None: the prompt is in this terminal.
        """
        command_prompt(self, address)
