"""Evaluate a flake's checks: their names first, then all derivations, in several processes where that pays.

A process goes through its share of the checks and answers one by one, so that they share their packages. It is
replaced when it holds more memory than it should. A check that does not evaluate ends its process; it alone fails,
and the next process goes on behind it.
"""

import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_nixos.errors import CommandFailed
from pytest_nixos.nix import describe
from pytest_nixos.nix.describe import Answer, Described, Names
from pytest_nixos.nix.limits import Limits
from pytest_nixos.nix.message import nix_message
from pytest_nixos.nix.shares import Seat, Shares
from pytest_nixos.nix.target import Target
from pytest_nixos.proc import Stream

Progress = Callable[[int, int], None]
_LINES = 200  # of an error's begin and of its end
_LINE_BYTES = 4096
_MOST_RANGES = 2000  # a word of a command line has 128 KiB (Linux, execve(2))
_ALONE_SECONDS = 0.3  # a second process costs more than it brings for what one has done by then
# What Nix or its garbage collector says, at the begin of a line: a message also shows lines of the flake.
_MEMORY = re.compile(r"^\s*(error: )*(out of memory|std::bad_alloc)|^GC Warning: .*NULL|^terminate .*bad_alloc", re.M)


@dataclass(slots=True)
class Evaluated:
    """All names in order, the answer of each check that was asked for, or why it has none."""

    names: list[str]
    answers: dict[str, Answer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether there are checks, and each has its answer."""
        return bool(self.names) and all(name in self.answers for name in self.names)


def evaluate(
    target: Target,
    limits: Limits,
    progress: Progress = lambda done, total: None,
    only: Sequence[int] | None = None,
) -> Evaluated:
    """Evaluate the checks at the positions `only`, or more of them, else all; progress is called with (done, all).

    Raises CommandFailed when the flake as a whole does not evaluate, or changes its checks meanwhile.
    """
    if only is not None and len(describe.as_ranges(only)) > _MOST_RANGES:
        only = None
    work = _Work(target, limits, progress, only)
    try:
        work.lead()
    finally:
        work.end()
    for position, message in sorted(work.hungry.items()):
        _again_alone(work, position, message)
    return work.result


def _again_alone(work: "_Work", position: int, message: str) -> None:
    """A check that had too little memory beside others, once more by itself."""
    name, limits = work.result.names[position], work.limits
    if limits.workers == 1:
        mib = limits.heap_bytes >> 20
        message = f"its evaluation needs more than {mib} MiB: {message}" if _is_of_memory(message) else message
        work.result.failed[name] = message
        return
    try:
        alone = evaluate(work.target, limits.alone(), only=[position])
    except CommandFailed as error:
        alone = Evaluated([], failed={name: nix_message(error.output)})
    if name in alone.answers:
        work.result.answers[name] = alone.answers[name]
    else:
        work.result.failed[name] = alone.failed.get(name, message)


def all_names(target: Target, limits: Limits) -> list[str]:
    """The names of all checks, which are cheap to know. Raises CommandFailed as `evaluate` does."""
    return evaluate(target, limits, only=[]).names


def _is_of_memory(text: str) -> bool:
    return bool(_MEMORY.search(text))


class _Said:
    """What an evaluator has said since its last answer: the begin and the end of its error, else its last lines."""

    def __init__(self) -> None:
        self._begin: list[bytes] = []
        self._end: deque[bytes] = deque(maxlen=_LINES)

    def add(self, line: bytes) -> None:
        if len(line) > _LINE_BYTES:
            line = line[: _LINE_BYTES // 2] + " … ".encode() + line[-_LINE_BYTES // 2 :]
        if not self._begin and line.startswith(b"error:"):
            self._end.clear()  # what was said before is no part of the error
            self._begin.append(line)
        elif self._begin and len(self._begin) < _LINES:
            self._begin.append(line)
        else:
            self._end.append(line)

    def clear(self) -> None:
        self._begin.clear()
        self._end.clear()

    @property
    def text(self) -> str:
        return b"".join([*self._begin, *self._end]).decode(errors="replace")


class _Work:
    """One evaluation: the workers' threads, who is where, and what they have found."""

    def __init__(self, target: Target, limits: Limits, progress: Progress, only: Sequence[int] | None) -> None:
        self.target, self.limits, self._progress, self._only = target, limits, progress, only
        self.result = Evaluated([])
        self.hungry: dict[int, str] = {}
        self._shares: Shares | None = None  # until the names are known
        self._lock = threading.RLock()
        self._streams: set[Stream] = set()
        self._helpers: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._begun = threading.Event()  # the leading worker finds no more to begin: nor need a helper
        self._ended = threading.Event()

    def lead(self) -> None:
        """The first worker's part: learn the names, go through the checks, wait for the others."""
        seat = self._run(None)
        self._sit(seat)
        while seat := self._join():
            self._sit(seat)
        self._begun.set()
        for helper in self._helpers:
            helper.join()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End what still runs, whatever has happened."""
        self._stop()
        for helper in self._helpers:
            helper.join()

    def _stop(self) -> None:
        with self._lock:
            self._ended.set()
            self._begun.set()
            streams = list(self._streams)
        for stream in streams:
            stream.end()

    def _help(self) -> None:
        """A further worker's part, after a moment in which the first one may have done it all."""
        self._begun.wait(_ALONE_SECONDS)
        try:
            while seat := self._join():
                self._sit(seat)
        except BaseException as error:  # the leading thread raises it
            self._error = self._error or error
            self._stop()

    def _join(self) -> Seat | None:
        with self._lock:
            return None if self._ended.is_set() or self._shares is None else self._shares.join()

    def _sit(self, seat: Seat | None) -> None:
        """Run processes until there is nothing left for this seat."""
        while seat is not None and seat.current is not None and not self._ended.is_set():
            self._run(seat)

    def _run(self, seat: Seat | None) -> Seat | None:
        """One process, until it ends, holds too much, or has nothing left to do; returns its seat.

        Without a seat it is the very first, learns the names and takes a seat then.
        """
        mark = describe.new_mark()
        said, answered = _Said(), 0
        with self._lock:
            if self._ended.is_set():
                return None
            stream = Stream(self._argv(mark, seat), env=self.limits.env)
            self._streams.add(stream)
        try:
            with stream:
                for line in stream.lines():
                    match describe.parse_line(line, mark):
                        case None:
                            said.add(line)
                        case Names(names) if self._shares is None:
                            seat = self._share_out(names)
                        case Names(names) if names != self.result.names:
                            raise self._changed()
                        case Described(position, answer) if seat is not None:
                            answered += 1
                            said.clear()
                            if self._take(seat, position, answer) is None:
                                return seat
                            if stream.memory_bytes > self.limits.replace_bytes:
                                return seat
                status = stream.wait()
        finally:
            with self._lock:
                self._streams.discard(stream)
        self._died(seat, status, said.text, answered)
        return seat

    def _argv(self, mark: str, seat: Seat | None) -> tuple[str, ...]:
        positions = self._only if seat is None else [self._position(at) for at in seat.order()]
        return self.target.eval_argv(describe.function(mark, positions))

    def _position(self, at: int) -> int:
        return at if self._only is None else self._only[at]

    def _share_out(self, names: list[str]) -> Seat | None:
        """Now the checks are known: take the first seat, and call the other workers."""
        if self._only and max(self._only) >= len(names):
            raise self._changed()
        with self._lock:
            self.result.names = names
            count = len(names) if self._only is None else len(self._only)
            self._shares = Shares(count)
            seat = self._shares.join()
            for _ in range(min(self.limits.workers, count) - 1):
                helper = threading.Thread(target=self._help, daemon=True)
                helper.start()
                self._helpers.append(helper)
        return seat

    def _changed(self) -> CommandFailed:
        return CommandFailed(self._argv("", None), 0, "error: its checks have changed meanwhile: run again")

    def _take(self, seat: Seat, position: int, answer: Answer) -> int | None:
        """Note an answer, and return what the seat is at next; None when there is nothing left for it."""
        with self._lock:
            if self._ended.is_set() or seat.current is None or position != self._position(seat.current):
                return None
            self.result.answers[self.result.names[position]] = answer
            return self._move(seat)

    def _move(self, seat: Seat) -> int | None:
        following = seat.move()
        done = len(self.result.answers) + len(self.result.failed) + len(self.hungry)
        self._progress(done, len(self.result.names) if self._only is None else len(self._only))
        return following

    def _died(self, seat: Seat | None, status: int, said: str, answered: int) -> None:
        """A process has ended before its time: the check it was at has failed, unless memory was short."""
        message = _end_of(status, nix_message(said))
        if self._shares is None:
            raise CommandFailed(self._argv("", None), status, said if "error:" in said else message)
        with self._lock:
            if self._ended.is_set() or seat is None or seat.current is None:
                return
            position = self._position(seat.current)
            short = status < 0 or status > 128 or _is_of_memory(said)
            if short and answered:
                return  # what the process had in memory by then were other checks: a new one tries again
            if short:
                self.hungry[position] = message
            else:
                self.result.failed[self.result.names[position]] = message
            self._move(seat)


def _end_of(status: int, message: str) -> str:
    """An evaluator's own words, after what it died of where it can't have said that."""
    number = -status if status < 0 else status - 128
    if number in set(signal.Signals):
        why = ", as where memory is short" if number == signal.SIGKILL else ""
        return f"the evaluator was ended by {signal.Signals(number).name}{why}\n{message}".strip()
    return message or f"the evaluator ended with status {status} and said nothing"
