"""Tests in Python that name a check by the marker `nixos`: what they say, and the machines that they have."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_nixos import sources
from pytest_nixos.errors import CheckFailed
from pytest_nixos.execution import plain_name
from pytest_nixos.machines import boot
from pytest_nixos.session import Session
from pytest_nixos.vm import evidence
from pytest_nixos.vm.driver import Driver

_MARKER = "nixos"
_SCOPES: dict[str, type[pytest.Collector]] = {"class": pytest.Class, "module": pytest.Module, "session": pytest.Session}
_CONSOLE_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a test says by `nixos(NAME, scope=..., record=..., reads=[...])`."""

    name: str
    scope: str
    record: bool
    reads: tuple[str, ...]


_MACHINES = pytest.StashKey[dict[str, Driver]]()  # by the checks' names


def wish_of(item: pytest.Item) -> Wish:
    """What the test's marker says. Raises CheckFailed when there is none, or when it makes no sense."""
    marker = item.get_closest_marker(_MARKER)
    if marker is None:
        raise CheckFailed(f"{item.name} does not say whose machines it wants", 'mark it: @pytest.mark.nixos("CHECK")')
    try:
        wish = _wish(*marker.args, **marker.kwargs)
    except TypeError as error:
        reason = str(error).removeprefix("_wish() ")
        raise CheckFailed(f"the marker nixos of {item.name} can't be used: {reason}") from None
    if wish.scope not in ("function", *_SCOPES):
        hint = f"there are function, {', '.join(_SCOPES)}"
        raise CheckFailed(f"the marker nixos of {item.name} has an unknown scope: {wish.scope!r}", hint)
    return wish


def _wish(name: str, *, scope: str = "function", record: bool = False, reads: Sequence[str] = ()) -> Wish:
    patterns = isinstance(reads, list | tuple) and all(isinstance(pattern, str) for pattern in reads)
    if not (isinstance(name, str) and isinstance(scope, str) and patterns):
        raise TypeError("the check's name and the scope are text, and reads= is a list of patterns")
    return Wish(name=name, scope=scope, record=bool(record), reads=tuple(reads))


def machines(role: Session, item: pytest.Item) -> Driver:
    """The machines of the check that a test names, for as long as its scope says. Raises CheckFailed."""
    wish = wish_of(item)
    owner = _owner(item, wish)
    of_owner = owner.stash.setdefault(_MACHINES, {})
    if wish.name not in of_owner:
        with ExitStack() as stack:
            of_owner[wish.name] = stack.enter_context(boot(role, wish.name, _folder(role, owner, wish)))
            stack.callback(of_owner.pop, wish.name)
            owner.addfinalizer(stack.pop_all().close)
    return of_owner[wish.name]


def driver_of(item: pytest.Item) -> Driver | None:
    """What the machines of a test belong to, where they exist."""
    with suppress(CheckFailed):
        wish = wish_of(item)
        return _owner(item, wish).stash.get(_MACHINES, {}).get(wish.name)
    return None


def show_failure(item: pytest.Item, error: BaseException, report: pytest.TestReport) -> None:
    """Add what the machines of a test that has failed have to say to its report."""
    driver = driver_of(item)
    if driver is None:
        return
    evidence.collect(driver, error)
    for machine in driver.machines:
        if tail := machine.console_tail(_CONSOLE_LINES):
            report.sections.append((f"the console's last lines of {machine.name}", tail))
    report.sections.append(("artifacts", str(driver.out_dir)))


def _owner(item: pytest.Item, wish: Wish) -> pytest.Item | pytest.Collector:
    """Whose end is the machines' end; a function that is in no class is its own."""
    return item if wish.scope == "function" else item.getparent(_SCOPES[wish.scope]) or item


def _folder(role: Session, owner: pytest.Item | pytest.Collector, wish: Wish) -> Path:
    plain = plain_name(f"{wish.name}-{owner.nodeid}")[-80:]
    folder = role.artifacts / f"{plain}-{sources.digest(owner.nodeid)[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
