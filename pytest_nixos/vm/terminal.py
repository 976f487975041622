"""A whole test driver on a pseudo-terminal: run it to its end, with a deadline and a transcript."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pexpect

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import ToolMissing
from pytest_nixos.proc import die_with_parent
from pytest_nixos.vm.console import LineSplitter

UNKNOWN = 255  # the status of a program whose end nobody saw: never 0
_POLL_SECONDS = 0.5
_TAIL_LINES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How the program ended: its exit status (negative: a signal), whether the deadline ended it, its last lines."""

    status: int
    timed_out: bool
    tail: tuple[str, ...]


class Terminal(AbstractContextManager["Terminal"]):
    """A program that runs on a pseudo-terminal of its own; on leaving the context it is gone.

    What it prints goes to `transcript` as it is, and line by line, made harmless, to `on_line`.
    grace is the time in seconds that it gets between the soft and the hard stop.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        transcript: Path,
        on_line: Callable[[str], None],
        grace: float,
    ) -> None:
        """Start it. Raises ToolMissing when the program cannot be started."""
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._on_line, self._grace = on_line, grace
        self._file = transcript.open("wb")
        try:
            self._child: pexpect.spawn[bytes] = pexpect.spawn(
                argv[0],
                list(argv[1:]),
                cwd=str(cwd),
                env=dict(env),
                timeout=None,
                maxread=65536,
                dimensions=(50, 200),
                echo=False,
                preexec_fn=die_with_parent,
            )
        except pexpect.ExceptionPexpect as error:
            self._file.close()
            raise ToolMissing(f"{argv[0]} cannot be started: {error}") from None

    def wait(self, seconds: float) -> Finished:
        """Read what it prints until it ends or the time is over; then it is stopped."""
        deadline, splitter = Deadline(seconds), LineSplitter()
        ended = self._read(splitter, deadline)
        if not ended:
            self.stop(splitter)
        self._report(splitter.feed(b"\n") if splitter.rest else [])
        return Finished(status=self._status(), timed_out=not ended, tail=tuple(self._tail))

    def stop(self, splitter: LineSplitter | None = None) -> None:
        """Ask it to end, read on while it does, kill it after the grace time. Safe to call twice."""
        if not self._child.isalive():
            return
        self._child.kill(15)
        if not self._read(splitter or LineSplitter(), Deadline(self._grace)):
            self._child.kill(9)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._child.close(force=True)
        self._file.close()

    def _read(self, splitter: LineSplitter, deadline: Deadline) -> bool:
        """Read until the end (True) or the deadline (False). Its end counts, not that of what it left behind."""
        while not deadline.expired:
            try:
                data = self._child.read_nonblocking(65536, timeout=deadline.within(_POLL_SECONDS))
            except pexpect.TIMEOUT:
                if not self._child.isalive():
                    return True
            except pexpect.EOF:
                return True
            else:
                self._file.write(data)
                self._report(splitter.feed(data))
        return False

    def _report(self, lines: list[str]) -> None:
        self._tail.extend(lines)
        for line in lines:
            self._on_line(line)

    def _status(self) -> int:
        self._child.wait() if self._child.isalive() else None
        if self._child.signalstatus is not None:
            return -self._child.signalstatus
        return UNKNOWN if self._child.exitstatus is None else self._child.exitstatus
