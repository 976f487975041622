"""Text on a picture of a screen, read by tesseract (a program that must be on PATH)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos import proc
from pytest_nixos.vm.errors import MachineError

_SECONDS = 120.0
_SCALE = 3  # tesseract was trained on print: the letters of a console are too small for it
_INVERT = bytes(range(255, -1, -1))
_HEADER = re.compile(rb"P6\s(?:#[^\n]*\n)*(\d+)\s(?:#[^\n]*\n)*(\d+)\s(?:#[^\n]*\n)*255\s")


@dataclass(frozen=True, slots=True)
class Grey:
    """A grey picture, one byte for each pixel, row by row."""

    width: int
    height: int
    pixels: bytes

    def inverted(self) -> "Grey":
        """Black for white."""
        return Grey(self.width, self.height, self.pixels.translate(_INVERT))

    def enlarged(self, times: int) -> "Grey":
        """Each pixel as a square of `times` by `times`."""
        rows = bytearray()
        for start in range(0, len(self.pixels), self.width):
            row = bytearray(self.width * times)
            for shift in range(times):
                row[shift::times] = self.pixels[start : start + self.width]
            rows += row * times
        return Grey(self.width * times, self.height * times, bytes(rows))

    def pgm(self) -> bytes:
        """The picture as a file: binary PGM."""
        return b"P5 %d %d 255\n%b" % (self.width, self.height, self.pixels)


def parse_ppm(data: bytes) -> Grey:
    """A picture as QEMU's `screendump` writes it (binary PPM, 255 levels), its green as grey.

    Raises MachineError for anything else.
    """
    header = _HEADER.match(data)
    if header is None:
        raise MachineError("the picture of the screen is no PPM file")
    width, height, pixels = int(header[1]), int(header[2]), data[header.end() :]
    if len(pixels) != width * height * 3:
        raise MachineError("the picture of the screen is cut off")
    return Grey(width, height, pixels[1::3])


def read(picture: Path) -> list[str]:
    """The text on a PPM picture: as it is, and inverted, for tesseract likes dark letters on bright ground.

    Raises ToolMissing without tesseract, MachineError when it fails.
    """
    grey = parse_ppm(picture.read_bytes()).enlarged(_SCALE)
    return [_recognise(grey), _recognise(grey.inverted())]


def _recognise(grey: Grey) -> str:
    # 6: one block of text, which keeps a console's lines; one thread, since tests run side by side.
    argv = ["tesseract", "-", "-", "--psm", "6", "--dpi", "210", "-c", "debug_file=/dev/null"]
    env = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    done = proc.run(argv, stdin=grey.pgm(), timeout=_SECONDS, check=False, env=env)
    if done.status:
        raise MachineError(f"tesseract failed with exit status {done.status}", detail=done.stderr_tail)
    return done.stdout.decode(errors="replace")
