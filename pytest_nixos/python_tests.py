"""Tests in Python that have a check's machines by the marker and the fixture `nixos`: their machines, and their proofs.

A proof is of the driver's derivation, which the machines come from, and of all else that is known to decide the result:
the test's name, its sources, options, Python, distributions, and which tests have used the same machines before.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_nixos import reporting, sources
from pytest_nixos.collection import VERIFIED, uses_machines
from pytest_nixos.errors import CheckFailed, PytestNixosError
from pytest_nixos.machines import boot, named
from pytest_nixos.model import PythonTest, Subject
from pytest_nixos.options import STARTED
from pytest_nixos.recorder import PROOF, RAN, SECONDS
from pytest_nixos.session import Session
from pytest_nixos.vm import evidence
from pytest_nixos.vm.driver import Driver

_MARKER = "nixos"
_SCOPES: dict[str, type[pytest.Collector]] = {"class": pytest.Class, "module": pytest.Module, "session": pytest.Session}
_VERSION = 1
# What is chosen, shown, or where it runs: a test's result does not depend on it. Our own options change derivations.
_OF_NO_MATTER = (
    *("file_or_dir", "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "collectonly", "maxfail"),
    *("lf", "failedfirst", "newfirst", "last_failed_no_failures", "stepwise", "stepwise_skip", "stepwise_reset"),
    *(
        "verbose",
        "no_header",
        "no_summary",
        "no_fold_skipped",
        "force_short_summary",
        "reportchars",
        "tbstyle",
        "color",
    ),
    *("showlocals", "code_highlight", "durations", "durations_min", "xmlpath", "junitprefix", "show_capture"),
    *("fulltrace", "cacheshow", "cacheclear", "basetemp", "usepdb", "console_output_style", "xfail_tb"),
    *("tx", "dist", "distload", "numprocesses", "maxprocesses", "maxworkerrestart", "loadgroup", "looponfail", "px"),
    *("rsyncdir", "rsyncignore", "testrunuid", "maxschedchunk", "distn", "isoscope"),
)
_STEERING = ("QEMU_OPTS", "QEMU_NET_OPTS")  # what start scripts read of the user's environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a test says by `nixos(NAME, scope=..., record=..., reads=[...])`."""

    name: str
    scope: str
    record: bool
    reads: tuple[str, ...]


@dataclass(slots=True)
class Shared:
    """Machines that are up for one or more tests, and the tests that have used them, in their order."""

    driver: Driver
    users: list[str] = field(default_factory=list)


_MACHINES = pytest.StashKey[dict[str, Shared]]()
_BEFORE = pytest.StashKey[tuple[float, frozenset[str]]]()  # the time when a test began, and what was loaded


