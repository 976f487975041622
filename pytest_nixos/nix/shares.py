"""Who evaluates what: positions 0..count-1 shared out to workers that each go through theirs in one direction. Pure.

Attributes of one flake share most of what they need, so a worker should go on as long as it can, and must not wait for
others. Two workers on one gap of open positions start at its ends and go towards each other, which needs no new
start to balance them. A third splits the largest gap in the middle. A worker learns that it is done when it asks what
comes next; what a process has begun beyond that is thrown away.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Gap:
    """Positions low..high-1, which nobody has begun, with the workers at its two ends."""

    low: int
    high: int
    seats: list["Seat"] = field(default_factory=list)

    @property
    def open(self) -> int:
        return self.high - self.low


@dataclass(slots=True, eq=False)
class Seat:
    """A worker's place: `current` is the position it is at, None when there is nothing left for it."""

    gap: _Gap
    step: int
    current: int | None = None

    def order(self) -> range:
        """The positions from `current` on, in the order in which this worker goes through them, as of now."""
        if self.current is None:
            return range(0)
        return range(self.current, self.gap.high if self.step > 0 else self.gap.low - 1, self.step)

    def move(self) -> int | None:
        """Leave `current`, and take the next position of the gap, if there is one."""
        gap = self.gap
        if gap.open <= 0:
            self.current = None
        elif self.step > 0:
            self.current, gap.low = gap.low, gap.low + 1
        else:
            self.current, gap.high = gap.high - 1, gap.high - 1
        return self.current


class Shares:
    """All positions, and who is at which. Not safe for threads by itself."""

    def __init__(self, count: int) -> None:
        self._gaps = [_Gap(0, count)]

    def join(self) -> Seat | None:
        """A place for a worker that has none; None when every position is taken."""
        gap = max(self._gaps, key=lambda gap: gap.open)
        if gap.open < max(1, len(gap.seats)):
            return None  # a single position between two workers is about to be taken
        if len(gap.seats) == 2:
            gap = self._split(gap)
        taken = {seat.step for seat in gap.seats}
        seat = Seat(gap, -1 if 1 in taken else 1)
        gap.seats.append(seat)
        seat.move()
        return seat

    def _split(self, gap: _Gap) -> _Gap:
        """Cut the upper half off, with the worker that comes from above; returns the lower one."""
        upper = _Gap((gap.low + gap.high) // 2, gap.high)
        self._gaps.append(upper)
        gap.high = upper.low
        for seat in [seat for seat in gap.seats if seat.step < 0]:
            gap.seats.remove(seat)
            upper.seats.append(seat)
            seat.gap = upper
        return gap
