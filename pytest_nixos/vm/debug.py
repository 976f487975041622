"""Breakpoints in test scripts."""

import pdb
import sys
from types import FrameType

from pytest_nixos.vm.log import Log


class Debug:
    """What test scripts know as `debug`."""

    def __init__(self, log: Log, *, stops: bool) -> None:
        """stops: whether somebody is there to debug; breakpoints are passed otherwise."""
        self._log, self._stops = log, stops

    def breakpoint(self, host: str = "", port: int = 0) -> None:
        """Stop in Python's debugger where the script calls this, when the driver was started for that.

        host, port: for scripts of other drivers, which listen there; here the debugger is in the terminal.
        """
        caller: FrameType | None = sys._getframe(1)
        if self._stops:
            pdb.Pdb().set_trace(caller)
        else:
            self._log.info("a breakpoint was passed; --debug-hook-attach stops there")
