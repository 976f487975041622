"""Text for people: header, reasons, summary. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from pytest_nixos.model import Check, EvalFailed, Evidence, FlakePlan, Plan, Prebuilt
from pytest_nixos.records.keeper import Opened
from pytest_nixos.records.publish import Published

if TYPE_CHECKING:
    from pytest_nixos.vm.machine import Machine


def header(plan: Plan, accelerator: str) -> list[str]:
    """The lines that say what was found, before anything runs; accelerator is "" when it is not known yet."""
    how = f"evaluated in {duration(plan.evaluate_seconds)}" if plan.evaluated else "nothing to evaluate"
    lines = [f"nixos: {plan.system}, Nix {plan.nix_version}, {how}"]
    lines += [f"nixos: accelerator {accelerator}"] if accelerator else []
    lines += [f"nixos: {_flake_line(flake)}" for flake in plan.flakes]
    return lines + [f"nixos: warning: {text}" for text in plan.warnings]


def _flake_line(flake: FlakePlan) -> str:
    if flake.error:
        return f"{flake.ref}: does not evaluate"
    verified = sum(planned.evidence is not None for planned in flake.checks)
    broken = sum(isinstance(planned.check, EvalFailed) for planned in flake.checks)
    parts = [
        f"{count(len(flake.checks), 'check')}",
        f"{verified} verified",
        f"{len(flake.checks) - verified - broken} to run",
    ]
    parts += [f"{broken} not evaluable"] if broken else []
    return f"{flake.ref}: {', '.join(parts)}"


def verified_reason(evidence: Evidence) -> str:
    """Why a check is skipped: by which record, when, which derivation."""
    verdict = evidence.verdict
    when = moment(verdict.finished_at)
    signed = f", signed by {', '.join(evidence.signers)}" if evidence.signers else ""
    return f"verified by {evidence.record}, {when}, {verdict.drv_path} ({verdict.by}{signed})"


def moment(seconds: float) -> str:
    """Seconds since the epoch as a time for people; 0 is one that nobody knows."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else "at an unknown time"


def attaching(machines: Sequence["Machine"]) -> Iterator[str]:
    """How to get at machines that are up, from a debugger's prompt."""
    up = [machine for machine in machines if machine.booted]
    if up:
        names = ", ".join(f"{machine.name} (QEMU's pid {machine.pid})" for machine in up)
        name = up[0].spec.symbol
        yield f"up until you leave the prompt: {names}"
        yield f"try {name}.succeed('...'), {name}.shell_interact() for a shell, or {name}.console.interact()"


def stores(opened: Sequence[Opened]) -> Iterator[str]:
    """A line for each record store that is not a folder: whether it is read and written here, and why not."""
    for one in opened:
        if one.place.scheme != "dir":
            read = "read" if one.place.terms.pull else "not read"
            written = f"not written ({one.not_written})" if one.not_written else "written"
            yield f"nixos: records in {one.store.name}: {read}, {written}"


def published(results: Sequence[Published]) -> Iterator[str]:
    """The summary's lines on what was pushed where."""
    for one in results:
        if one.written:
            yield f"nixos: {count(one.written, 'record')} published to {one.store}"
        if one.lost:
            yield f"nixos: error: {count(one.lost, 'record')} NOT published to {one.store}: {one.why}"
        if one.held:
            yield f"nixos: {count(one.held, 'record')} not for {one.store}: flagged, and its terms do not allow that"


def prebuilt_line(prebuilt: Prebuilt) -> str:
    """What the VMs will run on."""
    store = (
        "the session's store"
        if prebuilt.isolated
        else "the host's store (the kernel refuses namespaces: nothing is recorded)"
    )
    return (
        f"{count(len(prebuilt.drivers), 'driver')} on {store}, {prebuilt.paths} paths, "
        f"{prebuilt.nar_bytes >> 20} MiB; accelerator: {prebuilt.accelerator}"
    )


def summary(verified: list[pytest.TestReport]) -> Iterator[str]:
    """The lines that say what was verified by what."""
    for report in verified:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        yield f"VERIFIED {report.nodeid} - {reason.removeprefix('Skipped: ')}"


def times(evaluate: float, prebuilt: Prebuilt | None, run: float) -> str:
    """The summary's line of times, in seconds; run is the sum over all workers."""
    build = prebuilt.build_seconds if prebuilt else 0.0
    copy = prebuilt.copy_seconds if prebuilt else 0.0
    parts = {"evaluate": evaluate, "build": build, "copy": copy, "boot and test": run}
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items()) + " in all"


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 3 min 5 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def count(number: int, noun: str) -> str:
    """`1 check`, `2 checks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nodes_text(check: Check) -> str:
    """A check's nodes with memory and cores, for the property of its report."""
    return ", ".join(_nodes(check))


def _nodes(check: Check) -> Iterable[str]:
    return (f"{node.name}: {node.memory_mib} MiB, {count(node.cores, 'core')}" for node in check.nodes)
