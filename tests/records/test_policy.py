import dataclasses

import pytest

from pytest_nixos.model import Derivation, Outcome, Verdict
from pytest_nixos.records.policy import judge, proves

DRV = Derivation(drv_path="/nix/store/a.drv", outputs={"out": "/nix/store/a"})
NOW = 1_000_000.0
PASSED = Verdict(
    drv_path=DRV.drv_path, out_path=DRV.out_path, outcome=Outcome.PASSED, finished_at=NOW - 100, seconds=1, by="me"
)


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
    ],
)
def test_proves(changes: dict[str, object], max_age: float | None, expected: bool) -> None:
    verdict = dataclasses.replace(PASSED, **changes)  # type: ignore[arg-type]
    assert proves(verdict, DRV, NOW, max_age) is expected


def test_two_unknown_outputs_are_not_equal() -> None:
    unknown = Derivation(drv_path="/nix/store/c.drv", outputs={"out": None})
    assert not proves(dataclasses.replace(PASSED, out_path=None), unknown, NOW, None)


def test_the_newest_proof_is_named_and_a_later_failure_does_not_hide_it() -> None:
    newer = dataclasses.replace(PASSED, finished_at=NOW - 10)
    failed = dataclasses.replace(PASSED, finished_at=NOW - 1, outcome=Outcome.FAILED)
    evidence = judge(DRV, [("old", PASSED), ("new", newer), ("bad", failed)], NOW, None)
    assert evidence is not None
    assert (evidence.record, evidence.verdict) == ("new", newer)
    assert judge(DRV, [("bad", failed)], NOW, None) is None
