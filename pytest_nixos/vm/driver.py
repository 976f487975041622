"""A whole test: its machines, its VLANs, and the names that its script may use."""

import os
import signal
import time
import unittest
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytest_nixos.deadline import Deadline
from pytest_nixos.model import Subtest
from pytest_nixos.vm import report
from pytest_nixos.vm.debug import Debug
from pytest_nixos.vm.durations import with_durations
from pytest_nixos.vm.errors import GlobalTimeout, MachineDied, MachineTimeout, SubtestsFailed
from pytest_nixos.vm.guest import DEFAULT_SECONDS
from pytest_nixos.vm.log import Log
from pytest_nixos.vm.machine import Machine
from pytest_nixos.vm.polling import Condition, PollingCondition
from pytest_nixos.vm.resources import RunDirs
from pytest_nixos.vm.spec import DriverSpec, MachineSpec, machine_spec
from pytest_nixos.vm.vlan import VLan

CONSOLES_VARIABLE = "PYTEST_NIXOS_CONSOLES"
_STORE = Path("/nix/store")


class Driver:
    """A context manager: makes machines but boots none; at its end everything is stopped and removed."""

    def __init__(
        self,
        spec: DriverSpec,
        *,
        out_dir: Path,
        keep_state: bool = False,
        log: Log | None = None,
        env: Mapping[str, str] = os.environ,
        debug: bool = False,
        keep_going: bool = False,
    ) -> None:
        """The spec's global timeout runs from here. keep_state leaves the disks for the next run.

        debug: whether a script's breakpoints stop, for somebody at a terminal. keep_going: whether the script goes on
        behind a subtest that has failed; the test fails all the same.
        """
        self.spec, self.log, self.out_dir = spec, log or Log(), out_dir
        self.deadline = Deadline(spec.global_timeout)
        self.subtests: list[Subtest] = []
        self.vlans: list[VLan] = []
        self.machines: list[Machine] = []
        self.polling_conditions: list[PollingCondition] = []  # those that must hold now
        self._env, self._keep, self._debug, self._keep_going = env, keep_state, debug, keep_going
        self._dirs: RunDirs | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.release)
            self._dirs = RunDirs([m.name for m in self.spec.machines], keep=self._keep, env=self._env)
            if self._keep:
                self.log.info(f"the machines' state is kept in {self._dirs.root}")
            for number in sorted(set(self.spec.vlans)):
                self.vlans.append(VLan(number, self._dirs.vlan(number), self._env))
            for spec in sorted(self.spec.machines, key=lambda m: m.name):
                self.machines.append(self._machine(spec, self._dirs))
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Stop all machines and VLANs, remove the folders, whatever fails. Safe to call twice."""
        for machine in self.machines:
            machine.terminate()  # all at once; then wait for each
        with ExitStack() as stack:
            if self._dirs:
                stack.callback(self._dirs.remove)
            for part in self.vlans:
                stack.callback(part.stop)
            for machine in self.machines:
                stack.callback(machine.release)

    # What test scripts use

    def start_all(self) -> None:
        """Start all machines, without waiting for their guests."""
        with self.log.nested("start all VMs"):
            for machine in self.machines:
                machine.start()

    def join_all(self) -> None:
        """Wait until all machines have powered off."""
        with self.log.nested("wait for all VMs to finish"):
            for machine in self.machines:
                machine.wait_for_shutdown()

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        """Group steps under a name; an error ends the whole test, unless that is to go on, and is this subtest's."""
        began, failed = time.monotonic(), ""
        try:
            with self.log.nested(f"subtest: {name}"):
                yield
        except Exception as error:
            failed = report.failure(error, self.spec.script).removeprefix("error: ")
            self.log.error(f'Test "{name}" failed with error: "{failed.splitlines()[0]}"')
            # A test that has no time left, or a machine less, has nothing to go on with.
            if not self._keep_going or isinstance(error, GlobalTimeout | MachineDied):
                raise
        finally:
            self.subtests.append(Subtest(name=name, seconds=time.monotonic() - began, error=failed))

    def create_machine(
        self, start_command: str, *, name: str | None = None, keep_machine_state: bool = False
    ) -> Machine:
        """One more machine, from its start script; stopped at the end like the others.

        Its disk is kept when the driver keeps the others' (`--keep-vm-state`), whatever the last argument says.
        """
        assert self._dirs, "the driver is not entered"
        machine = self._machine(machine_spec(start_command, name), self._dirs)
        self.machines.append(machine)
        return machine

    @with_durations
    def polling_condition(
        self,
        fun: Condition | None = None,
        *,
        seconds_interval: float = 2.0,
        interval: float | None = None,
        description: str | None = None,
    ) -> Any:
        """Decorator: makes a PollingCondition of a function; with options it is called first.

        seconds_interval, or interval by its newer name: how much time lies between two looks at it, at least.
        """
        seconds = seconds_interval if interval is None else interval

        def make(fun: Condition) -> PollingCondition:
            return PollingCondition(fun, self.polling_conditions, self.log, seconds, description)

        return make if fun is None else make(fun)

    def check_polling_conditions(self) -> None:
        """Raise PollingConditionError when one of the conditions that must hold now does not."""
        for condition in list(self.polling_conditions):
            condition.maybe_raise()

    def check_vlans(self) -> None:
        """Raise PytestNixosError when a VLAN is gone."""
        for vlan in self.vlans:
            vlan.check()

    def dump_machine_ssh(self, offset: int = 2) -> None:
        """Print how each machine can be reached by ssh over vsock, where the test has enabled that."""
        for index, machine in enumerate(self.machines, start=offset + 1):
            self.log.info(f"{machine.name}: {machine.ssh_backdoor_command(index)}")

    def terminate_test(self) -> None:
        """Stop everything, and this process as at the global timeout."""
        self.release()
        os.kill(os.getpid(), signal.SIGTERM)

    def test_script(self) -> None:
        """Run the test script; whatever it raises comes through."""
        path = Path(self.spec.script)
        with self.log.nested("run the VM test script"):
            # S102 would forbid exec: a test script is Python that the user wrote to be run.
            exec(compile(path.read_text(), str(path), "exec"), self.test_symbols())

    def run_tests(self) -> None:
        """Run the test script, and let the guests write their disks when these are kept.

        Raises SubtestsFailed when it has gone on behind subtests that have failed.
        """
        self.test_script()
        failed = [step.name for step in self.subtests if step.error]
        if failed and self._keep_going:
            raise SubtestsFailed(f"{len(failed)} of {len(self.subtests)} subtests have failed: {', '.join(failed)}")
        self.check_vlans()  # what a script has proved without a network proves nothing
        for machine in self.machines:
            if self._keep and machine.is_up():
                machine.execute("sync")

    def serial_stdout_on(self) -> None:
        """Print what guests write on their consoles."""
        self.log.serial = True

    def serial_stdout_off(self) -> None:
        """Do not print what guests write on their consoles; it is kept all the same."""
        self.log.serial = False

    def test_symbols(self) -> dict[str, Any]:
        """The names of a test script's world."""
        symbols: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("start_all", "join_all", "subtest", "create_machine", "test_script", "run_tests"),
                *("serial_stdout_on", "serial_stdout_off", "machines", "vlans", "log", "polling_condition"),
                "dump_machine_ssh",
            )
        }
        symbols |= {
            "__name__": "__main__",
            "driver": self,
            "os": os,
            "retry": retry,
            "debug": Debug(self.log, stops=self._debug),
        }
        symbols |= {"Machine": Machine, "BaseMachine": Machine, "QemuMachine": Machine}
        symbols |= {"t": unittest.TestCase(), "machines_qemu": self.machines, "machines_nspawn": []}
        symbols |= {f"vlan{vlan.nr}": vlan for vlan in self.vlans}
        if len(self.machines) == 1:
            symbols["machine"] = self.machines[0]
        return symbols | {machine.spec.symbol: machine for machine in self.machines}

    def _machine(self, spec: MachineSpec, dirs: RunDirs) -> Machine:
        return Machine(
            spec,
            dirs.machine(spec.name),
            out_dir=self.out_dir,
            log=self.log,
            vlans={vlan.nr: vlan.path for vlan in self.vlans},
            transcript=transcript(spec.name, self.out_dir, self._env),
            deadline=self.deadline,
            env=self._env,
            callbacks=[self.check_vlans, self.check_polling_conditions],
            keep_state=self._keep,
        )


def transcript(name: str, out_dir: Path, env: Mapping[str, str]) -> Path | None:
    """The file for a machine's raw console; None for one that goes with the run.

    A console holds times, so it must not get into a build's output: there only $PYTEST_NIXOS_CONSOLES counts.
    """
    if folder := env.get(CONSOLES_VARIABLE):
        Path(folder).mkdir(parents=True, exist_ok=True)
        return Path(folder) / f"{name}.log"
    return None if out_dir.absolute().is_relative_to(_STORE) else out_dir / f"{name}.console.log"


@with_durations
def retry(
    fn: Callable[[bool], bool], timeout_seconds: float = DEFAULT_SECONDS, *, timeout: float | None = None
) -> None:
    """Call fn once a second until it returns True; its argument says whether it is the last call.

    timeout is what older and the newest scripts call timeout_seconds. Raises MachineTimeout.
    """
    timeout_seconds = timeout_seconds if timeout is None else timeout
    deadline = Deadline(timeout_seconds)
    while not deadline.expired:
        if fn(False):
            return
        time.sleep(deadline.within(1))
    if not fn(True):
        raise MachineTimeout(f"action timed out after {timeout_seconds:g} s")
