"""How much of the machine an evaluation may take. Pure."""

import os
from dataclasses import dataclass

_WORKER_BYTES = 1 << 30  # where one more worker pays; what a worker may hold before it is replaced
_SMALLEST_BYTES = 512 << 20


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
        share = max(_SMALLEST_BYTES * 2, free_bytes * 9 // 10 // count)
        return cls(workers=count, replace_bytes=max(_SMALLEST_BYTES, min(_WORKER_BYTES, share // 2)), heap_bytes=share)

    @property
    def env(self) -> dict[str, str]:
        """The environment in which an evaluator's garbage collector gives up before the machine does."""
        return {**os.environ, "GC_MAXIMUM_HEAP_SIZE": str(self.heap_bytes)}

    def alone(self) -> "Limits":
        """For one evaluator that has the memory of all."""
        return Limits(workers=1, replace_bytes=self.replace_bytes, heap_bytes=self.heap_bytes * self.workers)
