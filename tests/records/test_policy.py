import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos.model import Derivation, Evidence, Outcome, Record, Subject, Verdict
from pytest_nixos.records.places import Terms
from pytest_nixos.records.policy import judge, refusal

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


def subject(derivation: Derivation = DRV) -> Subject:
    return Subject(check="web", system="x86_64-linux", derivation=derivation, driver=DRIVER)


def is_proof(verdict: Verdict, derivation: Derivation = DRV, max_age: float | None = None) -> bool:
    return judge(subject(derivation), [("r", Record(verdict=verdict))], NOW, max_age) is not None


@pytest.mark.parametrize(
    ("changes", "max_age", "expected"),
    [
        ({}, None, True),
        ({}, 101.0, True),
        ({}, 99.0, False),
        ({"outcome": Outcome.FAILED}, None, False),
        ({"finished_at": NOW + 1}, None, False),  # of a clock that is ahead: it could hide a failure of now
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

    def judged(*found: tuple[str, Verdict]) -> Evidence | None:
        return judge(subject(), [(name, Record(verdict=verdict)) for name, verdict in found], NOW, None)

    evidence = judged(("old", PASSED), ("new", newer))
    assert evidence is not None
    assert (evidence.record, evidence.verdict) == ("new", newer)
    assert judged(("old", PASSED), ("bad", failed)) is None
    assert judged(("bad", failed), ("new", dataclasses.replace(newer, finished_at=NOW)))
    same_time = dataclasses.replace(failed, finished_at=PASSED.finished_at)
    assert judged(("bad", same_time), ("good", PASSED)) is None
    others = dataclasses.replace(failed, driver=None)
    assert judged(("good", PASSED), ("another's", others))


def test_a_record_of_unknown_time_is_as_old_as_can_be() -> None:
    unknown = dataclasses.replace(PASSED, finished_at=0.0)
    assert is_proof(unknown)
    assert not is_proof(unknown, max_age=1e6 - 1)
    failed = Record(verdict=dataclasses.replace(PASSED, outcome=Outcome.FAILED, finished_at=1.0))
    assert judge(subject(), [("r", Record(verdict=unknown)), ("r", failed)], NOW, None) is None


@pytest.mark.parametrize(
    ("signers", "flags", "terms", "reason"),
    [
        ((), (), Terms(), ""),
        ((), (), Terms(signed=True), "not signed by a trusted key"),
        (("ci-1",), (), Terms(signed=True), ""),
        ((), ("tcg",), Terms(), "flagged tcg"),
        (("ci-1",), ("tcg",), Terms(signed=True), "flagged tcg"),
        ((), ("tcg",), Terms(allow=frozenset({"tcg"})), ""),
        ((), ("retried", "tcg"), Terms(allow=frozenset({"tcg"})), "flagged retried"),
        ((), ("whatever-comes",), Terms(allow=None), ""),
    ],
)
def test_what_counts_on_which_terms(
    signers: tuple[str, ...], flags: tuple[str, ...], terms: Terms, reason: str
) -> None:
    record = Record(verdict=dataclasses.replace(PASSED, flags=flags), signers=signers)
    assert refusal(record, terms) == reason


_PATHS = st.sampled_from(["/nix/store/a.drv", "/nix/store/b.drv", "/nix/store/a", "/nix/store/b", "", "a"])
_VERDICTS = st.builds(
    Verdict,
    drv_path=_PATHS,
    out_path=st.none() | _PATHS,
    driver=st.none() | st.sampled_from([DRIVER, "/nix/store/other"]),
    outcome=st.sampled_from(Outcome),
    finished_at=st.floats(0, NOW * 2),
    seconds=st.just(1.0),
    by=st.just(""),
    flags=st.sampled_from([(), ("tcg",)]),
)


@given(st.lists(_VERDICTS, max_size=8), st.none() | st.floats(0, NOW), st.booleans())
def test_nothing_but_a_valid_record_of_that_very_key_proves(
    verdicts: list[Verdict], max_age: float | None, fixed: bool
) -> None:
    """Stated anew, and stricter where it is simpler: whatever is judged a proof satisfies all of this."""
    derivation = dataclasses.replace(DRV, fixed=fixed)
    evidence = judge(subject(derivation), [("r", Record(verdict=v)) for v in verdicts], NOW, max_age)
    if evidence is None:
        return
    proof = evidence.verdict
    assert proof in verdicts
    assert proof.outcome is Outcome.PASSED
    assert proof.driver == DRIVER
    assert proof.drv_path == DRV.drv_path or (not fixed and proof.out_path == DRV.out_path)
    assert proof.finished_at <= NOW + 300
    assert max_age is None or NOW - proof.finished_at <= max_age
    ours = [v for v in verdicts if v.driver == DRIVER and v.drv_path == DRV.drv_path and v.finished_at <= NOW]
    assert not any(v.outcome is Outcome.FAILED and v.finished_at >= proof.finished_at for v in ours)
