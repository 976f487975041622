"""What a session does in place of running tests: list, verify, explain, forget, prune and copy records."""

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from pytest_nixos import inquiry_text as text
from pytest_nixos.collection import CheckItem
from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.model import Check, Evidence, Outcome, Record, Subject
from pytest_nixos.nix import explain, explain_text
from pytest_nixos.nix.reading import read_file
from pytest_nixos.plan import subject
from pytest_nixos.records import policy
from pytest_nixos.records.keeper import Opened
from pytest_nixos.records.policy import refusal
from pytest_nixos.records.publish import is_publishable
from pytest_nixos.session import Owner

_STORE_SECONDS = 300.0
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
        checks = self._checks
        answer = self.owner.keeper.look_up(
            [self._subject(check) for check in checks], now=time.time(), max_age=self._max_age, all_of_them=True
        )
        yield from (f"warning: {warning}" for warning in answer.warnings)
        for check, evidence, known in zip(checks, answer.evidence, answer.known, strict=True):
            yield from text.check_lines(self._subject(check), check.recorded, evidence, known, self._max_age)

    def _verify(self) -> Lines:
        for opened in self._readable:
            records, warnings = self._every(opened)
            refused = [record for record in records if refusal(record, opened.place.terms)]
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

    def _forget(self) -> Lines:
        subjects = [self._subject(check) for check in self._checks]
        for opened in self._writable:
            found = opened.store.lookup(subjects, Deadline(_STORE_SECONDS))
            opened.store.remove([record.verdict for record in found.records], Deadline(_STORE_SECONDS))
            yield text.removed(opened, len(found.records))

    def _prune(self) -> Lines:
        oldest = time.time() - (self.owner.options.prune_age or 0)
        used = {evidence.verdict.drv_path for evidence in self._proofs}
        for opened in self._writable:
            records, warnings = self._every(opened)
            old = [r.verdict for r in records if r.verdict.finished_at < oldest and r.verdict.drv_path not in used]
            opened.store.remove(old, Deadline(_STORE_SECONDS))
            self.failed |= bool(warnings)
            yield from (f"warning: {warning}" for warning in warnings)
            yield text.removed(opened, len(old))

    def _copy(self) -> Lines:
        target = self.owner.open_store(str(self.owner.options.copy_to))
        if target.not_written:
            raise PytestNixosError(f"{target.store.name} is not written here: {target.not_written}")
        every = [(opened, *self._every(opened)) for opened in self._readable]
        counting = [(o, r) for o, records, _ in every for r in records if not refusal(r, o.place.terms)]
        # A failure in one store takes away a pass in another, and does not travel itself.
        standing = set(map(id, policy.standing([record for _, record in counting], time.time())))
        for opened, records, warnings in every:
            yield from (f"warning: {warning}" for warning in warnings)
            good = [r.verdict for o, r in counting if o is opened and id(r) in standing]
            verdicts = [verdict for verdict in good if is_publishable(verdict, target.place.terms)]
            target.store.write(verdicts, Deadline(_STORE_SECONDS))
            yield text.copied(opened, target, len(verdicts), len(records))

    @property
    def _checks(self) -> list[Check]:
        return [item.planned.check for item in self.items if isinstance(item.planned.check, Check)]

    @property
    def _proofs(self) -> list[Evidence]:
        planned = (planned for flake in self.owner.plan.flakes for planned in flake.checks)
        return [entry.evidence for entry in planned if entry.evidence is not None]

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

    def _every(self, opened: Opened) -> tuple[list[Record], list[str]]:
        try:
            found = opened.store.every(Deadline(_STORE_SECONDS))
        except PytestNixosError as error:
            return [], [error.message]
        return list(found.records), list(found.warnings)

    def _last_proofs(self) -> dict[tuple[str, str], Record]:
        """The newest pass that counts of each check, by name and system, whatever its derivation was."""
        last: dict[tuple[str, str], Record] = {}
        for opened in self._readable:
            for record in self._every(opened)[0]:
                verdict = record.verdict
                key = verdict.check, verdict.system
                counts = verdict.outcome is Outcome.PASSED and not refusal(record, opened.place.terms)
                if counts and (key not in last or last[key].verdict.finished_at < verdict.finished_at):
                    last[key] = record
        return last

    def _difference(self, check: Check, before: Record | None) -> list[str]:
        if before is None or before.verdict.drv_path == check.derivation.drv_path:
            return []
        return explain_text.lines(explain.explain(before.verdict.drv_path, check.derivation.drv_path, read_file))


def answer(config: pytest.Config, session: pytest.Session) -> int:
    """Collect, so that pytest's selection holds, then print the answer; the exit status."""
    owner = config.pluginmanager.get_plugin("nixos-session")
    if not isinstance(owner, Owner):
        raise pytest.UsageError("there is no flake whose records these would be: name one with --nixos-flake")
    config.hook.pytest_collection(session=session)
    if session.testsfailed:
        return pytest.ExitCode.INTERRUPTED
    inquiry = Inquiry(owner, [item for item in session.items if isinstance(item, CheckItem)])
    writer = config.get_terminal_writer()
    try:
        for line in inquiry.lines():
            writer.line(line)
    except PytestNixosError as error:
        raise pytest.UsageError(str(error)) from None
    return pytest.ExitCode.TESTS_FAILED if inquiry.failed else pytest.ExitCode.OK
