"""One check, run to its end: by its test driver, or by building it in the Nix sandbox."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.errors import CheckFailed, CommandTimedOut
from pytest_nixos.model import BuildFailed, Built, Check, Outcome, Prebuilt, RunResult
from pytest_nixos.nix import build
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.store import remove_tree
from pytest_nixos.vm import isolate
from pytest_nixos.vm.log import neutralise
from pytest_nixos.vm.steps import Steps
from pytest_nixos.vm.terminal import Finished, Terminal

_TAIL_LINES = 60
_RAISED = re.compile(r"(?:!!! )?((?:\w+\.)*\w*(?:Error|Exception|Failed|Failure|Timeout)(?:: .*)?)")
_PRIVATE = "pnx-"
_LONGEST_TMP = 40  # bytes: what drivers put below it must fit into a socket's 108
_SCRATCH = ("vm-state-*", "vde*.ctl", "shared-xchg", ".nixos-test-driver", "nixos-test-driver*", "pnx-*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where and how a check runs. timeout is in seconds; echo gets each line that the driver prints."""

    nix: Nix
    folder: Path
    artifacts: Path
    timeout: float
    mode: str
    network: bool
    keep_artifacts: bool
    echo: Callable[[str], None]


def run_check(check: Check, prebuilt: Prebuilt, around: Surroundings) -> RunResult:
    """Run one check. A failure is a result; only what stops the session itself is raised."""
    started = time.monotonic()
    artifacts = around.artifacts / artifact_name(check)
    artifacts.mkdir(parents=True, exist_ok=True)
    transcript = artifacts / "transcript.log"
    runner = _by_driver if check.driven_by(around.mode) else _by_build
    steps = Steps()
    failure, sections = runner(check, prebuilt, around, transcript, steps)
    if not failure and not around.keep_artifacts:
        shutil.rmtree(artifacts, ignore_errors=True)
    return RunResult(
        outcome=Outcome.FAILED if failure else Outcome.PASSED,
        seconds=time.monotonic() - started,
        transcript=str(transcript),
        artifacts=str(artifacts),
        failure=failure,
        sections=sections,
        subtests=tuple(steps.rest(failure)),
    )


def plain_name(text: str) -> str:
    """A text as a part of a file's name: what could be more than a name becomes `_`."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def artifact_name(check: Check) -> str:
    """A folder name for a check: readable, short, and different for different checks."""
    return f"{plain_name(check.attr)[:60]}-{hashlib.sha256(check.derivation.drv_path.encode()).hexdigest()[:8]}"


Failure = tuple[str, tuple[tuple[str, str], ...]]


def _by_driver(check: Check, prebuilt: Prebuilt, around: Surroundings, transcript: Path, steps: Steps) -> Failure:
    assert check.driver is not None
    driver = prebuilt.drivers.get(check.driver.drv_path)
    match driver:
        case Built():
            return _drive(driver, check, prebuilt, around, transcript, steps)
        case BuildFailed(log_tail=tail):
            transcript.write_text(tail)
            return "the test driver does not build", (("nix log", _quote(tail.splitlines())),)
    return "the test driver was not prebuilt: this is a fault of pytest-nixos", ()


def _drive(
    driver: Built, check: Check, prebuilt: Prebuilt, around: Surroundings, transcript: Path, steps: Steps
) -> Failure:
    def line(text: str) -> None:
        steps.line(text)
        around.echo(text)

    keeper = _keeper([f"{driver.out_path}/bin/nixos-test-driver"], prebuilt, around)
    # A private folder with a short name: sockets in it must stay below 108 bytes.
    with private_folder(around.folder) as folder:
        env = _environment(folder, prebuilt, around.network)
        with Terminal(
            keeper,
            cwd=folder,
            env=env,
            transcript=transcript,
            on_line=line,
            grace=isolate.GRACE_SECONDS + 2,
        ) as terminal:
            finished = terminal.wait(around.timeout)
        _keep_files(folder, transcript.parent)
    return _judge(finished, check, around.timeout)


def _keeper(argv: list[str], prebuilt: Prebuilt, around: Surroundings, *, terminal: bool = False) -> list[str]:
    return isolate.keeper_argv(
        argv,
        store=prebuilt.store,
        store_dir=around.nix.store_dir,
        network=around.network,
        isolated=prebuilt.isolated,
        terminal=terminal,
    )


def interact(check: Check, prebuilt: Prebuilt, around: Surroundings) -> int:
    """Give the terminal to the check's driver, for a prompt; its exit status. Raises CheckFailed without a driver.

    Machines and files live as in a run; what is written into the current folder is kept with the artifacts.
    """
    driver = prebuilt.drivers[check.driver.drv_path] if check.driver else None
    if not isinstance(driver, Built):
        raise CheckFailed("the test driver does not build", driver.log_tail if driver else "")
    argv = _keeper([f"{driver.out_path}/bin/nixos-test-driver", "--interactive"], prebuilt, around, terminal=True)
    artifacts = around.artifacts / artifact_name(check)
    artifacts.mkdir(parents=True, exist_ok=True)
    with private_folder(around.folder) as folder:
        env = {**_environment(folder, prebuilt, around.network), "TERM": os.environ.get("TERM", "dumb")}
        try:
            return proc.attach(argv, env=env, cwd=folder)
        finally:
            _keep_files(folder, artifacts)


@contextlib.contextmanager
def private_folder(session: Path) -> Iterator[Path]:
    """A folder for a driver's sockets and disks, which the next session removes should this process be killed."""
    tmp = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=tmp if len(os.fsencode(tmp)) <= _LONGEST_TMP else "/tmp"))
    note = session / folder.name
    try:
        note.write_text(str(folder.parent))
        yield folder
    finally:
        remove_tree(folder)
        note.unlink(missing_ok=True)


