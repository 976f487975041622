"""The one door to subprocesses: run a program to its end, with a deadline, its output and no leftovers."""

import contextlib
import ctypes
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_nixos.errors import CommandFailed, CommandTimedOut, ToolMissing

_TAIL_LINES = 60
_SOFT_SECONDS = 5.0
_LONGEST_LINE = 64 << 20
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program's exit status, its whole stdout and the last lines of its stderr."""

    status: int
    stdout: bytes
    stderr_tail: str


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process `sig` when its parent ends, however that ends (Linux prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)


def run(
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    on_stderr: Callable[[bytes], None] | None = None,
    check: bool = True,
) -> Completed:
    """Run `argv` to its end and return its output.

    timeout is in seconds. on_stderr is called with each line of stderr as it comes.
    Raises ToolMissing when the program is not there, CommandTimedOut at the deadline, and CommandFailed
    when `check` is true and the exit status is not 0. Whatever is raised, the program is gone.
    """
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
        source.write(stdin)
        source.seek(0)
        process = _start(argv, env, cwd, source.fileno(), sink.fileno(), subprocess.PIPE, die_with_parent)
        timed_out = threading.Event()
        timer = _deadline(process, timeout, timed_out)
        try:
            tail = _drain(process, on_stderr)
            status = process.wait()
        finally:
            timer.cancel()
            _end(process)
        sink.seek(0)
        done = Completed(status=status, stdout=sink.read(), stderr_tail=tail)
    if timed_out.is_set():
        raise CommandTimedOut(f"`{argv[0]} …` was still running after {timeout:.0f} s and was ended")
    if check and status != 0:
        raise CommandFailed(tuple(argv), status, tail)
    return done


def attach(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> int:
    """Run a program that has our terminal, and every Ctrl-C, until it ends; its exit status. Raises ToolMissing."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with_parent()

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _start(argv, env, cwd, None, None, None, prepare).wait()
    finally:
        signal.signal(signal.SIGINT, before)


class Stream:
    """A program that runs while its output is read: `with Stream(argv) as program: for line in program.lines()`.

    What is read is stderr, or stdout with `stdout=True`; the other stream is dropped. It is for programs that have
    nothing to lose: leaving the block kills the program (Nix takes seconds to heed a softer signal), and so does the
    end of this thread. One that has children is asked first: a Nix that builds ends its builder, and does so at once.
    Raises ToolMissing when the program is not there.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdout: bool = False) -> None:
        streams = (subprocess.PIPE, subprocess.DEVNULL) if stdout else (subprocess.DEVNULL, subprocess.PIPE)
        self._process = _start(argv, env, None, subprocess.DEVNULL, *streams, _first_to_go)
        self._read = self._process.stdout if stdout else self._process.stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._read is not None:
            self._read.close()

    def lines(self) -> Iterator[bytes]:
        """The lines of the stream that is read, as they come, to its end; a line of more than 64 MiB in pieces."""
        assert self._read is not None
        while line := self._read.readline(_LONGEST_LINE):
            yield line

    def end(self) -> None:
        """Kill the program, if it still runs; may be called from another thread."""
        if self._has_children:
            _end(self._process, soft_seconds=1)
        self._process.kill()
        self._process.wait()

    @property
    def _has_children(self) -> bool:
        try:
            threads = Path(f"/proc/{self._process.pid}/task").iterdir()
            return any((thread / "children").read_bytes() for thread in threads)
        except OSError:
            return False  # it has ended, or this kernel does not tell

    def wait(self) -> int:
        """The exit status, negative for the signal that ended it."""
        return self._process.wait()

    @property
    def memory_bytes(self) -> int:
        """What the program holds of the machine's memory at this moment; 0 when it has ended."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _first_to_go() -> None:
    """Where memory runs out, the kernel shall end this program rather than pytest or the user's desktop."""
    die_with_parent(signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"900")  # closed by the program's start


def _start(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: int | None,
    stdout: int | None,
    stderr: int | None,
    prepare: Callable[[], None],
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, preexec_fn=prepare)
    except FileNotFoundError:
        raise ToolMissing(f"`{argv[0]}` was not found on PATH", f"install {argv[0]} and try again") from None
    except OSError as error:
        raise CommandFailed(tuple(argv), 126, os.strerror(error.errno or 0)) from None


def _deadline(process: subprocess.Popen[bytes], timeout: float | None, timed_out: threading.Event) -> threading.Timer:
    def end() -> None:
        timed_out.set()
        _end(process)

    timer = threading.Timer(timeout if timeout is not None else threading.TIMEOUT_MAX, end)
    timer.daemon = True
    if timeout is not None:
        timer.start()
    return timer


def _drain(process: subprocess.Popen[bytes], on_stderr: Callable[[bytes], None] | None) -> str:
    tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
    assert process.stderr is not None
    for line in process.stderr:
        tail.append(line)
        if on_stderr is not None:
            on_stderr(line)
    return b"".join(tail).decode(errors="replace")


def _end(process: subprocess.Popen[bytes], soft_seconds: float = _SOFT_SECONDS) -> None:
    """Soft stop, then hard stop; does nothing when the process has ended."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(sig)
        try:
            process.wait(soft_seconds)
        except subprocess.TimeoutExpired:
            continue
