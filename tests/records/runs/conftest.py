"""Repositories with past runs."""

from collections.abc import Iterator

import pytest

from tests.records import npm
from tests.records.fake_runs import FakeRuns, RunRules


@pytest.fixture(scope="session")
def rules() -> RunRules | None:
    """GitHub's description; without npm None, and then only test_npm_brings_the_description says so."""
    try:
        return RunRules(npm.openapi())
    except pytest.skip.Exception:
        return None


@pytest.fixture
def repository(rules: RunRules | None) -> Iterator[FakeRuns]:
    """A repository whose answers, and what it is asked, are as GitHub describes them."""
    with FakeRuns(rules) as fake:
        yield fake
    assert not fake.github.wrong_answers


@pytest.fixture
def loose() -> Iterator[FakeRuns]:
    """As `repository`, for cases that GitHub's description does not have: an id alone, null for a fork."""
    with FakeRuns() as fake:
        yield fake
