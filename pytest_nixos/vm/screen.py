"""What a test sees on a machine's screen: text read from its picture, virtual terminals, X windows."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import CommandTimedOut
from pytest_nixos.vm import ocr
from pytest_nixos.vm.errors import MachineError, MachineTimeout
from pytest_nixos.vm.guest import DEFAULT_SECONDS, tail
from pytest_nixos.vm.hardware import Hardware

# In systemd's journal, where a target has its description alone (NixOS) or its name before that (Debian). All of the
# journal is read, unlike by `grep -q`: a broken pipe is an error of the pipe.
GRAPHICAL_SESSION = "journalctl -b SYSLOG_IDENTIFIER=systemd | grep 'Reached target .*Current graphical'"
_PAUSE_SECONDS = 1.0
Look = Callable[[], list[str]]


class Screen(Hardware):
    """A machine's screen, seen from a test script."""

    def get_screen_text(self) -> str:
        """The text on the screen, as tesseract reads it; raises MachineError, and ToolMissing without tesseract."""
        return self.get_screen_text_variants()[0]

    def get_screen_text_variants(self) -> list[str]:
        """The text on the screen, read in several ways: as it is, and with black and white exchanged."""
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "screen.ppm"
            self._screendump(picture, "ppm")
            try:
                return ocr.read(picture)
            except CommandTimedOut as error:
                raise MachineError(f"{self.name}: the screen could not be read: {error.message}") from None

    def wait_for_text(self, regex: str, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until the screen shows text that matches; raises MachineTimeout with the last text."""
        wanted = re.compile(regex)
        with self.nested(f"waiting for {regex} to appear on screen"):
            self._until_seen(f"`{regex}` is not on the screen", wanted, self.get_screen_text_variants, timeout)

    def get_tty_text(self, tty: str) -> str:
        """What a virtual terminal of the guest shows (`1` for tty1), in lines as wide as it is."""
        number = int(tty)
        size = f"size=$(stty -F /dev/tty{number} size 2>/dev/null || echo 25 80)"
        return self.succeed(f'{size}; fold -w "${{size#* }}" /dev/vcs{number}')

    def wait_until_tty_matches(self, tty: str, regexp: str, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until a virtual terminal shows text that matches; raises MachineTimeout with what it shows."""
        wanted = re.compile(regexp)
        self.connect()
        with self.nested(f"waiting for {regexp} to appear on tty {tty}"):
            self._until_seen(f"`{regexp}` is not on tty {tty}", wanted, lambda: [self.get_tty_text(tty)], timeout)

    def dump_tty_contents(self, tty: str) -> None:
        """Print what a virtual terminal shows."""
        for line in self.get_tty_text(tty).rstrip().splitlines():
            self.log(f"tty{tty}: {line.rstrip()}")

    def wait_for_x(self, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until the guest's graphical session is there, and its X server listens."""
        with self.nested("waiting for the X11 server"):
            self.wait_until_succeeds(f"{GRAPHICAL_SESSION} && [ -e /tmp/.X11-unix/X0 ]", timeout=timeout)

    def get_window_names(self) -> list[str]:
        """The titles of the windows on the X display that the guest's shell knows of (xwininfo)."""
        return window_names(self.succeed("xwininfo -root -tree"))

    def wait_for_window(self, regexp: str, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until a window's title matches; raises MachineTimeout with the titles there are."""
        wanted = re.compile(regexp)
        self.connect()
        with self.nested(f"waiting for a window that matches {regexp}"):
            self._until_seen(f"no window matches `{regexp}`", wanted, self.get_window_names, timeout)

    def _until_seen(self, what: str, wanted: re.Pattern[str], look: Look, timeout: float) -> None:
        deadline = Deadline(timeout, self.deadline)
        while not any(map(wanted.search, texts := look())):
            if deadline.expired:
                seen = tail("\n".join(dict.fromkeys(texts)))
                raise MachineTimeout(f"{self.name}: {what} after {timeout:g} s", detail=f"what is there:\n{seen}")
            self.pause(deadline.within(_PAUSE_SECONDS))


def window_names(tree: str) -> list[str]:
    """The titles in the answer of `xwininfo -root -tree`, whose lines are like `0x1400003 "xterm": ("xterm" ...`."""
    return re.findall(r'^\s*0x[0-9a-f]+ "(.*?)": \(', tree, re.MULTILINE)
