"""The keeper of a test driver, and its terminal: nothing outlives them, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_nixos.errors import ToolMissing
from pytest_nixos.vm import isolate
from pytest_nixos.vm.terminal import Finished, Terminal
from tests.leftovers import assert_none_left, processes_of, wait_until

Keep = Callable[..., "subprocess.Popen[str]"]
BOTH = pytest.mark.parametrize("isolated", [True, False], ids=["namespaces", "plain"])

# The keeper itself, as `-m pytest_nixos.vm.isolate` is, with another grace time.
IMPATIENT = """
import sys
from pytest_nixos.vm import isolate
isolate.GRACE_SECONDS = {}
sys.exit(isolate.main(sys.argv[1:]))
"""


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Keep]:
    """Starts a keeper of a Python program in the test's folder, which is in the environment of all of its processes."""
    started: list[subprocess.Popen[str]] = []

    def start(
        program: str,
        *,
        isolated: bool,
        network: bool = False,
        store: str | None = None,
        argv: tuple[str, ...] = (),
        grace: float = isolate.GRACE_SECONDS,
    ) -> "subprocess.Popen[str]":
        if isolated and not isolate.isolation_works():
            pytest.skip("the kernel refuses namespaces")
        words = isolate.keeper_argv(
            list(argv) or [sys.executable, "-c", program],
            store=store,
            store_dir="/nix/store",
            network=network,
            isolated=isolated,
        )
        at = words.index("-m")
        assert words[at + 1] == isolate.__name__
        words[at : at + 2] = ["-c", IMPATIENT.format(grace)]
        env = {**isolate.keeper_environment(), "HOME": f"{tmp_path}/"}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    assert_none_left(tmp_path)


@BOTH
@pytest.mark.parametrize(
    ("program", "status"),
    [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_the_status_is_handed_on(keep: Keep, isolated: bool, program: str, status: int) -> None:
    process = keep(program, isolated=isolated)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (status, "")


@BOTH
def test_a_missing_program_is_one_sentence(keep: Keep, isolated: bool) -> None:
    process = keep("", isolated=isolated, argv=("/no/such/program",))
    assert process.communicate(timeout=20) == (
        "",
        "error: /no/such/program cannot be started: No such file or directory\n",
    )
    assert process.returncode == 127


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_handed_on(keep: Keep, isolated: bool, number: signal.Signals) -> None:
    """The program gets the signal itself, and time to end in its own way."""
    program = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: (time.sleep(0.3), sys.exit(9)))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)"
    )
    process = keep(program, isolated=isolated)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.communicate(timeout=8)
    assert process.returncode == 9


@BOTH
def test_a_program_that_ignores_the_signal_is_killed(keep: Keep, isolated: bool) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    process = keep(program, isolated=isolated, grace=1)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 137
    assert time.monotonic() - started > 0.9


FAMILY = """
import os, signal, sys, time
signal.signal(15, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.close(1), os.close(2)
        time.sleep(600)
    os.close(1), os.close(2)
    os.wait()
print("up", flush=True)
"""


@BOTH
def test_what_the_program_leaves_is_killed(keep: Keep, tmp_path: Path, isolated: bool) -> None:
    """Children and grandchildren in sessions of their own, that ignore the soft signal."""
    process = keep(FAMILY, isolated=isolated)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert_none_left(tmp_path, seconds=1)


