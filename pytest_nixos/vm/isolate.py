"""Run a program so that nothing of it outlives us, on a store of its own, without network.

`python -m pytest_nixos.vm.isolate [--store DIR] [--network] [--plain] -- PROGRAM …` is the keeper of a test
driver. It ends with the program's status, and when it ends, or whoever started it ends, however that ends,
the program and all it has started are gone: they live in a process namespace whose first process dies with
the keeper. Without namespaces (`--plain`) the keeper adopts all descendants and kills them itself.

Sources: namespaces(7), user_namespaces(7), pid_namespaces(7), mount_namespaces(7), prctl(2), netdevice(7).
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
from pathlib import Path

from pytest_nixos import proc

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_CLONE_NEWIPC, _CLONE_NEWNET = 0x08000000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_ST_RELATIME, _MS_RELATIME = 4096, 1 << 21  # statvfs(3) and mount(2) write this one differently
_PR_SET_CHILD_SUBREAPER = 36
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
GRACE_SECONDS = 10.0
CANNOT = 125  # the exit status when the kernel refuses a namespace
_libc = ctypes.CDLL(None, use_errno=True)


def keeper_argv(
    argv: list[str], *, store: str | None, store_dir: str, network: bool, isolated: bool, terminal: bool = False
) -> list[str]:
    """The command line that runs `argv` under a keeper; see the module. terminal: a person is to talk to it."""
    flags = ["--store", store, "--store-dir", store_dir] if store else []
    flags += ["--network"] if network else []
    flags += [] if isolated else ["--plain"]
    flags += ["--terminal"] if terminal else []
    return [sys.executable, "-P", "-m", "pytest_nixos.vm.isolate", *flags, "--", *argv]


def isolation_works() -> bool:
    """Whether the kernel lets us make the namespaces: found out by making them."""
    argv = keeper_argv(["/bin/sh", "-c", "exit 0"], store=None, store_dir="", network=False, isolated=True)
    return proc.run(argv, timeout=30, env=keeper_environment(), check=False).status == 0


def keeper_environment() -> dict[str, str]:
    """What a keeper's Python needs in its environment to find this package."""
    return {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ.get("PATH", os.defpath)}


def main(words: list[str]) -> int:
    """The keeper: see the module. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pytest_nixos.vm.isolate")
    parser.add_argument("--store", help="folder that holds the store to see instead of the host's")
    parser.add_argument("--store-dir", default="/nix/store")
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--terminal", action="store_true", help="the program has the terminal, and Ctrl-C is its own")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args(words)
    proc.die_with_parent(signal.SIGTERM)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if options.plain:
        return _keep(_start(options.argv, options.terminal), kill_rest=True, terminal=options.terminal)
    try:
        _unshare(options.network)
    except OSError as error:
        print(f"error: the kernel refuses a namespace: {error.strerror}", file=sys.stderr)
        return CANNOT
    first = os.fork()
    if first == 0:
        os._exit(_first_process(options))
    return _keep(first, kill_rest=False, terminal=options.terminal)


def _unshare(network: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC | (0 if network else _CLONE_NEWNET)
    try:
        _call("unshare", flags)
    except PermissionError:
        _call("unshare", flags | _CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _first_process(options: argparse.Namespace) -> int:
    """The first process of the namespace: when it ends, the kernel kills all others in it."""
    proc.die_with_parent(signal.SIGKILL)
    try:
        _mounts(options.store, options.store_dir)
        if not options.network:
            _loopback_up()
    except OSError as error:
        print(f"error: the test's surroundings could not be made: {error.strerror}", file=sys.stderr)
        return CANNOT
    return _keep(_start(options.argv, options.terminal), kill_rest=False, terminal=options.terminal)


def _mounts(store: str | None, store_dir: str) -> None:
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    # Where /proc is partly hidden, in a container for instance, the kernel refuses a new one; it is a nicety.
    with contextlib.suppress(OSError):
        _call("mount", b"proc", b"/proc", b"proc", 0, None)
    if store is not None:
        inside = f"{store}{store_dir}".encode()
        _call("mount", inside, store_dir.encode(), None, _MS_BIND, None)
        _call("mount", None, store_dir.encode(), None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _locked(inside), None)


def _locked(path: bytes) -> int:
    """The mount flags of the file system below, which a user namespace must keep when it mounts again."""
    flags = os.statvfs(path).f_flag
    relatime = _MS_RELATIME if flags & _ST_RELATIME else 0
    return (flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)) | relatime


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags: int = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _start(argv: list[str], terminal: bool) -> int:
    """Start the program and return its process id; in a session of its own, unless it has the terminal."""
    child = os.fork()
    if child:
        return child
    try:
        if not terminal:
            os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Python ignores SIGPIPE, and a program started from it would inherit that: `yes | head` would never end.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(argv[0], argv, _program_environment())
    except OSError as error:
        print(f"error: {argv[0]} cannot be started: {error.strerror}", file=sys.stderr)
    os._exit(127)


def _program_environment() -> dict[str, str]:
    """The keeper's environment without what only its own Python needs."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _keep(child: int, *, kill_rest: bool, terminal: bool) -> int:
    """Hand signals on to `child`, reap, and return the child's status; after the grace time it is killed."""

    told: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        told.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def kill(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, hand_on)
    # The terminal sends Ctrl-C to the program itself, which may want to go on.
    signal.signal(signal.SIGINT, signal.SIG_IGN if terminal else hand_on)
    signal.signal(signal.SIGHUP, hand_on)
    signal.signal(signal.SIGALRM, kill)
    status = _reap_until(child)
    if kill_rest:
        _kill_descendants()
    # A program that was told to end has not finished what it was for, whatever it says.
    return 128 + told[0] if told and status == 0 else status


def _reap_until(child: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _kill_descendants() -> None:
    """Kill what the program left behind; as orphans they are all children of this process, the subreaper."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
