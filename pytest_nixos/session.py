"""One object per role that a pytest process can have: alone, xdist's controller, xdist's worker.

Alone and controller own the session's folder, show progress, and record; a worker reads what they made.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pytest_nixos import plan as planning
from pytest_nixos import reporting
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.execution import Surroundings, artifact_name, interact, remove_session, run_check
from pytest_nixos.keeping import needs_commit, open_keeper, places, take_secrets
from pytest_nixos.model import (
    Bootable,
    Check,
    Closure,
    Kind,
    Package,
    Plan,
    Prebuilt,
    ProvenTest,
    PythonTest,
    RunResult,
)
from pytest_nixos.nix import closure_info
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.checks import Evaluator
from pytest_nixos.nix.command import Nix, find_nix
from pytest_nixos.nix.store import remove_tree
from pytest_nixos.nix.unread import Unread
from pytest_nixos.options import DEFAULT_TIMEOUT_SECONDS, Options, cache_home
from pytest_nixos.prebuild import NOTHING_PREBUILT, Workshop, bootable, package, prebuild
from pytest_nixos.progress import Progress
from pytest_nixos.recorder import Recorder, subject_text
from pytest_nixos.records.keeper import Keeper, Opened
from pytest_nixos.records.places import parse_place
from pytest_nixos.records.publish import Published
from pytest_nixos.rundir import RunDir, abandoned
from pytest_nixos.vm import accelerator

_KEPT_ARTIFACTS = 10  # sessions
_DRIVER_SECONDS = 30
_RENEW_SECONDS = 15.0


class Session:
    """What every role can do: the plan, the prebuilt store, running one check."""

    def __init__(self, config: pytest.Config, options: Options, run_dir: RunDir) -> None:
        self.config, self.options, self.run_dir = config, options, run_dir
        self.progress = Progress(config)
        self.unsure = False  # whether this process has used what no record of a test in Python covers

    @cached_property
    def cache(self) -> Cache | None:
        """What is kept of evaluations; None where the user wants nothing kept."""
        return Cache(cache_home() / "evaluations") if self.options.eval_cache else None

    @cached_property
    def nix(self) -> Nix:
        """The Nix on PATH; looked for when first needed. Raises ToolMissing."""
        return find_nix(self.cache)

    @property
    def keeper(self) -> Keeper | None:
        """The record stores, for the process that owns the session; the others see no record and no secret."""
        return None

    @cached_property
    def plan(self) -> Plan:
        """The session's plan, made by the first process that asks."""
        return self.run_dir.once("plan", lambda: planning.make(self.nix, self._request(), self.progress))

    @cached_property
    def prebuilt(self) -> Prebuilt:
        """The drivers of all that is selected and not verified, and the store they run on."""
        return self.run_dir.once(
            "prebuilt", lambda: prebuild(self._workshop(), list(filter(self._needs_store, self.selected)))
        )

    @property
    def selected(self) -> tuple[Check, ...]:
        """The checks that are to run: those that the first collection to end has left."""
        return self.run_dir.once("selected", tuple)

    def select(self, checks: Sequence[Check]) -> None:
        """Note what is to run, unless another worker, whose selection is the same, has done so."""
        self.run_dir.once("selected", lambda: tuple(checks))

    def note_tests(self, tests: Callable[[], tuple[PythonTest, ...]]) -> None:
        """Note which tests in Python are to run, and what proofs of them would be of."""
        self.run_dir.once("tests", tests)

    @cached_property
    def tests(self) -> dict[str, PythonTest]:
        """The tests in the files that have tests with machines, by their node ids. Not asked before they are noted."""
        noted: tuple[PythonTest, ...] = self.run_dir.once("tests", tuple)
        return {test.nodeid: test for test in noted}

    @cached_property
    def proven(self) -> dict[str, ProvenTest]:
        """What is recorded of these tests, as far as the process that owns the session has asked; by node ids."""
        return self.run_dir.once("proven", dict)

    @property
    def artifacts(self) -> Path:
        """The folder of transcripts and of what tests wrote."""
        return self.options.artifacts or cache_home() / "artifacts" / self.run_dir.path.name

    def run(self, check: Check) -> RunResult:
        """Run one check on the prebuilt store."""
        # A check that is built needs no store of its own, and runs where there was no room for one.
        prebuilt = self.prebuilt if self._drives(check) else NOTHING_PREBUILT
        return run_check(check, prebuilt, self._surroundings(check))

    def bootable(self, check: Check) -> Bootable:
        """The check's driver for machines that are booted in this process, built by the first process that asks."""
        return self.run_dir.once(f"bootable-{artifact_name(check)}", lambda: bootable(self._workshop(), check))

    def package(self, installable: str) -> Package:
        """A package of VMs, built by the first process that asks. Raises CheckFailed, EvaluationError."""
        name = f"package-{hashlib.sha256(installable.encode()).hexdigest()[:16]}"
        target = planning.target(self.nix, self._request(), installable)
        return self.run_dir.once(name, lambda: package(self._workshop(), target))

    def subject(self, check: Check) -> str:
        """What a run of the check is a run of: its derivation, and the driver if one runs it."""
        return subject_text(check, self.options.mode)

    def is_proof(self, check: Check) -> bool:
        """Whether a pass of the check proves it: not one that opts out, nor one that could have used the network."""
        pure = check.recorded and not self.options.network and not self.is_native(check)
        return pure and (not self._drives(check) or self.prebuilt.isolated)

    def flags(self, check: Check) -> tuple[str, ...]:
        """What makes a pass of the check worth less to others: a slow machine forgives races that a fast one shows."""
        if check.kind is not Kind.VM:
            return ()
        name = self.prebuilt.accelerator if self._drives(check) else self._likely_accelerator
        return () if name == "kvm" else ("tcg",)

    def test_flags(self, nodeid: str) -> tuple[str, ...]:
        """The same of a test in Python, which could reach all that its user can."""
        subject = self.tests[nodeid].subject
        checks = (planned.check for planned in self.plan.planned)
        check = next(c for c in checks if isinstance(c, Check) and subject and c.driver == subject.derivation)
        return ("python",) if self.bootable(check).accelerator == "kvm" else ("python", "tcg")

    @property
    def _likely_accelerator(self) -> str:
        """What a VM in the Nix sandbox runs with, where only Nix chooses: KVM when a guest is known to run under it."""
        known = accelerator.known(cache_home())
        return known.name if known else "tcg"

    def close(self) -> None:
        """Remove the session's folder, where this process owns it."""
        self.run_dir.close(remove_session)

    def _request(self) -> planning.Request:
        return dataclasses.replace(self._evaluation(), keeper=self.keeper, rerun=self.options.rerun_verified)

    def _evaluation(self) -> planning.Request:
        """What to evaluate, without asking for records."""
        options = self.options
        return planning.Request(
            flakes=options.flakes,
            base=options.base,
            system=options.system,
            attr=options.attr,
            overrides=options.overrides,
            impure=options.impure,
            evaluator=Evaluator(
                cache=self.cache,
                workers=options.eval_workers,
                unread=Unread(options.unread) if options.unread else None,
                scratch=self.run_dir.path,
            ),
            max_age=options.max_age,
            mode=options.mode,
            keeper=None,
        )

    def is_native(self, check: Check) -> bool:
        """Whether our own driver runs the check's script, in this process."""
        mode = "native" if self.options.debugs and self.options.mode == "auto" else self.options.mode
        return mode == "native" and check.driver is not None

    def limit(self, check: Check) -> float:
        """How long the check may take, in seconds."""
        return _own_limit(check) if self.options.timeout is None else self.options.timeout

    def _drives(self, check: Check) -> bool:
        return check.driven_by(self.options.mode) is not None

    def _needs_store(self, check: Check) -> bool:
        return self._drives(check) and not self.is_native(check)

    def _workshop(self) -> Workshop:
        return Workshop(
            nix=self.nix,
            closure=self._closure,
            folder=self.run_dir.path,
            cache=cache_home(),
            accelerator=self.options.accelerator,
            progress=self.progress,
        )

    def _closure(self, roots: Sequence[str]) -> Closure:
        """The closure by the first flake that has checks, since one function serves the drivers of all."""
        flakes = self.plan.flakes
        flake = next((flake for flake in flakes if flake.checks), flakes[0])
        target = planning.target_of(self.nix, self._request(), flake, self.plan.system)
        return closure_info.closure(target, self.plan.system, roots)

    def _surroundings(self, check: Check) -> Surroundings:
        options = self.options
        return Surroundings(
            nix=self.nix,
            folder=self.run_dir.path,
            artifacts=self.artifacts,
            timeout=self.limit(check),
            mode=options.mode,
            network=options.network,
            keep_artifacts=options.artifacts is not None,
            echo=(lambda line: print(f"{check.attr} | {line}")) if options.stream else lambda line: None,
        )


