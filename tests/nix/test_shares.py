"""Who evaluates what: whatever the order in which workers come and go on, every position is taken once."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos.nix.shares import Seat, Shares


class Room:
    """Workers in an order that a test chooses. A step of a worker: take a seat where it has none, else go on."""

    def __init__(self, count: int) -> None:
        self.count, self.shares = count, Shares(count)
        self.seats: dict[int, Seat] = {}
        self.taken: list[int] = []
        self.promised: dict[int, list[int]] = {}

    def step(self, worker: int) -> bool:
        """False when there is nothing for this worker now."""
        seat = self.seats.get(worker)
        if seat is None:
            seat = self.shares.join()
            if seat is None:
                return False
            assert seat.current is not None
            self.promised[worker] = list(seat.order())
        else:
            seat.move()
        if seat.current is None:
            assert list(seat.order()) == []
            self.seats.pop(worker, None)
        else:
            self.seats[worker] = seat
            self.taken.append(seat.current)
            assert seat.order()[0] == seat.current
            # A process is started once, and answers in the order that it was given then.
            assert self.promised[worker].pop(0) == seat.current
            assert list(seat.order())[1:] == self.promised[worker][: len(seat.order()) - 1]
        return True


@given(st.integers(0, 60), st.lists(st.integers(0, 7)))
def test_every_position_is_taken_once_whatever_the_interleaving(count: int, steps: list[int]) -> None:
    room = Room(count)
    for worker in steps:
        room.step(worker)
        assert len(room.taken) == len(set(room.taken)), "taken twice"
    # Those who are there go on to their ends, and then one of them looks for more: nobody else has to come.
    while room.seats:
        room.step(min(room.seats))
    while room.step(0):
        pass
    assert sorted(room.taken) == list(range(count))


@given(st.integers(1, 60), st.integers(1, 8))
def test_nobody_stands_idle_beside_work(count: int, workers: int) -> None:
    """In rounds, where every check takes as long, no round is more than twice what it could be."""
    room, rounds = Room(count), 0
    while len(room.taken) < count:
        before = len(room.taken)
        for worker in range(workers):
            room.step(worker)
        rounds += 1
        assert len(room.taken) > before
    assert rounds <= 2 * -(-count // workers) + 1


@given(st.integers(2, 100))
def test_two_workers_meet_without_a_new_start(count: int) -> None:
    shares = Shares(count)
    first, second = shares.join(), shares.join()
    assert first is not None
    assert second is not None
    met = [first.current, second.current]
    while None not in met[-2:]:
        met += [first.move(), second.move()]
    assert sorted(at for at in met if at is not None) == list(range(count))
    assert shares.join() is None


def test_a_third_splits_what_is_left_between_two() -> None:
    shares = Shares(12)
    upwards, downwards, third = shares.join(), shares.join(), shares.join()
    assert upwards is not None
    assert downwards is not None
    assert third is not None
    assert upwards.order() == range(0, 5)  # 1 to 10 were open: now 1 to 5, and 6 to 10
    assert downwards.order() == range(11, 5, -1)
    assert third.order() == range(5, 0, -1)


def test_nothing_to_share() -> None:
    assert Shares(0).join() is None
