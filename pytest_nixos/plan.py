"""The session's plan: which checks the flakes have, and what is recorded of each. Made once per session."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos.errors import CommandFailed, PytestNixosError
from pytest_nixos.model import (
    Check,
    EvalFailed,
    Evidence,
    FlakePlan,
    Plan,
    PlannedCheck,
    ProvenTest,
    PythonTest,
    Subject,
)
from pytest_nixos.nix import attrs, fingerprint
from pytest_nixos.nix.checks import Evaluator
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.message import nix_message
from pytest_nixos.nix.target import Target
from pytest_nixos.records.keeper import Keeper

Progress = Callable[[str], None]
Proven = dict[tuple[str, str], tuple[Evidence | None, float]]  # by flake and attribute: the proof, the newest pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to plan: flake references seen from folder `base`, how to evaluate, what proves a check (ages: seconds).

    keeper: who is asked for records; None: nobody, all checks are to run. rerun: what is proven is to run, too.
    """

    flakes: tuple[str, ...]
    base: Path
    system: str | None
    attr: str
    overrides: tuple[tuple[str, str], ...]
    impure: bool
    evaluator: Evaluator
    max_age: float | None
    mode: str
    keeper: Keeper | None
    rerun: bool = False


def make(nix: Nix, request: Request, progress: Progress) -> Plan:
    """Evaluate the flakes and look the checks up. A flake that does not evaluate is part of the plan."""
    started = time.monotonic()
    system = request.system or nix.system
    steps: list[str] = []

    def show(text: str) -> None:
        steps.append(text)
        progress(text)

    evaluated = [_evaluate(nix, request, ref, system, show) for ref in request.flakes]
    seconds = time.monotonic() - started
    evidence, warnings = _look_up(evaluated, system, request)
    judged = [_with_evidence(flake, evidence) for flake in evaluated]
    return Plan(
        system=system,
        nix_version=nix.version,
        flakes=tuple(judged),
        evaluate_seconds=seconds,
        evaluated=bool(steps),
        warnings=(*(request.evaluator.cache.warnings if request.evaluator.cache else ()), *warnings),
    )


def _evaluate(nix: Nix, request: Request, ref: str, system: str, progress: Progress) -> FlakePlan:
    try:
        resolved = attrs.resolve(ref, request.base)
    except PytestNixosError as error:
        return FlakePlan(ref=ref, label=ref, path=None, checks=(), error=str(error))
    target = _target(nix, request, resolved, system)
    path = resolved.path
    try:
        path = path or target.source()
        checks = request.evaluator.checks(
            target, lambda done, total: progress(f"evaluating {ref}: {done}/{total} checks")
        )
    except CommandFailed as error:
        return _flake(ref, resolved, path, error=f"the flake {ref} can't be read: {nix_message(error.output)}")
    except PytestNixosError as error:
        return _flake(ref, resolved, path, error=str(error))
    return _flake(ref, resolved, path, checks=checks)


def restore(nix: Nix, request: Request, plan: Plan, selected: Collection[Check]) -> list[str]:
    """Make the derivations of what is to run again, where they are known from a cache but no longer in the store.

    Returns a warning for each check that has become something else: it will fail, for want of its derivation.
    Raises PytestNixosError when a flake does not evaluate any more.
    """
    changed = []
    for flake in plan.flakes:
        checks = [planned.check for planned in flake.checks]
        wanted = [check for check in checks if isinstance(check, Check) and check in selected]
        if wanted:
            target = target_of(nix, request, flake, plan.system)
            changed += request.evaluator.restore(target, checks, wanted)
    return [f"{name} evaluates to another derivation than a moment ago: run again" for name in changed]


def commit(nix: Nix, request: Request) -> str | None:
    """The commit that the session's one flake is, when it is nothing but that and has its checks in the usual place.

    Raises PytestNixosError when the flake can't be read.
    """
    if len(request.flakes) != 1 or request.attr != "checks.{system}":
        return None
    resolved = attrs.resolve(request.flakes[0], request.base)
    return fingerprint.commit(_target(nix, request, resolved, request.system or nix.system))


