"""The text of the answers that `inquiries` gives. Pure but for the clock."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_nixos.model import Check, EvalFailed, Evidence, Outcome, PlannedCheck, Record, Subject
from pytest_nixos.records.keeper import Opened
from pytest_nixos.records.lookup import Known
from pytest_nixos.records.reasons import why_not
from pytest_nixos.reporting import count, duration, moment

_DAY = 86400


def check_lines(
    subject: Subject, recorded: bool, evidence: Evidence | None, known: Sequence[Known], max_age: float | None
) -> Iterator[str]:
    """What is known of a check: its state with the reason, then each record."""
    if not recorded:
        yield f"{subject.check}: to run: it opts out of records"
    elif evidence is None:
        yield f"{subject.check}: to run: {why_not(subject, known, max_age)}"
    else:
        yield f"{subject.check}: verified by {evidence.record}"
    yield f"    {subject.derivation.drv_path}"
    for entry in known:
        aside = f"; does not count: {entry.refusal}" if entry.refusal else ""
        yield f"    {record_text(entry.record)}, in {entry.store}{aside}"


def unrecorded(name: str) -> str:
    """A test in Python that a run would not record."""
    return f"{name}: to run: nothing is recorded of it"


def record_text(record: Record) -> str:
    """A record in one line: outcome, time and age, duration, by whom, signers, flags."""
    verdict = record.verdict
    when = f"{moment(verdict.finished_at)} ({age(verdict.finished_at)} ago)" if verdict.finished_at else moment(0)
    parts = [f"{verdict.outcome.value} {when}"]
    parts += [f"in {duration(verdict.seconds)}"] if verdict.seconds else []
    parts += [f"by {verdict.by}"] if verdict.by else []
    parts += [f"signed by {', '.join(record.signers)}"] if record.signers else []
    parts += [f"flagged {', '.join(verdict.flags)}"] if verdict.flags else []
    return ", ".join(parts)


def age(since: float) -> str:
    """The time since a moment (seconds since the epoch) for people."""
    seconds = max(0.0, time.time() - since)
    if seconds < 3600:
        return duration(seconds)
    return f"{seconds / 3600:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"


def store_lines(
    opened: Opened, records: Sequence[Record], refused: Sequence[tuple[Record, str]], warnings: Sequence[str]
) -> Iterator[str]:
    """What a store holds: how many records, signed by whom, and what is wrong with it."""
    checks = len({(record.verdict.system, record.verdict.check) for record in records})
    yield f"{opened.store.name}: {count(len(records), 'record')} of {count(checks, 'check')}"
    signers = Counter(name for record in records for name in record.signers)
    yield from (f"    {number} signed by {name}" for name, number in sorted(signers.items()))
    for record, reason in refused:
        yield f"    does not count ({reason}): {record.verdict.check}: {record_text(record)}, {record.verdict.drv_path}"
    yield from (f"    warning: {warning}" for warning in warnings)


def not_run(planned: PlannedCheck) -> str:
    """Why a check has nothing to explain: it is verified, or does not evaluate."""
    if isinstance(planned.check, EvalFailed):
        return "does not evaluate"
    return f"verified by {planned.evidence.record}" if planned.evidence else "to run"


def explained(check: Check, before: Record | None, difference: Sequence[str]) -> Iterator[str]:
    """Why a check is not verified: what has changed since its last proof."""
    if not check.recorded:
        yield f"{check.attr}: to run: it opts out of records"
    elif before is None:
        yield f"{check.attr}: to run: no pass of it that counts is known under this name, for whatever derivation"
    elif before.verdict.drv_path == check.derivation.drv_path:
        yield f"{check.attr}: to run, though its derivation has passed before: {record_text(before)}"
        yield "    --nixos-records-list says why that does not count"
    else:
        yield f"{check.attr}: to run; its last proof: {record_text(before)}"
        yield from (f"    {line}" for line in difference)


def removed(opened: Opened, number: int, outcome: Outcome = Outcome.PASSED) -> str:
    """What was removed from a store."""
    return f"{opened.store.name}: {count(number, 'record' if outcome is Outcome.PASSED else 'failure')} removed"


def left_out(opened: Opened, reasons: Sequence[str]) -> str:
    """A store that was not touched, and why."""
    return f"{opened.store.name}: left as it is: {'; '.join(reasons)}"


def copied(target: Opened, checks: int, proven: int, fit: int, written: int) -> Iterator[str]:
    """What was copied, of how many checks, and why not all."""
    yield f"records of {written} of {count(checks, 'check')} copied to {target.store.name}"
    if checks > proven:
        yield f"    {checks - proven} not verified here"
    if proven > fit:
        yield f"    {proven - fit} with a flag that its terms do not allow"
    if fit > written:
        yield f"    {fit - written} too old for a store that would take them for new"
