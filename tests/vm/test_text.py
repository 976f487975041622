"""Lines, escapes, deadlines, reports: what is pure."""

import subprocess
import time

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.vm import report
from pytest_nixos.vm.console import LONGEST_LINE, LineSplitter, panic_in
from pytest_nixos.vm.errors import CommandError
from pytest_nixos.vm.guest import brief, tail
from pytest_nixos.vm.log import neutralise
from pytest_nixos.vm.shell import decode, frame, unquote


def test_lines_are_split_wherever_the_chunks_end() -> None:
    splitter = LineSplitter()
    assert [splitter.feed(bytes([byte])) for byte in b"a\r\nb"] == [[], [], ["a"], []]
    assert splitter.feed(b"c\n\nd") == ["bc", ""]
    assert splitter.rest == b"d"


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    splitter = LineSplitter()
    lines = [line for _ in range(10) for line in splitter.feed(b"x" * LONGEST_LINE)]
    assert sum(map(len, lines)) + len(splitter.rest) == 10 * LONGEST_LINE
    assert len(splitter.rest) <= LONGEST_LINE


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]0;no end", ""),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1bcreset\x1b(B", "reset"),
        ("\x9b31mx", "31mx"),
        ("a\tb\r", "a\tb"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\x1b", ""),
    ],
)
def test_a_guest_cannot_drive_the_terminal(raw: str, text: str) -> None:
    assert neutralise(raw) == text


@pytest.mark.parametrize(
    ("line", "may_reboot", "panic"),
    [
        ("[    2.7] Kernel panic - not syncing: no root", False, True),
        ("Kernel panic - not syncing: no root", False, True),
        ("[    2.7] Kernel panic - not syncing: no root", True, False),
        ("[    2.7] ---[ end Kernel panic - not syncing: no root ]---", True, True),
        ("grep 'Kernel panic - not syncing' log", False, False),
    ],
)
def test_a_panic_is_the_kernels_own_word(line: str, may_reboot: bool, panic: bool) -> None:
    assert panic_in(line, may_reboot=may_reboot) is panic


def test_deadlines_end_with_the_outer_one() -> None:
    outer = Deadline(0.01)
    inner = Deadline(60, outer)
    assert Deadline(None).remaining is None
    assert inner.within(5) <= 0.01
    time.sleep(0.02)
    assert inner.expired
    assert inner.remaining == 0
    assert not Deadline(None).expired


def test_a_commands_quotes_and_timeout_survive_the_frame() -> None:
    text = frame("echo 'it''s' \"$x\"", "@7", 1.5).decode()
    assert text.count("\n") == 1
    assert "-c 'set -euo pipefail; echo '\"'\"'it" in text
    assert "_l=1.50;" in text
    assert "read -t" not in frame("cat", "@1", None).decode()


@pytest.mark.parametrize(("text", "data"), [(b"AP8=", b"\x00\xff"), (b"", b""), (b"no base64!", b"no base64!")])
def test_an_answer_that_is_no_base64_is_kept(text: bytes, data: bytes) -> None:
    assert decode(text) == data


@pytest.mark.parametrize(
    "data", [b"", b"a", b"a b~'\"$\\\n", b"$'x'", b"#\xc3\xa9 1", bytes(range(1, 256)), b"\r", b"\0011", b"''"]
)
def test_what_bash_quotes_is_understood(data: bytes) -> None:
    quote: list[str | bytes] = ["bash", "-c", 'LC_ALL=C; printf %q "$1"', "-", data]
    quoted = subprocess.run(quote, check=True, capture_output=True).stdout
    assert b"\n" not in quoted
    assert unquote(quoted) == data


def test_long_output_and_long_commands_are_cut() -> None:
    assert tail("a\nb\n") == "a\nb"
    assert tail("\n".join(map(str, range(100))), lines=2) == "[...]\n98\n99"
    assert len(brief("x" * 10_000)) < 600
    assert brief("a\nb") == "a ↵ b"


def test_a_failure_says_what_where_and_why() -> None:
    error = CommandError("web: command `x` failed", hint="try y", detail="out\x1b[2J\nput")
    assert report.failure(error, "/s").splitlines() == [
        "error: web: command `x` failed",
        "  | out",
        "  | put",
        "hint: try y",
    ]
    assert report.sentence(ValueError("bad"), "/s") == "ValueError: bad"
    assert report.sentence(AssertionError(), "/s") == "assertion failed: no message"
