"""Screen, keys and terminals without a VM: what is asked of QEMU and of the guest, and what is made of the answer."""

import string
from pathlib import Path

import pytest

from pytest_nixos.errors import ToolMissing
from pytest_nixos.vm import ocr
from pytest_nixos.vm.errors import MachineError, MachineTimeout
from pytest_nixos.vm.keys import key_of
from pytest_nixos.vm.machine import Machine
from pytest_nixos.vm.screen import GRAPHICAL_SESSION, window_names

XWININFO = r"""
xwininfo: Window id: 0x50a (the root window) (has no name)

     2 children:
     0x1400003 "fox: \"hosts\"": ("xterm" "XTerm")  484x316+0+0  +0+0
     0x140000e (has no name): ()  10x10+-100+-100  +-100+-100
"""


class Monitor:
    """Stands in for the monitor of a machine's QEMU: notes what it is asked, and answers the same each time."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.answer = ""
        machine.start()
        monkeypatch.setattr(machine._running.qmp, "human", self._answer)

    def _answer(self, command: str) -> str:
        self.asked.append(command)
        return self.answer


@pytest.mark.parametrize(
    ("char", "key"),
    [("a", "a"), ("Z", "shift-z"), ("7", "7"), ("&", "shift-7"), ("{", "shift-bracket_left"), ("\n", "ret")],
)
def test_characters_have_keys(char: str, key: str) -> None:
    assert key_of(char) == key


def test_every_printable_character_has_keys_and_key_names_stay() -> None:
    assert all(key_of(char).replace("-", "").replace("_", "").isalnum() for char in string.printable[:96])
    assert len({key_of(char) for char in string.printable[:96]}) == 96
    assert key_of("ctrl-alt-delete") == "ctrl-alt-delete"


def test_text_is_typed_key_by_key(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor(machine, monkeypatch)
    machine.send_chars("Hi!\n", delay=0)
    assert monitor.asked == ["sendkey shift-h", "sendkey i", "sendkey shift-1", "sendkey ret"]


def test_a_port_that_cannot_be_forwarded_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor(machine, monkeypatch)
    machine.forward_port(8022, 22)
    assert monitor.asked == ["hostfwd_add tcp::8022-:22"]
    monitor.answer = "Could not set up host forwarding rule\r\n"
    with pytest.raises(MachineError, match="host port 8022 cannot be forwarded: Could not"):
        machine.forward_port(8022, 22)


def test_window_names_are_those_that_windows_have() -> None:
    assert window_names(XWININFO) == [r"fox: \"hosts\""]


def test_windows_are_waited_for(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xwininfo").write_text(f"#!/bin/sh\ncat <<'END'{XWININFO}END\n")
    (tmp_path / "xwininfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine.wait_for_window("^fox")
    with pytest.raises(MachineTimeout, match="no window matches `bear` after 0 s") as caught:
        machine.wait_for_window("bear", timeout=0)
    assert "fox" in caught.value.detail


@pytest.mark.parametrize("unit", ["", "graphical-session.target - "])
def test_a_graphical_session_is_seen_in_both_forms_of_the_journal(
    unit: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journalctl"
    journal.write_text("#!/bin/sh\necho 'systemd[1]: Reached target graphical.target - Graphical Interface.'\n")
    journal.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine.fail(GRAPHICAL_SESSION)
    with journal.open("a") as script:
        script.write(f"echo 'systemd[2]: Reached target {unit}Current graphical user session.'\nseq 20000\n")
    machine.succeed(GRAPHICAL_SESSION)


def picture(width: int, height: int, *dark: int) -> bytes:
    pixels = bytearray(b"\xff\xfe\xff" * width * height)
    for at in dark:
        pixels[3 * at : 3 * at + 3] = b"\x00\x01\x00"
    return b"P6\n# made by QEMU\n%d %d\n255\n" % (width, height) + bytes(pixels)


def test_pictures_are_read_enlarged_and_inverted() -> None:
    grey = ocr.parse_ppm(picture(2, 1, 1))
    assert grey == ocr.Grey(2, 1, b"\xfe\x01")
    assert grey.enlarged(2) == ocr.Grey(4, 2, b"\xfe\xfe\x01\x01" * 2)
    assert grey.inverted().pgm() == b"P5 2 1 255\n\x01\xfe"


@pytest.mark.parametrize("data", [b"", b"P5 1 1 255\n.", b"P6 1 1 65535\n......", picture(2, 2)[:-1], b"P6 9 9"])
def test_what_is_no_picture_is_told(data: bytes) -> None:
    with pytest.raises(MachineError, match="picture of the screen"):
        ocr.parse_ppm(data)


def test_without_tesseract_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.ppm").write_bytes(picture(2, 2))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="tesseract"):
        ocr.read(tmp_path / "x.ppm")
