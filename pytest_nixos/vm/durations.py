"""Durations in the driver's API: seconds, or `datetime.timedelta`, which upstream prefers by now."""

import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

_NAMES = frozenset({"timeout", "timeout_seconds", "delay", "secs", "duration", "seconds_interval", "interval"})
_Kind = TypeVar("_Kind", bound=type)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def takes_durations(kind: _Kind) -> _Kind:
    """Let the public methods of a class take a timedelta wherever a parameter is in seconds."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and _NAMES & inspect.signature(method).parameters.keys():
            setattr(kind, name, with_durations(method))
    return kind


def with_durations(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, which gets each timedelta in seconds."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given: Any = map(_seconds, args)
        named: Any = {name: _seconds(value) for name, value in kwargs.items()}
        return function(*given, **named)

    return call


def _seconds(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else value
