"""The driver's command line, which is the NixOS test driver's."""

import argparse
import code
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.model import Subtest
from pytest_nixos.vm import junit, report
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.errors import ConfigError, GlobalTimeout
from pytest_nixos.vm.evidence import collect
from pytest_nixos.vm.guest import tail
from pytest_nixos.vm.spec import DEFAULT_GLOBAL_TIMEOUT, DriverSpec, machine_specs, parse_config

FAILED, TIMED_OUT = 1, 124
_EXITS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGALRM: TIMED_OUT}
_LAST_SECONDS = 60.0  # after the global timeout: for the script's own cleanup, and for ours
_LAST_WORDS_SECONDS = 1.0


class Stopped(BaseException):
    """A signal ends the run. No Exception: a script's `except Exception` must not hold it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Run a test; returns the exit status: 0 passed, 1 failed, 124 global timeout, 143/130/129 for signals."""
    _be_line_buffered()
    args = parser(env).parse_args(argv)
    try:
        spec = driver_spec(args)
        args.output_directory.mkdir(parents=True, exist_ok=True)
        driver = Driver(
            spec,
            out_dir=args.output_directory,
            keep_state=args.keep_vm_state,
            env=env,
            debug=args.interactive or args.debug_hook_attach is not None,
        )
        driver.log.set_log_level(args.log_level)
        with stopping(spec.global_timeout, interactive=args.interactive):
            return _interact(driver, args.dump_vsocks) if args.interactive else _run(driver, args)
    except PytestNixosError as error:
        _complain(f"error: {error}")
        return FAILED
    except Stopped as stopped:  # before the script, or after it
        _complain("error: the test was stopped")
        return _EXITS[signal.Signals(stopped.number)]


def parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options; the environment gives the defaults, as the driver's wrapper script does."""
    result = argparse.ArgumentParser(prog="nixos-test-driver", description="Run a NixOS test in virtual machines.")
    add = result.add_argument
    add("--config", type=Path, metavar="FILE", help="the whole test as JSON, instead of the options below")
    add("--start-scripts", nargs="*", default=env.get("startScripts", "").split(), metavar="SCRIPT")
    add("--vlans", nargs="*", default=env.get("vlans", "").split(), metavar="N")
    add("--global-timeout", type=float, metavar="SECONDS")
    add("-o", "--output_directory", "--output-directory", type=Path, default=Path.cwd(), metavar="DIR")
    add(
        "-K",
        "--keep-vm-state",
        "--keep-machine-state",
        action="store_true",
        help="re-use the machines' disks",
    )
    add("-I", "--interactive", action="store_true", help="a Python prompt instead of the test script")
    add(
        "--debug-hook-attach",
        nargs="?",
        const="",
        metavar="IGNORED",
        help="stop at the test script's debug.breakpoint(), in this terminal",
    )
    add("--dump-vsocks", type=int, metavar="OFFSET", help="print how to reach the machines by ssh over vsock")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    add("--junit-xml", type=Path, metavar="FILE", help="write the subtests' results")
    add("--test-script", dest="named_script", metavar="FILE", help="the same as TESTSCRIPT")
    add("testscript", nargs="?", help="a Python file, instead of the configuration's")
    result.set_defaults(script_around=env.get("testScript"), timeout_around=env.get("globalTimeout"))
    return result


def driver_spec(args: argparse.Namespace) -> DriverSpec:
    """What the options ask for; raises ConfigError."""
    try:
        if args.config:  # which is the whole test: nothing of the environment counts beside it
            spec = parse_config(args.config.read_text())
        else:
            spec = DriverSpec(
                machines=machine_specs(args.start_scripts),
                vlans=tuple(map(int, args.vlans)),
                script=args.script_around or "",
                global_timeout=float(args.timeout_around or DEFAULT_GLOBAL_TIMEOUT),
            )
    except (OSError, ValueError) as error:
        raise ConfigError(f"the driver's configuration cannot be read: {error}") from error
    script = args.named_script or args.testscript or spec.script
    if not args.interactive and not Path(script or "/").is_file():
        raise ConfigError(f"there is no test script {script}" if script else "no test script is given")
    return DriverSpec(
        machines=spec.machines,
        vlans=spec.vlans,
        script=script,
        global_timeout=args.global_timeout or spec.global_timeout,
    )


