"""A check's subtests as pytest's own reports of subtests."""

from contextlib import nullcontext

import pytest
from _pytest.subtests import SubtestContext  # not public, but pytest's way to say which subtest a report is of

from pytest_nixos.errors import CheckFailed
from pytest_nixos.model import Subtest


def report(item: pytest.Item, subtest: Subtest) -> None:
    """Report one subtest of an item that is running, as pytest's fixture `subtests` does."""
    call = pytest.CallInfo.from_call(lambda: _end(subtest), when="call")
    call.duration, call.start = subtest.seconds, call.stop - subtest.seconds
    whole = item.ihook.pytest_runtest_makereport(item=item, call=call)
    context = SubtestContext(msg=subtest.name, kwargs={})
    part = pytest.SubtestReport._new(whole, context, captured_output=None, captured_logs=None)
    capture = item.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        item.ihook.pytest_runtest_logreport(report=part)


def _end(subtest: Subtest) -> None:
    if subtest.error:
        raise CheckFailed(f"subtest `{subtest.name}`: {subtest.error}")
