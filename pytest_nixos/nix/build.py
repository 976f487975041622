"""Realise derivations with --keep-going: one result per derivation, a gc root for each, progress."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pytest_nixos.errors import CheckFailed, CommandFailed
from pytest_nixos.model import BuildFailed, Built, Derivation
from pytest_nixos.nix.command import Nix
from pytest_nixos.nix.log import BuildLog, LogLine, Started
from pytest_nixos.nix.message import nix_message
from pytest_nixos.nix.target import Target

Progress = Callable[[str], None]
_BATCH = 50  # recent Nix needs quadratic time and memory in the number of derivations it is given at once


def realise(
    nix: Nix,
    derivations: Sequence[Derivation],
    roots: Path,
    progress: Progress = lambda text: None,
    timeout: float | None = None,
) -> dict[str, Built | BuildFailed]:
    """Build `derivations`, or fetch them, and keep their outputs alive by gc roots in folder `roots`.

    The result has an entry for each derivation path; one that fails has the tail of the log that explains it.
    timeout is in seconds for each batch. Raises CommandTimedOut at the deadline, ToolMissing without a Nix.
    """
    roots.mkdir(parents=True, exist_ok=True)
    results: dict[str, Built | BuildFailed] = {}
    for start in range(0, len(derivations), _BATCH):
        batch = derivations[start : start + _BATCH]
        log = _build(nix, [d.drv_path for d in batch], roots / f"batch-{start}", progress, timeout)
        results.update(_results(nix, batch, log))
    return results


def package(target: Target, root: Path) -> str:
    """Build one attribute of a flake, as `nix build` finds it; its store path, kept alive by the gc root `root`.

    Raises CheckFailed with Nix's own message.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    installable = f"{target.ref.url}#{target.attr}"
    try:
        target.nix.run(target.nix.flake("build", *target.flags, "--out-link", str(root), installable))
    except CommandFailed as error:
        raise CheckFailed(f"{target.ref.label}#{target.attr} does not build: {nix_message(error.output)}") from None
    return os.path.realpath(root)


def _build(nix: Nix, drv_paths: list[str], root: Path, progress: Progress, timeout: float | None) -> BuildLog:
    log = BuildLog()

    def on_line(line: bytes) -> None:
        match log.feed(line):
            case Started(_, path):
                progress(
                    f"building {display_name(path)}" if path.endswith(".drv") else f"fetching {display_name(path)}"
                )
            case LogLine(id, text) if id in log.running:
                progress(f"{display_name(log.running[id])}: {text}")

    argv = nix.store(
        "--realise",
        "--keep-going",
        "--log-format",
        "internal-json",
        "--add-root",
        str(root),
        "--indirect",
        *drv_paths,
    )
    nix.run(argv, timeout=timeout, on_stderr=on_line, check=False)
    return log


def _results(nix: Nix, batch: Sequence[Derivation], log: BuildLog) -> dict[str, Built | BuildFailed]:
    """Believe the store, not the exit status: with --keep-going one failure hides what went well."""
    known = [path for d in batch for path in d.outputs.values() if path is not None]
    # A flake may say of any derivation that its output lies elsewhere: only the derivation's own word counts.
    made = nix.run(nix.store("--query", "--outputs", *(d.drv_path for d in batch if d.out_path)), check=False)
    missing = invalid_paths(nix, known) | (set(known) - set(made.stdout.decode().split()))
    results: dict[str, Built | BuildFailed] = {}
    for derivation in batch:
        out = derivation.out_path
        complete = all(path is not None and path not in missing for path in derivation.outputs.values())
        if out is not None and complete:
            results[derivation.drv_path] = Built(drv_path=derivation.drv_path, out_path=out)
        else:
            results[derivation.drv_path] = _late(nix, derivation, log)
    return results


def _late(nix: Nix, derivation: Derivation, log: BuildLog) -> Built | BuildFailed:
    """A derivation whose outputs are not known beforehand is asked for again; any other one has failed."""
    if derivation.out_path is None:
        done = nix.run(nix.store("--realise", derivation.drv_path), check=False)
        paths = done.stdout.decode().split()
        if done.status == 0 and paths:
            return Built(drv_path=derivation.drv_path, out_path=os.path.realpath(paths[0]))
    return BuildFailed(drv_path=derivation.drv_path, log_tail=_explain(nix, derivation.drv_path, log))


def invalid_paths(nix: Nix, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that are not valid in the store."""
    wanted = list(paths)
    if not wanted:
        return set()
    done = nix.run(nix.store("--check-validity", "--print-invalid", *wanted), check=False)
    answer = set(done.stdout.decode().split())
    return answer if done.status == 0 else set(wanted)


def _explain(nix: Nix, drv_path: str, log: BuildLog) -> str:
    """The errors that stopped `drv_path`: those of the derivations it needs, else all that Nix said."""
    done = nix.run(nix.store("--query", "--requisites", drv_path), check=False)
    needed = set(done.stdout.decode().split()) | {drv_path}
    culprits = [path for path in log.failed if path in needed and path in log.tails] or [drv_path]
    parts = [f"log of {display_name(path)}:\n" + "\n".join(log.tails.get(path, ())) for path in culprits]
    errors = [text for text in log.errors if any(path in text for path in needed)] or log.errors
    return "\n".join([*errors, *parts]).strip()


def display_name(store_path: str) -> str:
    """A store path without its folder, hash and .drv, for people."""
    name = store_path.rsplit("/", 1)[-1]
    return name.split("-", 1)[-1].removesuffix(".drv")
