"""The table of nix/command.py held against the Nix that is on PATH; tests/run does so for several versions."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from pytest_nixos.nix import describe
from pytest_nixos.nix.command import Nix, parse_version
from pytest_nixos.proc import Stream

pytestmark = pytest.mark.nix

FLAKE = """{
  outputs = { self }: { checks.x86_64-linux = {
    good = derivation { name = "good"; system = "x86_64-linux"; builder = "/bin/sh"; };
    slow = builtins.foldl' (sum: i: sum + i) 0 (builtins.genList (i: i) 20000000);
    wrong = {}.missing;
  }; };
}
"""


@pytest.fixture
def flake(tmp_path: Path) -> Path:
    """A flake in a git repository with one commit."""
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    for place in (folder, folder / "sub"):
        (place / "flake.nix").write_text(FLAKE)
    for words in (("init", "-q"), ("add", "."), ("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x")):
        subprocess.run(("git", *words), cwd=folder, check=True)
    return folder


def numbers(nix: Nix) -> tuple[int, ...]:
    return tuple(int(part) for part in nix.version.split(".")[:2])


def metadata(nix: Nix, ref: str) -> dict[str, dict[str, object]]:
    argv = nix.flake("flake", "metadata", "--json", "--no-write-lock-file", ref)
    answer: dict[str, dict[str, object]] = json.loads(nix.run(argv).stdout)
    return answer


def test_the_version_line(nix: Nix) -> None:
    line = subprocess.run(("nix", "--version"), check=True, capture_output=True, text=True).stdout
    assert parse_version(line) == ("nix (Nix)", nix.version)


def test_metadata_of_a_clean_and_of_a_dirty_tree(nix: Nix, flake: Path) -> None:
    clean = metadata(nix, str(flake))
    assert {"narHash", "rev", "lastModified"} <= clean["locked"].keys()
    assert {"nodes", "root"} <= clean["locks"].keys()
    assert ("fingerprint" in clean) == (numbers(nix) >= (2, 26))
    (flake / "flake.nix").write_text(FLAKE + "# dirty\n")
    dirty = metadata(nix, str(flake))
    assert "rev" not in dirty["locked"]
    assert dirty["locked"]["narHash"] != clean["locked"]["narHash"]
    assert ("dirtyRev" in dirty["locked"]) == (numbers(nix) >= (2, 18))


def test_a_folder_below_a_path(nix: Nix, flake: Path) -> None:
    done = nix.run(nix.flake("flake", "metadata", "--json", f"path:{flake}?dir=sub"), check=False)
    assert (done.status == 0) == (numbers(nix) >= (2, 18))
    assert metadata(nix, str(flake / "sub"))["locked"]["dir"] == "sub"


def test_building_a_derivation_file(nix: Nix, flake: Path) -> None:
    """`nix build X.drv` builds with 2.8 only, and says nothing of it elsewhere: hence `nix-store --realise`."""
    argv = nix.flake("eval", "--raw", f"{flake}#checks.x86_64-linux.good.drvPath")
    drv = nix.run(argv).stdout.decode()
    assert (nix.run(nix.flake("build", "--no-link", drv), check=False).status == 0) == (numbers(nix) >= (2, 18))
    assert nix.run(nix.store("--realise", drv), check=False).status != 0  # it has no builder


def test_the_cause_of_an_error_and_its_trace(nix: Nix, flake: Path) -> None:
    done = nix.run(nix.flake("eval", f"{flake}#checks.x86_64-linux", "--apply", "set: set.wrong"), check=False)
    cause = done.stderr_tail.index("'missing' missing")
    trace = done.stderr_tail.find("… while")
    assert (trace >= 0 and trace < cause) == (numbers(nix) >= (2, 18))


def test_answers_come_at_once(nix: Nix, flake: Path) -> None:
    mark = describe.new_mark()
    argv = nix.flake(
        "eval", "--json", "--log-format", "raw", f"{flake}#checks.x86_64-linux", "--apply",
        describe.function(mark, [0, 1]),
    )  # fmt: skip
    seen: list[float] = []
    with Stream(argv) as program:
        for line in program.lines():
            if describe.parse_line(line, mark):
                seen.append(time.monotonic())
    names, good, slow = seen
    assert good - names < slow - good
