"""Streams and serial consoles. The only module of this room that imports pexpect.

A guest may print faster than anybody reads: a thread drains the console all the time, splits lines itself
(a regular expression over a growing buffer is slow), and keeps only a tail in memory. What waits for text
reads it back from the transcript.
"""

import os
import re
import threading
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from pexpect import EOF, TIMEOUT
from pexpect.fdpexpect import fdspawn

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.interact import hand_on, raw_keys, show
from pytest_nixos.vm.log import Log, neutralise
from pytest_nixos.vm.process import Process

TAIL_LINES = 200
LONGEST_LINE = 64 * 1024  # bytes after which a line without an end is taken as one
_QUIET_SECONDS = 0.5  # a line without an end counts as a prompt when nothing follows it for so long
_SMALL_CHUNK = 1024  # bytes; QEMU writes a few at a time, and to be woken for each of these writes would take a core
_GATHER_SECONDS = 0.005
_LOOK_SECONDS = 0.2  # how often the end of a silent process is looked for
_PANIC = re.compile(r"(?:^|\] )(---\[ end )?Kernel panic - not syncing")


class StreamClosed(Exception):
    """The other side of a stream is gone."""


class StreamTimeout(Exception):
    """Nothing, or not enough, came in time."""


class Stream:
    """Bytes from a file descriptor, with deadlines.

    Searching is done here: pexpect's own costs quadratic time on long answers, unless its window is
    small, and then it overlooks what is already in the buffer.
    """

    def __init__(self, fd: int) -> None:
        self._spawn = fdspawn(fd, timeout=None, maxread=65536, use_poll=True)
        self._buffer = bytearray()

    def read(self, seconds: float | None) -> bytes:
        """What comes next, waiting at most so long. Raises StreamClosed, StreamTimeout."""
        try:
            # Without an encoding pexpect gives bytes, whatever its stubs say.
            return cast(bytes, self._spawn.read_nonblocking(65536, timeout=seconds))
        except TIMEOUT:
            raise StreamTimeout from None
        except (EOF, OSError, ValueError):
            raise StreamClosed from None

    def until(self, marker: bytes, deadline: Deadline) -> bytes:
        """What comes before the marker, which is consumed. Raises StreamClosed, StreamTimeout."""
        start = 0
        while (found := self._buffer.find(marker, start)) < 0:
            start = max(0, len(self._buffer) - len(marker) + 1)
            self._buffer += self.read(deadline.remaining)
        before = bytes(self._buffer[:found])
        del self._buffer[: found + len(marker)]
        return before


class LineSplitter:
    """Makes lines of chunks of bytes; what has no end yet waits in `rest`."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that the chunk completes, decoded and harmless; overlong ones are cut in pieces."""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        if len(self.rest) > LONGEST_LINE:
            lines.append(self.rest)
            self.rest = b""
        return [clean(line) for line in lines]


def clean(line: bytes) -> str:
    """A console line as text: no line end, nothing that a terminal would obey."""
    return neutralise(line.decode(errors="replace"))


def panic_in(line: str, *, may_reboot: bool) -> bool:
    """Whether a console line is the kernel's word that it panicked.

    A machine that may reboot may also come back through a crash kernel: there only the panic's last line
    counts, which a kernel prints when it hangs for good.
    """
    found = _PANIC.search(line)
    return found is not None and (bool(found[1]) or not may_reboot)


