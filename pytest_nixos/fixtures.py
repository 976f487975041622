"""Fixtures for VM tests written in Python. Loaded in every session, so it imports nothing heavy."""

from typing import TYPE_CHECKING

import pytest

from pytest_nixos.errors import PytestNixosError
from pytest_nixos.options import BOOTING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pytest_nixos.hooks import Booting
    from pytest_nixos.model import Plan, Prebuilt
    from pytest_nixos.session import Session
    from pytest_nixos.vm.driver import Driver


@pytest.fixture(scope="session")
def nixos_session(pytestconfig: pytest.Config) -> "Session":
    """The plugin's session object; skips where no flake is given."""
    role = _session(pytestconfig)
    role.unsure = True
    return role


def _session(config: pytest.Config) -> "Session":
    role: Session | None = config.pluginmanager.get_plugin("nixos-session")
    if role is None:
        pytest.skip("no flake: give one with --nixos-flake, or with nixos_flake in the ini file")
    return role


@pytest.fixture(scope="session")
def nixos_plan(nixos_session: "Session") -> "Plan":
    """The flakes' checks with what is recorded of each."""
    return nixos_session.plan


@pytest.fixture(scope="session")
def nixos_prebuilt(nixos_session: "Session") -> "Prebuilt":
    """The built drivers of the selected checks, and the session's store that holds their closure."""
    return nixos_session.prebuilt


@pytest.fixture
def nixos(request: pytest.FixtureRequest) -> "Driver":
    """The machines of the check that the test names by the marker: `@pytest.mark.nixos("web", scope="module")`."""
    _session(request.config)
    booting: Booting | None = request.config.pluginmanager.get_plugin(BOOTING)
    if booting is None:
        raise RuntimeError("the fixture `nixos` is for tests that have it among their arguments or usefixtures()")
    try:
        return booting.machines(request.node)
    except PytestNixosError as error:
        mistake = str(error)
    pytest.fail(mistake, pytrace=False)  # out here: it would be shown as raised while another was handled


@pytest.fixture(scope="session")
def nixos_boot(
    nixos_session: "Session", tmp_path_factory: pytest.TempPathFactory
) -> "Callable[[str], AbstractContextManager[Driver]]":
    """`with nixos_boot("web") as driver:` has the machines of the check `web`, to be used in fixtures of any scope."""
    from pytest_nixos.machines import boot  # a session that boots nothing need not load the driver

    return lambda name: boot(nixos_session, name, tmp_path_factory.mktemp(name))
