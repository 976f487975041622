import dataclasses

import pytest

from pytest_nixos.model import Derivation, Outcome, Verdict
from pytest_nixos.records.policy import judge

DRV = Derivation(drv_path="/nix/store/a.drv", outputs={"out": "/nix/store/a"})
DRIVER = "/nix/store/driver"
NOW = 1_000_000.0
PASSED = Verdict(
    drv_path=DRV.drv_path,
    out_path=DRV.out_path,
    driver=DRIVER,
    outcome=Outcome.PASSED,
    finished_at=NOW - 100,
    seconds=1,
    by="me",
)


def is_proof(verdict: Verdict, derivation: Derivation = DRV, max_age: float | None = None) -> bool:
    return judge(derivation, DRIVER, [("r", verdict)], NOW, max_age) is not None


@pytest.mark.parametrize(
    ("changes", "max_age", "expected"),
    [
        ({}, None, True),
        ({}, 101.0, True),
        ({}, 99.0, False),
        ({"outcome": Outcome.FAILED}, None, False),
        ({"finished_at": NOW + 100}, None, True),  # clocks differ a little
        ({"finished_at": NOW + 1000}, None, False),
        ({"drv_path": "/nix/store/b.drv"}, None, True),  # the same output
        ({"out_path": "/nix/store/b"}, None, True),  # the same derivation
        ({"drv_path": "/nix/store/b.drv", "out_path": "/nix/store/b"}, None, False),
        ({"drv_path": "/nix/store/b.drv", "out_path": None}, None, False),
        ({"driver": "/nix/store/other-driver"}, None, False),
        ({"driver": None}, None, False),  # it was built, and would now be driven
    ],
)
def test_what_proves(changes: dict[str, object], max_age: float | None, expected: bool) -> None:
    assert is_proof(dataclasses.replace(PASSED, **changes), max_age=max_age) is expected  # type: ignore[arg-type]


def test_two_unknown_outputs_are_not_equal() -> None:
    unknown = Derivation(drv_path="/nix/store/c.drv", outputs={"out": None})
    assert not is_proof(dataclasses.replace(PASSED, out_path=None), unknown)


def test_an_output_that_is_fixed_by_a_hash_proves_nothing_of_how_it_is_made() -> None:
    fixed = dataclasses.replace(DRV, fixed=True)
    assert is_proof(PASSED, fixed)
    assert not is_proof(dataclasses.replace(PASSED, drv_path="/nix/store/b.drv"), fixed)


def test_the_newest_record_counts() -> None:
    newer = dataclasses.replace(PASSED, finished_at=NOW - 10)
    failed = dataclasses.replace(PASSED, finished_at=NOW - 1, outcome=Outcome.FAILED)
    evidence = judge(DRV, DRIVER, [("old", PASSED), ("new", newer)], NOW, None)
    assert evidence is not None
    assert (evidence.record, evidence.verdict) == ("new", newer)
    assert judge(DRV, DRIVER, [("old", PASSED), ("bad", failed)], NOW, None) is None
    assert judge(DRV, DRIVER, [("bad", failed), ("new", dataclasses.replace(newer, finished_at=NOW))], NOW, None)
    same_time = dataclasses.replace(failed, finished_at=PASSED.finished_at)
    assert judge(DRV, DRIVER, [("bad", same_time), ("good", PASSED)], NOW, None) is None
    others = dataclasses.replace(failed, driver=None)
    assert judge(DRV, DRIVER, [("good", PASSED), ("another's", others)], NOW, None)
