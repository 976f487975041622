"""What proves tests in Python that have a check's machines by the marker and the fixture `nixos`.

A proof is of the driver's derivation, which the machines come from, and of all else that is known to decide the result:
the test's name, its sources, options, Python, distributions, and which tests have used the same machines before.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_nixos import reporting, sources
from pytest_nixos.collection import VERIFIED, uses_machines
from pytest_nixos.errors import CheckFailed, PytestNixosError
from pytest_nixos.machines import named
from pytest_nixos.marked import Wish, group_of, shared, wish_of
from pytest_nixos.model import PythonTest, Subject
from pytest_nixos.options import STARTED
from pytest_nixos.recorder import PROOF, RAN, SECONDS
from pytest_nixos.session import Session

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


_BEFORE = pytest.StashKey[tuple[float, frozenset[str]]]()  # the time when a test began, and what was loaded


class PythonTests:
    """The session's tests that use the fixture: what runs of them are of, and what passes prove."""

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
                group = group_of(item, wish)
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

    def check(self, item: pytest.Item) -> None:
        """Raise CheckFailed when the marker makes no sense, or says that the test is made of what can't be read."""
        wish = wish_of(item)
        if wish.record:
            self._sources(item, wish)

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

    def _now(self, item: pytest.Item) -> Subject | None:
        """What a proof of the test would be of, if it ran now."""
        up = shared(item)
        return self._subject(item, wish_of(item), up.users if up else [])

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


def _plain(wish: Wish) -> list[object]:
    return [wish.name, wish.scope, list(wish.reads)]


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
