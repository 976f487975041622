"""How long nothing to do takes: the example flake, everything verified or built, beside Nix's own commands.

    example_flake/run && .venv/bin/python benchmarks/verified.py [runs]

Prints medians of wall-clock seconds and ratios to `nix flake check`. Builds the checks first, so that Nix has nothing
to do either.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAKE = "./example_flake"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest"]  # that one is for our own tests


def setup(option: str) -> str:
    """What the example's set-up says."""
    argv = [str(ROOT / "example_flake" / "setup"), option]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def seconds(argv: list[str]) -> float:
    """The wall-clock time of one command; its failure ends the benchmark."""
    started = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def commands() -> dict[str, list[str]]:
    """The rivals, each with nothing to do."""
    override = ["--no-write-lock-file", "--override-input", "debian", f"path:{setup('--print-dir')}"]
    checks = [f"{FLAKE}#checks.x86_64-linux.{name}" for name in ("cluster", "db", "lint", "web")]
    return {
        "nix flake check": ["nix", "flake", "check", *override, FLAKE],
        "nix build (all checks)": ["nix", "build", "--no-link", *override, *checks],
        "pytest --nixos-flake (all verified)": [*PYTEST, "--nixos-flake", FLAKE],
    }


def main(runs: int) -> None:
    """Interleave the rivals, so that noise hits all of them, and print a Markdown table."""
    os.environ["NIX_CONFIG"] = setup("--print-env").removeprefix("export NIX_CONFIG=").strip("'")
    rivals = commands()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    seconds(rivals["nix build (all checks)"])
    seconds(rivals["pytest --nixos-flake (all verified)"])
    for _ in range(runs):
        for name, argv in rivals.items():
            times[name].append(seconds(argv))
    base = statistics.median(times["nix flake check"])
    print(f"| nothing to do, median of {runs} | s | ratio |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.2f} | {statistics.median(values) / base:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