class PythonTests:
    """The session's tests that use the fixture."""

    def __init__(self, role: Session, config: pytest.Config) -> None:
        self.role, self._config = role, config
        self._fingerprints: dict[tuple[Path, tuple[str, ...]], tuple[tuple[Path, ...], str]] = {}

    def plan(self, items: Sequence[pytest.Item]) -> tuple[PythonTest, ...]:
        """The selected tests, with what a proof of each would be of. One that makes no sense fails when it runs."""
        before: dict[str, list[str]] = {}
        tests = []
        for item in filter(uses_machines, items):
            try:
                wish = wish_of(item)
                group = f"{_owner(item, wish).nodeid} {wish.name}"
                users = before.setdefault(group, [])
                subject = self._subject(item, wish, users)
            except PytestNixosError:
                continue
            tests.append(PythonTest(nodeid=item.nodeid, group=group, subject=subject))
            users.append(item.nodeid)
        return tuple(tests)

    def begin(self, item: pytest.Item) -> None:
        """Before a test's setup: mark it as verified, or note what is about to run."""
        proven = self.role.proven.get(item.nodeid)
        if proven is not None and proven.evidence is not None:
            item.add_marker(pytest.mark.skip(reason=reporting.verified_reason(proven.evidence)))
            item.user_properties.append((VERIFIED, proven.evidence.record))
            return
        try:
            subject = self._now(item)
        except PytestNixosError:
            return  # its fixture says so
        if subject is not None:
            item.stash[_BEFORE] = time.monotonic(), sources.loaded()
            # The second entry of a test that is run again keeps it from being a proof.
            item.user_properties.append((RAN, _text(subject)))

    def machines(self, item: pytest.Item) -> Driver:
        """The machines of the check that a test names, for as long as its scope says. Raises CheckFailed."""
        wish = wish_of(item)
        owner = _owner(item, wish)
        if wish.record:
            self._sources(item, wish)  # what can't be read is said
        shared = owner.stash.setdefault(_MACHINES, {})
        if wish.name not in shared:
            with ExitStack() as stack:
                driver = stack.enter_context(boot(self.role, wish.name, self._folder(owner, wish)))
                shared[wish.name] = Shared(driver)
                stack.callback(shared.pop, wish.name)
                owner.addfinalizer(stack.pop_all().close)
        shared[wish.name].users.append(item.nodeid)
        return shared[wish.name].driver

    def passed(self, item: pytest.Item) -> None:
        """After a test's call: what it proves, if anything. Whatever has changed meanwhile proves nothing."""
        ran = [value for name, value in item.user_properties if name == RAN]
        if len(ran) != 1:
            return
        began, loaded = item.stash[_BEFORE]
        item.user_properties.append((SECONDS, f"{time.monotonic() - began:.3f}"))
        files, _ = self._sources(item, wish_of(item))
        strangers = [path for path in sources.loaded_since(loaded) if path not in files]
        if strangers:
            item.warn(
                pytest.PytestWarning(f"not recorded: it has imported {strangers[0]} in a way that can't be foreseen")
            )
        elif self._unchanged(item, files):
            item.user_properties.append((PROOF, ran[0]))

    def failed(self, item: pytest.Item, error: BaseException, report: pytest.TestReport) -> None:
        """After a failure: what its machines have to say."""
        shared = self._shared(item)
        if shared is None:
            return
        evidence.collect(shared.driver, error)
        for machine in shared.driver.machines:
            if tail := machine.console_tail(20):
                report.sections.append((f"the console's last lines of {machine.name}", tail))
        report.sections.append(("artifacts", str(shared.driver.out_dir)))

    def _folder(self, owner: pytest.Item | pytest.Collector, wish: Wish) -> Path:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{wish.name}-{owner.nodeid}")[-80:]
        folder = self.role.artifacts / f"{plain}-{sources.digest(owner.nodeid)[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _now(self, item: pytest.Item) -> Subject | None:
        """What a proof of the test would be of, if it ran now."""
        shared = self._shared(item)
        return self._subject(item, wish_of(item), shared.users if shared else [])

    def driver_of(self, item: pytest.Item) -> Driver | None:
        """What the test's machines belong to, while they are up."""
        shared = self._shared(item)
        return shared.driver if shared else None

    def _shared(self, item: pytest.Item) -> Shared | None:
        """The machines that the test has, or would have if it ran now."""
        with suppress(CheckFailed):
            wish = wish_of(item)
            return _owner(item, wish).stash.get(_MACHINES, {}).get(wish.name)
        return None

    def _subject(self, item: pytest.Item, wish: Wish, before: Sequence[str]) -> Subject | None:
        """The same for a test whose machines were used by others before; None where nothing would be recorded."""
        check = named(self.role, wish.name)
        alone = "nixos_boot" not in _fixtures(item)  # nobody knows whom it shares other machines with
        free = not self.role.options.network and not any(name in os.environ for name in _STEERING)
        if not (wish.record and check.recorded and check.driver and alone and free):
            return None
        _, fingerprint = self._sources(item, wish)
        key = sources.digest([_VERSION, item.nodeid, list(before), _plain(wish), fingerprint, *self._world()])
        name = "".join(c if c.isalnum() and c.isascii() else "-" for c in item.name)[:40]
        return Subject(
            check=item.nodeid,
            system=self.role.plan.system,
            derivation=check.driver,
            driver=f"{PythonTest.PREFIX}{key[:32]}-{name}",
        )

    def _sources(self, item: pytest.Item, wish: Wish) -> tuple[tuple[Path, ...], str]:
        """The files that decide the test's result, and their hash when they were first looked at."""
        place = (item.path, wish.reads)
        if place not in self._fingerprints:
            base = self._config.rootpath
            try:
                files = sources.files_of([*_roots(self._config, item.path)], wish.reads, base)
                self._fingerprints[place] = files, sources.fingerprint(files, base)
            except (OSError, SyntaxError, ValueError) as error:
                raise CheckFailed(f"the sources of {item.nodeid} can't be read: {error}") from None
        return self._fingerprints[place]

    def _unchanged(self, item: pytest.Item, files: Sequence[Path]) -> bool:
        """Whether what was loaded, perhaps before it was hashed, is what lies there now."""
        base, wish = self._config.rootpath, wish_of(item)
        try:
            now = sources.files_of([*_roots(self._config, item.path)], wish.reads, base)
            fingerprint = sources.fingerprint(now, base)
            return fingerprint == self._sources(item, wish)[1] and sources.newest_change(now) < self._config.stash.get(
                STARTED, 0.0
            )
        except (OSError, SyntaxError, ValueError, PytestNixosError):
            return False

    def _world(self) -> Iterator[object]:
        """What decides a result beside sources: Python, what is installed, and pytest's options."""
        yield sources.installation()
        given = vars(self._config.option)
        ours = {name: value for name, value in given.items() if not name.startswith("nixos_")}
        yield sorted(
            (name, repr(_shared_by_workers(value))) for name, value in ours.items() if name not in _OF_NO_MATTER
        )


