"""What knowing the checks costs: cold, unchanged, after an edit of the README; beside the rivals, in one run.

    python benchmarks/evaluation.py [--heavy 8] [--trivial 1000] [--trivial 10000] [--runs 3]

Needs git, Nix and a static busybox. Rivals are taken from PATH: nix, and where they are there nix-eval-jobs and
nix-fast-build. Flakes and caches live in a temporary folder. "Verified" means that a record of each check lies in
the folder of records, where this program has written it; for the rivals it means that the check is built.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import flakes
from measure import Rival, interleave, table

from pytest_nixos.deadline import Deadline
from pytest_nixos.model import Check, Outcome, Verdict
from pytest_nixos.nix.attrs import resolve
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.checks import Evaluator
from pytest_nixos.nix.command import find_nix
from pytest_nixos.nix.target import Target
from pytest_nixos.records.stores.directory import DirectoryStore

SYSTEM = "x86_64-linux"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
NIX = ["nix", "--extra-experimental-features", "nix-command flakes"]


class Bench:
    """One flake and our cache beside it."""

    def __init__(self, kind: str, count: int, folder: Path, workers: int) -> None:
        self.kind, self.count, self.workers = kind, count, workers
        self.cache = folder / "cache"
        self.flake = flakes.write(kind, count, folder / "flake")
        self.target = Target(
            nix=find_nix(), ref=resolve(str(self.flake), folder), attr=f"checks.{SYSTEM}", overrides=()
        )

    @property
    def attr(self) -> str:
        """The set of checks, as Nix takes it."""
        return f"{self.flake}#checks.{SYSTEM}"

    def ours(self, name: str, *more: str, prepare: object = None) -> Rival:
        """pytest on this flake; all checks are verified, so that none runs."""
        argv = [*PYTEST, "--nixos-flake", str(self.flake), *more]
        env = {"XDG_CACHE_HOME": str(self.cache)}
        return Rival(name, argv, prepare if callable(prepare) else lambda: None, env)

    def verify(self) -> list[Check]:
        """Evaluate into our cache, and write a record of each check."""
        found = Evaluator(cache=Cache(self.cache / "pytest-nixos" / "evaluations")).checks(self.target)
        checks = [check for check in found if isinstance(check, Check)]
        assert len(checks) == self.count
        store = DirectoryStore(self.cache / "pytest-nixos" / "records")
        for check in checks:
            verdict = Verdict(
                drv_path=check.derivation.drv_path, out_path=check.derivation.out_path, driver=None,
                outcome=Outcome.PASSED, finished_at=time.time(), seconds=1.0, by="benchmark",
            )  # fmt: skip
            store.write([verdict], Deadline(None))
        return checks

    def forget(self) -> None:
        """Empty the cache of evaluations."""
        shutil.rmtree(self.cache / "pytest-nixos" / "evaluations", ignore_errors=True)

    def edit_readme(self) -> None:
        """A change that touches no check."""
        with (self.flake / "README.md").open("a") as readme:
            readme.write(f"{time.time()}\n")

    def restore_readme(self) -> None:
        """Back to the commit."""
        subprocess.run(["git", "-C", str(self.flake), "checkout", "--quiet", "README.md"], check=True)

    def build(self, checks: list[Check]) -> None:
        """Build all checks, for the rivals that skip what is built."""
        paths = [check.derivation.drv_path for check in checks]
        for at in range(0, len(paths), 50):
            subprocess.run(["nix-store", "--realise", *paths[at : at + 50]], check=True, capture_output=True)


def path_without(program: str) -> str:
    """PATH without the folders that have a program."""
    return os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / program).exists()
    )


def floor(count: int, folder: Path) -> Rival:
    """pytest with as many skipped tests and no plugin of ours: what no plugin can go below."""
    test = folder / "test_floor.py"
    test.write_text(
        f"import pytest\n@pytest.mark.skip(reason='verified')\n@pytest.mark.parametrize('i', range({count}))\n"
        "def test(i): pass\n"
    )
    return Rival(f"floor: pytest, {count} skipped tests", [*PYTEST, "-p", "no:pytest_nixos", str(test)])


def heavy(count: int, runs: int, workers: int, folder: Path) -> None:
    """Checks that each need 0.5 to 1 GB of evaluator."""
    bench = Bench("heavy", count, folder, workers)
    cold = ("--nixos-eval-workers", str(workers), "--collect-only")
    own = bench.ours(f"pytest --nixos-flake, cold, {workers} workers", *cold, prepare=bench.forget)
    own.env = {**own.env, "PATH": path_without("nix-eval-jobs")}
    rivals = [own]
    if shutil.which("nix-eval-jobs"):
        argv = ["nix-eval-jobs", "--flake", bench.attr, "--workers", str(workers)]
        through = bench.ours("the same through nix-eval-jobs", *cold, prepare=bench.forget)
        rivals = [Rival(f"nix-eval-jobs --workers {workers}", argv), own, through]
    interleave(rivals, runs)
    print(table(f"{count} heavy checks, cold", rivals, rivals[0]), flush=True)
    bench.verify()
    known = bench.ours("pytest --nixos-flake, unchanged, all verified", prepare=bench.restore_readme)
    unread = ("--nixos-unread", "README.md")
    readme = bench.ours("the same after an edit of README.md", *unread, prepare=bench.edit_readme)
    full = bench.ours("the same, with no file named as unread", prepare=bench.edit_readme)
    # Once before all: an edit makes the tree dirty, which a flake can see, so it is evaluated; the next one is the
    # first in which nothing else has changed, and is tried in a copy.
    interleave([bench.ours("first edits", *unread, prepare=bench.edit_readme)], 2)
    check = Rival("nix flake check --no-build", [*NIX, "flake", "check", "--no-build", str(bench.flake)])
    interleave([known, readme], max(runs, 5))
    interleave([check, full], 1)
    print(table(f"{count} heavy checks, verified", [check, known, readme, full], check), flush=True)


def trivial(count: int, runs: int, workers: int, folder: Path) -> float:
    """Many checks that cost nothing; returns our median in seconds."""
    bench = Bench("trivial", count, folder, workers)
    bench.build(bench.verify())
    known = bench.ours("pytest --nixos-flake, unchanged, all verified")
    rivals = [
        known,
        floor(count, folder),
        Rival("nix flake check", [*NIX, "flake", "check", str(bench.flake)]),
    ]
    if shutil.which("nix-fast-build") and count <= 1000:
        jobs = ["-j", str(os.cpu_count()), "--eval-workers", str(workers)]
        argv = ["nix-fast-build", "--no-nom", "--skip-cached", *jobs, "--flake", bench.attr]
        rivals.append(Rival("nix-fast-build --skip-cached", argv))
    interleave(rivals, runs)
    print(table(f"{count} trivial checks, nothing to do", rivals, known), flush=True)
    return statistics.median(known.seconds)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heavy", type=int, default=8, help="number of heavy checks, 0 for none")
    parser.add_argument("--trivial", type=int, action="append", help="number of trivial checks (repeatable)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    os.environ.pop("PYTEST_ADDOPTS", None)
    medians = {}
    for number, count in enumerate(args.trivial or [1000]):
        with tempfile.TemporaryDirectory() as folder:
            medians[count] = trivial(count, args.runs + 2 if number == 0 else args.runs, args.workers, Path(folder))
    if len(medians) > 1:
        few, many = min(medians), max(medians)
        print(f"\n{many} checks take {medians[many] / medians[few]:.1f} times as long as {few}.")
    if args.heavy:
        with tempfile.TemporaryDirectory() as folder:
            heavy(args.heavy, args.runs, args.workers, Path(folder))


if __name__ == "__main__":
    main()
