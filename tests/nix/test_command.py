import pytest

from pytest_nixos.errors import ToolMissing
from pytest_nixos.nix.command import parse_version


@pytest.mark.parametrize(
    ("line", "version", "numbers"),
    [
        ("nix (Nix) 2.8.0", "2.8.0", (2, 8)),
        ("nix (Nix) 2.34.8\n", "2.34.8", (2, 34)),
        ("nix (Lix, like Nix) 2.91.1", "2.91.1", (2, 91)),
        ("nix (Determinate Nix 3.6.2) 2.29.0", "2.29.0", (2, 29)),
        ("nix (Nix) 2.19pre20231201_abcdef0", "2.19pre20231201_abcdef0", (2, 19)),
    ],
)
def test_versions(line: str, version: str, numbers: tuple[int, int]) -> None:
    assert parse_version(line) == (version, numbers)


@pytest.mark.parametrize("line", ["", "nix", "nix (Nix) 2.3.16", "nix (Nix) two"])
def test_no_version_and_too_old(line: str) -> None:
    with pytest.raises(ToolMissing):
        parse_version(line)
