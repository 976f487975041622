import os
import time
from pathlib import Path

import pytest

from pytest_nixos.errors import CommandFailed, CommandTimedOut, ToolMissing
from pytest_nixos.proc import run


def test_output_status_and_lines() -> None:
    lines: list[bytes] = []
    done = run(
        ("sh", "-c", "cat; echo one >&2; echo two >&2; exit 3"), stdin=b"in", on_stderr=lines.append, check=False
    )
    assert (done.status, done.stdout, done.stderr_tail) == (3, b"in", "one\ntwo\n")
    assert lines == [b"one\n", b"two\n"]


def test_failure_says_what_and_why() -> None:
    with pytest.raises(CommandFailed, match="status 3") as caught:
        run(("sh", "-c", "echo reason >&2; exit 3"))
    assert caught.value.output == "reason\n"
    with pytest.raises(ToolMissing, match="no-such-tool"):
        run(("no-such-tool",))
    with pytest.raises(CommandFailed, match="Permission denied"):
        run(("/etc/passwd",))


def test_a_deadline_ends_what_does_not_listen(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimedOut):
        run(("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"), timeout=0.3)
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_megabytes_on_both_outputs() -> None:
    done = run(("sh", "-c", "head -c 5000000 /dev/zero; yes | head -c 5000000 >&2"))
    assert len(done.stdout) == 5_000_000
