import pytest

from pytest_nixos.errors import ToolMissing
from pytest_nixos.nix.command import parse_version


@pytest.mark.parametrize(
    ("line", "name", "version"),
    [
        ("nix (Nix) 2.8.0", "nix (Nix)", "2.8.0"),
        ("nix (Nix) 2.34.8\n", "nix (Nix)", "2.34.8"),
        ("nix (Lix, like Nix) 2.91.1", "nix (Lix, like Nix)", "2.91.1"),
        ("nix (Determinate Nix 3.6.2) 2.29.0", "nix (Determinate Nix 3.6.2)", "2.29.0"),
        ("nix (Nix) 2.19pre20231201_abcdef0", "nix (Nix)", "2.19pre20231201_abcdef0"),
    ],
)
def test_versions(line: str, name: str, version: str) -> None:
    assert parse_version(line) == (name, version)


@pytest.mark.parametrize("line", ["", "nix", "nix (Nix) 2.3.16", "nix (Nix) two"])
def test_no_version_and_too_old(line: str) -> None:
    with pytest.raises(ToolMissing):
        parse_version(line)
