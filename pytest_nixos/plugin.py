"""The entry point: declares options, and where a flake is given registers the hooks for this process's role.

Hooks are five lines at most; the objects they hand over to do the work. Without a flake nothing but the
options and fixtures is loaded, and pytest is as fast as without the plugin.
"""

import os

import pytest
from _pytest.main import wrap_session

from pytest_nixos.options import Options, add_options, requested
from pytest_nixos.records.credentials import SECRET_KEY, take

pytest_plugins = ["pytest_nixos.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Note from here on which Python files are opened, when there is a flake: tests in Python may be made of them."""
    if early_config.known_args_namespace.nixos_flake or early_config.getini("nixos_flake"):
        from pytest_nixos.opened import watch

        watch()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | pytest.ExitCode | None:
    """Answer what is asked in place of running tests, in one process even where xdist is asked for."""
    if not requested(config.option):
        return None
    from pytest_nixos.inquiries import answer  # a test run need not load it

    config.option.tx, config.option.dist = [], "no"

    return wrap_session(config, answer)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the hooks when there is a flake."""
    config.addinivalue_line("markers", "nixos(kind, system, features): set on every check of a flake")
    config.addinivalue_line(
        "markers",
        "nixos(CHECK, scope='function', record=False, reads=()): whose machines the fixture `nixos` has, how long they "
        "are up, whether a pass is recorded, and which files it then also depends on",
    )
    config.addinivalue_line("markers", "nixos_vm: a check that boots VMs")
    config.addinivalue_line("markers", "nixos_build: a check that is a plain build")
    if config.option.nixos_flake or config.getini("nixos_flake"):
        from pytest_nixos.hooks import register  # a session without a flake need not load it

        register(config, Options.from_config(config))
    elif SECRET_KEY in os.environ:  # nobody here needs it, nor do the tests
        take([SECRET_KEY])
