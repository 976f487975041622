"""What proves tests in Python that have a check's machines by the marker and the fixture `nixos`.

The tests of a file share a process, modules, fixtures and perhaps machines, so they are proven together: in a run of
all that are selected, in their order, in one process, without a failure, a second try, or an edit meanwhile.

A proof is of the derivation of the test's driver, which its machines come from, and of all else that is known to decide
the result: the file's tests and what they say, the files that they are made of, Python, what is installed, and options.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from _pytest.skipping import evaluate_skip_marks  # what pytest itself asks before it runs a test

from pytest_nixos import options, reporting, sources
from pytest_nixos.collection import VERIFIED, uses_machines
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.machines import named
from pytest_nixos.marked import Wish, wish_of
from pytest_nixos.model import PythonTest, Subject
from pytest_nixos.recorder import PROOF, SECONDS
from pytest_nixos.session import Session

_VERSION = 4
# What is selected, shown, or where it runs. Our own options change derivations.
_OF_NO_MATTER = {
    *("file_or_dir", "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "collectonly", "maxfail"),
    *("lf", "failedfirst", "newfirst", "quiet"),
    *("last_failed_no_failures", "stepwise", "stepwise_skip", "stepwise_reset", "cacheshow", "cacheclear"),
    *("verbose", "no_header", "no_summary", "no_fold_skipped", "force_short_summary", "reportchars", "tbstyle"),
    *("color", "showlocals", "code_highlight", "durations", "durations_min", "xmlpath", "junitprefix"),
    *("show_capture", "fulltrace", "console_output_style", "xfail_tb", "usepdb", "basetemp"),
    *("tx", "dist", "distload", "numprocesses", "maxprocesses", "maxworkerrestart", "loadgroup", "looponfail"),
    *("px", "rsyncdir", "rsyncignore", "testrunuid", "maxschedchunk", "distn", "isoscope"),
}
# What start scripts read of the user's environment.
_STEERING = ("QEMU_", "NIX_DISK_IMAGE", "NIX_EFI_VARS", "NIX_SWTPM_DIR", "USE_TMPDIR", "SHARED_DIR")
_EDITED = "its files have been edited meanwhile"
_OWN_FIXTURES = "pytest_nixos.fixtures"

_BEGAN = pytest.StashKey[float]()


class PythonTests:
    """The selected tests, file by file, and what passes of them prove. Every process that runs tests has one."""

    def __init__(self, role: Session, config: pytest.Config, items: Sequence[pytest.Item]) -> None:
        self._role, self._config, self._base = role, config, config.rootpath
        self._files = _by_file(items)
        self._mixed = _mixed(items)
        self._ran: dict[Path, list[str]] = {path: [] for path in self._files}
        self._warned: set[Path] = set()

    def plan(self) -> tuple[PythonTest, ...]:
        """All tests of the files in which something may be recorded, with what a proof of each would be of."""
        return tuple(test for path in self._files for test in self._planned(path))

    def begin(self, item: pytest.Item) -> None:
        """Before a test's setup: mark it as verified, or note that it runs."""
        proven = self._role.proven.get(item.nodeid)
        if proven is not None and proven.evidence is not None:
            item.add_marker(pytest.mark.skip(reason=reporting.verified_reason(proven.evidence)))
            item.user_properties.append((VERIFIED, proven.evidence.record))
            return
        item.stash[_BEGAN] = time.monotonic()
        if item.path in self._ran and not _is_skipped(item):
            self._ran[item.path].append(item.nodeid)

    def passed(self, item: pytest.Item) -> None:
        """After a test's call: what it proves, if the others of its file do well, too."""
        wish = _wish(item)
        if wish is None or not wish.record:
            return
        item.user_properties.append((SECONDS, f"{time.monotonic() - item.stash[_BEGAN]:.3f}"))
        doubt = self._doubt(item)
        if not doubt:
            item.user_properties.append((PROOF, "yes"))
        elif item.path not in self._warned:
            self._warned.add(item.path)
            item.warn(pytest.PytestWarning(f"{item.path.name} is not recorded: {doubt}"))

    def _planned(self, path: Path) -> list[PythonTest]:
        items = [item for item in self._files[path] if not _is_skipped(item)]
        if self._prejudice(items):
            return []
        try:
            taken = self._snapshot(path, self._files[path])
            key = self._key(path, items, taken)
            subjects = [self._subject(item, taken, key) if _records(item) else None for item in items]
        except (PytestNixosError, OSError):
            return []
        tests = zip(items, subjects, strict=True)
        return [PythonTest(nodeid=item.nodeid, file=str(path), subject=subject) for item, subject in tests]

    def _subject(self, item: pytest.Item, taken: sources.Snapshot, key: str) -> Subject | None:
        """What a proof of the test is of; taken, key: of the selected tests of its file. Raises PytestNixosError."""
        wish = _wish(item)
        assert wish
        check = named(self._role, wish.name)
        if check.driver is None or not check.recorded:
            return None
        name = "".join(c if c.isalnum() and c.isascii() else "-" for c in item.name)[:40]
        reads_more = any(set(other.reads) - set(wish.reads) for other in map(_wish, self._files[item.path]) if other)
        own = self._snapshot(item.path, [item]) if reads_more else taken
        among_these = sources.digest([key, item.nodeid])[:32]
        # Nor with which options, or with which plugins first: a failure under others counts.
        anyhow = [_VERSION, own.digest, sources.installation(), item.nodeid, *self._said(item)]
        among_any = sources.digest(anyhow)[:32]
        return Subject(
            check=item.nodeid,
            system=self._role.plan.system,
            derivation=check.driver,
            driver=f"{PythonTest.PREFIX}{among_these}-{name}",
            part=f"{PythonTest.PREFIX}{among_any}-{name}",
        )

    def _prejudice(self, items: Sequence[pytest.Item]) -> str:
        """Why nothing is recorded of these tests of a file, as far as the tests themselves tell; "" if it may be."""
        steering = sorted(name for name in os.environ if name.startswith(_STEERING))
        if not any(map(_records, items)):
            return "no test of it asks for that"
        if self._role.options.network or steering:
            return f"{'--nixos-network' if self._role.options.network else steering[0]} is set"
        if any(wish.scope == "session" for wish in map(_wish, items) if wish):
            return "its machines are shared by the whole session"
        shared = [name for item in items for name in _shared_fixtures(item, self._base)]
        return f"the fixture {shared[0]} may be shared with tests of other files" if shared else ""

    def _doubt(self, item: pytest.Item) -> str:
        """Why a pass proves nothing; "" if it does."""
        if item.path in self._mixed:
            return "its tests run among those of other files"
        try:
            return next(filter(None, self._doubts(item)), "")
        except (PytestNixosError, OSError) as error:
            return str(error)

    def _doubts(self, item: pytest.Item) -> Iterator[str]:
        """Each reason there may be, "" for one that there is not. Raises PytestNixosError, OSError."""
        path, ran = item.path, self._ran[item.path]
        yield self._prejudice([one for one in self._files[path] if one.nodeid in ran])
        yield "this session uses nixos_boot, nixos_plan or nixos_prebuilt" if self._role.unsure else ""
        taken = self._snapshot(path, self._files[path])  # where this fails, nothing was planned
        in_order = [test.nodeid for test in self._role.tests.values() if test.file == str(path)]
        if ran != in_order[: len(ran)] or item.nodeid not in in_order:
            yield "its tests have run more than once, in another order, or in several processes"
        planned = self._role.tests[item.nodeid].subject
        yield "" if planned else "its check opts out of records"
        yield self._stray(taken)
        whole = [one for one in self._files[path] if one.nodeid in in_order]
        yield "" if self._subject(item, taken, self._key(path, whole, taken)) == planned else _EDITED

    def _stray(self, taken: sources.Snapshot) -> str:
        """Why what this process has loaded may be something else than what was taken; "" if it is not."""
        loaded = sorted(sources.loaded(self._base))
        strangers = [name for name in loaded if not {name, os.path.realpath(name)} & taken.files]
        if strangers:
            return f"{os.path.relpath(strangers[0], self._base)} is loaded, which is not among what it reads="
        if taken.changed_at >= sources.process_started():
            return _EDITED
        if old := sources.outdated(loaded, [f"-pytest-{pytest.__version__}"]):
            return f"{os.path.relpath(old[0], self._base)} may differ from what is in its __pycache__: remove that"
        return ""

    def _key(self, path: Path, items: Sequence[pytest.Item], taken: sources.Snapshot) -> str:
        """What decides the results of these tests of a file, hashed. Raises PytestNixosError."""
        skipped = [item.nodeid for item in self._files[path] if item not in items]
        said = [[item.nodeid, *self._said(item)] for item in items]
        first = self._config.stash[options.FIRST]  # the others come too late for some hooks
        plugins = sorted((os.path.relpath(name, self._base), name in first) for name in self._plugins())
        world = [sources.installation(), _options(self._config), plugins]
        return sources.digest([_VERSION, said, skipped, path in self._mixed, taken.digest, world])

    def _said(self, item: pytest.Item) -> list[object]:
        """A test's marker, and the driver that its machines come from."""
        wish = _wish(item)
        if wish is None:
            return []
        driver = named(self._role, wish.name).driver
        return [wish.name, wish.scope, wish.record, driver.drv_path if driver else None]

    def _plugins(self) -> Iterator[str]:
        """The project's files that are plugins of pytest; a conftest file's name is its path."""
        for plugin in self._config.pluginmanager.get_plugins():
            name = vars(plugin).get("__file__") if isinstance(plugin, ModuleType) else None
            if name and not sources.is_installed(name, str(self._base)):
                yield str(Path(name).absolute())

    def _snapshot(self, path: Path, items: Sequence[pytest.Item]) -> sources.Snapshot:
        """What the tests of a file are made of: their folder, what leads to it, and what they say they read."""
        reads = [pattern for wish in map(_wish, items) if wish for pattern in wish.reads]
        folder = path if path.parent == self._base else path.parent
        above = [parent / name for parent in path.parents for name in ("conftest.py", "__init__.py")]
        inside = [file for file in above if file.parent.is_relative_to(self._base) and file.is_file()]
        known = [Path(name) for name in self._plugins() if Path(name) in above]
        loose = [Path(name) for name in sources.loaded(self._base) if sources.is_loose(name)]
        ini = [self._config.inipath] if self._config.inipath else []
        ours = [] if sources.is_installed(__file__, str(self._base)) else [Path(__file__).parent]  # as we develop it
        return sources.snapshot(reads, [path, folder, *inside, *known, *loose, *ini, *ours], self._base)


