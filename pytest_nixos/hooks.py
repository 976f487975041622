"""The hooks of a session that has flakes, one object per duty, registered by role."""

import signal
from collections.abc import Generator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nixos import reporting
from pytest_nixos.collection import VERIFIED, CheckItem, FlakeFile, arguments, flake_file, uses_machines
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.options import BOOTING, FIRST, Options
from pytest_nixos.session import Controller, Owner, Session, Single, start

if TYPE_CHECKING:
    from pytest_nixos.vm.driver import Driver

_PUSH_SECONDS, _HURRY_SECONDS = 120.0, 5.0
_GOOD = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def register(config: pytest.Config, options: Options) -> None:
    """Choose this process's role and register its hooks."""
    try:
        role = start(config, options)
    except PytestNixosError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[FIRST] = frozenset(name for name, plugin in config.pluginmanager.list_name_plugin() if plugin)
    config.pluginmanager.register(role, "nixos-session")
    config.pluginmanager.register(Collecting(role), "nixos-collecting")
    if isinstance(role, Owner):
        config.pluginmanager.register(Owning(role), "nixos-owning")
    if isinstance(role, Controller):
        config.pluginmanager.register(Controlling(role), "nixos-controlling")
    if isinstance(role, Single):
        config.pluginmanager.register(Running(role), "nixos-running")
    if options.debugs:
        config.pluginmanager.register(Debugging(role), "nixos-debugging")


class Collecting:
    """Every role: the flakes' checks as items."""

    def __init__(self, role: Session) -> None:
        self.role = role

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Put the flakes among the arguments, before pytest looks at them."""
        given = session.config.args_source is pytest.Config.ArgsSource.ARGS
        session.config.args[:] = arguments(session.config.args, self.role, given)

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> FlakeFile | None:
        """Collect the flake.nix of the session's flakes."""
        return flake_file(self.role, file_path, parent)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is selected, before xdist tells its controller that the collection is done."""
        checks = [item.to_run for item in session.items if isinstance(item, CheckItem)]
        self.role.select([check for check in checks if check is not None])
        if any(map(uses_machines, session.items)):
            session.config.pluginmanager.register(Booting(self.role, session), BOOTING)

    def pytest_unconfigure(self) -> None:
        """Remove what is the session's."""
        self.role.close()


class Booting:
    """Who runs tests: those in Python that have a check's machines."""

    def __init__(self, role: Session, session: pytest.Session) -> None:
        from pytest_nixos import marked, python_tests  # a session that boots nothing need not load the driver

        self.role, self.marked = role, marked
        self.tests = python_tests.PythonTests(role, session.config, session.items)
        if not session.config.option.collectonly:
            role.note_tests(self.tests.plan)

    def machines(self, item: pytest.Item) -> "Driver":
        """The fixture's value. Raises CheckFailed."""
        return self.marked.machines(self.role, item)

    def driver_of(self, node: pytest.Item | pytest.Collector) -> "Driver | None":
        """What the machines of a test belong to, where they are up."""
        return self.marked.driver_of(node) if isinstance(node, pytest.Item) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what is verified, before pytest looks for reasons to skip."""
        self.tests.begin(item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Note what a pass proves."""
        yield
        self.tests.passed(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show what the machines of a failed test have to say, while they are up."""
        report = yield
        if report.failed and call.excinfo and uses_machines(item):
            self.marked.show_failure(item, call.excinfo.value, report)
        return report


class Debugging:
    """pytest --pdb: whoever gets its prompt is told which machines are up."""

    def __init__(self, role: Session) -> None:
        self.role = role

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector) -> None:
        """Before pytest opens the prompt."""
        booting: Booting | None = node.config.pluginmanager.get_plugin(BOOTING)
        native = node.native.driver if isinstance(node, CheckItem) and node.native else None
        driver = native or (booting.driver_of(node) if booting else None)
        for line in reporting.attaching(driver.machines if driver else ()):
            self.role.progress.line(line)


class Owning:
    """The process that owns the session: plans, records, reports."""

    def __init__(self, owner: Owner) -> None:
        self.owner, self._hurried = owner, False

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """The user is in a hurry; xdist ends a session of `-x` by a kin of that error."""
        self._hurried = excinfo.type is KeyboardInterrupt

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """SIGTERM ends a session like Ctrl-C; one that shows no header is planned here, before workers start."""
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        quiet = session.config.get_verbosity() < 0 or session.config.getoption("no_header", False)
        if quiet or not session.config.pluginmanager.has_plugin("terminalreporter"):
            self.pytest_report_header()
            for warning in self.owner.plan.warnings:
                self.owner.progress.warning(warning)

    def pytest_report_header(self) -> list[str]:
        """Say what was found."""
        return self._header

    @cached_property
    def _header(self) -> list[str]:
        """Evaluate, before any worker starts, so that a missing Nix is one error."""
        try:
            stores = reporting.stores(self.owner.keeper.stores)
            return [*reporting.header(self.owner.plan, self.owner.accelerator), *stores]
        except PytestNixosError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record."""
        self.owner.recorder.see(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Records that are on their way: wait for them, a moment only where the user is in a hurry."""
        lost = self.owner.publish(_HURRY_SECONDS if self._hurried else _PUSH_SECONDS)
        if lost and self.owner.options.push_strict and exitstatus in _GOOD:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        """Count verified checks on their own."""
        if report.skipped and VERIFIED in dict(report.user_properties):
            return "verified", "v", ("VERIFIED", {"green": True})
        return None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was verified by what, where pytest gives reasons for skips; and where the time went."""
        wanted = terminalreporter.verbosity > 0 or set("saA") & set(terminalreporter.reportchars)
        for line in reporting.summary(terminalreporter.stats.get("verified", []) if wanted else []):
            terminalreporter.write_line(line)
        for line in reporting.published(self.owner.published):
            terminalreporter.write_line(line)
        if not self.owner.options.request:
            self.owner.show_times()


class Running:
    """pytest without xdist: prebuild before the first item runs."""

    def __init__(self, owner: Single) -> None:
        self.owner = owner

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Prebuild for what is selected."""
        if not session.config.option.collectonly and not session.testsfailed:
            self.owner.make_ready()


class Controlling:
    """xdist's controller: hands its folder to the workers, prebuilds when the first has collected."""

    def __init__(self, owner: Controller) -> None:
        self.owner = owner

    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker that is about to start where the session's folder is."""
        node.workerinput["nixos_rundir"] = str(self.owner.run_dir.path)

    def pytest_xdist_node_collection_finished(self) -> None:
        """Prebuild for what the worker has selected; xdist schedules when this returns."""
        self.owner.make_ready()
