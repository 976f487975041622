"""How commands are run in the guest's shell: what a new bash would do, by this machine's own bash."""

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos.vm.program import program, simple_commands

NEW_BASH = 'exec -a bash "$BASH" -c'
# A root shell with a state that no command may see.
STATE = "shopt -s lastpipe; echo() { printf hidden; }; cat() { return 7; }"
NAMES = st.sampled_from(["true", "false", "echo", "printf", "cat", "test", "[", ":", "cd", "exit", "nosuch", "wc"])
BARE = st.text("ab1./=-%+,:", min_size=1, max_size=4)
QUOTED = st.text('a $`\\!*#;|&<>~{}()"\n', max_size=5).map(lambda text: f"'{text}'")
DOUBLE = st.text("a *#;|&<>~{}()'\n", max_size=5).map(lambda text: f'"{text}"')
WORDS = st.lists(st.one_of(BARE, QUOTED, DOUBLE), min_size=1, max_size=3).map("".join) | st.just("]")
REDIRECTIONS = st.sampled_from([">/dev/null", "2>&1", "< out", "2>/dev/null", ">&2", "<nosuch"])
SIMPLE = st.tuples(NAMES, st.lists(WORDS | REDIRECTIONS, max_size=3)).map(lambda parts: " ".join([parts[0], *parts[1]]))
# What a pipe leads to reads it to its end: else its writer may get a signal, or be quicker.
JOINTS = st.sampled_from(["; ", " && ", " || ", " | wc -c; ", " |cat 2>&1|wc|| "])
LISTS = st.lists(st.tuples(SIMPLE, JOINTS), min_size=1, max_size=3).map(
    lambda parts: "".join(f"{command}{then}" for command, then in parts[:-1]) + parts[-1][0]
)


def ran(line: str, folder: Path) -> tuple[int, bytes]:
    """Status and output of a line of a shell like the guest's, in a folder of its own."""
    (folder / "out").write_text("x\n")
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{STATE}; ({line}; exit) </dev/null"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, done.stdout + (folder / "out").read_bytes()


@given(command=LISTS, timeout=st.sampled_from([None, 5.0]))
def test_a_command_does_what_a_new_bash_would_do(
    command: str, timeout: float | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert ran(program(command, timeout), folder) == ran(program(f"{command}\n", timeout), folder)


@pytest.mark.parametrize(
    "command",
    [
        *("true", "test -e /var/lib/a-b_1.txt", " ls  -l ", "date +x", "mount -o loop,ro /a /b", "a; b", "a | b;"),
        *("curl -sf http://localhost:8080/ | grep -q 'a b'", "[ -e /x ] && cat '/x y' 2>/dev/null", 'echo "a b" >> /x'),
    ],
)
def test_a_list_of_simple_commands_needs_no_bash_of_its_own(command: str) -> None:
    assert "bash" not in program(command, None).replace("BASH_ARGV0=bash", "")


@pytest.mark.parametrize(
    "command",
    [
        *(
            "",
            " ",
            "a\nb",
            "a\n",
            "echo $$",
            "A=1 b",
            "ls *",
            "a &",
            "set",
            "trap",
            "time a",
            "é",
            "ls ~",
            "a && set -x",
        ),
        *("a &&", "a ||", "a |", "| a", "; a", "a;; b", "a 'b", 'a "b', 'a "$b"', "a `b`", "a $(b)", "(a)", "{ a; }"),
        *(
            "if a",
            "! a",
            "[[ a ]]",
            "-v ls",
            "a {b,c}",
            "a b&c",
            "a # b",
            "a \\; b",
            "a > &1",
            "a |& b",
            "a <<x",
            "f() b",
        ),
        *("while true", "a; while b", "a; exec b", "%1"),
    ],
)
def test_what_needs_a_shell_gets_its_own_bash(command: str) -> None:
    assert simple_commands(command) == []
    assert NEW_BASH in program(command, None)
    assert program(command, 1.5).startswith("timeout 2 bash -c 'set -euo pipefail; ")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("systemctl is-active 'a b'", "timeout 5 systemctl is-active 'a b'"),
        ("cat /x 2>/dev/null", "timeout 5 cat /x 2>/dev/null"),
        ("test -e /x", "set -euo pipefail; shopt -u lastpipe; BASH_ARGV0=bash; command test -e /x"),
        ("cat /x | grep y", "timeout 5 bash -c 'set -euo pipefail; cat /x | grep y'"),
        ("echo x > /pipe", "timeout 5 bash -c 'set -euo pipefail; echo x > /pipe'"),
        ("cd /x", "timeout 5 bash -c 'set -euo pipefail; cd /x'"),
    ],
)
def test_what_ends_a_command_that_takes_too_long(command: str, line: str) -> None:
    assert program(command, 4.2) == line


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    assert ran(program("sleep 60", 1), tmp_path) == (124, b"x\n")


def test_no_text_makes_the_search_long() -> None:
    began = time.monotonic()
    assert simple_commands("a " + "'a' " * 20_000 + "'") == []
    assert simple_commands("a" * 100_000 + "(") == []
    assert len(simple_commands(f"echo {'A' * 100_000} | base64 -d >> '/x y'")) == 2
    assert time.monotonic() - began < 5
