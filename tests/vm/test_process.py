import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_nixos.deadline import Deadline
from pytest_nixos.errors import ToolMissing
from pytest_nixos.vm.process import DEVNULL, Process


def start(script: str) -> Process:
    return Process(["bash", "-c", script], env=os.environ, cwd=Path("/"), stdin=DEVNULL, stdout=DEVNULL)


def gone(pid: int, seconds: float = 5) -> bool:
    """Whether a process ends within that time (one that waits to be reaped has ended)."""
    deadline = Deadline(seconds)
    while not deadline.expired:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_status_is_the_exit_status_or_the_signal() -> None:
    assert start("exit 3").wait(Deadline(5)) == 3
    assert start("kill -9 $$").wait(Deadline(5)) == -signal.SIGKILL
    running = start("sleep 60")
    assert running.wait(Deadline(0.05)) is None
    assert running.stop() == -signal.SIGTERM


def test_what_does_not_want_to_end_is_killed_with_its_children() -> None:
    process = start("trap '' TERM; sleep 60 & sleep 60; sleep 60")
    time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert process.stop(grace=0.2) == -signal.SIGKILL
    assert process.stop() == -signal.SIGKILL
    assert all(gone(int(pid)) for pid in children)


def test_a_child_that_outlives_its_program_is_killed(tmp_path: Path) -> None:
    process = start(f"sleep 60 & echo $! > {tmp_path}/pid")
    assert process.wait(Deadline(5)) == 0
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_missing_program_is_one_clear_error() -> None:
    with pytest.raises(ToolMissing, match="no-such-program cannot be started"):
        Process(["no-such-program"], env=os.environ, cwd=Path("/"), stdin=DEVNULL, stdout=DEVNULL)


@pytest.mark.parametrize("thread", [False, True])
def test_it_dies_with_its_parent_and_not_with_the_thread_that_asked_for_it(tmp_path: Path, thread: bool) -> None:
    call = "t = threading.Thread(target=go); t.start(); t.join()" if thread else "go()"
    program = f"""
import os, pathlib, sys, threading, time
from pytest_nixos.vm.process import DEVNULL, Process
def go():
    global p
    p = Process(["sleep", "60"], env=os.environ, cwd=pathlib.Path("/"), stdin=DEVNULL, stdout=DEVNULL)
{call}
time.sleep(0.1)
print(p.pid, p.status(), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, status = parent.stdout.readline().split()
        parent.kill()
    assert status == "None"
    assert gone(int(pid))
