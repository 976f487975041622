import os
import socket
from pathlib import Path

import pytest

from pytest_nixos.vm.resources import RunDirs, SocketPathTooLong, listen, short_base


def test_folders_are_private_and_go_at_the_end(tmp_path: Path) -> None:
    with RunDirs(["web"], env={"TMPDIR": str(tmp_path)}) as dirs:
        machine = dirs.machine("web")
        assert {path.stat().st_mode & 0o077 for path in (machine.state, machine.shared, machine.sockets)} == {0}
        assert machine.state.is_relative_to(tmp_path)
        sockets = machine.sockets
    assert list(tmp_path.iterdir()) == []
    assert not sockets.exists()


def test_kept_state_is_found_again_by_the_same_machines_only(tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path)}

    def state(*names: str) -> Path:
        with RunDirs(names, keep=True, env=env) as dirs:
            return dirs.machine("web").state

    first = state("web", "db")
    assert first.is_dir()
    assert state("db", "web") == first
    assert state("web") != first


def test_sockets_fit_however_long_tmpdir_is(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    with RunDirs(["m" * 100], env={"TMPDIR": str(long)}) as dirs:
        machine = dirs.machine("m" * 100)
        listen(machine.shell).close()
        assert len(os.fsencode(machine.qmp)) < 80


def test_a_socket_path_that_is_too_long_is_refused_before_the_kernel_does(tmp_path: Path) -> None:
    with pytest.raises(SocketPathTooLong, match="107"):
        listen(tmp_path / ("x" * 120))


def test_a_short_tmpdir_is_taken_before_others(tmp_path: Path) -> None:
    short = Path("/tmp")
    assert short_base(short, {"XDG_RUNTIME_DIR": str(tmp_path)}) == short


def test_a_stale_socket_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listen(Path("s")).close()
    listener = listen(Path("s"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("s")
    listener.close()
