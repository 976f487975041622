"""The plan as pytest items: a file per flake, an item per check."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nixos import reporting
from pytest_nixos.errors import CheckFailed, PytestNixosError
from pytest_nixos.execution import raise_failure
from pytest_nixos.model import Check, EvalFailed, FlakePlan, PlannedCheck, RunResult
from pytest_nixos.nix.attrs import item_name
from pytest_nixos.recorder import PROOF, RAN, SECONDS
from pytest_nixos.session import Session
from pytest_nixos.subtests import report

if TYPE_CHECKING:
    from pytest_nixos.native import NativeRun

VERIFIED = "nixos_verified"
_MACHINES = "nixos"  # the fixture


class FlakeFile(pytest.File):
    """A flake.nix; its items are the flake's checks."""

    def __init__(self, *, role: Session, flakes: list[FlakePlan], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.role, self.flakes = role, flakes

    def collect(self) -> Iterator[pytest.Item]:
        """Yield an item for each check. Raises CollectError for a flake that does not evaluate."""
        for flake in self.flakes:
            if flake.error:
                raise self.CollectError(flake.error)
            for planned in flake.checks:
                name = item_name(planned.check.attr)
                yield CheckItem.from_parent(self, name=name, planned=planned, role=self.role)


class CheckItem(pytest.Item):
    """One check. It is skipped when it is verified, fails when it does not evaluate, and else runs."""

    def __init__(self, *, planned: PlannedCheck, role: Session, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.planned, self.role, self._ran = planned, role, False
        self.native: NativeRun | None = None
        check, evidence = planned.check, planned.evidence
        if isinstance(check, Check):
            self._mark(check)
        if evidence is not None:
            self.add_marker(pytest.mark.skip(reason=reporting.verified_reason(evidence)))
            self.user_properties.append((VERIFIED, evidence.record))

    def _mark(self, check: Check) -> None:
        features = check.derivation.features
        self.add_marker(pytest.mark.nixos(kind=check.kind.value, system=self.role.plan.system, features=features))
        self.add_marker(f"nixos_{check.kind.value}")
        self.user_properties.append(("nixos_drv", check.derivation.drv_path))
        if check.nodes:
            self.user_properties.append(("nixos_nodes", reporting.nodes_text(check)))

    @property
    def to_run(self) -> Check | None:
        """The check, when it is one that runs."""
        check = self.planned.check
        return check if isinstance(check, Check) and self.planned.evidence is None else None

    def runtest(self) -> None:
        """Run the check. Raises CheckFailed."""
        check = self.planned.check
        if isinstance(check, EvalFailed):
            raise CheckFailed(f"the check does not evaluate: {check.message}")
        again, self._ran = self._ran, True
        ran = (RAN, self.role.subject(check))
        self.user_properties.append(ran)
        try:
            result = self._run(check)
        except PytestNixosError:
            self.user_properties.remove(ran)  # it was not run, for want of space for instance
            raise
        self.user_properties.append((SECONDS, f"{result.seconds:.3f}"))
        for subtest in result.subtests:
            # The driver's exit status is the result: an error that the script itself has caught is none.
            if not subtest.error or result.failure:
                report(self, subtest)
        for name, text in result.sections:  # not before: they are of the whole, and not of each subtest
            self.add_report_section("call", name, text)
        self._raise(result)
        # Only now: whatever others make of the report, a failure carries no proof. Nor does a second try.
        if not again and self.role.is_proof(check):
            self.user_properties.append((PROOF, self.role.subject(check)))

    def _run(self, check: Check) -> RunResult:
        if not self.role.is_native(check):
            return self.role.run(check)
        from pytest_nixos.native import NativeRun  # the other modes need no driver in this process

        machines = ExitStack()
        self.addfinalizer(machines.close)
        self.native = NativeRun(self.role, check, machines)
        return self.native.run()

    def _raise(self, result: RunResult) -> None:
        """Raise CheckFailed when the run has failed; where somebody debugs, from the script's own line."""
        try:
            raise_failure(result)
        except CheckFailed as error:
            debugged = self.native if self.role.options.debugs else None
            raise error.with_traceback(debugged.failed_at if debugged else None) from None

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A user's failure, a full disk included, as a sentence; a fault of ours with its traceback."""
        if isinstance(excinfo.value, PytestNixosError | OSError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the item is: pytest needs a line number for skipped ones."""
        return self.path, 0, f"nixos check {self.name}"


def uses_machines(item: pytest.Item) -> bool:
    """Whether it is a test in Python that has a check's machines."""
    return _MACHINES in getattr(item, "fixturenames", ())


def flake_file(role: Session, path: Path, parent: pytest.Collector) -> FlakeFile | None:
    """The collector for `path`, when it is the flake.nix of one of the session's flakes."""
    flakes = [flake for flake in role.plan.flakes if flake.path == str(path)]
    if not flakes:
        return None
    label = next((flake.label for flake in flakes if flake.label), None)
    more: dict[str, Any] = {"nodeid": label} if label else {}
    return FlakeFile.from_parent(parent, path=path, role=role, flakes=flakes, **more)


def arguments(args: list[str], role: Session, given: bool) -> list[str]:
    """pytest's arguments with the session's flakes among them.

    given: the user gave arguments. One that names a flake (`flake.nix::web`, `github:o/r::web`) selects
    within it; a flake named by --nixos-flake that none selects in is run whole, beside what else is given.
    Flakes of the ini file are, like testpaths, for when nothing is given.
    """
    flakes = role.plan.flakes
    args = [_by_path(arg, flakes) for arg in args]
    paths = dict.fromkeys(flake.path or _unreadable(flake) for flake in flakes)
    if given:
        named = {str((role.options.base / arg.split("::")[0]).resolve()) for arg in args}
        wanted = [path for path in paths if path not in named] if role.options.named_on_command_line else []
        return [*args, *wanted]
    return list(paths) if role.options.named_on_command_line else [*args, *paths]


def _by_path(arg: str, flakes: tuple[FlakePlan, ...]) -> str:
    """An argument that begins with a remote flake's reference, with the path of its flake.nix instead."""
    for flake in flakes:
        if flake.label and flake.path and (arg == flake.label or arg.startswith(f"{flake.label}::")):
            return flake.path + arg.removeprefix(flake.label)
    return arg


def _unreadable(flake: FlakePlan) -> str:
    raise pytest.UsageError(flake.error)
