"""Nix's own words out of its stderr. Pure."""

import re
import textwrap

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CAUSE = re.compile(r"^ *error: ", re.M)  # at the begin of a line: a message also shows lines of the flake
_ADVICE = re.compile(r"^ *\(.*--show-trace.*\)$\n?", re.M)  # which nobody can follow here
_STEPS = 6  # of a trace, those nearest to the error
_OWN_FRAME = re.compile(r"«string»:\d+:\d+:")  # a step of the plugin's own function


def nix_message(stderr: str) -> str:
    """Nix's own message out of its stderr, without colours and warnings: the cause first, the trace after it.

    Recent versions print the trace first, under an `error:` of its own, and the cause at the end.
    """
    text = _ADVICE.sub("", _ESCAPES.sub("", stderr))
    start = re.search(r"^ *error:", text, re.M)
    if start is None:
        return text.strip()
    text = text[start.start() :]
    causes = list(_CAUSE.finditer(text))
    if not causes:
        return text.strip()
    trace, cause = text[: causes[-1].start()], text[causes[-1].start() :]
    cause, *old_steps = _steps(cause)
    _, *steps = _steps("\n" + trace.strip().removeprefix("error:"))
    told = "\n\n".join([*steps[-_STEPS:], *old_steps[:_STEPS]])
    return "\n".join(filter(None, (textwrap.dedent(cause).strip(), told)))


def _steps(text: str) -> list[str]:
    """What is before the steps of a trace, and the steps without those of the function that describes checks."""
    before, *steps = re.split(r"\n\s*(?=… )", text)
    return [before, *(step.strip("\n") for step in steps if not _OWN_FRAME.search(step))]
