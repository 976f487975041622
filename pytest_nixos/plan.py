"""The session's plan: which checks the flakes have, and what is recorded of each. Made once per session."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos.errors import CommandFailed, PytestNixosError
from pytest_nixos.model import Check, EvalFailed, FlakePlan, Plan, PlannedCheck, Verdict
from pytest_nixos.nix import attrs
from pytest_nixos.nix.checks import Evaluator
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.message import nix_message
from pytest_nixos.nix.target import Target
from pytest_nixos.records import policy
from pytest_nixos.records.stores.base import RecordStore

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to plan: flake references seen from folder `base`, how to evaluate, what proves a check (ages: seconds)."""

    flakes: tuple[str, ...]
    base: Path
    system: str | None
    attr: str
    overrides: tuple[tuple[str, str], ...]
    impure: bool
    evaluator: Evaluator
    max_age: float | None
    mode: str
    stores: tuple[RecordStore, ...]


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
    found, warnings = _look_up(evaluated, request.stores)
    judged = [_with_evidence(flake, found, request) for flake in evaluated]
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


def _target(nix: Nix, request: Request, resolved: attrs.FlakeRef, system: str) -> Target:
    attr = request.attr.replace("{system}", system)
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


def _look_up(flakes: list[FlakePlan], stores: tuple[RecordStore, ...]) -> tuple[list[tuple[str, Verdict]], list[str]]:
    """What the record stores say of all checks, each verdict with its store's name; and their warnings."""
    wanted = [p.check.derivation for flake in flakes for p in flake.checks if isinstance(p.check, Check)]
    found: list[tuple[str, Verdict]] = []
    warnings: list[str] = []
    for store in stores:
        answer, name = store.lookup(wanted), store.name
        found += [(name, verdict) for verdict in answer.verdicts]
        warnings += answer.warnings
    return found, warnings


def _with_evidence(flake: FlakePlan, found: list[tuple[str, Verdict]], request: Request) -> FlakePlan:
    now = time.time()
    by_path: dict[str, list[tuple[str, Verdict]]] = {}
    for name, verdict in found:
        for path in filter(None, {verdict.drv_path, verdict.out_path}):
            by_path.setdefault(path, []).append((name, verdict))

    def planned(check: Check | EvalFailed) -> PlannedCheck:
        if isinstance(check, EvalFailed) or not check.recorded:
            return PlannedCheck(check=check)
        derivation, driver = check.derivation, check.driven_by(request.mode)
        near = by_path.get(derivation.drv_path, []) + by_path.get(derivation.out_path or "", [])
        return PlannedCheck(check=check, evidence=policy.judge(derivation, driver, near, now, request.max_age))

    checks = tuple(planned(entry.check) for entry in flake.checks)
    return FlakePlan(ref=flake.ref, label=flake.label, path=flake.path, checks=checks, error=flake.error)
