import multiprocessing
import os
import time
from pathlib import Path

import pytest

from pytest_nixos import model
from pytest_nixos.errors import PytestNixosError, SharedStepFailed
from pytest_nixos.nix.store import remove_tree
from pytest_nixos.rundir import RunDir, abandoned, from_json, to_json


def test_json_round_trip() -> None:
    derivation = model.Derivation(drv_path="/nix/store/a.drv", outputs={"out": None, "dev": "x"}, features=("kvm",))
    check = model.Check(attr="é", kind=model.Kind.VM, derivation=derivation, driver=derivation, timeout=3)
    verdict = model.Verdict(
        drv_path="a", out_path=None, driver=None, outcome=model.Outcome.PASSED, finished_at=1.5, seconds=0.1, by=""
    )
    evidence = model.Evidence(verdict=verdict, record="r")
    planned = (
        model.PlannedCheck(check=check, evidence=evidence),
        model.PlannedCheck(check=model.EvalFailed(attr="x", message="y")),
    )
    flake = model.FlakePlan(ref=".", label="", path=None, checks=planned)
    plan = model.Plan(system="s", nix_version="2", flakes=(flake,), evaluate_seconds=0.5)
    assert from_json(to_json(plan)) == plan
    back = from_json(to_json(check))
    assert back.kind is model.Kind.VM


def _ask(path: str, marks: str) -> None:
    def compute() -> str:
        Path(marks, str(os.getpid())).touch()
        time.sleep(0.2)
        return "value"

    assert RunDir(Path(path)).once("thing", compute) == "value"


def test_a_thing_is_computed_once(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "sessions")
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_ask, args=(str(run_dir.path), str(marks))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(list(marks.iterdir())) == 1


def test_a_failure_is_shared(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path)

    def fail() -> str:
        raise PytestNixosError("no disk", "buy one")

    with pytest.raises(PytestNixosError, match="no disk"):
        run_dir.once("thing", fail)
    with pytest.raises(SharedStepFailed, match="no disk\nhint: buy one"):
        RunDir(run_dir.path).once("thing", lambda: "never")


def test_a_process_alone_computes_once_too_and_fails_once(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, shared=False)
    values = iter(["first", "second"])
    assert [run_dir.once("thing", lambda: next(values)) for _ in range(2)] == ["first", "first"]

    def fail() -> str:
        raise PytestNixosError("no disk", "buy one")

    with pytest.raises(PytestNixosError, match="no disk"):
        run_dir.once("other", fail)
    with pytest.raises(SharedStepFailed, match="no disk\nhint: buy one"):
        run_dir.once("other", lambda: "never")
    assert list(run_dir.path.iterdir()) == []
    run_dir.close(Path.rmdir)


def test_folders_of_dead_sessions_are_found_and_living_ones_left(tmp_path: Path) -> None:
    living = RunDir.create(tmp_path)
    child = os.fork()
    if child == 0:
        RunDir.create(tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2
    for folder in abandoned(tmp_path):
        assert folder != living.path
        remove_tree(folder)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [living.path]
    living.close(remove_tree)
    living.close(remove_tree)
    assert list(tmp_path.iterdir()) == []
