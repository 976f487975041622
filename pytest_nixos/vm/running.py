"""What exists while a machine's QEMU runs: the process, its console, its sockets, and how it ended."""

import re
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.console import Console, StreamClosed, StreamTimeout, panic_in
from pytest_nixos.vm.log import Log
from pytest_nixos.vm.process import SOFT_STOP_SECONDS, Process, describe
from pytest_nixos.vm.qemu import MachineDirs
from pytest_nixos.vm.qmp import Qmp
from pytest_nixos.vm.shell import Shell
from pytest_nixos.vm.spec import MachineSpec

# Systemd's word, of a service that NixOS gives each machine of a test; journald copies it to the console.
_SHELL_ENDED = re.compile(r"systemd\[1\]: backdoor\.service: Main process exited")


class Running:
    """One run of a machine, from QEMU's start on.

    gone is set when QEMU has ended or the kernel has panicked, ended only in the first case. failure says
    what was wrong, when it was the guest's fault; the first failure is kept.
    """

    def __init__(
        self,
        spec: MachineSpec,
        dirs: MachineDirs,
        *,
        env: Mapping[str, str],
        transcript: Path,
        log: Log,
        may_reboot: bool,
    ) -> None:
        """Start QEMU. Raises ToolMissing, OSError; nothing is left open then."""
        self.gone, self.ended = threading.Event(), threading.Event()
        self.failure = ""
        self.may_reboot = may_reboot
        with ExitStack() as undo:
            self.shell = Shell(dirs.shell)
            undo.callback(self.shell.close)
            self.qmp = Qmp(dirs.qmp)
            undo.callback(self.qmp.close)
            self.console = Console(spec.name, transcript, log, self._line, self._end)
            undo.callback(self.console.close)
            stdin, stdout = self.console.stdin, self.console.stdout
            self.process = Process(spec.command, env=env, cwd=dirs.state, stdin=stdin, stdout=stdout)
            self.console.follow(self.process)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Stop QEMU, softly and then hard, and close everything. Safe to call twice."""
        self.process.stop()
        self._undo.close()

    def quit(self) -> None:
        """Have QEMU end at once, without the guest; one that does not, whatever it has answered, is killed."""
        with suppress(StreamClosed, StreamTimeout):
            self.qmp.command("quit")
            self.process.wait(Deadline(SOFT_STOP_SECONDS))
        self.process.stop()

    @property
    def ended_well(self) -> bool:
        """Whether QEMU has ended as after a power-off; a machine that died otherwise is to stay dead."""
        return self.ended.is_set() and not self.failure and self.process.status() == 0

    def how_it_ended(self) -> str:
        """What went wrong, in words; "" when nothing is known."""
        self.gone.wait(5)  # the connections end a moment before QEMU does
        status = self.process.status()
        return self.failure or (f"QEMU ended with {describe(status)}" if status is not None else "")

    def _line(self, line: str) -> None:
        if not self.failure and panic_in(line, may_reboot=self.may_reboot):
            self.failure = f"the guest's kernel panicked ({line.strip()})"
            self._wake()
        if _SHELL_ENDED.search(line):
            self.shell.ended.set()

    def _end(self) -> None:
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        """End what waits for the machine."""
        self.gone.set()
        self.shell.interrupt()
