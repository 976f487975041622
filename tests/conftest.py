"""What the tests share: probes of what the machine can do, and small flakes for a real Nix."""

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

# Sessions in process forget what they import, and half of it would stay: two classes of one name.
import pytest_nixos.hooks
import pytest_nixos.native
import pytest_nixos.python_tests  # noqa: F401
from pytest_nixos.nix.command import Nix, find_nix
from pytest_nixos.options import cache_home

ROOT = Path(__file__).parent.parent
FLAKE = (Path(__file__).parent / "flakes" / "small.nix").read_text()

# A job that a shell starts in the background ignores Ctrl-C, and so would each session that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def need(tool: str) -> str:
    """The path of a program; skips the test where it is missing, and fails in CI, where nothing may be."""
    path = shutil.which(tool)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{tool} is missing, and CI must not skip what needs it")
    pytest.skip(f"{tool} is not on PATH")


@pytest.fixture(scope="session")
def nix() -> Nix:
    """The machine's Nix."""
    need("nix")
    return find_nix()


def example_parts() -> Path:
    """The folder that example_flake/setup writes: the example's input `debian`."""
    return cache_home() / "example" / "debian"


@pytest.fixture(scope="session")
def busybox() -> Path:
    """A static busybox: the builder of the small flakes, since a sandbox has no shell."""
    parts = example_parts() / "parts.json"
    if parts.is_file():
        return Path(json.loads(parts.read_text())["debian-busybox"]["path"]) / "bin" / "busybox"
    return Path(need("busybox"))


@dataclass(frozen=True)
class SmallFlake:
    """A flake without inputs whose drivers are shell scripts: everything of a VM test but the VM."""

    folder: Path

    def write(self, checks: str) -> None:
        """Write flake.nix with these checks; `vm NAME SCRIPT` and `plain NAME SCRIPT` make them."""
        (self.folder / "flake.nix").write_text(FLAKE.replace("# CHECKS", checks))


@pytest.fixture
def small_flake(pytester: pytest.Pytester, nix: Nix, busybox: Path, monkeypatch: pytest.MonkeyPatch) -> SmallFlake:
    """A small flake in pytester's folder, with a cache of its own for records and sessions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    # Hypothesis takes a second at the end of each session in a process of its own.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    folder = pytester.path / "flake"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(busybox.resolve(), folder / "tools" / "busybox")
    (folder / "tools" / "busybox").chmod(0o755)
    return SmallFlake(folder)
