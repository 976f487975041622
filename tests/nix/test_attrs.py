from pathlib import Path

import pytest

from pytest_nixos.errors import EvaluationError
from pytest_nixos.nix.attrs import item_name, nix_string, quote_path, resolve


@pytest.mark.parametrize(
    ("attr", "name"),
    [
        ("web", "web"),
        ("a-b_c.d+e", "a-b_c.d+e"),
        ("a b", "a%20b"),
        ("a::b", "a%3A%3Ab"),
        ("a@b", "a%40b"),
        ("a[b]", "a%5Bb%5D"),
        ("a/b", "a%2Fb"),
        ("é", "é"),
        ("日本", "日本"),
        ("50%", "50%25"),
        ("a\nb", "a%0Ab"),
        ('"', "%22"),
        ("$x", "%24x"),
        ("\u202e", "%E2%80%AE"),
        ("", ""),
    ],
)
def test_item_name(attr: str, name: str) -> None:
    assert item_name(attr) == name


@pytest.mark.parametrize(
    ("text", "literal"), [("a", '"a"'), ('a"b', '"a\\"b"'), ("${x}", '"\\${x}"'), ("\\", '"\\\\"'), ("$$", '"$$"')]
)
def test_nix_string(text: str, literal: str) -> None:
    assert nix_string(text) == literal


def test_resolve(tmp_path: Path) -> None:
    (tmp_path / "flake.nix").write_text("{}")
    (tmp_path / "empty").mkdir()
    flake = resolve(".", tmp_path)
    assert (flake.url, flake.path) == (str(tmp_path), tmp_path / "flake.nix")
    assert resolve("flake.nix", tmp_path) == resolve(str(tmp_path), Path("/"))
    for remote in ("github:o/r", "git+file:///x", "path:/x", "flake:nixpkgs"):
        assert resolve(remote, tmp_path).path is None
    for wrong in ("empty", "./nothing", "/nothing", "nixpkgs"):
        with pytest.raises(EvaluationError, match="there is no flake"):
            resolve(wrong, tmp_path)


def test_quote_path() -> None:
    assert quote_path(Path("/a b/c#d?e%")) == "/a%20b/c%23d%3fe%25"
