"""A verdict as text: a pure pair of encode and parse, the version first. What is not understood is None."""

import json
import math
import re
from typing import Any

from pytest_nixos.model import Outcome, Verdict

VERSION = 2
MAX_BYTES = 4096
_FLAG = re.compile(r"[a-z][a-z0-9-]{0,31}")
_STORE_SUFFIX = ".drv"
_STORE_PATH = re.compile(r"/(?:[\w.+-]+/)*[0-9A-Za-z]{32}-[0-9A-Za-z+\-._?=]+")


def encode(verdict: Verdict) -> bytes:
    """The record of a verdict: one line of JSON, keys in order, UTF-8, ending in a newline."""
    entry = {
        "v": VERSION,
        "drv": verdict.drv_path,
        "out": verdict.out_path,
        "driver": verdict.driver,
        "outcome": verdict.outcome.value,
        "finished_at": verdict.finished_at,
        "seconds": verdict.seconds,
        "by": verdict.by,
        "check": verdict.check,
        "system": verdict.system,
        "flags": list(verdict.flags),
    }
    return json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def parse(data: bytes) -> Verdict | None:
    """The verdict of a record; None when anything at all is wrong with it."""
    if len(data) > MAX_BYTES or not data.endswith(b"\n"):
        return None
    try:
        entry = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get("v") != VERSION or isinstance(entry.get("v"), bool):
        return None
    return _verdict(entry)


def _verdict(entry: dict[str, Any]) -> Verdict | None:
    drv, out, driver, flags = entry.get("drv"), entry.get("out"), entry.get("driver"), entry.get("flags")
    by, check, system = entry.get("by"), entry.get("check"), entry.get("system")
    finished_at, seconds = _number(entry.get("finished_at")), _number(entry.get("seconds"))
    if not isinstance(drv, str) or not _is_store_path(drv) or not drv.endswith(_STORE_SUFFIX):
        return None
    if "driver" not in entry or not all(path is None or _is_store_path(path) for path in (out, driver)):
        return None
    if not all(isinstance(text, str) and text.isprintable() for text in (by, check, system)):  # shown to people
        return None
    if finished_at is None or seconds is None or entry.get("outcome") not in list(Outcome):
        return None
    if not isinstance(flags, list) or not all(isinstance(f, str) and _FLAG.fullmatch(f) for f in flags):
        return None
    return Verdict(
        drv_path=drv,
        out_path=out,
        driver=driver,
        outcome=Outcome(entry["outcome"]),
        finished_at=finished_at,
        seconds=seconds,
        by=str(by),
        check=str(check),
        system=str(system),
        flags=tuple(flags),
    )


def _is_store_path(text: Any) -> bool:
    return isinstance(text, str) and _STORE_PATH.fullmatch(text) is not None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
