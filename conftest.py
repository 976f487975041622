"""Lets `pytest --nixos-flake example_flake` find the packages that `example_flake/setup` brought into the store."""

import pytest

from pytest_nixos.options import cache_home

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Override the example's input `debian`, where the set-up has run; other flakes have no such input."""
    debian = cache_home() / "example" / "debian"
    if (debian / "parts.json").is_file():
        config.addinivalue_line("nixos_override_input", f"debian path:{debian}")
