"""Nix's own words out of its stderr. Pure."""

import re
import textwrap

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def nix_message(stderr: str) -> str:
    """Nix's own message out of its stderr, without colours and warnings: the cause first, the trace after it.

    Recent versions print the trace first, under an `error:` of its own, and the cause at the end.
    """
    text = _ESCAPES.sub("", stderr)
    start = text.find("error:")
    if start < 0:
        return text.strip()
    trace, mark, cause = text[start:].rpartition("error: ")
    return "\n".join(
        filter(None, ((mark + textwrap.dedent(cause)).strip(), trace.strip().removeprefix("error:").strip()))
    )
