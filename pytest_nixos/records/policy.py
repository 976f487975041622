"""Whether a check is verified, and by what. Pure. Everything doubtful means: not verified, run it."""

from collections.abc import Iterable

from pytest_nixos.model import Derivation, Evidence, Outcome, Verdict

_CLOCK_SKEW_SECONDS = 300.0


def speaks_of(verdict: Verdict, derivation: Derivation) -> bool:
    """Whether a verdict is on this derivation, whatever it says.

    The same derivation path, or the same output path, which means equal inputs modulo fixed-output
    fetchers; but a derivation whose own output is fixed has that output however it is made.
    """
    if verdict.drv_path == derivation.drv_path:
        return True
    return not derivation.fixed and derivation.out_path is not None and verdict.out_path == derivation.out_path


def judge(
    derivation: Derivation,
    driver: str | None,
    found: Iterable[tuple[str, Verdict]],
    now: float,
    max_age: float | None,
) -> Evidence | None:
    """The newest of the (record store's name, verdict) pairs, when it proves the check; None means: run it.

    driver is what would run the check (Check.driven_by): a run by another one proves nothing of it. now is in
    seconds since the epoch, max_age in seconds; None means that records do not expire. A failure that is
    newer than a pass takes its proof away, and a record from the future is no record.
    """
    known = [
        (name, verdict)
        for name, verdict in found
        if verdict.driver == driver
        and verdict.finished_at <= now + _CLOCK_SKEW_SECONDS
        and speaks_of(verdict, derivation)
    ]
    if not known:
        return None
    # At the same moment the failure counts.
    name, newest = max(known, key=lambda entry: (entry[1].finished_at, entry[1].outcome is Outcome.FAILED))
    expired = max_age is not None and now - newest.finished_at > max_age
    return None if expired or newest.outcome is not Outcome.PASSED else Evidence(verdict=newest, record=name)