def open_pty() -> tuple[int, int]:
    """A pseudo-terminal (ours, the program's) that passes on what is typed as it is."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    return ours, theirs


class Console:
    """The serial console of a machine that runs, drained by a thread from start to end.

    on_line is called in that thread for each line, on_end once when the process has ended.
    """

    def __init__(
        self,
        name: str,
        transcript: Path,
        log: Log,
        on_line: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        self.transcript = transcript
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._name, self._log, self._on_line, self._on_end = name, log, on_line, on_end
        self._file = transcript.open("ab", buffering=0)
        self._start = self._seen = self._file.tell()
        self._news = 0  # counts up whenever something happens
        self._ended = self._shown = self._incomplete = False
        self._splitter = LineSplitter()
        self._changed = threading.Condition()
        self._keys, self.stdin = open_pty()
        # Output takes a pipe: QEMU writes a few bytes at a time, and on a terminal each such write costs more.
        self._output, self.stdout = os.pipe()
        self._thread: threading.Thread | None = None

    def follow(self, process: Process) -> None:
        """Start draining; `stdin` and `stdout` are the process's by now."""
        self._close_theirs()
        self._thread = threading.Thread(target=self._drain, args=(process,), name=f"console {self._name}", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        """Type on the console."""
        while data:
            data = data[os.write(self._keys, data) :]

    def interact(self) -> None:
        """Connect this program's terminal until ctrl-], the end of its input, or of the machine."""
        self._shown = True
        try:
            with raw_keys():
                hand_on(self.send, lambda: self._ended)
        finally:
            self._shown = False

    def text(self) -> str:
        """Everything since the start."""
        with self._from(self._start) as file:
            return file.read().decode(errors="replace")

    def wait_for(self, regex: re.Pattern[str], deadline: Deadline, check: Callable[[], None]) -> str:
        """The next line that matches, among those that no wait has consumed; raises StreamTimeout.

        check is called when what there is does not match, and may raise. A line without an end, as a
        prompt is, is looked at when nothing has followed it for a while.
        """
        quiet = False
        while True:
            news = self._news
            if (line := self._next_match(regex, whole_lines=not quiet and not self._ended)) is not None:
                return line
            check()
            if deadline.expired:
                raise StreamTimeout
            with self._changed:
                self._changed.wait_for(lambda: self._news != news, deadline.within(_QUIET_SECONDS))  # noqa: B023
            quiet = self._news == news

    def wake(self) -> None:
        """Let who waits for text look again, at the text and at the machine."""
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def settle(self, quiet: float = 0.15, longest: float = 1.0) -> None:
        """Wait until nothing has come for `quiet` seconds, at most `longest` seconds."""
        deadline = Deadline(longest)
        with self._changed:
            while not self._ended and not deadline.expired and self._changed.wait(quiet):
                pass

    def close(self) -> None:
        """Wait for the drain to end (the process has ended) and close the files. Safe to call twice."""
        if self._file.closed:
            return
        if self._thread:
            self._thread.join(timeout=5)
        else:
            self._close_theirs()
        os.close(self._keys)
        os.close(self._output)
        self._file.close()

    def _close_theirs(self) -> None:
        os.close(self.stdin)
        os.close(self.stdout)

    def _next_match(self, regex: re.Pattern[str], *, whole_lines: bool) -> str | None:
        with self._from(self._seen) as file:
            while raw := file.readline(LONGEST_LINE):
                whole = raw.endswith(b"\n") or len(raw) == LONGEST_LINE
                if whole_lines and not whole:
                    break
                line = clean(raw)
                if regex.search(line) or regex.search(raw.decode(errors="replace").rstrip("\r\n")):
                    self._seen += len(raw)
                    return line
                if whole:
                    self._seen += len(raw)
        return None

    def _from(self, offset: int) -> BinaryIO:
        # While it is ours by number: at its path may be the file of another driver with the same output folder.
        mine = Path("/proc/self/fd", str(self._file.fileno())) if not self._file.closed else self.transcript
        file = mine.open("rb")
        file.seek(offset)
        return file

    def _drain(self, process: Process) -> None:
        stream = Stream(self._output)
        while True:
            # Asked before reading: what a process has printed before its end is then read to its end.
            ended = process.status() is not None
            try:
                chunk = stream.read(_LOOK_SECONDS)
                self._take(chunk)
                if len(chunk) < _SMALL_CHUNK:
                    time.sleep(_GATHER_SECONDS)  # what comes next comes together
            except StreamTimeout:
                if ended:
                    break
            except StreamClosed:
                process.wait(Deadline(None))
                break
        self._finish()

    def _take(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            if not self._incomplete:  # said once: a full disk stays full
                self._log.error(f"{self._name}: the console's transcript cannot be written: {error}")
            self._incomplete = True
        if self._shown:
            show(chunk)
        self._report(self._splitter.feed(chunk))
        self.wake()

    def _report(self, lines: list[str]) -> None:
        self.tail.extend(line[:1000] for line in lines)
        for line in lines:
            self._on_line(line)
        self._log.guest(self._name, lines)

    def _finish(self) -> None:
        if self._splitter.rest:
            self._report(self._splitter.feed(b"\n"))
        self._on_end()
        self._ended = True
        self.wake()
