import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nixos.model import Outcome
from pytest_nixos.records.naming import Wanted, name_of, parse_name, verdict_by_name
from tests.records.making import subject, verdict


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("changes", [{}, {"driver": None}, {"out_path": None}, {"flags": ("tcg", "slow")}])
def test_round_trip(outcome: Outcome, changes: dict[str, object]) -> None:
    name = parse_name(name_of(verdict("web", outcome=outcome, **changes)))
    assert name is not None
    assert name.outcome is outcome
    assert set(name.flags) == set(changes.get("flags", ()))  # type: ignore[call-overload]


def test_a_name_is_a_record_of_exactly_its_subject() -> None:
    web, name = subject("web"), parse_name(name_of(verdict("web")))
    assert name is not None
    made = verdict_by_name(name, web, 5.0, "cache")
    assert made is not None
    assert (made.drv_path, made.driver, made.finished_at) == (web.derivation.drv_path, web.driver, 5.0)
    others = [
        subject("db"),
        dataclasses.replace(web, driver=None),
        dataclasses.replace(web, driver=subject("db").driver),
        dataclasses.replace(web, derivation=dataclasses.replace(web.derivation, outputs={"out": None})),
    ]
    assert [verdict_by_name(name, other, 5.0, "cache") for other in others] == [None] * 4


@given(st.text(max_size=150) | st.from_regex(r"[0-9a-z]{32}\.[0-9a-z]{32}\.-\.passed.*"))
def test_whatever_is_parsed_is_written_the_same(text: str) -> None:
    """So that a name cannot be spelt in two ways, of which one escapes a comparison."""
    name = parse_name(text)
    if name is not None:
        flags = "".join(f"+{flag}" for flag in name.flags)
        assert f"{name.drv}.{name.out}.{name.driver}.{name.outcome.value}{flags}" == text


def test_what_is_near() -> None:
    wanted = Wanted([subject("web"), subject("db")])
    assert wanted.near(parse_name(name_of(verdict("web")))) != []
    assert wanted.near(parse_name(name_of(verdict("mail")))) == []
    assert wanted.near(parse_name(name_of(verdict("mail", out_path=None)))) == []
    assert wanted.near(None) == []
