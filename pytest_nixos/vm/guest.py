"""What a test does in a guest through nothing but commands of its shell."""

import base64
import shlex
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.errors import CommandError, MachineTimeout
from pytest_nixos.vm.log import NO_ATTRIBUTES, Log
from pytest_nixos.vm.qemu import MachineDirs
from pytest_nixos.vm.shell import TIMEOUT_STATUS

DEFAULT_SECONDS = 900.0
_GUEST_SHARED = "/tmp/shared"
_CHUNK = 64 * 1024  # bytes; the kernel allows 128 KiB for one argument
_PAUSE_SECONDS = 1.0


class Guest(ABC):
    """A machine's shell, seen from a test script. Timeouts are in seconds, None means none."""

    name: str
    out_dir: Path
    dirs: MachineDirs
    log_to: Log
    deadline: Deadline  # of the whole test

    @abstractmethod
    def connect(self) -> None:
        """Wait for the shell, starting the machine if need be; what waits for a guest counts from then on."""

    @abstractmethod
    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: float | None = DEFAULT_SECONDS,
    ) -> tuple[int, str]:
        """Run a command; returns its exit status and what it wrote to stdout.

        The status is -1 without check_return, the result (-2, "") without check_output. A command that
        runs longer than the timeout is ended by the guest, with status 124.
        """

    @abstractmethod
    def nested(self, msg: str, attrs: Mapping[str, str] = NO_ATTRIBUTES) -> AbstractContextManager[None]:
        """Print under the machine's name what is done, and how long it took."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Wait on the host; raises MachineDied as soon as the machine has died."""

    @abstractmethod
    def console_tail(self, lines: int) -> str:
        """The last lines of the console, where a command's stderr goes too."""

    @abstractmethod
    def settle(self) -> None:
        """Let the console's last lines arrive: they take another way than a command's answer."""

    def succeed(self, *commands: str, timeout: float | None = None) -> str:
        """The output of commands that must succeed; raises CommandError."""
        return "".join(self._must(command, "succeed", timeout) for command in commands)

    def fail(self, *commands: str, timeout: float | None = None) -> str:
        """The output of commands that must fail; raises CommandError."""
        return "".join(self._must(command, "fail", timeout) for command in commands)

    def wait_until_succeeds(self, command: str, timeout: float = DEFAULT_SECONDS) -> str:
        """Repeat a command until it succeeds; raises MachineTimeout. The timeout holds for each try, too."""
        with self.nested(f"waiting for success: {brief(command)}"):
            return self._until(f"`{brief(command)}` has not succeeded", command, lambda status: status == 0, timeout)

    def wait_until_fails(self, command: str, timeout: float = DEFAULT_SECONDS) -> str:
        """Repeat a command until it fails; raises MachineTimeout."""
        with self.nested(f"waiting for failure: {brief(command)}"):
            return self._until(f"`{brief(command)}` has not failed", command, lambda status: status != 0, timeout)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until something in reach of the guest listens on a TCP port; raises MachineTimeout."""
        with self.nested(f"waiting for TCP port {port} on {addr}"):
            self._until(f"TCP port {port} on {addr} is not open", _probe(port, addr), lambda s: s == 0, timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until nothing listens on a TCP port any more; raises MachineTimeout."""
        with self.nested(f"waiting for TCP port {port} on {addr} to be closed"):
            self._until(f"TCP port {port} on {addr} is still open", _probe(port, addr), lambda s: s != 0, timeout)

    def wait_for_file(self, filename: str, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until a file exists in the guest; raises MachineTimeout."""
        with self.nested(f"waiting for file '{filename}'"):
            command = f"test -e {shlex.quote(filename)}"
            self._until(f"there is no file {filename}", command, lambda status: status == 0, timeout)

    def wait_for_open_unix_socket(self, addr: str, is_datagram: bool = False, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until something in the guest listens on a unix socket (`nc` must be there); raises MachineTimeout."""
        command = f"nc -z -{'u' if is_datagram else ''}U {shlex.quote(addr)}"
        with self.nested(f"waiting for unix-domain {'datagram' if is_datagram else 'stream'} socket on '{addr}'"):
            self._until(f"nothing listens on {addr}", command, lambda status: status == 0, timeout)

    def sleep(self, secs: float = 0.0, *, duration: float | None = None) -> None:
        """Wait in the guest's time, which may pass slower than the host's; duration is secs by its newer name."""
        self.succeed(f"sleep {secs if duration is None else duration}")

    def copy_from_host(self, source: str, target: str) -> None:
        """Copy a file or folder of the host into the guest, through the shared folder."""
        with tempfile.TemporaryDirectory(dir=self.dirs.shared) as exchange:
            copy = Path(exchange) / (Path(source).resolve().name or "copy")
            _copy(Path(source), copy)
            into = shlex.quote(f"{_GUEST_SHARED}/{copy.relative_to(self.dirs.shared)}")
            self.succeed(f'mkdir -p "$(dirname {shlex.quote(target)})"', f"cp -r {into} {shlex.quote(target)}")

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """Copy a file or folder of the guest into the test's output folder, through the shared folder."""
        with tempfile.TemporaryDirectory(dir=self.dirs.shared) as exchange:
            self.succeed(f"cp -r {shlex.quote(source)} {_GUEST_SHARED}/{Path(exchange).name}/")
            for copy in Path(exchange).iterdir():
                _copy(copy, self.out_dir / target_dir / copy.name)

    copy_from_vm = copy_from_machine  # its name until 2025

    def copy_from_host_via_shell(self, source: str, target: str) -> None:
        """Copy a file of the host into the guest through its shell: slow, but needs no shared folder."""
        quoted = shlex.quote(target)
        self.succeed(f'mkdir -p "$(dirname {quoted})"; : > {quoted}')
        data = Path(source).read_bytes()
        for start in range(0, len(data), _CHUNK):
            text = base64.b64encode(data[start : start + _CHUNK]).decode()
            status, _ = self.execute(f"echo {text} | base64 -d >> {quoted}")
            if status:
                raise CommandError(f"{self.name}: {target} cannot be written", detail=self._evidence(""))

    def _must(self, command: str, wanted: str, timeout: float | None) -> str:
        with self.nested(f"must {wanted}: {brief(command)}"):
            began = time.monotonic()
            status, output = self.execute(command, timeout=timeout)
            if (status == 0) == (wanted == "succeed"):
                return output
            late = status == TIMEOUT_STATUS and timeout is not None and time.monotonic() - began >= timeout
            how = f"did not end within {timeout:g} s" if late and timeout else _ended(status)
            raise CommandError(f"{self.name}: command `{brief(command)}` {how}", detail=self._evidence(output))

    def _until(self, what: str, command: str, wanted: Callable[[int], bool], timeout: float) -> str:
        self.connect()
        deadline = Deadline(timeout, self.deadline)
        tries = 0
        while True:
            tries += 1
            status, output = self.execute(command, timeout=deadline.within(timeout))
            if wanted(status):
                return output
            if deadline.expired:
                break
            self.pause(deadline.within(min(_PAUSE_SECONDS, 0.1 * tries)))
        message = f"{self.name}: {what} after {timeout:g} s ({tries} tries, exit status {status} at last)"
        raise MachineTimeout(message, detail=self._evidence(output))

    def _evidence(self, output: str) -> str:
        self.settle()
        console = f"its console's last lines:\n{self.console_tail(10)}"
        return f"output:\n{tail(output)}\n{console}" if output.strip() else console


def tail(text: str, lines: int = 50, chars: int = 8000) -> str:
    """The end of a text, at most so many lines and characters, with a mark where something is left out."""
    end = "\n".join(text.rstrip("\n").split("\n")[-lines:])[-chars:]
    return end if len(end) >= len(text.rstrip("\n")) else f"[...]\n{end}"


def _ended(status: int) -> str:
    return "unexpectedly succeeded" if status == 0 else f"failed (exit status {status})"


def _probe(port: int, addr: str) -> str:
    # By bash itself: not every guest has an nc, and not every nc has -z.
    return f"(exec 3<>{shlex.quote(f'/dev/tcp/{addr}/{int(port)}')}) 2>/dev/null"


def brief(command: str, chars: int = 500) -> str:
    """A command for messages: in one line, and only its beginning when it is long."""
    command = " ↵ ".join(command.strip().splitlines())
    return command if len(command) <= chars else f"{command[:chars]}…"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