@contextmanager
def stopping(seconds: float, *, interactive: bool) -> Iterator[None]:
    """Turn signals and the global timeout into Stopped; a run that ignores it is ended the hard way."""
    numbers = [signal.SIGTERM, signal.SIGHUP] if interactive else list(_EXITS)
    before = {number: signal.signal(number, _stop) for number in numbers}
    if not interactive:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        threading.Thread(target=_end_hard, args=(seconds + _LAST_SECONDS,), daemon=True).start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(driver: Driver, args: argparse.Namespace) -> int:
    began = time.monotonic()
    problem = ""
    try:
        with driver:
            try:
                _dump_vsocks(driver, args.dump_vsocks)
                driver.run_tests()
            except BaseException as error:
                _ignore_signals()  # they must not disturb the end
                problem = _explain(error, driver)
                status = _status(error)
                if problem and not isinstance(error, Stopped):
                    collect(driver, error)
                if status is None:
                    raise
            else:
                _ignore_signals()
                status = 0
    finally:
        if args.junit_xml:
            whole = Subtest(name="test script", seconds=time.monotonic() - began, error=problem)
            junit.write(args.junit_xml, [*driver.subtests, whole])
    driver.log.info(f"test script finished in {time.monotonic() - began:.2f}s")
    if problem:
        _complain(problem)
    return status


def _dump_vsocks(driver: Driver, offset: int | None) -> None:
    if offset is not None:
        driver.dump_machine_ssh(offset)


def _interact(driver: Driver, vsocks: int | None) -> int:
    with driver:
        _dump_vsocks(driver, vsocks)
        symbols = driver.test_symbols()
        _complete(symbols)
        code.interact(banner="NixOS test driver: " + ", ".join(sorted(symbols)), local=symbols)
    return 0


def _complete(symbols: dict[str, object]) -> None:
    """Tab completes names; not every Python has readline."""
    with contextlib.suppress(ImportError):
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(symbols).complete)
        readline.parse_and_bind("tab: complete")


def _status(error: BaseException) -> int | None:
    """The exit status for what ended a script; None for what is not ours to handle."""
    if isinstance(error, Stopped):
        return _EXITS[signal.Signals(error.number)]
    if isinstance(error, GlobalTimeout):
        return TIMED_OUT
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED if error.code else 0
    return FAILED if isinstance(error, Exception | KeyboardInterrupt) else None


def _explain(error: BaseException, driver: Driver) -> str:
    """What to print about what ended a script: "" when it ended itself well."""
    status = _status(error)
    if status == 0:
        return ""
    if status == TIMED_OUT and isinstance(error, Stopped | GlobalTimeout):
        return _explain_timeout(error, driver)
    if isinstance(error, Stopped):
        return f"error: the test was stopped by {signal.Signals(error.number).name}"
    return report.failure(error, driver.spec.script)


def _explain_timeout(error: BaseException, driver: Driver) -> str:
    lines = []
    for machine in driver.machines:
        lines.append(f"the console's last lines of {machine.name}:")
        lines += [f"  | {line}" for line in tail(machine.console_tail(20)).splitlines()]
    lines.append(f"error: the time for the whole test, {driver.spec.global_timeout:g} s, is over")
    return "\n".join([*lines, *report.where(error, driver.spec.script)])


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _ignore_signals() -> None:
    for number in _EXITS:
        signal.signal(number, signal.SIG_IGN)


def _end_hard(seconds: float) -> None:
    """End the process when all else has failed; the kernel then kills the machines."""
    time.sleep(seconds)
    text = "error: the time for the whole test is over, and the test script did not end"
    # Perhaps it is held up because nobody reads what it prints: nor would this be read.
    threading.Thread(target=_complain, args=(text,), daemon=True).start()
    time.sleep(_LAST_WORDS_SECONDS)
    os._exit(TIMED_OUT)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more; the exit status still counts
        print(text, file=sys.stderr, flush=True)


def _be_line_buffered() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
