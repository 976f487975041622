"""Deadlines as objects: made once, handed down, asked how much is left."""

import math
import time


class Deadline:
    """A moment in the future; seconds from now, None for never.

    outer is a deadline that ends this one too, when it comes earlier.
    """

    def __init__(self, seconds: float | None, outer: "Deadline | None" = None) -> None:
        own: float = math.inf if seconds is None else time.monotonic() + seconds
        self._at: float = own if outer is None else min(own, outer._at)

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return time.monotonic() >= self._at

    @property
    def remaining(self) -> float | None:
        """Seconds that are left, never negative; None when there is no end."""
        return None if math.isinf(self._at) else max(0.0, self._at - time.monotonic())

    def within(self, seconds: float) -> float:
        """At most that many seconds, fewer when less is left: for waits that look again from time to time."""
        remaining = self.remaining
        return seconds if remaining is None else min(seconds, remaining)
