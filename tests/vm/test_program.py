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
STATE = "shopt -s lastpipe; test() { printf hidden; }; cat() { return 7; }"
NAMES = st.sampled_from(["true", "false", "echo", "printf", "cat", "test", "[", ":", "cd", "exit", "nosuch", "wc"])
BARE = st.text("ab1./=-%+,:", min_size=1, max_size=4)
QUOTED = st.text('a $`\\!*#;|&<>~{}()"\n', max_size=5).map(lambda text: f"'{text}'")
INNER = st.sampled_from(
    ["$(echo 7 1)", "$(printf a; wc -c)", "$(nosuch)", "$(cat < out | wc -l)", "$(test b = a || echo c)"]
)
DOUBLE = st.lists(st.text("a *#;|&<>~{}'\n", max_size=5) | INNER, max_size=2).map(lambda texts: f'"{"".join(texts)}"')
WORDS = st.lists(st.one_of(BARE, QUOTED, DOUBLE, INNER), min_size=1, max_size=3).map("".join) | st.just("]")
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
        *('test "$(systemctl is-active x)" = active', "wc -c $(ls /x | head -n 1) '$('"),
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
        *(
            "a &&",
            "a ||",
            "a |",
            "| a",
            "; a",
            "a;; b",
            "a 'b",
            'a "b',
            'a "$b"',
            "a `b`",
            "a $(b $c)",
            "a $(b &)",
            "a $()",
            "a $(b",
            "(a)",
            "{ a; }",
        ),
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
        *("printf -v UID 3", "[ -v x ]", "test -o errexit", "while true", "a; while b", "a; exec b", "%1"),
    ],
)
def test_what_needs_a_shell_gets_its_own_bash(command: str) -> None:
    assert simple_commands(command) == []
    assert NEW_BASH in program(command, None)
    assert NEW_BASH in program(command, 1.5)


@pytest.mark.parametrize(
    "command", ["sleep 60", "sleep 60; echo no", "echo a; sleep $(echo 60) | cat", "(sleep 60 &); exec sleep 60"]
)
def test_what_takes_too_long_is_ended_with_all_that_it_has_started(command: str, tmp_path: Path) -> None:
    began = time.monotonic()
    printed = b"a\n" if "echo a" in command else b""
    assert ran(program(command, 0.3), tmp_path) == (124, printed + b"x\n")
    assert time.monotonic() - began < 10


def test_what_stops_itself_is_ended_too(tmp_path: Path) -> None:
    assert ran(program("kill -STOP $BASHPID", 0.3), tmp_path) == (124, b"x\n")


def test_a_shell_with_a_time_limit_waits_for_its_commands(tmp_path: Path) -> None:
    line = program("sleep 1.3; echo done", 60)
    assert ran(f"export TMOUT=1; {line}", tmp_path) == (0, b"done\nx\n")


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_a_timeout_may_be_endless(timeout: float) -> None:
    assert program("cat", timeout) == program("cat", None)


def test_a_command_in_the_background_outlives_its_timeout(tmp_path: Path) -> None:
    line = program(f"(sleep 0.6; touch {tmp_path}/there) >/dev/null 2>&1 &", 0.3)
    assert ran(line, tmp_path) == (0, b"x\n")
    time.sleep(1)
    assert (tmp_path / "there").exists()


def test_a_command_that_is_killed_says_so(tmp_path: Path) -> None:
    assert ran(program("kill -KILL $BASHPID", 60), tmp_path) == (137, b"x\n")
    assert ran(program("kill -KILL $PPID; sleep 1", 60), tmp_path)[0] == 137


@pytest.mark.parametrize(("command", "timed"), [("test -e /x", False), ("cat /x", True), ("echo > /x", True)])
def test_what_ends_at_once_needs_no_watch(command: str, timed: bool) -> None:
    assert ("set -m" in program(command, 900)) is timed


def test_no_text_makes_the_search_long() -> None:
    began = time.monotonic()
    assert simple_commands("a " + "'a' " * 20_000 + "'") == []
    assert simple_commands("a" * 100_000 + "(") == []
    assert len(simple_commands(f"echo {'A' * 100_000} | base64 -d >> '/x y'")) == 2
    assert time.monotonic() - began < 5
