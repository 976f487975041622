"""Nix's `--log-format internal-json`: bytes in, a closed union out, never an exception.

Source of the protocol: the Nix manual's `--log-format`, and the activity and result types of Nix's
`src/libutil/logging.hh` (105 = a build, 100 = a copied path, 101 = a line of a build log).
"""

import json
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

_BUILD, _COPY_PATH, _LOG_LINE = 105, 100, 101
_PREFIX = b"@nix "
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FAILED = re.compile(r"(?:builder for|[Cc]annot build|build of) '([^']+\.drv)'")
_NO_CAUSE = ("warning:", "error: build of")  # the second says only which of those asked for have failed
_TAIL_LINES = 40


@dataclass(frozen=True, slots=True)
class Started:
    """A build (or a copy from a substituter) of a store path began; id is Nix's number for it."""

    id: int
    path: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The activity with this id ended."""

    id: int


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the build log of the activity with this id."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """Something Nix says to the user; level 0 is an error."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Other:
    """Anything else, broken input included."""

    raw: bytes


Event = Started | Stopped | LogLine | Message | Other


def parse(line: bytes) -> Event:
    """One line of stderr as an event. Never raises: what is not understood is Other."""
    if not line.startswith(_PREFIX):
        return Other(line)
    try:
        return _event(json.loads(line[len(_PREFIX) :])) or Other(line)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return Other(line)


def _event(entry: dict[str, Any]) -> Event | None:
    match entry["action"]:
        case "start" if entry.get("type") in (_BUILD, _COPY_PATH):
            return Started(int(entry["id"]), str(entry["fields"][0]))
        case "stop":
            return Stopped(int(entry["id"]))
        case "result" if entry.get("type") == _LOG_LINE:
            return LogLine(int(entry["id"]), str(entry["fields"][0]))
        case "msg":
            return Message(int(entry["level"]), _ESCAPES.sub("", str(entry["msg"])))
    return None


@dataclass(slots=True)
class BuildLog:
    """What a run of Nix has said so far: the log's tail of each build, its errors, which builds failed."""

    running: dict[int, str] = field(default_factory=dict)
    tails: dict[str, deque[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    finished: int = 0

    def feed(self, line: bytes) -> Event:
        """Take in one line of stderr and return it as an event."""
        event = parse(line)
        match event:
            case Started(id, path):
                self.running[id] = path
            case Stopped(id) if self.running.pop(id, None):
                self.finished += 1
            case LogLine(id, text) if id in self.running:
                self.tails.setdefault(self.running[id], deque(maxlen=_TAIL_LINES)).append(text)
            case Message(0, text) if not text.startswith(_NO_CAUSE):
                self.errors.append(text)
                self.failed.update(_FAILED.findall(text))
        return event
