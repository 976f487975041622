"""Subtests in what a test driver prints: ours and upstream's print the same lines. Pure.

    subtest: the page is there
    (finished: subtest: the page is there, in 1.25 seconds)
    Test "the page is there" failed with error: "..."

Guests' lines begin with `machine #`, so no guest can say such a thing.
"""

import re
import time
from collections.abc import Callable

from pytest_nixos.model import Subtest

_BEGUN = re.compile(r"subtest: (.*)")
_FINISHED = re.compile(r"\(finished: subtest: (.*), in (\d+(?:\.\d+)?) seconds\)")
_FAILED = re.compile(r'(?:error: |!!! )?Test "(.*?)" failed with error: "?(.*?)"?')


class Steps:
    """Reads a driver's lines; `ended` are the subtests that have ended, in that order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.ended: list[Subtest] = []
        self._open: list[tuple[str, float]] = []
        self._clock = clock

    def line(self, line: str) -> None:
        """Take in a line of the driver, without a terminal's sequences."""
        line = line.strip()
        if found := _FINISHED.fullmatch(line):
            self._end(found[1], float(found[2]), "")
        elif found := _FAILED.fullmatch(line):
            self._end(found[1], None, found[2] or "it failed")
        elif found := _BEGUN.fullmatch(line):
            self._open.append((found[1], self._clock()))

    def rest(self, error: str) -> list[Subtest]:
        """All subtests, when the driver has ended: those that have not, have failed by that error."""
        for name, _ in reversed(list(self._open)):
            self._end(name, None, error)
        return self.ended

    def _end(self, name: str, seconds: float | None, error: str) -> None:
        """A subtest that was begun has ended. Inner ones that nobody has seen end are forgotten."""
        names = [begun for begun, _ in self._open]
        if name not in names:
            return
        at = len(names) - 1 - names[::-1].index(name)
        seconds = self._clock() - self._open[at][1] if seconds is None else seconds
        del self._open[at:]
        self.ended.append(Subtest(name=name, seconds=seconds, error=error))
