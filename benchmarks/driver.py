"""Our test driver beside upstream's: the same machines of the example flake, the same scripts, in turn.

    example_flake/setup && python benchmarks/driver.py --upstream PATH [--check web] [--runs 5]

PATH is an upstream `nixos-test-driver` of no test: where there is nixpkgs, `nix build nixpkgs#nixos-test-driver` makes
one, or, if that nixpkgs is too old for that, a built test's `bin/nixos-test-driver` names one in its last line.
Ours runs from this work tree, by the Python that runs this program: take one of upstream's version. Prints medians,
their ratio, and in how many of the rounds ours was the better one.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pytest_nixos.vm import accelerator, wrapper
from pytest_nixos.vm.spec import DriverSpec

ROOT = Path(__file__).resolve().parent.parent
# One script for each kind of run; both drivers run it. Its clock is that of all processes, and what it has measured
# goes through a file. `machine` is the name of the only machine.
_HEAD = """
import json, pathlib, platform, re, time
clock = time.perf_counter
began = clock()

def finish(**figures):
    peak = re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())
    figures |= {"python": platform.python_version(), "began": began, "peak": int(peak[1]) / 1024, "ended": clock()}
    pathlib.Path(os.environ["BENCHMARK_FIGURES"]).write_text(json.dumps(figures))

start_all()
running = clock()
machine.succeed("true")
answered = clock()
"""
_TRIVIAL = "finish(running=running, answered=answered)\n"
# Services that still start would share the guest's only core with the commands.
_ROUND_TRIPS = """
machine.execute("command -v systemctl >/dev/null && systemctl is-system-running --wait; sleep 2")
times = {ask: [] for ask in @ASKS@}
for _ in range(@COUNT@):
    for ask in times:
        before = clock()
        eval("machine." + ask)
        times[ask].append((clock() - before) * 1000)
finish(**times)
"""
# Each costs something else: only the way, programs, at last a shell; `execute` has a timeout unless told otherwise.
_ASKS = (
    'succeed("true")',
    'succeed("cat /proc/uptime | grep -q .")',
    """succeed('test "$(uname)" = Linux')""",
    'execute("true")',
    'execute("uname")',
    'execute("cat /proc/uptime | grep -q .")',
    'execute("[[ -e /proc ]]")',
)
_CONSOLE = """
before = clock()
machine.succeed("(seq @COUNT@; echo that was the last line) >/dev/console")
printed = clock()
machine.wait_for_console_text("that was the last line")
finish(printed=printed - before, seen=clock() - before)
"""
Figures = dict[str, Any]
Reading = Callable[[Figures], float]


@dataclass(frozen=True)
class Kind:
    """A kind of run: its script, and what is read from the figures of one run (title -> reading)."""

    name: str
    script: str
    readings: Mapping[str, Reading]


def kinds(commands: int, lines: int) -> list[Kind]:
    """What is measured. `started` and `over` are when the driver's process began and ended."""
    trivial: dict[str, Reading] = {
        "start to the script's first line, s": lambda f: f["began"] - f["started"],
        "start to QEMU running, s": lambda f: f["running"] - f["started"],
        "start to the first answered command, s": lambda f: f["answered"] - f["started"],
        "the script's end to the driver's, s": lambda f: f["over"] - f["ended"],
        "a trivial test, whole, s": lambda f: f["over"] - f["started"],
        "peak memory of the driver, MiB": lambda f: f["peak"],
    }
    trips: dict[str, Reading] = {
        f"`{ask}`, p{percent}, ms".replace("|", "\\|"): partial(_took, ask, percent)
        for ask in _ASKS
        for percent in (50, 95)
    }
    console: dict[str, Reading] = {
        f"{lines} console lines, until the command has printed them, s": lambda f: f["printed"],
        f"{lines} console lines, until `wait_for_console_text` sees the last, s": lambda f: f["seen"],
        f"{lines} console lines, the script's end to the driver's, s": lambda f: f["over"] - f["ended"],
        f"{lines} console lines, whole run, s": lambda f: f["over"] - f["started"],
        f"{lines} console lines, peak memory of the driver, MiB": lambda f: f["peak"],
    }
    return [
        Kind("trivial", _HEAD + _TRIVIAL, trivial),
        Kind(
            "round trips", _HEAD + _ROUND_TRIPS.replace("@COUNT@", str(commands)).replace("@ASKS@", repr(_ASKS)), trips
        ),
        Kind("console", _HEAD + _CONSOLE.replace("@COUNT@", str(lines)), console),
    ]


