"""A check's test script in this process, by our driver, whatever driver the check has (`--nixos-mode native`, `--pdb`).

Nothing is recorded of it: the script can reach all that the user can, and what runs it is no part of a derivation.
"""

import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from pytest_nixos.execution import artifact_name, private_folder
from pytest_nixos.machines import machines_of
from pytest_nixos.model import Check, Outcome, RunResult
from pytest_nixos.session import Session
from pytest_nixos.vm import evidence, report
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.log import Log
from pytest_nixos.vm.spec import DEFAULT_GLOBAL_TIMEOUT


class NativeRun:
    """A run whose machines live as long as a stack of contexts: after a failure somebody may look at them."""

    def __init__(self, role: Session, check: Check, machines: ExitStack) -> None:
        """Make the machines, but boot none. Raises ConfigError, CheckFailed."""
        self._role, self._artifacts = role, role.artifacts / artifact_name(check)
        self.failed_at: TracebackType | None = None  # the script's lines that led to the failure
        spec, env = machines_of(role, check)
        self._artifacts.mkdir(parents=True, exist_ok=True)
        # Nobody knows how long somebody looks.
        limit = DEFAULT_GLOBAL_TIMEOUT if role.options.debugs else min(spec.global_timeout, role.limit(check))
        self._spec = replace(spec, global_timeout=limit)
        self._transcript = self._artifacts / "transcript.log"
        log = Log(transcript=machines.enter_context(self._transcript.open("w", errors="backslashreplace")))
        env["TMPDIR"] = str(machines.enter_context(private_folder(role.run_dir.path)))
        driver = Driver(self._spec, out_dir=self._artifacts, env=env, log=log, keep_going=role.options.keep_going)
        self.driver = machines.enter_context(driver)

    def run(self) -> RunResult:
        """Run the script; its failure is a result."""
        started = time.monotonic()
        failure = self._run()
        if not failure and self._role.options.artifacts is None:
            shutil.rmtree(self._artifacts, ignore_errors=True)
        return RunResult(
            outcome=Outcome.FAILED if failure else Outcome.PASSED,
            seconds=time.monotonic() - started,
            transcript=str(self._transcript),
            artifacts=str(self._artifacts),
            failure=failure,
            subtests=tuple(self.driver.subtests),
        )

    def _run(self) -> str:
        """Why the script has failed, with its line; "" when it has passed."""
        script = self._spec.script
        if not Path(script).is_file():
            return f"error: the check has no test script that can be read: {script}"
        try:
            self.driver.run_tests()
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code in (0, None):
                return ""
            self.failed_at = report.within(error, script)
            evidence.collect(self.driver, error)
            return report.failure(error, script)
        return ""
