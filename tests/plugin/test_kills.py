"""Sessions that are interrupted, killed, or out of space: what had passed is recorded, and nothing else is left."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import SmallFlake, need
from tests.leftovers import Process, assert_none_left, processes_of, short_tmp, wait_until

pytestmark = [pytest.mark.nix, pytest.mark.xdist]

# One passes at once, one never ends by itself; `a` is first, also where they run one after the other.
CHECKS = 'a = vm "a" "true"; b = vm "b" "busybox sleep 98765 & busybox sleep 98765";'
WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(pytester: pytest.Pytester, small_flake: SmallFlake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts pytest on the flake, as a user does."""
    small_flake.write(CHECKS)
    started: list[subprocess.Popen[str]] = []

    def run(*args: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-m", "pytest", "-v", "--nixos-flake", "flake", *args]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(argv, cwd=pytester.path, stdout=pipe, stderr=subprocess.STDOUT, text=True, process_group=0)
        )
        return started[-1]

    with short_tmp(monkeypatch):
        yield run
        for process in started:
            process.kill()
            process.communicate()


def end(process: "subprocess.Popen[str]", seconds: float) -> str:
    """What it prints until it ends, within this time."""
    return process.communicate(timeout=seconds)[0]


def cache(pytester: pytest.Pytester, name: str) -> list[str]:
    """The names in a folder of the plugin's cache."""
    folder = pytester.path / "cache" / "pytest-nixos" / name
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def passes(pytester: pytest.Pytester) -> int:
    return sum(".passed" in name for name in cache(pytester, "records"))


def sleepers(pytester: pytest.Pytester) -> list[Process]:
    """The processes of the driver that never ends."""
    return [process for process in processes_of(pytester.path) if "98765" in process.argv]


def wait_for_the_middle(pytester: pytest.Pytester) -> None:
    """`a` has passed, `b` runs with its child."""
    wait_until(lambda: passes(pytester) == 1 and len(sleepers(pytester)) == 2, 60)


def outcomes(text: str) -> dict[str, str]:
    """Each check's outcome, from the lines of -v."""
    single = re.findall(r"^flake/flake\.nix::(\S+) (PASSED|FAILED|VERIFIED)", text, re.MULTILINE)
    workers = re.findall(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED) flake/flake\.nix::(\S+)", text, re.MULTILINE)
    return {**dict(single), **{name: outcome for outcome, name in workers}}


def keeper(pytester: pytest.Pytester) -> Process:
    """The keeper of the driver that sleeps: the process above it that no other keeper has started."""
    keepers = [p for p in processes_of(pytester.path) if "pytest_nixos.vm.isolate" in p.argv]
    [outermost] = [p for p in keepers if p.parent not in {other.pid for other in keepers}]
    return outermost


def test_a_killed_worker_is_a_failed_item(pytester: pytest.Pytester, start: Start) -> None:
    """The others go on; the next run reruns what was killed, and nothing else."""
    process = start("-n2")
    wait_for_the_middle(pytester)
    os.kill(keeper(pytester).parent, signal.SIGKILL)
    wait_until(lambda: sleepers(pytester) == [], 5)
    text = end(process, 60)
    assert process.returncode == 1
    assert outcomes(text) == {"a": "PASSED", "b": "FAILED"}
    assert "crashed while running 'flake/flake.nix::b'" in text
    assert_none_left(pytester.path)
    assert (passes(pytester), cache(pytester, "pytest-nixos-sessions")) == (1, [])

    again = end(start("--nixos-timeout", "1s"), 60)
    assert outcomes(again) == {"a": "VERIFIED", "b": "FAILED"}
    assert "b was still running after 1 s" in again


@WORKERS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_keeps_what_had_passed(
    pytester: pytest.Pytester, start: Start, number: signal.Signals, workers: tuple[str, ...]
) -> None:
    process = start(*workers)
    wait_for_the_middle(pytester)
    process.send_signal(number)
    text = end(process, 20)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in text
    assert "INTERNALERROR" not in text
    assert_none_left(pytester.path)
    assert (passes(pytester), cache(pytester, "pytest-nixos-sessions")) == (1, [])


@WORKERS
def test_a_killed_session_leaves_only_a_folder_for_the_next_to_remove(
    pytester: pytest.Pytester, start: Start, workers: tuple[str, ...]
) -> None:
    """What had passed is recorded, also in other stores: these are written while the session goes on."""
    remote = pytester.path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    process = start(f"--nixos-records=git:{remote}?signed=no&push=yes&allow=all", *workers)
    wait_for_the_middle(pytester)
    listing = ["git", "-C", str(remote), "for-each-ref"]
    wait_until(lambda: b".passed" in subprocess.run(listing, capture_output=True, check=True).stdout, 30)
    process.kill()
    wait_until(lambda: sleepers(pytester) == [], 20)
    assert_none_left(pytester.path, 20)
    assert passes(pytester) == 1
    [folder] = [name for name in cache(pytester, "pytest-nixos-sessions") if not name.endswith(".lock")]

    again = end(start("flake/flake.nix::a"), 60)
    assert outcomes(again) == {"a": "VERIFIED"}
    assert folder not in cache(pytester, "pytest-nixos-sessions")
    assert cache(pytester, "pytest-nixos-sessions") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def folders_on(disk: Path) -> tuple[str, str]:
    """The options, as one word each: a word that is a folder has a say in what pytest takes for its rootdir."""
    return f"--nixos-dir={disk}/sessions", f"--nixos-records={disk}/records"


@WORKERS
def test_a_disk_that_is_too_small_is_one_sentence(
    pytester: pytest.Pytester, start: Start, small_flake: SmallFlake, small_disk: Path, workers: tuple[str, ...]
) -> None:
    """What needs no copy, a plain build, passes; its record is the only one."""
    small_flake.write('a = vm "a" "true"; b = vm "b" "true"; c = plain "c" "true";')
    process = start(*folders_on(small_disk), *workers)
    text = end(process, 60)
    assert process.returncode == 1
    assert outcomes(text) == {"a": "FAILED", "b": "FAILED", "c": "PASSED"}
    sentence = r"^copying \d+ store paths needs \d+ MiB, but /\S* has \d+ MiB free$"
    assert len(re.findall(sentence, text, re.MULTILINE)) == 2
    assert "Traceback" not in text
    assert len(list((small_disk / "records").glob("*.passed*.json"))) == 1


@WORKERS
def test_a_full_disk_is_one_sentence(
    pytester: pytest.Pytester, start: Start, small_disk: Path, workers: tuple[str, ...]
) -> None:
    """Not a byte can be written, not even the plan that workers share; alone there is no room for the store."""
    with (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                break
    process = start(*folders_on(small_disk), *workers)
    text = end(process, 60)
    assert process.returncode != 0
    said = (
        r"plan\.json can't be written: No space left on device" if workers else r"copying \d+ store paths needs .*free"
    )
    assert re.search(rf"{said}\n\s*hint: free some space", text)
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    assert not list((small_disk / "records").glob("*.passed*.json"))
