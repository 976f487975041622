"""Checks whose machines need no QEMU: everything of a VM test but the VM."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import SmallFlake

FAKE = Path(__file__).parents[1] / "vm" / "run-fake-vm"

# A driver as makeWrapper makes it; nothing but its variables counts, since another driver takes the test over.
CHECK = """
%s = vm "%s" "" // { driver = sh "nixos-test-driver-%s" ''
  busybox mkdir -p $out/bin; exec > $out/bin/nixos-test-driver
  echo '#!/bin/sh'
  echo 'export startScripts="%s" testScript="%s" globalTimeout=60'
  echo 'exec -a "$0" /nonexistent/driver "$@"'
  busybox chmod +x $out/bin/nixos-test-driver
''; };
"""


class Checks:
    """A flake whose checks run these scripts on a machine `web`."""

    def __init__(self, flake: SmallFlake, folder: Path) -> None:
        self._flake, self._folder = flake, folder
        self._checks: dict[str, str] = {}
        shutil.copy(FAKE, folder / "run-web-vm")

    def add(self, name: str, script: str = "") -> Path:
        file = self._folder / f"{name}-script"
        file.write_text(script)
        self._checks[name] = CHECK % (name, name, name, self._folder / "run-web-vm", file)
        self._write()
        return file

    def extend(self, name: str, attributes: str) -> None:
        """Give a check more attributes."""
        self._checks[name] = self._checks[name].rstrip().removesuffix(";") + f" // {attributes};\n"
        self._write()

    def move(self, name: str, start_script: Path) -> None:
        """Give a check another machine."""
        self._checks[name] = self._checks[name].replace(str(self._folder / "run-web-vm"), str(start_script))
        self._write()

    def _write(self) -> None:
        self._flake.write("".join(self._checks.values()))


@pytest.fixture
def checks(pytester: pytest.Pytester, small_flake: SmallFlake) -> Checks:
    return Checks(small_flake, pytester.path)
