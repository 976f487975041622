"""Virtual networks: one vde_switch, acting as a hub, for each."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import PytestNixosError
from pytest_nixos.vm.process import DEVNULL, PIPE, Process, describe

START_SECONDS = 10.0


class VLan:
    """A running virtual network; path is the folder that QEMU_VDE_SOCKET_<number> names."""

    def __init__(self, number: int, path: Path, env: Mapping[str, str] = os.environ) -> None:
        """Start the switch and wait until it listens; raises PytestNixosError."""
        self.nr, self.path = number, path
        argv = ["vde_switch", "--sock", str(path), "--dirmode", "0700", "--hub"]
        self._stopped = False
        # It ends when its stdin does: one more guard against its outliving the driver.
        self._process = Process(argv, env=env, cwd=path.parent, stdin=PIPE, stdout=DEVNULL)
        deadline = Deadline(START_SECONDS)
        while not (path / "ctl").exists():
            if self._process.status() is not None or deadline.expired:
                self.stop()
                raise PytestNixosError(f"vde_switch for VLAN {number} does not start")
            time.sleep(0.01)

    def check(self) -> None:
        """Raise PytestNixosError when the switch has ended: the machines would only miss each other."""
        status = self._process.status()
        if status is not None and not self._stopped:
            raise PytestNixosError(f"VLAN {self.nr} is gone: its vde_switch ended with {describe(status)}")

    def stop(self) -> None:
        """Stop the switch. Safe to call twice."""
        self._stopped = True
        self._process.stop()
