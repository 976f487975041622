"""Secrets are gone: from the environment, from children, and from what the kernel shows of this process."""

import subprocess
import sys

PROGRAM = """
import subprocess, sys
from pathlib import Path
from pytest_nixos.records.credentials import take
environ = Path("/proc/self/environ")
assert b"hush-hush" in environ.read_bytes()
assert take(["A_TOKEN", "ABSENT"]) == {"A_TOKEN": "hush-hush"}
assert take(["A_TOKEN"]) == {}
shown = environ.read_bytes()
assert b"hush-hush" not in shown, shown
assert b"B_TOKEN=stays\\0" in shown
child = subprocess.run([sys.executable, "-c", "import os; print(sorted(os.environ))"], capture_output=True, text=True)
assert "A_TOKEN" not in child.stdout and "B_TOKEN" in child.stdout
"""


def test_a_taken_secret_is_seen_by_nobody() -> None:
    env = {"A_TOKEN": "hush-hush", "B_TOKEN": "stays", "A": "b", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
