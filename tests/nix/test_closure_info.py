"""The flake's closureInfo and the store's own graph say the same of the same roots."""

from pathlib import Path

import pytest

from pytest_nixos.nix import closure_info, store
from pytest_nixos.nix.attrs import resolve
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.target import Target
from tests.conftest import ROOT, example_parts

pytestmark = pytest.mark.nix


def target(nix: Nix, folder: Path) -> Target:
    overrides = (("debian", f"path:{example_parts()}"),)
    return Target(nix=nix, ref=resolve(str(folder), folder), attr="checks.x86_64-linux", overrides=overrides)


def entries(registration: str) -> dict[str, tuple[str, ...]]:
    """path -> size and references; hashes differ in their writing, and the deriver is in one only."""
    lines, found, at = registration.splitlines(), {}, 0
    while at < len(lines):
        count = int(lines[at + 4])
        found[lines[at]] = (lines[at + 2], *sorted(lines[at + 5 : at + 5 + count]))
        at += 5 + count
    return found


def test_both_ways_agree(nix: Nix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flake = target(nix, ROOT / "example_flake")
    kept = str(tmp_path / "driver")
    nix.run(nix.flake("build", "--out-link", kept, *flake.flags, f"{flake.ref.url}#checks.x86_64-linux.web.driver"))
    root = str(Path(kept).resolve())
    graph = store.closure(nix, [root])
    monkeypatch.setattr(store, "closure", lambda nix, roots: pytest.fail("the flake's function was not used"))
    info = closure_info.closure(flake, "x86_64-linux", [root])
    assert info.paths == graph.paths
    assert info.nar_bytes == graph.nar_bytes
    assert entries(info.registration) == entries(graph.registration)
    store.copy_closure(nix, info, tmp_path / "session")
    nix.run(nix.store("--store", str(tmp_path / "session"), "--verify", "--check-contents"))
    store.remove_tree(tmp_path / "session")


def test_a_flake_without_the_function_uses_the_graph(nix: Nix, tmp_path: Path) -> None:
    (tmp_path / "flake.nix").write_text("{ outputs = { self }: { checks.x86_64-linux = { }; }; }")
    (tmp_path / "file").write_text("x")
    root = nix.run(nix.store("--add", str(tmp_path / "file"))).stdout.decode().strip()
    assert closure_info.closure(target(nix, tmp_path), "x86_64-linux", [root]).paths == (root,)
