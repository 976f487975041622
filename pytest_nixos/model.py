"""The data that crosses rooms. Frozen, keyword-only, standard library only, no I/O."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What a check is: a NixOS VM test with a driver, or a plain build."""

    VM = "vm"
    BUILD = "build"


class Outcome(StrEnum):
    """How a run ended."""

    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One virtual machine of a check: memory in MiB, number of virtual cores."""

    name: str
    memory_mib: int
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """A derivation's store path and its outputs (name -> store path, None when not known beforehand).

    fixed: its output is fixed by a hash, and says nothing of how it is made.
    """

    drv_path: str
    outputs: dict[str, str | None]
    features: tuple[str, ...] = ()
    fixed: bool = False

    @property
    def out_path(self) -> str | None:
        """The default output's store path; None for a content-addressed derivation."""
        return self.outputs.get("out", next(iter(self.outputs.values()), None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A flake check that evaluates.

    attr is the attribute's name below `checks.<system>`; driver is the test driver's derivation of a VM
    check; timeout is the check's own limit in seconds (meta.timeout or globalTimeout), None when it has none;
    recorded is false for a check that opts out of records (`pytestNixos.record = false`): it runs every time.
    """

    attr: str
    kind: Kind
    derivation: Derivation
    driver: Derivation | None = None
    nodes: tuple[Node, ...] = ()
    timeout: int | None = None
    recorded: bool = True

    def driven_by(self, mode: str) -> str | None:
        """What runs the check: its driver's derivation path, or None where it is built.

        mode is the user's wish, `auto`, `driver`, `native` or `build`; a check without a driver is always built. It is
        the derivation, since that is what is realised; where its output lies is only what the flake says.
        """
        return None if self.driver is None or mode == "build" else self.driver.drv_path


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalFailed:
    """A flake check that does not evaluate, with Nix's own message."""

    attr: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a record is of: a check's derivation and what runs it (see Check.driven_by); name and system for people.

    part: what runs a part of it, in other circumstances; such a run can refute it, but cannot prove it.
    """

    check: str
    system: str
    derivation: Derivation
    driver: str | None
    part: str | None = None

    def is_told_of_by(self, verdict: "Verdict") -> bool:
        """Whether a verdict on the derivation is of a run that matters here."""
        refutes = verdict.outcome is Outcome.FAILED and self.part is not None and verdict.driver == self.part
        return verdict.driver == self.driver or refutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One recorded result of a check.

    driver: what ran it, see Check.driven_by: a check's derivation need not depend on its driver.
    finished_at is seconds since the epoch (UTC), 0 when a record store can't tell; seconds is the run's duration,
    by a `user@host`, check and system are names for people. flags: what makes the result worth less, such as "tcg".
    """

    drv_path: str
    out_path: str | None
    driver: str | None
    outcome: Outcome
    finished_at: float
    seconds: float
    by: str
    check: str = ""
    system: str = ""
    flags: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        subject: Subject,
        outcome: Outcome,
        *,
        finished_at: float = 0.0,
        seconds: float = 0.0,
        by: str = "",
        flags: tuple[str, ...] = (),
    ) -> "Verdict":
        """A verdict on a subject."""
        return cls(
            drv_path=subject.derivation.drv_path,
            out_path=subject.derivation.out_path,
            driver=subject.driver,
            outcome=outcome,
            finished_at=finished_at,
            seconds=seconds,
            by=by,
            check=subject.check,
            system=subject.system,
            flags=flags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A verdict as it was found in a record store, and the names of the trusted keys that have signed it."""

    verdict: Verdict
    signers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A verdict that proves a check, the name of the record store it was read from, and who has signed it."""

    verdict: Verdict
    record: str
    signers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCheck:
    """A check with what is recorded of it; evidence None means: run it.

    newest: when its newest pass was, whether or not that counts by its time; seconds since the epoch, 0 for none.
    """

    check: Check | EvalFailed
    evidence: Evidence | None = None
    newest: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonTest:
    """A test in a file that has tests with machines. Those of a file are verified together or not at all.

    subject is what a proof of it is of, its driver being PREFIX with a hash, its part the test among whatever others of
    its file; None where nothing is recorded of it.
    """

    PREFIX: ClassVar[str] = "/python/"

    nodeid: str
    file: str
    subject: Subject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenTest:
    """What is recorded of a test in Python; see PlannedCheck."""

    evidence: Evidence | None
    newest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FlakePlan:
    """One flake of the session.

    ref: as the user wrote it. label: what node ids begin with when it was not given as a folder, else "".
    path: its flake.nix, None when it was not found. error: why it does not evaluate as a whole, else "".
    """

    ref: str
    label: str
    path: str | None
    checks: tuple[PlannedCheck, ...]
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All flakes of the session, the system, the seconds that evaluation took, the warnings of caches and records.

    evaluated: an evaluator ran; else all was known, or nothing was found.
    """

    system: str
    nix_version: str
    flakes: tuple[FlakePlan, ...]
    evaluate_seconds: float
    evaluated: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def planned(self) -> tuple[PlannedCheck, ...]:
        """The checks of all flakes, in their order."""
        return tuple(planned for flake in self.flakes for planned in flake.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A derivation that is in the store, with its default output."""

    drv_path: str
    out_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFailed:
    """A derivation that did not build, with the tail of its log."""

    drv_path: str
    log_tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """The store paths that a set of roots needs, their size in bytes, and the registration text of them all."""

    paths: tuple[str, ...]
    nar_bytes: int
    registration: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prebuilt:
    """What the session's fixture made, shared by all workers.

    drivers: derivation path of a driver -> its built form or its failure. store: the session's store root
    (holding nix/store), None when VMs run on the host's store. isolated: the kernel lets us make namespaces.
    accelerator: "kvm" or "tcg". The rest are figures for the summary, in seconds and bytes.
    """

    drivers: dict[str, Built | BuildFailed]
    store: str | None
    isolated: bool
    accelerator: str
    paths: int = 0
    nar_bytes: int = 0
    build_seconds: float = 0.0
    copy_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootable:
    """A check's driver, built on the host's store or failed, and what its machines can use, `kvm` or `tcg`."""

    driver: Built | BuildFailed
    accelerator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A built package of VMs, and what its machines can use, `kvm` or `tcg`."""

    path: str
    accelerator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtest:
    """A subtest that has ended, in `seconds`; error is "" when it has passed."""

    name: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run of a check: outcome, duration in seconds, transcript and artifacts, why it failed ("" if it did not).

    sections: (title, text) pairs for the report, such as the console's last lines. subtests: those of the test script,
    in the order of their ends.
    """

    outcome: Outcome
    seconds: float
    transcript: str
    artifacts: str
    failure: str = ""
    sections: tuple[tuple[str, str], ...] = field(default=())
    subtests: tuple[Subtest, ...] = field(default=())
