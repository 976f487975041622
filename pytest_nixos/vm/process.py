"""Programs that must not outlive the driver: QEMU and vde_switch."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import ToolMissing
from pytest_nixos.proc import die_with_parent

SOFT_STOP_SECONDS = 5.0
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
# The kernel sends the parent-death signal when the *thread* that forked ends: one that stays forks all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class Process:
    """A program in a process group of its own, killed when the driver dies, however it dies."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: int, stdout: int) -> None:
        """Start it; stderr goes where stdout goes. Raises ToolMissing when there is no such program."""
        spawn = _spawner.submit(
            subprocess.Popen,
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
        try:
            self._popen: subprocess.Popen[bytes] = spawn.result()
        except OSError as error:
            raise ToolMissing(f"{argv[0]} cannot be started: {error.strerror}") from error
        self.pid = self._popen.pid
        self._lock = threading.Lock()

    def status(self) -> int | None:
        """The exit status (negative: the signal that ended it); None while it runs.

        What it has started in its process group is killed before it is reaped: until then the group's
        number cannot belong to anybody else.
        """
        with self._lock:
            if self._popen.returncode is None:
                flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
                if os.waitid(os.P_PID, self.pid, flags) is None:
                    return None
                self._signal(signal.SIGKILL)
                self._popen.wait()
            return self._popen.returncode

    def wait(self, deadline: Deadline) -> int | None:
        """Wait for the end; None when the deadline comes first."""
        while (status := self.status()) is None and not deadline.expired:
            time.sleep(deadline.within(0.02))
        return status

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        with self._lock:
            if self._popen.returncode is None:
                self._signal(signal.SIGTERM)

    def stop(self, grace: float = SOFT_STOP_SECONDS) -> int | None:
        """Ask it to end, kill it after `grace` seconds, reap it. Safe to call twice.

        Returns its status; None for one that even a kill does not end, as when its disk hangs.
        """
        self.terminate()
        if self.wait(Deadline(grace)) is None:
            with self._lock:
                self._signal(signal.SIGKILL)
        if self._popen.stdin:
            self._popen.stdin.close()
        return self.wait(Deadline(SOFT_STOP_SECONDS))

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; the caller holds the lock and knows that it is not reaped."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def describe(status: int) -> str:
    """An exit status in words; negative is a signal."""
    return f"exit status {status}" if status >= 0 else f"signal {-status}"


def _die_with(parent: int) -> Callable[[], None]:
    """What runs between fork and exec: be killed when the parent dies, and at once if it is dead already."""

    def arrange() -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return arrange
