"""What a session does in place of running tests: list, verify, explain, forget, prune and copy records."""

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from pytest_nixos import inquiry_text as text
from pytest_nixos.collection import CheckItem
from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError, RecordsUnavailable
from pytest_nixos.interactive import open_prompt
from pytest_nixos.model import Check, Outcome, Record, Subject, Verdict
from pytest_nixos.nix import explain, explain_text
from pytest_nixos.nix.reading import read_file
from pytest_nixos.plan import subject
from pytest_nixos.records import policy
from pytest_nixos.records.keeper import Opened
from pytest_nixos.records.lookup import Answer
from pytest_nixos.records.publish import is_publishable
from pytest_nixos.session import Owner

_STORE_SECONDS = 300.0
_YOUNG_SECONDS = 3600.0  # where a record is as old as its entry, older ones would become young
Lines = Iterator[str]


class Inquiry:
    """One request on one session; the answer is printed line by line, and `failed` is its exit status."""

    def __init__(self, owner: Owner, items: Sequence[CheckItem]) -> None:
        self.owner, self.items, self.failed = owner, items, False

    def lines(self) -> Lines:
        """The answer. Raises PytestNixosError."""
        answers: dict[str, Callable[[], Lines]] = {
            "list": self._list,
            "verify": self._verify,
            "explain": self._explain,
            "forget": self._forget,
            "prune": self._prune,
            "copy": self._copy,
        }
        return answers[self.owner.options.request]()

    def _list(self) -> Lines:
        subjects, silent = self._subjects, self._silent
        answer = self._look_up(subjects)
        yield from (f"warning: {warning}" for warning in answer.warnings)
        for one, evidence, found in zip(subjects, answer.evidence, answer.known, strict=True):
            known = [entry for entry in found if _is_of(entry.record.verdict, one)]
            yield from text.check_lines(one, one.check not in silent, evidence, known, self._max_age)
        yield from (text.unrecorded(test.nodeid) for test in self.owner.tests.values() if not test.subject)

    def _verify(self) -> Lines:
        for opened in self._readable:
            records, warnings = self._every(opened)
            if records is None:
                yield text.left_out(opened, warnings)
                continue
            refused = [(r, policy.refusal(r, opened.place.terms, time.time())) for r in records]
            refused = [(record, reason) for record, reason in refused if reason]
            self.failed |= bool(warnings or refused)
            yield from text.store_lines(opened, records, refused, warnings)

    def _explain(self) -> Lines:
        last = self._last_proofs()
        for item in self.items:
            check = item.to_run
            if check is None:
                yield f"{item.name}: {text.not_run(item.planned)}"
                continue
            before = last.get((check.attr, self.owner.plan.system))
            yield from text.explained(check, before, self._difference(check, before))
        answer = self._look_up(self._tests)
        for of, evidence, known in zip(self._tests, answer.evidence, answer.known, strict=True):
            mine = [entry for entry in known if _is_of(entry.record.verdict, of)]
            yield next(text.check_lines(of, True, evidence, mine, self._max_age))

    def _forget(self) -> Lines:
        """Passes go first. Failures go only when no pass is left anywhere that would count again without them."""
        subjects = self._subjects
        for outcome in (Outcome.PASSED, Outcome.FAILED):
            for opened in self.owner.keeper.stores:
                yield from self._forget_in(opened, subjects, outcome)
            if self.failed:
                yield "failures are kept, since not all passes could be removed"
                return

    def _forget_in(self, opened: Opened, subjects: Sequence[Subject], outcome: Outcome) -> Lines:
        try:
            verdicts = self._recorded(opened, subjects, outcome)
            # Of its cache GitHub itself decides who may remove what.
            if verdicts and opened.not_written and opened.place.scheme != "gha":
                raise RecordsUnavailable(f"not written here: {opened.not_written}")
            opened.store.remove(verdicts, Deadline(_STORE_SECONDS))
            if verdicts and self._recorded(opened, subjects, outcome):
                raise RecordsUnavailable("some records are not ours to remove")
            if verdicts:
                yield text.removed(opened, len(verdicts), outcome)
        except RecordsUnavailable as error:
            self.failed = True
            yield text.left_out(opened, [error.message])

    def _recorded(self, opened: Opened, subjects: Sequence[Subject], outcome: Outcome) -> list[Verdict]:
        found = opened.store.lookup(subjects, Deadline(_STORE_SECONDS))
        verdicts = [record.verdict for record in found.records if record.verdict.outcome is outcome]
        return [verdict for verdict in verdicts if any(_is_of(verdict, one) for one in subjects)]

    def _prune(self) -> Lines:
        """Old passes go, but for those of what the flakes have now. Failures stay: a pass may be where we don't see."""
        oldest, used = time.time() - (self.owner.options.prune_age or 0), self._in_use()
        for opened in self._writable:
            records, warnings = self._every(opened)
            if records is None:
                yield text.left_out(opened, warnings)
                continue
            old = [record.verdict for record in records if record.verdict.finished_at < oldest]
            old = [v for v in old if not used.intersection((v.drv_path, v.out_path))]
            old = [v for v in old if v.outcome is Outcome.PASSED]
            opened.store.remove(old, Deadline(_STORE_SECONDS))
            yield from (f"warning: {warning}" for warning in warnings)
            yield text.removed(opened, len(old))

    def _copy(self) -> Lines:
        """What proves the selected checks goes to the target, and nothing else: a copy is signed by us."""
        target = self.owner.open_store(str(self.owner.options.copy_to))
        if target.not_written:
            raise PytestNixosError(f"{target.store.name} is not written here: {target.not_written}")
        subjects = [one for one in self._subjects if one.check not in self._silent]
        answer = self._look_up(subjects)
        yield from (f"warning: {warning}" for warning in answer.warnings)
        pairs = zip(subjects, answer.evidence, strict=True)
        proofs = [_of(subject, evidence.verdict) for subject, evidence in pairs if evidence is not None]
        fit = [verdict for verdict in proofs if is_publishable(verdict, target.place.terms)]
        young = [v for v in fit if target.place.keeps_time or time.time() - v.finished_at < _YOUNG_SECONDS]
        target.store.write(young, Deadline(_STORE_SECONDS))
        yield from text.copied(target, len(self._subjects), len(proofs), len(fit), len(young))

    def _in_use(self) -> set[str]:
        """The derivations and outputs of all checks that the flakes have, selected or not.

        Raises PytestNixosError when a check does not evaluate: nobody knows what it is of.
        """
        used: set[str] = set()
        for flake in self.owner.plan.flakes:
            for planned in flake.checks:
                if not isinstance(planned.check, Check):
                    raise PytestNixosError(f"{planned.check.attr} does not evaluate", "its records would be lost")
                derivation = planned.check.derivation
                used |= set(filter(None, (derivation.drv_path, derivation.out_path)))
                if planned.check.driver is not None:  # what tests in Python are of
                    used.add(planned.check.driver.drv_path)
        return used

    @property
    def _checks(self) -> list[Check]:
        return [item.planned.check for item in self.items if isinstance(item.planned.check, Check)]

    @property
    def _silent(self) -> set[str]:
        """The checks that opt out of records."""
        return {check.attr for check in self._checks if not check.recorded}

    @property
    def _subjects(self) -> list[Subject]:
        """The selected checks and tests."""
        return [*map(self._subject, self._checks), *self._tests]

    @property
    def _tests(self) -> list[Subject]:
        """The selected tests in Python of which anything may be recorded."""
        return [test.subject for test in self.owner.tests.values() if test.subject]

    @property
    def _max_age(self) -> float | None:
        return self.owner.options.max_age

    @property
    def _readable(self) -> list[Opened]:
        return [opened for opened in self.owner.keeper.stores if opened.place.terms.pull]

    @property
    def _writable(self) -> list[Opened]:
        return [opened for opened in self.owner.keeper.stores if not opened.not_written]

    def _subject(self, check: Check) -> Subject:
        return subject(check, self.owner.plan.system, self.owner.options.mode)

    def _look_up(self, subjects: Sequence[Subject]) -> Answer:
        """All that is known of them."""
        return self.owner.keeper.look_up(subjects, now=time.time(), max_age=self._max_age, all_of_them=True)

    def _every(self, opened: Opened) -> tuple[list[Record] | None, list[str]]:
        """All records of a store and its warnings; None for one that can't be listed. Raises PytestNixosError."""
        if opened.place.scheme == "nix":
            return None, ["a binary cache can't be listed"]
        found = opened.store.every(Deadline(_STORE_SECONDS))
        return list(found.records), list(found.warnings)

    def _last_proofs(self) -> dict[tuple[str, str], Record]:
        """The newest pass that counts of each check, by name and system, whatever its derivation was."""
        last: dict[tuple[str, str], Record] = {}
        for opened in self._readable:
            try:
                records = self._every(opened)[0] or ()
            except PytestNixosError as error:
                self.owner.progress.text(f"warning: {error.message}")
                continue
            for record in records:
                verdict = record.verdict
                key = verdict.check, verdict.system
                counts = verdict.outcome is Outcome.PASSED and not policy.refusal(record, opened.place.terms)
                if counts and (key not in last or last[key].verdict.finished_at < verdict.finished_at):
                    last[key] = record
        return last

    def _difference(self, check: Check, before: Record | None) -> list[str]:
        if before is None or before.verdict.drv_path == check.derivation.drv_path:
            return []
        return explain_text.lines(explain.explain(before.verdict.drv_path, check.derivation.drv_path, read_file))


