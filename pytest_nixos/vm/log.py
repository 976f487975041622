"""What the driver prints. One lock, whole lines: guests and test script print at the same time."""

import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

# Escape sequences, control characters and marks that change the direction of writing: a guest must not
# be able to drive the terminal (or the report) of who runs the tests. Tabs are harmless.
_UNSAFE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS and other strings
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
)


NO_ATTRIBUTES: Mapping[str, str] = {}


def neutralise(line: str) -> str:
    """A line without anything that a terminal would obey."""
    return _UNSAFE.sub("", line)


class Log:
    """Prints to `stream`, to what sys.stdout is at that moment when None; and to `transcript`, if there is one."""

    def __init__(self, stream: TextIO | None = None, transcript: TextIO | None = None) -> None:
        self._stream, self._transcript = stream, transcript
        self._lock = threading.Lock()
        self.serial = True  # whether lines of guests are printed
        self.verbose = False
        self._muted = False

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Print nothing meanwhile."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines together. Never raises: a guest must be drained even when nobody listens any more."""
        if self._muted:
            return
        text = "".join(f"{line}\n" for line in lines)
        with self._lock:
            for stream in filter(None, (self._transcript, self._stream or sys.stdout)):
                try:
                    stream.write(text)
                    stream.flush()
                except (OSError, ValueError):
                    self.serial &= stream is self._transcript

    def info(self, message: str) -> None:
        """Print one message."""
        self.lines([message])

    def debug(self, message: str) -> None:
        """Print one message, if messages of that level are wanted."""
        if self.verbose:
            self.lines([message])

    warning = error = log_test_error = info  # upstream's `error` ends the driver; here only an exception does

    def log(self, message: str, attributes: Mapping[str, str] = NO_ATTRIBUTES) -> None:
        """Print one message, of a machine when `attributes` has `machine`."""
        self.info(_headed(message, attributes))

    def log_serial(self, message: str, machine: str) -> None:
        """Print a line as one of a machine's console."""
        self.guest(machine, map(neutralise, message.splitlines()))

    def print_serial_logs(self, enable: bool) -> None:
        """Whether lines of guests are printed."""
        self.serial = enable

    def set_log_level(self, level: str) -> None:
        """`debug` prints debugging messages, too; any other level does not."""
        self.verbose = level.lower() == "debug"

    def guest(self, machine: str, lines: Iterable[str]) -> None:
        """Print lines of a guest's console, unless serial output is switched off."""
        if self.serial:
            self.lines(f"{machine} # {line}" for line in lines)

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        """Print that a subtest begins, and how long it took when it is done."""
        with self.nested(f"subtest: {name}"):
            yield

    @contextmanager
    def nested(self, message: str, attributes: Mapping[str, str] = NO_ATTRIBUTES) -> Iterator[None]:
        """Print what is done, and how long it took when it is done; `machine` in `attributes` says whose it is."""
        self.log(message, attributes)
        began = time.monotonic()
        yield
        self.info(f"(finished: {message}, in {time.monotonic() - began:.2f} seconds)")


def _headed(message: str, attributes: Mapping[str, str]) -> str:
    machine = attributes.get("machine")
    return f"{machine}: {message}" if machine else message
