"""From pytest's reports to verdicts: what a session writes down of its items, and when."""

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest

from pytest_nixos.model import Check, Outcome, Plan, ProvenTest, PythonTest, Subject, Verdict
from pytest_nixos.nix.attrs import item_name
from pytest_nixos.plan import subject

RAN = "nixos_ran"  # what a report's run was of: derivation and driver
PROOF = "nixos_proof"  # the same, on the report of a run that proves them
SECONDS = "nixos_seconds"
_LONGEST_NAME = 100
Tests = tuple[
    Mapping[str, PythonTest], Mapping[str, ProvenTest]
]  # what there is, and what is recorded of it, by node id
_CRASHED = "???"  # xdist's phase of a report that it makes itself, of what a worker was running when it died


class Recorder:
    """The only writer of records: sees every report, in one process, and writes at the moment an item has passed.

    A failure is written whatever becomes of the item afterwards, so that an older pass proves nothing any more.
    """

    def __init__(
        self,
        plan: Callable[[], Plan],
        mode: str,
        root: Path,
        flags: Callable[[Check], tuple[str, ...]],
        tests: Callable[[], Tests],
        test_flags: Callable[[str], tuple[str, ...]],
        keep: Callable[[Verdict], Sequence[str]],
        warn: Callable[[str], None],
    ) -> None:
        """plan, mode: what is run and how. root: what node ids are seen from. keep gives warnings.

        flags: a check's pass has. tests, test_flags: the same of tests in Python, by node id.
        """
        self._get_plan, self._mode, self._root = plan, mode, root
        self._tests, self._test_flags = tests, test_flags
        self._flags, self._keep, self._warn, self._by = flags, keep, warn, _whoami()
        self._doubtful: set[str] = set()
        self._failed: set[str] = set()
        self._passed: dict[str, dict[str, object]] = {}  # tests in Python that have done well, with their properties
        self.seconds = 0.0

    def see(self, report: pytest.TestReport) -> None:
        """Take in the report of a phase; after the last phase of an item that did well, record it.

        An item that failed in any phase, was run again, or passed where a failure was expected is doubtful.
        """
        if report.outcome != "passed" or hasattr(report, "wasxfail"):
            self._doubtful.add(report.nodeid)
            if _has_failed(report) and report.nodeid not in self._failed:
                self._failed.add(report.nodeid)
                self._record(report, Outcome.FAILED)
        elif report.when == "teardown" and report.nodeid not in self._doubtful:
            self._record(report, Outcome.PASSED)

    def _record(self, report: pytest.TestReport, outcome: Outcome) -> None:
        properties = dict(report.user_properties)
        seconds = float(str(properties.get(SECONDS, 0)))
        self.seconds += seconds
        told = str(properties.get(PROOF if outcome is Outcome.PASSED else RAN))
        for check in self._subjects(report, told):
            if outcome is Outcome.PASSED and not check.recorded:
                continue
            of = subject(check, self._plan.system, self._mode)
            flags = self._flags(check) if outcome is Outcome.PASSED else ()
            self._write(of, outcome, seconds, flags, self._newest_pass(check))
        self._record_tests(report, outcome)

    def _record_tests(self, report: pytest.TestReport, outcome: Outcome) -> None:
        """Record the tests of a Python file: they have passed when all have, and they are verified together.

        A failure refutes what proves the test, among whichever others; one of a test without records that of all.
        """
        tests, _ = self._tests()
        test = tests.get(report.nodeid)
        if test is None:
            return
        if outcome is Outcome.PASSED:
            self._passed[report.nodeid] = dict(report.user_properties)
        of_file = [one for one in tests.values() if one.file == test.file]
        good = all(one.nodeid in self._passed and one.nodeid not in self._doubtful for one in of_file)
        sure = all(PROOF in self._passed.get(one.nodeid, {}) for one in of_file if one.subject)
        if outcome is Outcome.FAILED and test.subject:
            self._write(replace(test.subject, driver=test.subject.part), outcome, 0.0, (), self._newest_of(test))
        elif outcome is Outcome.FAILED or (good and sure):
            for one in of_file:
                if one.subject:
                    seconds = float(str(self._passed.get(one.nodeid, {}).get(SECONDS, 0)))
                    flags = self._test_flags(one.nodeid) if outcome is Outcome.PASSED else ()
                    self._write(one.subject, outcome, seconds, flags, self._newest_of(one))

    def _write(self, of: Subject, outcome: Outcome, seconds: float, flags: tuple[str, ...], newest: float) -> None:
        now = time.time()
        verdict = Verdict.of(
            replace(of, check=_printable(of.check)),
            outcome,
            finished_at=now if outcome is Outcome.PASSED else max(now, newest),
            seconds=seconds,
            by=self._by,
            flags=flags,
        )
        for warning in self._keep(verdict):
            self._warn(warning)

    def _subjects(self, report: pytest.TestReport, told: str) -> Iterator[Check]:
        """The check that the report tells of; where a worker died, the one at its node id."""
        if str(report.when) == _CRASHED:
            yield from self._at(report.nodeid)
        check = self._checks.get(told)
        if check is not None:
            yield check

    def _newest_pass(self, check: Check) -> float:
        """When the newest pass was that anybody has told of, even one in the future: a failure is not older."""
        return max(entry.newest for entry in self._plan.planned if entry.check == check)

    def _newest_of(self, test: PythonTest) -> float:
        known = self._tests()[1].get(test.nodeid)
        return known.newest if known else 0.0

    def _at(self, nodeid: str) -> Iterator[Check]:
        place, _, name = nodeid.partition("::")
        for flake in self._plan.flakes:
            if flake.path and (flake.label == place or Path(flake.path) == (self._root / place).resolve()):
                checks = (planned.check for planned in flake.checks)
                yield from (c for c in checks if isinstance(c, Check) and item_name(c.attr) == name)

    @cached_property
    def _plan(self) -> Plan:
        return self._get_plan()

    @cached_property
    def _checks(self) -> dict[str, Check]:
        checks = (planned.check for planned in self._plan.planned)
        return {subject_text(check, self._mode): check for check in checks if isinstance(check, Check)}


def subject_text(check: Check, mode: str) -> str:
    """What a run of the check is a run of, for its report: its derivation, and the driver if one runs it."""
    return f"{check.derivation.drv_path} {check.driven_by(mode) or ''}"


def _has_failed(report: pytest.TestReport) -> bool:
    """Whether a phase says that the item failed; so does a failure that was expected, or that is tried again."""
    expected = hasattr(report, "wasxfail") and report.outcome == "skipped"
    return str(report.outcome) in ("failed", "rerun") or expected


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return _printable(f"{user}@{socket.gethostname()}")[:_LONGEST_NAME]
