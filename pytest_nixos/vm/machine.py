"""A machine of a test: its life from start to end, and the API that test scripts use."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm import qemu
from pytest_nixos.vm.console import Console, StreamClosed, StreamTimeout
from pytest_nixos.vm.durations import takes_durations
from pytest_nixos.vm.errors import GlobalTimeout, MachineDied, MachineError, MachineTimeout
from pytest_nixos.vm.guest import DEFAULT_SECONDS, brief
from pytest_nixos.vm.log import NO_ATTRIBUTES, Log
from pytest_nixos.vm.process import Process, describe
from pytest_nixos.vm.qmp import Qmp
from pytest_nixos.vm.running import Running
from pytest_nixos.vm.screen import Screen
from pytest_nixos.vm.serial import Serial
from pytest_nixos.vm.shell import Shell, ShellEnded, ShellRestarted, answer_deadline
from pytest_nixos.vm.spec import MachineSpec
from pytest_nixos.vm.units import Units

BOOT_SECONDS = 300.0
SHUTDOWN_SECONDS = 300.0
_PANIC_GRACE_SECONDS = 10.0  # a kernel that reboots on panic ends QEMU within this time
_NO_DEADLINE = Deadline(None)


@takes_durations
class Machine(Units, Screen, Serial):
    """One virtual machine. start() returns at once; what needs the guest waits for its shell."""

    def __init__(
        self,
        spec: MachineSpec,
        dirs: qemu.MachineDirs,
        *,
        out_dir: Path,
        log: Log | None = None,
        vlans: Mapping[int, Path] | None = None,
        transcript: Path | None = None,
        deadline: Deadline = _NO_DEADLINE,
        env: Mapping[str, str] = os.environ,
        callbacks: list[Callable[[], None]] | None = None,
        keep_state: bool = False,
    ) -> None:
        """transcript is the file for the raw console; vlans are the switches' folders by number.

        callbacks are called before each command. keep_state: whether the disk outlives the driver.
        """
        self.spec, self.dirs, self.out_dir = spec, dirs, out_dir
        self.name = spec.name
        self.log_to = log or Log()
        self.callbacks = [] if callbacks is None else callbacks
        self.keep_machine_state = self.keep_vm_state = keep_state
        self.deadline = deadline
        self.boot_seconds = float(env.get("PYTEST_NIXOS_BOOT_TIMEOUT") or BOOT_SECONDS)
        self.transcript = transcript or dirs.state / "console.log"
        self._env, self._vlans = env, vlans or {}
        self._parts: Running | None = None
        self._console: Console | None = None
        self.transcript.parent.mkdir(parents=True, exist_ok=True)
        self.transcript.unlink(missing_ok=True)  # an earlier driver's
        self.connected = False

    def __repr__(self) -> str:
        return f"<Machine {self.name!r}>"

    # Life

    @property
    def booted(self) -> bool:
        """Whether QEMU has been started and not been shut down."""
        return self._parts is not None

    @property
    def pid(self) -> int | None:
        """QEMU's process id."""
        return self._parts.process.pid if self._parts else None

    def log(self, msg: str) -> None:
        """Print a message under the machine's name."""
        self.log_to.info(f"{self.name}: {msg}")

    def nested(self, msg: str, attrs: Mapping[str, str] = NO_ATTRIBUTES) -> AbstractContextManager[None]:
        """See Guest."""
        return self.log_to.nested(msg, {"machine": self.name, **attrs})

    def run_callbacks(self) -> None:
        """Call what is to be called before each command: conditions that must hold."""
        for callback in self.callbacks:
            callback()

    def is_up(self) -> bool:
        """Whether the guest's shell answers."""
        return self.connected and self._parts is not None and not self._parts.gone.is_set()

    def start(self, allow_reboot: bool = False) -> None:
        """Start QEMU, without waiting for the guest; does nothing when it runs. Raises MachineError."""
        if self._parts and self._parts.ended_well:  # the guest has powered itself off, and nobody has waited for that
            self.release()
        if self.booted:
            return
        self.log("starting vm")
        env = qemu.environment(self._env, self.name, self.dirs, self._vlans, allow_reboot=allow_reboot)
        self._parts = Running(
            self.spec, self.dirs, env=env, transcript=self.transcript, log=self.log_to, may_reboot=allow_reboot
        )
        self._console = self._parts.console
        deadline = Deadline(self.boot_seconds, self.deadline)
        with self._doing("QEMU was starting", self.boot_seconds):
            self._parts.shell.accept(self.check, deadline)
            self._parts.qmp.accept(self.check, deadline)
        self.log(f"QEMU running (pid {self.pid})")

    def connect(self, timeout: float | None = None) -> None:
        """Start the machine if need be and wait for its shell; 300 s unless said otherwise."""
        if not self.booted:  # a machine that has died does not come back by itself
            self.start()
        if self.connected:
            return
        seconds = self.boot_seconds if timeout is None else timeout
        with (
            self.nested("waiting for the VM to finish booting"),
            self._doing("booting", seconds),
        ):
            self._running.shell.wait_ready(Deadline(seconds, self.deadline))
        self.connected = True

    def shutdown(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Power the guest off and wait for QEMU's end; raises MachineTimeout."""
        if not self.booted:
            return
        self.connect()
        with self._doing("it was told to power off", timeout):
            self._running.shell.send(b"poweroff\n")
        self.wait_for_shutdown(timeout)

    def wait_for_shutdown(self, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until the guest has powered off; raises MachineTimeout, and MachineDied after a panic."""
        if self._parts is None:
            return
        with self.nested("waiting for the VM to power off"):
            self._wait_for_end(Deadline(timeout, self.deadline), timeout)
        status = self._parts.process.status()
        self.release()
        if status:
            raise MachineDied(f"{self.name}: QEMU ended with {describe(status)}", detail=self.console_tail(20))

    def crash(self) -> None:
        """Pull the plug: end QEMU at once."""
        if self.booted:
            self.log("forced crash")
            self._running.quit()
            self.release()

    def reboot(self) -> None:
        """Press ctrl-alt-delete; the machine must have been started with allow_reboot=True."""
        if self._parts:
            if not self._parts.may_reboot:
                self.log("QEMU ends now, since start() was not called with allow_reboot=True")
            self.send_key("ctrl-alt-delete")
            self.connected = False

    def terminate(self) -> None:
        """Ask QEMU to end, without waiting: release() does the rest."""
        if self._parts is not None:
            self._parts.process.terminate()

    def release(self) -> None:
        """Stop QEMU, softly and then hard, and let go of everything. Safe to call twice."""
        if self._parts is not None:
            self._parts.stop()
            self._parts = None
            self.connected = False

    # Commands: the others are Guest's

    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: float | None = DEFAULT_SECONDS,
    ) -> tuple[int, str]:
        """See Guest. Raises MachineTimeout, MachineDied, GlobalTimeout when there is no answer."""
        self.run_callbacks()
        self.connect()
        deadline = answer_deadline(timeout, self.deadline)
        with self._doing(f"command `{brief(command)}` was running", timeout):
            shell = self._running.shell
            if not check_output:  # and nobody reads: a command that prints much would wait for that
                shell.begin(f"exec >/dev/null; {command}", timeout, deadline)
                return -2, ""
            token = shell.begin(command, timeout, deadline)
            if not check_return:
                return -1, self._last_words(shell, token, deadline)
            status, output = shell.answer(token, deadline)
            return status, output.decode(errors="replace")

    def pause(self, seconds: float) -> None:
        """Wait on the host; raises MachineDied as soon as the machine has died."""
        self._running.gone.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise MachineDied when the machine has died, GlobalTimeout when the whole test is late."""
        if self._running.gone.is_set():
            raise self._death("it was still needed")
        if self.deadline.expired:
            raise self._late("the test was running", None)

    # What upstream's machines have, too

    @property
    def console(self) -> Console:
        """See Serial."""
        return self._running.console

    @property
    def process(self) -> Process | None:
        """QEMU; None when it does not run."""
        return self._parts.process if self._parts else None

    @property
    def state_dir(self) -> Path:
        """Where the disk is, and QEMU's TMPDIR."""
        return self.dirs.state

    @property
    def shared_dir(self) -> Path:
        """The host's side of /tmp/shared, which all machines of a test have."""
        return self.dirs.shared

    @property
    def tmp_dir(self) -> Path:
        """Where all machines of a test have their folders."""
        return self.dirs.state.parent

    def cleanup_statedir(self) -> None:
        """Forget the disk: the next start makes a new one. The machine must not be running."""
        if self.booted:
            raise MachineError(f"{self.name} is running", hint="call shutdown() or crash() first")
        shutil.rmtree(self.dirs.state)
        self.dirs.state.mkdir(mode=0o700)

    def switch_root(self) -> None:
        """Go on from the initial RAM disk to the system, where both have a backdoor (initrdBackdoor)."""
        self.wait_for_unit("initrd.target")
        isolate = "systemctl isolate --no-block initrd-switch-root.target >/dev/null 2>&1"
        self.execute(isolate, check_return=False, check_output=False)
        self.wait_for_console_text(r"systemd\[1\]:.*Switching root\.")
        self.connected = False
        self.connect()

    def ssh_backdoor_command(self, index: int) -> str:
        """What leads into the machine by ssh over vsock, where the test has enabled that."""
        return f"ssh -o User=root vsock/{index}"

    # Ends

    @property
    def _running(self) -> "Running":
        if self._parts is None:
            raise MachineError(f"{self.name} is not running", hint="call start() first")
        return self._parts

    def _wait_for_end(self, deadline: Deadline, seconds: float) -> None:
        parts = self._running
        while not parts.ended.wait(deadline.within(0.1)):
            if deadline.expired:
                raise self._late("waiting for it to power off", seconds)
            if parts.failure and not parts.ended.wait(deadline.within(_PANIC_GRACE_SECONDS)):
                raise self._death("waiting for it to power off")

    def _last_words(self, shell: Shell, token: str, deadline: Deadline) -> str:
        """The output of a command that may end the machine."""
        try:
            return shell.answer(token, deadline)[1].decode(errors="replace")
        except (StreamClosed, ShellRestarted, ShellEnded):
            if self._running.failure:
                raise
            return ""

    def _qmp(self) -> Qmp:
        return self._running.qmp

    @contextmanager
    def _doing(self, what: str, seconds: float | None) -> Iterator[None]:
        """Make the errors of streams the machine's; what says what was going on."""
        try:
            yield
        except StreamTimeout:
            raise self._late(what, seconds) from None
        except StreamClosed:
            raise self._death(what) from None
        except ShellEnded:
            message = f"{self.name}: the guest's root shell has ended while {what}"
            raise MachineDied(message, detail=self._last_lines()) from None
        except ShellRestarted:
            raise MachineDied(f"{self.name}: the guest has rebooted while {what}") from None

    def _late(self, what: str, seconds: float | None) -> MachineError:
        if self.deadline.expired:
            message = f"{self.name}: the time for the whole test is over while {what}"
            return GlobalTimeout(message, detail=self._last_lines())
        limit = "" if seconds is None else f" after {seconds:g} s"
        return MachineTimeout(f"{self.name}: timed out{limit}: {what}", detail=self._last_lines())

    def _death(self, what: str) -> MachineDied:
        how = self._running.how_it_ended()
        message = f"{self.name}: {how or 'QEMU closed the connection'} while {what}"
        return MachineDied(message, detail=self._last_lines())

    def _last_lines(self) -> str:
        return f"the console's last lines of {self.name}:\n{self.console_tail(20)}"
