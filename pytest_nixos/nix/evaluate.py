"""Evaluate a flake's checks: their names first, then all derivations, in several processes where that pays.

A process goes through its share of the checks and answers one by one, so that they share their packages. It is
replaced when it holds more memory than it should. A check that does not evaluate ends its process; it alone fails,
and the next process goes on behind it.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_nixos.errors import CommandFailed
from pytest_nixos.nix import describe
from pytest_nixos.nix.describe import Answer, Described, Names
from pytest_nixos.nix.message import nix_message
from pytest_nixos.nix.shares import Seat, Shares
from pytest_nixos.nix.target import Target
from pytest_nixos.proc import Stream

Progress = Callable[[int, int], None]
_TAIL_LINES = 200
_ALONE_SECONDS = 0.3  # a second process costs more than it brings for what one has done by then
_WORKER_BYTES = 1536 << 20  # where one more worker pays; what a worker may hold before it is replaced
_SMALLEST_BYTES = 512 << 20
_MEMORY_WORDS = ("out of memory", "bad_alloc", "Heap size limit", "GC Warning: Failed to expand heap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many evaluators may run side by side, and in bytes what each may hold before it is replaced, and ever."""

    workers: int
    replace_bytes: int
    heap_bytes: int

    @classmethod
    def of(cls, workers: int | None, cores: int, free_bytes: int) -> "Limits":
        """As many workers as asked for, else as cores and free memory allow."""
        count = workers or max(1, min(cores, free_bytes // _WORKER_BYTES))
        share = free_bytes * 9 // 10 // count
        return cls(workers=count, replace_bytes=max(_SMALLEST_BYTES, min(_WORKER_BYTES, share // 2)), heap_bytes=share)

    @property
    def env(self) -> dict[str, str]:
        """The environment in which an evaluator's garbage collector gives up before the machine does."""
        return {**os.environ, "GC_MAXIMUM_HEAP_SIZE": str(self.heap_bytes)}

    def alone(self) -> "Limits":
        """For one evaluator that has the memory of all."""
        return Limits(workers=1, replace_bytes=self.replace_bytes, heap_bytes=self.heap_bytes * self.workers)


@dataclass(slots=True)
class Evaluated:
    """All names in order, the answer of each check that was asked for, or why it has none."""

    names: list[str]
    answers: dict[str, Answer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def evaluate(
    target: Target,
    limits: Limits,
    progress: Progress = lambda done, total: None,
    only: Sequence[int] | None = None,
) -> Evaluated:
    """Evaluate the checks at the positions `only`, else all; progress is called with (done, all).

    Raises CommandFailed when the flake as a whole does not evaluate.
    """
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
    if work.limits.workers == 1:
        mib = work.limits.heap_bytes >> 20
        work.result.failed[work.result.names[position]] = f"its evaluation needs more than {mib} MiB: {message}"
        return
    alone = evaluate(work.target, work.limits.alone(), only=[position])
    work.result.answers.update(alone.answers)
    work.result.failed.update(alone.failed)


def all_names(target: Target, limits: Limits) -> list[str]:
    """The names of all checks, which are cheap to know. Raises CommandFailed as `evaluate` does."""
    return evaluate(target, limits, only=[]).names


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
        self._ended = threading.Event()

    def lead(self) -> None:
        """The first worker's part: learn the names, go through the checks, wait for the others."""
        seat = self._run(None)
        self._sit(seat)
        while seat := self._join():
            self._sit(seat)
        for helper in self._helpers:
            helper.join()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End what still runs, whatever has happened."""
        with self._lock:
            self._ended.set()
            streams = list(self._streams)
        for stream in streams:
            stream.end()
        for helper in self._helpers:
            helper.join()

    def _help(self) -> None:
        """A further worker's part, after a moment in which the first one may have done it all."""
        if self._ended.wait(_ALONE_SECONDS):
            return
        try:
            while seat := self._join():
                self._sit(seat)
        except BaseException as error:  # the leading thread raises it
            self._error = error

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
        said: deque[bytes] = deque(maxlen=_TAIL_LINES)
        answered = 0
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
                            said.append(line)
                        case Names(names) if seat is None:
                            seat = self._share_out(names)
                        case Described(position, answer) if seat is not None:
                            answered += 1
                            if self._take(seat, position, answer) is None:
                                return seat
                            if stream.memory_bytes > self.limits.replace_bytes:
                                return seat
                status = stream.wait()
        finally:
            self._streams.discard(stream)
        self._died(seat, status, b"".join(said).decode(errors="replace"), answered)
        return seat

    def _argv(self, mark: str, seat: Seat | None) -> tuple[str, ...]:
        positions = self._only if seat is None else [self._position(at) for at in seat.order()]
        return self.target.eval_argv(describe.function(mark, positions))

    def _position(self, at: int) -> int:
        return at if self._only is None else self._only[at]

    def _share_out(self, names: list[str]) -> Seat | None:
        """Now the checks are known: take the first seat, and call the other workers."""
        with self._lock:
            self.result.names = names
            self._shares = Shares(len(names) if self._only is None else len(self._only))
            seat = self._shares.join()
            for _ in range(self.limits.workers - 1):
                self._helpers.append(threading.Thread(target=self._help, daemon=True))
                self._helpers[-1].start()
        return seat

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
        message = nix_message(said) or f"the evaluator ended with status {status} and said nothing"
        if self._shares is None:
            raise CommandFailed(self._argv("", None), status, said)
        with self._lock:
            if self._ended.is_set() or seat is None or seat.current is None:
                return
            position = self._position(seat.current)
            short = status < 0 or status > 128 or any(word in said for word in _MEMORY_WORDS)
            if short and answered:
                return  # what the process had in memory by then were other checks: a new one tries again
            if short:
                self.hungry[position] = message
            else:
                self.result.failed[self.result.names[position]] = message
            self._move(seat)
