"""Whether a check is verified, and by what. Pure. Everything doubtful means: not verified, run it."""

from collections.abc import Iterable

from pytest_nixos.model import Derivation, Evidence, Outcome, Verdict

_CLOCK_SKEW_SECONDS = 300.0


def proves(verdict: Verdict, derivation: Derivation, now: float, max_age: float | None) -> bool:
    """Whether `verdict` proves `derivation` at time `now` (seconds since the epoch).

    The same derivation path, or the same output path, which means equal inputs modulo fixed-output
    fetchers. max_age is in seconds; None means records do not expire. A record from the future proves nothing.
    """
    if verdict.outcome is not Outcome.PASSED or verdict.finished_at > now + _CLOCK_SKEW_SECONDS:
        return False
    if max_age is not None and now - verdict.finished_at > max_age:
        return False
    return same_derivation(verdict, derivation)


def same_derivation(verdict: Verdict, derivation: Derivation) -> bool:
    """Whether a verdict speaks of this derivation, whatever it says."""
    same_output = derivation.out_path is not None and verdict.out_path == derivation.out_path
    return verdict.drv_path == derivation.drv_path or same_output


def judge(
    derivation: Derivation, found: Iterable[tuple[str, Verdict]], now: float, max_age: float | None
) -> Evidence | None:
    """The newest of the (record store's name, verdict) pairs that proves `derivation`; None means: run it."""
    proofs = [(name, verdict) for name, verdict in found if proves(verdict, derivation, now, max_age)]
    if not proofs:
        return None
    name, newest = max(proofs, key=lambda proof: proof[1].finished_at)
    return Evidence(verdict=newest, record=name)