def _by_file(items: Sequence[pytest.Item]) -> dict[Path, list[pytest.Item]]:
    """The items of each file in which a test has machines."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    return {path: some for path, some in files.items() if any(map(uses_machines, some))}


def _mixed(items: Sequence[pytest.Item]) -> frozenset[Path]:
    """The files whose tests run among those of others: these may fail, but prove nothing."""
    runs = Counter(path for path, _ in groupby(items, lambda item: item.path))
    return frozenset(path for path, number in runs.items() if number > 1)


def _wish(item: pytest.Item) -> Wish | None:
    """What a test says; None for one without machines, or whose marker makes no sense: that fails when it runs."""
    try:
        return wish_of(item) if uses_machines(item) else None
    except PytestNixosError:
        return None


def _records(item: pytest.Item) -> bool:
    wish = _wish(item)
    return wish is not None and wish.record


def _is_skipped(item: pytest.Item) -> bool:
    """Whether pytest will skip a test by its marks; not said of those that we skip."""
    try:
        return evaluate_skip_marks(item) is not None
    except Exception:
        return False  # its condition is broken: it will fail


def _shared_fixtures(item: pytest.Item, base: Path) -> Iterator[str]:
    """The fixtures of the project that outlive a file, among those of a test; those it has asked for by name, too."""
    info, request = getattr(item, "_fixtureinfo", None), getattr(item, "_request", None)
    definitions = [*getattr(info, "name2fixturedefs", {}).values()]
    definitions += [(one,) for one in getattr(request, "_fixture_defs", {}).values()]
    for one in (one for several in definitions for one in several):
        file = getattr(getattr(one.func, "__code__", None), "co_filename", "")
        ours = getattr(one.func, "__module__", "") == _OWN_FIXTURES
        if one.scope in ("session", "package") and not ours and not sources.is_installed(file, str(base)):
            yield str(one.argname)


def _options(config: pytest.Config) -> list[tuple[str, str]]:
    """pytest's options that do more than select, show, or say where tests run."""
    given = {name: value for name, value in vars(config.option).items() if name not in _OF_NO_MATTER | options.OURS}
    return sorted((name, repr(_shared_by_workers(value))) for name, value in given.items())


def _shared_by_workers(value: Any) -> Any:
    """An option as it was given: xdist's workers have no terminal. And our ini keys, too, change derivations."""
    if not isinstance(value, list):
        return value
    return [entry for entry in value if entry != "no:terminal" and not str(entry).startswith("nixos_")] or None
