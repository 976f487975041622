"""A check's test script in this process, by our driver, whatever driver the check has (`--nixos-mode native`).

Nothing is recorded of it: the script can reach all that the user can, and what runs it is no part of a derivation.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path

from pytest_nixos.execution import artifact_name
from pytest_nixos.machines import machines_of
from pytest_nixos.model import Check, Outcome, RunResult
from pytest_nixos.session import Session
from pytest_nixos.vm import evidence, report
from pytest_nixos.vm.driver import Driver


def run(role: Session, check: Check) -> RunResult:
    """Run a check natively. A failure is a result; errors before the script begins are raised."""
    spec, env = machines_of(role, check)
    artifacts = role.artifacts / artifact_name(check)
    artifacts.mkdir(parents=True, exist_ok=True)
    spec = replace(spec, global_timeout=min(spec.global_timeout, role.limit(check)))
    started = time.monotonic()
    with Driver(spec, out_dir=artifacts, env=env, keep_going=role.options.keep_going) as driver:
        failure = _run(driver, spec.script)
    if not failure and role.options.artifacts is None:
        shutil.rmtree(artifacts, ignore_errors=True)
    return RunResult(
        outcome=Outcome.FAILED if failure else Outcome.PASSED,
        seconds=time.monotonic() - started,
        transcript="",
        artifacts=str(artifacts),
        failure=failure,
        subtests=tuple(driver.subtests),
    )


def _run(driver: Driver, script: str) -> str:
    """Why the script has failed, with its line; "" when it has passed."""
    if not Path(script).is_file():
        return f"error: the check has no test script that can be read: {script}"
    try:
        driver.run_tests()
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in (0, None):
            return ""
        evidence.collect(driver, error)
        return report.failure(error, script)
    return ""
