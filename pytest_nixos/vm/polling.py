"""Conditions that must hold while a test does something else."""

import time
from collections.abc import Callable
from types import TracebackType

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm.durations import with_durations
from pytest_nixos.vm.errors import GlobalTimeout, MachineError, MachineTimeout
from pytest_nixos.vm.log import Log

DEFAULT_SECONDS = 900.0
Condition = Callable[[], bool | None]


class PollingConditionError(MachineError):
    """A condition that was to hold does not."""


class PollingCondition:
    """`with condition:` looks at it from time to time, before commands, and ends the test when it does not hold.

    A condition is a function without arguments; it holds when it returns True or None, and not when it returns False
    or raises. `active` are the conditions that hold sway now; ours is in it while it is entered.
    """

    def __init__(
        self, condition: Condition, active: list["PollingCondition"], log: Log, seconds: float, description: str | None
    ) -> None:
        """seconds: how much time must lie between two looks."""
        self.description = description or (condition.__doc__ or "").strip() or condition.__name__
        self._condition, self._active, self._log, self._seconds = condition, active, log, seconds
        self._last = float("-inf")
        self._looking = False

    def __enter__(self) -> None:
        self._active.append(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.remove(self)

    def check(self, force: bool = False) -> bool:
        """Whether the condition holds; it is not looked at, and True, when it was a moment ago, unless forced."""
        # The condition may use a machine, whose commands look at conditions again.
        if self._looking or (not force and time.monotonic() - self._last < self._seconds):
            return True
        self._looking = True
        try:
            with self._log.nested(f"checking polling condition: {self.description}"):
                return self._holds()
        finally:
            self._looking, self._last = False, time.monotonic()

    def maybe_raise(self) -> None:
        """Raise PollingConditionError when the condition does not hold."""
        if not self.check():
            raise PollingConditionError(f"polling condition failed: {self.description}")

    @with_durations
    def wait(self, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until the condition holds; raises MachineTimeout."""
        deadline = Deadline(timeout)
        while not self.check(force=True):
            if deadline.expired:
                raise MachineTimeout(f"polling condition does not hold after {timeout:g} s: {self.description}")
            time.sleep(deadline.within(1))

    def _holds(self) -> bool:
        try:
            result = self._condition()
        except GlobalTimeout:
            raise
        except Exception as error:
            self._log.info(f"polling condition {self.description} raised {type(error).__name__}: {error}")
            return False
        return result is None or bool(result)