def test_a_killed_keeper_leaves_nothing(keep: Keep, tmp_path: Path) -> None:
    process = keep(f"{FAMILY}\ntime.sleep(600)", isolated=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert len(processes_of(tmp_path)) >= 4
    process.kill()
    process.wait()
    assert_none_left(tmp_path, seconds=3)


@BOTH
def test_who_started_it_is_killed(tmp_path: Path, keep: Keep, isolated: bool) -> None:
    """The keeper ends with its parent, however that ends, and takes the program with it."""
    keep("pass", isolated=isolated).communicate(timeout=20)  # skips where namespaces are refused
    program = "import time; print('up', flush=True); time.sleep(600)"
    words = isolate.keeper_argv(
        [sys.executable, "-c", program], store=None, store_dir="", network=False, isolated=isolated
    )
    starter = f"import subprocess; subprocess.run({words!r})"
    env = {**isolate.keeper_environment(), "HOME": f"{tmp_path}/"}
    with subprocess.Popen([sys.executable, "-c", starter], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
    assert_none_left(tmp_path, seconds=5)


@pytest.mark.parametrize("network", [False, True], ids=["without network", "with network"])
def test_the_network_that_a_program_sees(keep: Keep, network: bool) -> None:
    program = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
    out, err = keep(program, isolated=True, network=network).communicate(timeout=20)
    seen = sorted(name for name in os.listdir("/sys/class/net")) if network else ["lo"]  # noqa: PTH208
    assert (out, err) == (f"{[name for name in seen if name != 'bonding_masters']}\n", "")


def test_the_loopback_is_up(keep: Keep) -> None:
    program = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(server.getsockname(), 5).close()\n"
        "print('connected')"
    )
    assert keep(program, isolated=True).communicate(timeout=20) == ("connected\n", "")


@pytest.mark.skipif(not Path("/nix/store").is_dir(), reason="there is no /nix/store to put another in the place of")
def test_the_program_sees_only_the_store_it_is_given(keep: Keep, tmp_path: Path) -> None:
    store = tmp_path / "root"
    (store / "nix" / "store" / "only-this").mkdir(parents=True)
    program = (
        "import os\n"
        "print(os.listdir('/nix/store'))\n"
        "try: os.mkdir('/nix/store/more')\n"
        "except OSError as error: print(error.strerror)"
    )
    out, err = keep(program, isolated=True, store=str(store)).communicate(timeout=20)
    assert err == ""
    assert out.splitlines() == ["['only-this']", "Read-only file system"]
    assert len(list(Path("/nix/store").iterdir())) > 1


def test_a_store_that_is_not_there(keep: Keep, tmp_path: Path) -> None:
    process = keep("pass", isolated=True, store=str(tmp_path / "nowhere"))
    _, err = process.communicate(timeout=20)
    assert err == "error: the test's surroundings could not be made: No such file or directory\n"
    assert process.returncode == isolate.CANNOT


@BOTH
def test_a_broken_pipe_ends_a_program(keep: Keep, isolated: bool) -> None:
    """Python ignores SIGPIPE; inherited, that would let `yes | head` go on for ever, or complain."""
    process = keep("", isolated=isolated, argv=("/bin/sh", "-c", "yes | head -n 1"))
    assert process.communicate(timeout=20) == ("y\n", "")


def on_a_terminal(
    tmp_path: Path, script: str, seconds: float = 20, grace: float = 1
) -> tuple[Finished, list[str], bytes]:
    """What a shell script does on a terminal: how it finished, the lines seen, the transcript."""
    lines: list[str] = []
    transcript = tmp_path / "transcript.log"
    argv, env = ["/bin/sh", "-c", script], {"PATH": os.defpath, "HOME": f"{tmp_path}/"}
    with Terminal(argv, cwd=tmp_path, env=env, transcript=transcript, on_line=lines.append, grace=grace) as terminal:
        finished = terminal.wait(seconds)
    assert_none_left(tmp_path, seconds=1)
    return finished, lines, transcript.read_bytes()


def test_a_terminal_keeps_all_and_shows_what_is_harmless(tmp_path: Path) -> None:
    finished, lines, transcript = on_a_terminal(tmp_path, r"printf '\033[31mred\033[0m\nno end'; exit 3")
    assert (finished.status, finished.timed_out) == (3, False)
    assert lines == ["red", "no end"] == list(finished.tail)
    assert transcript == b"\x1b[31mred\x1b[0m\r\nno end"


def test_a_signal_is_a_negative_status(tmp_path: Path) -> None:
    finished, _, _ = on_a_terminal(tmp_path, "kill -9 $$")
    assert (finished.status, finished.timed_out) == (-9, False)


def test_a_terminals_deadline(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 4' TERM; echo up; while true; do sleep 0.1; done"
    finished, lines, _ = on_a_terminal(tmp_path, script, seconds=0.5, grace=5)
    assert (finished.status, finished.timed_out, lines) == (4, True, ["up", "bye"])


def test_a_program_that_ignores_the_deadline_is_killed(tmp_path: Path) -> None:
    started = time.monotonic()
    script = "trap '' TERM; echo up; while true; do sleep 0.1; done"
    finished, lines, _ = on_a_terminal(tmp_path, script, seconds=0.5, grace=0.5)
    assert (finished.status, finished.timed_out, lines) == (-9, True, ["up"])
    assert time.monotonic() - started < 5


def test_megabytes_on_a_terminal(tmp_path: Path) -> None:
    """All is in the transcript, only the last lines in memory."""
    finished, lines, transcript = on_a_terminal(tmp_path, "seq 1000000 1499999; echo end")
    assert len(transcript) == 500000 * 9 + 5
    assert (len(lines), lines[-1], finished.tail[-1]) == (500001, "end", "end")
    assert len(finished.tail) == 400


def test_what_stays_in_the_background_does_not_hold_a_terminal_up(tmp_path: Path) -> None:
    started = time.monotonic()
    finished, lines, _ = on_a_terminal(tmp_path, "sleep 3 & echo done")
    assert (finished.status, finished.timed_out, lines) == (0, False, ["done"])
    assert time.monotonic() - started < 3


def test_a_terminal_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="/no/such/program cannot be started"):
        Terminal(["/no/such/program"], cwd=tmp_path, env={}, transcript=tmp_path / "log", on_line=print, grace=1)


def test_leaving_the_context_ends_the_program(tmp_path: Path) -> None:
    env = {"PATH": os.defpath, "HOME": f"{tmp_path}/"}
    argv = ["/bin/sh", "-c", "sleep 600; true"]
    with Terminal(argv, cwd=tmp_path, env=env, transcript=tmp_path / "log", on_line=print, grace=1):
        wait_until(lambda: len(processes_of(tmp_path)) == 2, 5)
    assert_none_left(tmp_path)


@BOTH
def test_a_program_that_was_told_to_end_has_not_passed(keep: Keep, isolated: bool) -> None:
    """Whatever it says: a keeper that got a signal never ends with 0."""
    program = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); time.sleep(9)"
    )
    process = keep(program, isolated=isolated)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    process.communicate(timeout=8)
    assert process.returncode == 128 + signal.SIGTERM
