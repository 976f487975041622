"""Why a check is not verified, in words. Pure; it explains what `policy` has decided, and decides nothing."""

from collections.abc import Sequence

from pytest_nixos.model import Outcome, Subject
from pytest_nixos.records.lookup import Known


def why_not(subject: Subject, known: Sequence[Known], max_age: float | None) -> str:
    """The reason for a subject without evidence, from all that is known of it; max_age in seconds."""
    if not known:
        return "no record of this derivation"
    counting = [entry for entry in known if not entry.refusal]
    if not counting:
        return f"its records do not count: {', '.join(sorted({entry.refusal for entry in known}))}"
    of_driver = [entry.record.verdict for entry in counting if subject.is_told_of_by(entry.record.verdict)]
    if not of_driver:
        if subject.part:
            return "what it is made of, an option, or the tests that it runs among have changed since its records"
        return "its records are of another driver, or of a run in another mode"
    newest = max(of_driver, key=lambda verdict: verdict.finished_at)
    if newest.outcome is Outcome.FAILED:
        return "its newest record is a failure"
    if newest.finished_at == 0 and max_age is not None:
        return "nobody knows how old its record is"
    return "its record is too old" if max_age is not None else "its record is from the future"
