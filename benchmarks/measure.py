"""Wall-clock time and peak memory of commands, with all that they start."""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SAMPLE_SECONDS = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Rival:
    """A command to compare, what to do before each run (not measured), and what was measured (seconds, bytes)."""

    name: str
    argv: list[str]
    prepare: Callable[[], object] = lambda: None
    env: Mapping[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)


def run(rival: Rival) -> None:
    """Run a rival once; its failure ends the benchmark."""
    rival.prepare()
    started = time.perf_counter()
    process = subprocess.Popen(
        rival.argv, env={**os.environ, **rival.env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peak = [0]
    sampler = threading.Thread(target=_sample, args=(process, peak), daemon=True)
    sampler.start()
    output, _ = process.communicate()
    rival.seconds.append(time.perf_counter() - started)
    sampler.join()
    rival.peak_bytes.append(peak[0])
    if process.returncode != 0:
        raise SystemExit(f"{rival.name} failed:\n{output.decode(errors='replace')[-3000:]}")


def _sample(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_resident_bytes, _family(process.pid))))
        time.sleep(_SAMPLE_SECONDS)


def _family(pid: int) -> list[int]:
    """A process and all its descendants, by the parents that /proc names."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(place.parent.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def _resident_bytes(pid: int) -> int:
    """Memory that is this process's own; pages of files, which all share, are not counted."""
    try:
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE


def interleave(rivals: list[Rival], runs: int) -> None:
    """Run all rivals in turn, so that noise hits all of them."""
    for _ in range(runs):
        for rival in rivals:
            run(rival)


def table(title: str, rivals: list[Rival], base: Rival) -> str:
    """A Markdown table of medians, with ratios to `base`."""
    lines = [f"| {title} | runs | median s | ratio | peak MiB | ratio |", "|---|---|---|---|---|---|"]
    base_seconds, base_bytes = statistics.median(base.seconds), statistics.median(base.peak_bytes)
    for rival in rivals:
        seconds, peak = statistics.median(rival.seconds), statistics.median(rival.peak_bytes)
        memory = f"{peak / base_bytes:.2f}" if base_bytes else "-"
        figures = f"{len(rival.seconds)} | {seconds:.2f} | {seconds / base_seconds:.3f} | {int(peak) >> 20} | {memory}"
        lines.append(f"| {rival.name} | {figures} |")
    return "\n".join(lines)
