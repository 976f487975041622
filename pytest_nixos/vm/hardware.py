"""What a test does to a machine's hardware, through QEMU's machine protocol."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm import qemu, qmp
from pytest_nixos.vm.console import StreamTimeout
from pytest_nixos.vm.errors import MachineError
from pytest_nixos.vm.guest import Guest
from pytest_nixos.vm.keys import key_of
from pytest_nixos.vm.qmp import Qmp


class Hardware(Guest):
    """A machine's screen, keys, cables and monitor, seen from a test script."""

    @abstractmethod
    def check(self) -> None:
        """Raise MachineDied when the machine has died, GlobalTimeout when the whole test is late."""

    @abstractmethod
    def run_callbacks(self) -> None:
        """Call what is to be called before each command."""

    @abstractmethod
    def log(self, msg: str) -> None:
        """Print a message under the machine's name."""

    @abstractmethod
    def _qmp(self) -> Qmp: ...

    @abstractmethod
    def _doing(self, what: str, seconds: float | None) -> AbstractContextManager[None]: ...

    @property
    def qmp_client(self) -> Qmp:
        """QEMU's machine protocol."""
        return self._qmp()

    def send_monitor_command(self, command: str) -> str:
        """What a command of QEMU's monitor prints."""
        self.run_callbacks()
        with self._doing(f"monitor command `{command}` was running", qmp.COMMAND_SECONDS):
            return self._qmp().human(command)

    def wait_for_qmp_event(
        self, event_filter: Callable[[dict[str, Any]], bool], timeout: float = 600
    ) -> dict[str, Any]:
        """The next event of QEMU's machine protocol that the filter accepts."""
        deadline = Deadline(timeout, self.deadline)
        with self._doing("waiting for a QMP event", timeout):
            while True:
                try:
                    return self._qmp().wait_for_event(event_filter, Deadline(0.5, deadline))
                except StreamTimeout:
                    self.check()
                    if deadline.expired:
                        raise

    def wait_for_monitor_prompt(self) -> str:
        """Nothing: QEMU is asked by its machine protocol, which is always ready."""
        return ""

    def forward_port(self, host_port: int = 8080, guest_port: int = 80) -> None:
        """Have a TCP port of the host lead to one of the guest; raises MachineError.

        The host is what the driver sees of it: in a namespace of its own it has ports of its own.
        """
        if answer := self.send_monitor_command(f"hostfwd_add tcp::{host_port}-:{guest_port}").strip():
            raise MachineError(f"{self.name}: host port {host_port} cannot be forwarded: {answer}")

    def send_chars(self, chars: str, delay: float | None = 0.01) -> None:
        """Type a text on the keyboard (US layout), with `delay` seconds after each key."""
        with self.nested(f"sending keys {chars!r}"):
            for char in chars:
                self.send_key(char, delay, log=False)

    def send_key(self, key: str, delay: float | None = 0.01, log: bool | None = True) -> None:
        """Press keys together, in QEMU's names: `ctrl-alt-delete`, or a character; then wait `delay` seconds."""
        if log:
            self.log(f"sending key {key}")
        if answer := self.send_monitor_command(f"sendkey {key_of(key)}").strip():
            raise MachineError(f"{self.name}: key `{key}` cannot be sent: {answer}")
        self.pause(delay or 0)

    def screenshot(self, filename: str) -> None:
        """Save the screen as PNG in the test's output folder; raises MachineError without a display."""
        name = filename if "." in Path(filename).name else f"{filename}.png"
        target = (self.out_dir / name).absolute()
        with self.nested(f"making screenshot {target}"):
            self._screendump(target, "png")

    def block(self) -> None:
        """Unplug the cables that lead to other machines."""
        self._set_links("off")

    def unblock(self) -> None:
        """Plug the cables in again."""
        self._set_links("on")

    def _screendump(self, target: Path, format_: str) -> None:
        try:
            with self._doing("a screenshot", qmp.COMMAND_SECONDS):
                self._qmp().command("screendump", filename=str(target), format=format_)
        except MachineError as error:
            hint = "has the machine a display? (virtualisation.graphics)"
            raise MachineError(f"{self.name}: no screenshot: {error.message}", hint=hint) from error

    def _set_links(self, state: str) -> None:
        cards = qemu.vlan_cards(self.send_monitor_command("info network"))
        if not cards:
            raise MachineError(f"{self.name} has no network card on a VLAN")
        for card in cards:
            self.send_monitor_command(f"set_link {card} {state}")