class Owner(Session):
    """The process that owns the session: alone, or xdist's controller."""

    shared = True

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._around = take_secrets(options)
        for folder in abandoned(options.folder):
            remove_session(folder)
        super().__init__(config, options, RunDir.create(options.folder, shared=self.shared))
        self.recorder = Recorder(
            plan=lambda: self.plan,
            mode=options.mode,
            root=config.rootpath,
            flags=self.flags,
            tests=lambda: (self.tests, self.proven) if self.ready else ({}, {}),
            test_flags=self.test_flags,
            keep=lambda verdict: self.keeper.keep(verdict),
            warn=self.progress.warning,
        )
        self.ready = False
        self.published: list[Published] = []

    @cached_property
    def keeper(self) -> Keeper:
        """The record stores. Raises PytestNixosError for one that can't be used as it is named."""
        named = places(self.options)
        commit = planning.commit(self.nix, self._evaluation()) if needs_commit(named) else None
        keeper = open_keeper(self.options, self._around, self.nix, named, commit)
        if self.options.push_strict:
            keeper.refuse_unsigned()
        return keeper

    def open_store(self, uri: str) -> Opened:
        """One more store, beside the session's own. Raises PytestNixosError when it can't be used as it is named."""
        return open_keeper(self.options, self._around, self.nix, [parse_place(uri)]).stores[0]

    def publish(self, seconds: float) -> int:
        """Wait for the records that are on their way, and say what came of them; the number that is lost.

        Whoever waits no longer (Ctrl-C) loses what is not written yet, and is told so.
        """
        if "plan" not in self.__dict__ or "keeper" not in self.__dict__:
            return 0  # not made, or failed
        evidence = (entry.evidence for entry in self.plan.planned if entry.evidence)
        self.keeper.renew(evidence, min(seconds, _RENEW_SECONDS))
        if waiting := self.keeper.on_their_way:
            self.progress.line(f"publishing {reporting.count(waiting, 'record')} (Ctrl-C to stop)")
        self.published = self.keeper.close(seconds)
        return sum(published.lost for published in self.published)

    def make_ready(self) -> None:
        """Prebuild what is selected, once, and print what came of it. Errors become those of the items."""
        if self.ready:
            return
        self.ready = True
        self.run_dir.once("proven", self._ask_for_tests)
        if not self.selected:
            return
        with contextlib.suppress(PytestNixosError):  # a derivation that is not there fails its check
            for warning in planning.restore(self.nix, self._request(), self.plan, self.selected):
                self.progress.warning(warning)
        with contextlib.suppress(PytestNixosError):  # each item that needs it fails with this error
            if self.prebuilt.drivers:
                self.progress.line(reporting.prebuilt_line(self.prebuilt))

    def _ask_for_tests(self) -> dict[str, ProvenTest]:
        whole_files = self.config.getoption("dist", "no") in ("no", "loadfile") or not self.shared
        proven, warnings = planning.prove_tests(list(self.tests.values()), self._request(), whole_files)
        for warning in warnings:
            self.progress.warning(warning)
        return proven

    def interact(self, check: Check) -> int:
        """Build the check's driver alone, verified or not, and give it the terminal; its exit status.

        Raises PytestNixosError.
        """
        for warning in planning.restore(self.nix, self._request(), self.plan, [check]):
            self.progress.warning(warning)
        prebuilt = prebuild(self._workshop(), [check])
        self.progress.line(reporting.prebuilt_line(prebuilt))
        return interact(check, prebuilt, self._surroundings(check))

    @property
    def accelerator(self) -> str:
        """What the VMs will use, for people; "" before the first probe."""
        if self.options.accelerator != "auto":
            return f"{self.options.accelerator} (as asked for)"
        return str(accelerator.known(cache_home()) or "")

    def show_times(self) -> None:
        """Print where the time went."""
        prebuilt = self.__dict__.get("prebuilt")
        self.progress.line(reporting.times(self.plan.evaluate_seconds, prebuilt, self.recorder.seconds))

    def close(self) -> None:
        """Remove the session's folder and the artifacts of old sessions."""
        super().close()
        old = sorted((cache_home() / "artifacts").glob("*/"), key=lambda folder: folder.stat().st_mtime)
        for folder in old[:-_KEPT_ARTIFACTS]:
            remove_tree(folder)


class Single(Owner):
    """pytest without xdist: plans, prebuilds, runs and records."""

    shared = False


class Controller(Owner):
    """xdist's controller: plans before the workers start, prebuilds when they have collected, records."""


class Worker(Session):
    """xdist's worker: reads the plan and the prebuilt store, and runs checks."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        workerinput: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
        super().__init__(config, options, RunDir(Path(workerinput["nixos_rundir"])))


def _own_limit(check: Check) -> float:
    """A check's own limit, with time for its driver to keep that limit itself and to say which machine is stuck."""
    return check.timeout + _DRIVER_SECONDS if check.timeout else DEFAULT_TIMEOUT_SECONDS


def start(config: pytest.Config, options: Options) -> Session:
    """The object for this process's role."""
    if hasattr(config, "workerinput"):
        return Worker(config, options)
    distributes = config.getoption("dist", "no") != "no" and config.getoption("tx", None)
    if distributes and not config.option.collectonly:
        return Controller(config, options)
    return Single(config, options)