def _took(ask: str, percent: int, figures: Figures) -> float:
    return percentile(figures[ask], percent)


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent of the values do not exceed."""
    return statistics.quantiles(values, n=100)[percent - 1]


@dataclass
class Driver:
    """A driver to compare, and the figures of its runs by kind; None for a run that had to be ended."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    by_config: bool
    runs: dict[str, list[Figures | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def python(self) -> str:
        """The version of the Python that ran the scripts."""
        return next((f["python"] for runs in self.runs.values() for f in runs if f), "?")


def upstream(program: Path, env: Mapping[str, str]) -> Driver:
    """The driver to compare with. Recent ones read a JSON file, older ones variables."""
    help_text = subprocess.run(
        [program, "--help"], env=env, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return Driver("upstream", [str(program)], env, "--config" in help_text)


def ours(env: Mapping[str, str], by_config: bool) -> Driver:
    """Our driver, from this work tree, asked in the way in which the other one is."""
    return Driver(
        "ours", [sys.executable, "-P", "-s", "-m", "pytest_nixos.vm"], {**env, "PYTHONPATH": str(ROOT)}, by_config
    )


class Bench:
    """The machines of one check, and where the runs leave what they write."""

    def __init__(self, spec: DriverSpec, folder: Path, limit: float) -> None:
        self.spec, self.folder, self.limit = spec, folder, limit
        # Some versions of upstream take all behind the first `run-` for the name, and a store path may have one.
        self.starts = {machine.name: folder / f"run-{machine.name}-vm" for machine in spec.machines}
        for machine in spec.machines:
            self.starts[machine.name].symlink_to(machine.command[0])

    def run(self, driver: Driver, kind: Kind) -> None:
        """Run a script once. A driver that fails ends the benchmark, one that hangs is killed and noted."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            argv, env, figures = self._prepared(driver, kind, folder)
            with (folder / "log").open("w+b") as log:
                started = time.perf_counter()
                status = bounded(argv, env, folder, log.fileno(), self.limit)
                over = time.perf_counter()
                log.seek(0)
                tail = log.read()[-3000:].decode(errors="replace")
            found = json.loads(figures.read_text()) if figures.exists() else None
        if status not in (0, None):
            raise SystemExit(f"{driver.name}, {kind.name}, failed:\n{tail}")
        if status is None:
            where = "behind the script's end" if found else "within the script"
            driver.notes.append(f"{driver.name}, {kind.name}: killed after {self.limit:.0f} s, {where}")
        done = {**found, "started": started, "over": over} if found and status == 0 else None
        driver.runs.setdefault(kind.name, []).append(done)

    def _prepared(self, driver: Driver, kind: Kind, folder: Path) -> tuple[list[str], dict[str, str], Path]:
        """The command, its environment, and the file for the figures."""
        script, figures, out = folder / "script.py", folder / "figures.json", folder / "out"
        script.write_text(kind.script)
        out.mkdir()
        env = {**driver.env, "TMPDIR": str(folder), "HOME": str(folder), "BENCHMARK_FIGURES": str(figures)}
        argv = [*driver.argv, "-o", str(out)]
        if driver.by_config:
            config = folder / "config.json"
            config.write_text(self._config(script))
            argv += ["--config", str(config)]
        else:
            env |= {
                "startScripts": " ".join(map(str, self.starts.values())),
                "vlans": " ".join(map(str, self.spec.vlans)),
                "testScript": str(script),
                "globalTimeout": str(int(self.limit)),
            }
        return argv, env, figures

    def _config(self, script: Path) -> str:
        return json.dumps(
            {
                # exec, as NixOS' own /bin/sh does it by itself: else upstream's driver stops a shell, and QEMU stays.
                "vms": {name: {"name": name, "start_script": f"exec {path}"} for name, path in self.starts.items()},
                "containers": {},
                "vlans": list(self.spec.vlans),
                "global_timeout": int(self.limit),
                "enable_ssh_backdoor": False,
                "test_script": str(script),
            }
        )


def bounded(argv: list[str], env: Mapping[str, str], cwd: Path, output: int, limit: float) -> int | None:
    """Run a command; its exit status, None when it had to be killed after `limit` seconds. Leaves nothing behind."""
    process = subprocess.Popen(
        argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def built(check: str) -> Path:
    """The check's `bin/nixos-test-driver`."""
    directory = setup("--print-dir")
    override = ["--no-write-lock-file", "--override-input", "debian", f"path:{directory}"]
    attr = f"{ROOT / 'example_flake'}#checks.x86_64-linux.{check}.driver"
    done = subprocess.run(
        ["nix", "build", "--json", "--no-link", *override, attr], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return Path(json.loads(done.stdout)[0]["outputs"]["out"], "bin", "nixos-test-driver")


def setup(option: str) -> str:
    """What the example's set-up says."""
    argv = [str(ROOT / "example_flake" / "setup"), option]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def surroundings(check: str) -> tuple[DriverSpec, dict[str, str], str]:
    """The check's machines, the environment of both drivers, and the accelerator."""
    clean = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    wrapped = wrapper.read(built(check), clean)
    if len(wrapped.spec.machines) != 1:
        raise SystemExit(f"{check} has more than one machine")
    env = {name: value for name, value in wrapped.env.items() if name != "PYTHONPATH"}
    used = accelerator.probe(shutil.which("qemu-system-x86_64", path=env["PATH"]) or "qemu-system-x86_64")
    return wrapped.spec, {**env, "QEMU_OPTS": f"-machine accel={used.name}"}, used.name


def rows(kind: Kind, other: Driver, own: Driver) -> Iterator[str]:
    """The table's lines for one kind of run; `-` where no run has come to its end."""
    pairs = list(zip(other.runs[kind.name], own.runs[kind.name], strict=True))
    for title, reading in kind.readings.items():
        theirs, mine = ([reading(f) for f in runs if f] for runs in zip(*pairs, strict=True))
        both = [(reading(a), reading(b)) for a, b in pairs if a and b]
        won = f"{sum(b < a for a, b in both)} of {len(both)}"
        yield f"| {title} | {median(theirs)} | {median(mine)} | {ratio(mine, theirs)} | {won} |"


def median(values: list[float]) -> str:
    """The median with about three figures, `-` of nothing."""
    if not values:
        return "-"
    value = statistics.median(values)
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def ratio(mine: list[float], theirs: list[float]) -> str:
    """Our median by theirs."""
    return f"{statistics.median(mine) / statistics.median(theirs):.2f}" if mine and theirs else "-"


def compare(bench: Bench, drivers: tuple[Driver, Driver], measured: list[Kind], runs: int, title: str) -> None:
    """Run everything in turn, and print the table."""
    for number in range(runs):
        for kind in measured:
            for driver in drivers[:: -1 if number % 2 else 1]:  # whoever comes second finds warmer caches
                bench.run(driver, kind)
    other, own = drivers
    print(
        f"| {title}, {runs} run(s) each | upstream (Python {other.python}) | ours (Python {own.python}) | ratio | won |"
    )
    print("|---|---|---|---|---|")
    for kind in measured:
        print("\n".join(rows(kind, other, own)))
    for note in dict.fromkeys([*other.notes, *own.notes]):
        print(f"\n{note} ({[*other.notes, *own.notes].count(note)} of {runs} runs)")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", type=Path, required=True, metavar="PATH", help="upstream's driver")
    parser.add_argument("--check", default="web", help="a check of the example flake with one machine")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--commands", type=int, default=300, help="how many of each kind in a run")
    parser.add_argument("--lines", type=int, default=60_000, help="how many the console gets in a run")
    parser.add_argument("--only", action="append", help="kinds of run: trivial, round trips, console (repeatable)")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a run is killed")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the driver that runs is killed, too
    os.environ["NIX_CONFIG"] = setup("--print-env").removeprefix("export NIX_CONFIG=").strip("'")
    measured = [kind for kind in kinds(args.commands, args.lines) if not args.only or kind.name in args.only]
    spec, env, accel = surroundings(args.check)
    other = upstream(args.upstream.resolve(), env)
    with tempfile.TemporaryDirectory(prefix="db-") as folder:
        bench = Bench(spec, Path(folder), args.limit)
        compare(bench, (other, ours(env, other.by_config)), measured, args.runs, f"{args.check}, {accel}")


if __name__ == "__main__":
    main()
