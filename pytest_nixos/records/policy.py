"""Whether a check is verified, and by what. Pure. Everything doubtful means: not verified, run it."""

import math
from collections.abc import Iterable

from pytest_nixos.model import Derivation, Evidence, Outcome, Record, Subject, Verdict
from pytest_nixos.records.places import Terms


def speaks_of(verdict: Verdict, derivation: Derivation) -> bool:
    """Whether a verdict is on this derivation, whatever it says.

    The same derivation path, or the same output path, which means equal inputs modulo fixed-output
    fetchers; but a derivation whose own output is fixed has that output however it is made.
    """
    if verdict.drv_path == derivation.drv_path:
        return True
    return not derivation.fixed and derivation.out_path is not None and verdict.out_path == derivation.out_path


def refusal(record: Record, terms: Terms, now: float = math.inf) -> str:
    """Why a record of a store used on these terms does not count, in a few words; "" when it does.

    now: seconds since the epoch, where a pass from the future is to be refused, too; else `judge` does that.
    """
    if _is_early(record.verdict, now):
        return "from the future"
    if terms.signed and not record.signers:
        return "not signed by a trusted key"
    foreign = set(record.verdict.flags) - terms.allow if terms.allow is not None else set()
    return f"flagged {', '.join(sorted(foreign))}" if foreign else ""


def judge(
    subject: Subject,
    found: Iterable[tuple[str, Record]],
    now: float,
    max_age: float | None,
) -> Evidence | None:
    """The newest of the (record store's name, record) pairs, when it proves the subject; None means: run it.

    A run by another driver than the subject's proves nothing of it. now is in seconds since the epoch, max_age in
    seconds; None means that records do not expire. A failure that is newer than a pass takes its proof away, a pass
    from the future is no record (a failure is), and one of unknown time is as old as can be.
    """
    known = [
        (name, record)
        for name, record in found
        if subject.is_told_of_by(record.verdict)
        and not _is_early(record.verdict, now)
        and speaks_of(record.verdict, subject.derivation)
    ]
    if not known:
        return None
    # At the same moment the failure counts.
    name, newest = max(known, key=_rank)
    verdict = newest.verdict
    expired = max_age is not None and now - verdict.finished_at > max_age
    if expired or verdict.outcome is not Outcome.PASSED:
        return None
    return Evidence(verdict=verdict, record=name, signers=newest.signers)


def newest_pass(subject: Subject, records: Iterable[Record]) -> float:
    """When the newest of these passes of the subject was, a time in the future included; 0 for none.

    A failure of now is dated no earlier, lest a clock that is wrong elsewhere make an older pass look newer.
    """
    of_driver = (record.verdict for record in records if record.verdict.driver == subject.driver)
    passes = (verdict.finished_at for verdict in of_driver if verdict.outcome is Outcome.PASSED)
    return max(passes, default=0.0)


def _is_early(verdict: Verdict, now: float) -> bool:
    # No leeway for clocks: a pass that is dated later than a failure of now would hide that.
    return verdict.outcome is Outcome.PASSED and verdict.finished_at > now


def _rank(entry: tuple[str, Record]) -> tuple[float, bool]:
    return entry[1].verdict.finished_at, entry[1].verdict.outcome is Outcome.FAILED
