"""Machines of the example flake, booted by the driver in the tests' own process."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_nixos.nix.command import Nix
from pytest_nixos.vm.driver import Driver
from pytest_nixos.vm.spec import DriverSpec, machine_specs
from tests.conftest import ROOT, example_parts
from tests.leftovers import short_tmp


def start_script(nix: Nix, attr: str, node: str, folder: Path) -> str:
    """A node's start script, built; the folder keeps it from the garbage collector."""
    installable = f"{ROOT}/example_flake#{attr}.nodes.{node}.system.build.vm"
    argv = nix.flake("build", installable, "--override-input", "debian", f"path:{example_parts()}")
    # Nix 2.8 may fail on its evaluation cache when another process uses it at the same moment.
    options = ("--no-write-lock-file", "--option", "eval-cache", "false", "--out-link", str(folder / node))
    done = subprocess.run([*argv, *options], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str((folder / node / "bin" / f"run-{node}-vm").resolve())


@contextmanager
def driver_of(nix: Nix, attr: str, nodes: Sequence[str], folder: Path, vlans: Sequence[int] = ()) -> Iterator[Driver]:
    """A driver with these nodes of an example's test."""
    scripts = [start_script(nix, attr, node, folder) for node in nodes]
    with pytest.MonkeyPatch.context() as patch, short_tmp(patch):
        env = {**os.environ, "QEMU_OPTS": "-machine accel=tcg"}
        spec = DriverSpec(machines=machine_specs(scripts), vlans=tuple(vlans), global_timeout=600)
        with Driver(spec, out_dir=folder, env=env) as driver:
            yield driver
