"""Subtests in a driver's output."""

import pytest

from pytest_nixos.model import Subtest
from pytest_nixos.vm.steps import Steps


def read(*lines: str, error: str = "") -> list[tuple[str, float, str]]:
    steps = Steps(clock=iter(range(1000)).__next__)
    for line in lines:
        steps.line(line)
    return [(step.name, step.seconds, step.error) for step in steps.rest(error)]


def test_passed_failed_and_nested_ones() -> None:
    assert read(
        "subtest: outer",
        "web: must succeed: true",
        "subtest: inner, in 3 seconds",
        "(finished: subtest: inner, in 3 seconds, in 0.50 seconds)",
        "(finished: web: must succeed: true, in 0.10 seconds)",
        'Test "outer" failed with error: "web: command `x` failed"',
    ) == [("inner, in 3 seconds", 0.5, ""), ("outer", 2, "web: command `x` failed")]


def test_upstreams_line_of_a_failure_may_go_on() -> None:
    lines = ("subtest: a", 'Test "a" failed with error: "command `false` failed (exit code 1)', 'output: "')
    assert read(*lines) == [("a", 1, "command `false` failed (exit code 1)")]


def test_a_failure_of_the_newest_upstream_driver() -> None:
    lines = ("subtest: a", '!!! Test "a" failed with error: "command `false` failed (exit code 1)"')
    assert read(*lines) == [("a", 1, "command `false` failed (exit code 1)")]


def test_a_driver_that_dies_fails_what_is_open_the_inner_first() -> None:
    assert read("subtest: a", "subtest: b", error="timed out") == [("b", 1, "timed out"), ("a", 3, "timed out")]


@pytest.mark.parametrize(
    "line", ["web # subtest: fake", "(finished: subtest: fake, in 1.00 seconds)", 'Test "fake" failed with error: "x"']
)
def test_what_was_not_begun_does_not_end(line: str) -> None:
    assert read(line) == []


def test_the_same_name_twice() -> None:
    once = ("subtest: a", "(finished: subtest: a, in 1.00 seconds)")
    assert [step[1] for step in read(*once, *once)] == [1, 1]


def test_a_subtest_is_data() -> None:
    assert Subtest(name="a", seconds=1.0).error == ""
