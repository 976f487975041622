"""Lets `pytest --nixos-flake example_flake` find the packages that `example_flake/setup` brought into the store."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Override the example's input `debian`, where the set-up has run; other flakes have no such input."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    debian = cache / "pytest-nixos" / "example" / "debian"
    if (debian / "parts.json").is_file():
        config.addinivalue_line("nixos_override_input", f"debian path:{debian}")