def _target(nix: Nix, request: Request, resolved: attrs.FlakeRef, system: str) -> Target:
    attr = request.attr.replace("{system}", system)
    return Target(nix=nix, ref=resolved, attr=attr, overrides=request.overrides, impure=request.impure)


def target(nix: Nix, request: Request, installable: str) -> Target:
    """`FLAKE#ATTRIBUTE`, the flake seen from the session's folder. Raises EvaluationError for a folder without one."""
    ref, _, attr = installable.partition("#")
    resolved = attrs.resolve(ref or ".", request.base)
    return Target(nix=nix, ref=resolved, attr=attr, overrides=request.overrides, impure=request.impure)


def target_of(nix: Nix, request: Request, flake: FlakePlan, system: str) -> Target:
    """What a flake of the plan was evaluated from."""
    return _target(nix, request, attrs.resolve(flake.ref, request.base), system)


def _flake(
    ref: str,
    resolved: attrs.FlakeRef,
    path: Path | None,
    checks: Iterable[Check | EvalFailed] = (),
    error: str = "",
) -> FlakePlan:
    label = "" if resolved.path else resolved.label
    planned = tuple(PlannedCheck(check=check) for check in checks)
    return FlakePlan(ref=ref, label=label, path=str(path) if path else None, checks=planned, error=error)


def subject(check: Check, system: str, mode: str) -> Subject:
    """What a record of the check is of."""
    return Subject(check=check.attr, system=system, derivation=check.derivation, driver=check.driven_by(mode))


def _look_up(flakes: list[FlakePlan], system: str, request: Request) -> tuple[Proven, tuple[str, ...]]:
    """What proves the checks, by the record stores; and their warnings."""
    checks = [(flake.ref, p.check) for flake in flakes for p in flake.checks if isinstance(p.check, Check)]
    recorded = [(ref, check) for ref, check in checks if check.recorded]
    if request.keeper is None or not recorded:
        return {}, ()
    subjects = [subject(check, system, request.mode) for _, check in recorded]
    answer = request.keeper.look_up(subjects, now=time.time(), max_age=request.max_age)
    said = zip(recorded, answer.evidence, answer.newest, strict=True)
    return {
        (ref, check.attr): (None if request.rerun else proof, newest) for (ref, check), proof, newest in said
    }, answer.warnings


def prove_tests(
    tests: Sequence[PythonTest], request: Request, whole_files: bool
) -> tuple[dict[str, ProvenTest], tuple[str, ...]]:
    """What is recorded of tests in Python, by their node ids; and the stores' warnings.

    The tests of a file are verified when all are that anything is recorded of, and, unless there is but one test, when
    one process is to run the file as a whole, since only that was tried.
    """
    recorded = [(test, test.subject) for test in tests if test.subject]
    if request.keeper is None or not recorded:
        return {}, ()
    answer = request.keeper.look_up([of for _, of in recorded], now=time.time(), max_age=request.max_age)
    evidence = {test.nodeid: proof for (test, _), proof in zip(recorded, answer.evidence, strict=True)}
    sizes = Counter(test.file for test in tests)
    to_run = {test.file for test, _ in recorded if request.rerun or evidence[test.nodeid] is None}
    to_run |= {file for file, size in sizes.items() if size > 1 and not whole_files}
    said = zip(recorded, answer.newest, strict=True)
    return {
        test.nodeid: ProvenTest(evidence=None if test.file in to_run else evidence[test.nodeid], newest=newest)
        for (test, _), newest in said
    }, answer.warnings


def _with_evidence(flake: FlakePlan, proven: Proven) -> FlakePlan:
    said = ((p.check, *proven.get((flake.ref, p.check.attr), (None, 0.0))) for p in flake.checks)
    checks = tuple(PlannedCheck(check=check, evidence=proof, newest=newest) for check, proof, newest in said)
    return dataclasses.replace(flake, checks=checks)