def remove_session(folder: Path) -> None:
    """Delete a session's folder, and the private folders of its drivers that were killed with their pytest."""
    for note in folder.glob(f"{_PRIVATE}*"):
        remove_tree(Path(note.read_text(), note.name))
    remove_tree(folder)


def _environment(folder: Path, prebuilt: Prebuilt, network: bool) -> dict[str, str]:
    """A clean environment: nothing of the user's, secrets above all, reaches a test."""
    accel = {"QEMU_OPTS": f"-machine accel={prebuilt.accelerator}"} if prebuilt.accelerator else {}
    # Without a network namespace QEMU itself keeps the guests from the network.
    restrict = {} if network or prebuilt.isolated else {"QEMU_NET_OPTS": "restrict=on"}
    return {
        **isolate.keeper_environment(),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONUNBUFFERED": "1",
        **accel,
        **restrict,
    }


def _keep_files(folder: Path, artifacts: Path) -> None:
    """Move what the test wrote (screenshots, copied files) to the artifacts, without the VMs' own state."""
    for entry in folder.iterdir():
        scratch = any(entry.match(pattern) for pattern in _SCRATCH)
        ours = (artifacts / entry.name).exists()  # the transcript is not the test's to replace
        if not scratch and not ours and not entry.is_socket():
            with contextlib.suppress(OSError):
                shutil.move(entry, artifacts / entry.name)


def _judge(finished: Finished, check: Check, timeout: float) -> Failure:
    if finished.status == 0 and not finished.timed_out:
        return "", ()
    sections = (("console", _quote(finished.tail[-_TAIL_LINES:])),)
    if finished.timed_out:
        return f"{check.attr} was still running after {timeout:.0f} s and was stopped", sections
    return _last_error(finished.tail) or f"the test driver ended with status {finished.status}", sections


def _last_error(tail: Sequence[str]) -> str:
    """What a driver says of its end: ours in one sentence, upstream's by Python's words for an exception."""
    errors = [line for line in tail if line.startswith("error:")]
    raised = [found[1] for line in tail if (found := _RAISED.fullmatch(neutralise(line).strip()))]
    return (errors or raised or [""])[-1]


def _by_build(check: Check, prebuilt: Prebuilt, around: Surroundings, transcript: Path, steps: Steps) -> Failure:
    def progress(text: str) -> None:
        around.echo(text)
        log.write(text + "\n")

    roots = around.folder / "gcroots" / artifact_name(check)
    with transcript.open("w") as log:
        try:
            results = build.realise(around.nix, [check.derivation], roots, progress, around.timeout)
        except CommandTimedOut:
            return f"{check.attr} was still building after {around.timeout:.0f} s and was stopped", ()
    match results[check.derivation.drv_path]:
        case BuildFailed(log_tail=tail):
            return "the check does not build", (("nix log", _quote(tail.splitlines()[-_TAIL_LINES:])),)
    return "", ()


def _quote(lines: list[str] | tuple[str, ...]) -> str:
    """Guest text for the report: behind a bar, so that no line of it is a command to a terminal or to a CI."""
    return "\n".join(f"| {neutralise(line)}" for line in lines)


def raise_failure(result: RunResult) -> None:
    """Raise CheckFailed when the run failed; the message names its artifacts."""
    if result.outcome is not Outcome.PASSED:
        raise CheckFailed(result.failure, f"artifacts: {result.artifacts}")
