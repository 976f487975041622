"""A VM test in Python: fixtures, plain asserts and any package of PyPI, around the machines of the check `web`.

    pytest -o nixos_flake=example_flake example_flake/tests

The machine is booted once for all tests of this file. That they passed is recorded, so they are skipped until something
changes that they are made of.
"""

import socket
import urllib.error
import urllib.request

import pytest

from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.machine import Machine

pytestmark = pytest.mark.nixos("web", scope="module", record=True)


@pytest.fixture
def web(nixos: Driver) -> Machine:
    """The machine, with its web server."""
    [web] = nixos.machines
    web.wait_for_open_port(80)
    return web


@pytest.fixture
def url(web: Machine) -> str:
    """The site, as this process reaches it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    web.forward_port(port, 80)
    return f"http://127.0.0.1:{port}"


def test_the_page_is_served_to_the_world(url: str) -> None:
    with urllib.request.urlopen(f"{url}/", timeout=60) as page:
        assert page.status == 200
        assert page.read() == b"hello from web\n"


def test_other_pages_are_not(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/none", timeout=60)


@pytest.mark.parametrize("command", ["curl --version", "ssh -V"])
def test_the_machine_has_no_more_than_it_needs(web: Machine, command: str) -> None:
    web.fail(command)