def wish_of(item: pytest.Item) -> Wish:
    """What the test's marker says. Raises CheckFailed when there is none, or when it makes no sense."""
    marker = item.get_closest_marker(_MARKER)
    if marker is None:
        raise CheckFailed(f"{item.name} does not say whose machines it wants", 'mark it: @pytest.mark.nixos("CHECK")')
    try:
        wish = _wish(*marker.args, **marker.kwargs)
    except TypeError as error:
        raise CheckFailed(
            f"the marker nixos of {item.name} can't be used: {str(error).removeprefix('_wish() ')}"
        ) from None
    if wish.scope not in {"function", *_SCOPES}:
        hint = f"there are function, {', '.join(_SCOPES)}"
        raise CheckFailed(f"the marker nixos of {item.name} has an unknown scope: {wish.scope!r}", hint)
    return wish


def _wish(name: str, *, scope: str = "function", record: bool = False, reads: Sequence[str] = ()) -> Wish:
    if not isinstance(name, str) or isinstance(reads, str) or not all(isinstance(pattern, str) for pattern in reads):
        raise TypeError("the check's name is text, and reads= a list of patterns")
    return Wish(name=name, scope=scope, record=bool(record), reads=tuple(reads))


def _plain(wish: Wish) -> list[object]:
    return [wish.name, wish.scope, list(wish.reads)]


def _owner(item: pytest.Item, wish: Wish) -> pytest.Item | pytest.Collector:
    """Whose end is the machines' end; a function that is in no class is its own."""
    return item if wish.scope == "function" else item.getparent(_SCOPES[wish.scope]) or item


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


def _roots(config: pytest.Config, path: Path) -> Iterator[Path]:
    """The test's file, the ini file, and the plugins of the project that have a say; a conftest.py has one below it."""
    yield path
    if config.inipath:
        yield config.inipath
    for plugin in config.pluginmanager.get_plugins():
        module = plugin if isinstance(plugin, ModuleType) else sources.module_of(plugin)
        file = sources.file_of(module)
        if file and (file.name != "conftest.py" or path.is_relative_to(file.parent)):
            yield file


def _shared_by_workers(value: Any) -> Any:
    """An option as it was given: xdist's workers have no terminal."""
    return [entry for entry in value if entry != "no:terminal"] if isinstance(value, list) else value


def _text(subject: Subject) -> str:
    return f"{subject.derivation.drv_path} {subject.driver}"
