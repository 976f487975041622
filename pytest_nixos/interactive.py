"""A prompt with the machines of one check, in place of a run (`--nixos-interactive CHECK`)."""

from collections.abc import Sequence

import pytest

from pytest_nixos.collection import CheckItem
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.model import Check, EvalFailed
from pytest_nixos.session import Owner


def open_prompt(owner: Owner, items: Sequence[CheckItem], config: pytest.Config) -> int:
    """Build the driver of the check that is asked for and give it the terminal; pytest's exit status.

    Raises PytestNixosError when there is no such check, or no driver to be had of it.
    """
    check = _named(str(owner.options.interactive), items)
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture:
        capture.suspend(in_=True)
    try:
        # Numbers above 1 would mean other things to pytest.
        return pytest.ExitCode.TESTS_FAILED if owner.interact(check) else pytest.ExitCode.OK
    finally:
        if capture:
            capture.resume()


def _named(name: str, items: Sequence[CheckItem]) -> Check:
    found = [item.planned.check for item in items if name in (item.planned.check.attr, item.name, item.nodeid)]
    if not found:
        raise PytestNixosError(f"there is no check {name!r} among those that are selected", "--collect-only lists them")
    if isinstance(found[0], EvalFailed):
        raise PytestNixosError(f"{name} does not evaluate: {found[0].message}")
    if found[0].driver is None:
        raise PytestNixosError(f"{name} has no test driver", "only VM tests have machines")
    return found[0]
