"""Anything in place of GitHub's answers, whole and in part."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nixos.errors import RecordsUnavailable
from tests.records.fake_github import Reply
from tests.records.fake_runs import (
    BLOB,
    EACH_STEP,
    ID,
    STEPS,
    WEB,
    ZIP,
    FakeRuns,
    commit,
    look_up,
    nothing,
    prepared,
)
from tests.records.making import verdict

KEYS = [
    *("id", "default_branch", "total_count", "artifacts", "workflow_runs", "jobs", "workflow_run", "expired", "digest"),
    *("head_branch", "head_sha", "repository", "head_repository", "repository_id", "head_repository_id", "status"),
    *("conclusion", "event", "path", "object", "sha", "ref", "type", "merge_base_commit", "name", "size_in_bytes"),
]
WORDS = ["main", "push", "success", "completed", "behind", commit(9), ID, 1000, "nixos-verified", "test (web)", 10**400]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)
FORMS = st.sampled_from([(query, step) for query in STEPS for step in STEPS[query] if step not in (ZIP, BLOB)])


@pytest.fixture(scope="module")
def whole() -> Iterator[FakeRuns]:
    """A repository for many examples."""
    with FakeRuns() as fake:
        yield prepared(fake)


@contextlib.contextmanager
def altered(fake: FakeRuns, step: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Every answer at this step goes through `change`, as JSON."""
    before: Any = fake.github.routes[step]
    fake.github.routes[step] = lambda request: Reply(content=change(before(request).content))
    try:
        yield
    finally:
        fake.github.routes[step] = before


@settings(max_examples=150, deadline=None)
@given(form=FORMS, answer=JSON)
def test_any_json_in_place_of_an_answer(whole: FakeRuns, form: tuple[str, str], answer: Any) -> None:
    query, step = form
    with altered(whole, step, lambda _: answer):
        nothing(whole, query)


@settings(max_examples=150, deadline=None)
@given(form=FORMS, where=st.integers(0), part=JSON)
def test_any_json_in_place_of_a_part_of_an_answer(
    whole: FakeRuns, form: tuple[str, str], where: int, part: Any
) -> None:
    """What is found, if anything, is the record that is there; or one of the job that is there, at any time."""
    query, step = form
    with altered(whole, step, lambda answer: with_part(answer, where, part)):
        try:
            answer = look_up(whole, query)
        except RecordsUnavailable:
            return
    for record in answer.records:
        assert record.signers == ()
        then = record.verdict.finished_at
        of_job = verdict("web", seconds=0.0, finished_at=then, by="GitHub Actions run 1000")
        assert record.verdict == (of_job if query else WEB)


def with_part(answer: Any, where: int, part: Any) -> Any:
    """The answer with one of its parts, on any level, replaced."""
    places = list(paths(answer))
    *way, last = places[where % len(places)]
    changed = holder = copy.deepcopy(answer)
    for step in way:
        holder = holder[step]
    holder[last] = part
    return changed


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to each part of JSON."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (key,)
        yield from ((key, *rest) for rest in paths(inner))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"id": 1' + b"0" * 5000 + b"}", b"{}{}"])
@pytest.mark.parametrize(("query", "step"), [entry for entry in EACH_STEP if entry.values[1] not in (ZIP, BLOB)])
def test_text_that_is_no_json(whole: FakeRuns, query: str, step: str, text: bytes) -> None:
    before = whole.github.routes[step]
    whole.github.routes[step] = Reply(content=text)
    try:
        assert nothing(whole, query)
    finally:
        whole.github.routes[step] = before