def _is_of(verdict: Verdict, subject: Subject) -> bool:
    """Whether a verdict is of a subject: those on a machine's driver are of many tests."""
    return policy.speaks_of(verdict, subject.derivation) and (subject.part is None or verdict.check == subject.check)


def _of(subject: Subject, proof: Verdict) -> Verdict:
    """A proof of the subject as a verdict on it: a record of the same output may name another derivation."""
    when, seconds = proof.finished_at, proof.seconds
    return Verdict.of(subject, proof.outcome, finished_at=when, seconds=seconds, by=proof.by, flags=proof.flags)


def answer(config: pytest.Config, session: pytest.Session) -> int:
    """Collect, so that pytest's selection holds, then print the answer or open the prompt; the exit status."""
    owner = config.pluginmanager.get_plugin("nixos-session")
    if not isinstance(owner, Owner):
        raise pytest.UsageError("there is no flake to ask about: name one with --nixos-flake")
    config.hook.pytest_collection(session=session)
    if session.testsfailed:
        return pytest.ExitCode.INTERRUPTED
    items = [item for item in session.items if isinstance(item, CheckItem)]
    inquiry = Inquiry(owner, items)
    try:
        if owner.options.interactive is not None:
            return open_prompt(owner, items, config)
        for line in inquiry.lines():
            owner.progress.text(line)
    except PytestNixosError as error:
        raise pytest.UsageError(str(error)) from None
    return pytest.ExitCode.TESTS_FAILED if inquiry.failed else pytest.ExitCode.OK
