"""Evaluate a flake's checks: names first, then all derivations in one process, so that they share their packages.

A check that does not evaluate is a value, not an error: a batch that fails is halved until it is alone.
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pytest_nixos.errors import CommandFailed, EvaluationError
from pytest_nixos.model import Check, Derivation, EvalFailed, Kind, Node
from pytest_nixos.nix.attrs import FlakeRef, nix_string
from pytest_nixos.nix.command import Nix

Progress = Callable[[int, int], None]
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One attribute set of checks: the flake, the attribute path of the set, the overridden inputs."""

    nix: Nix
    ref: FlakeRef
    attr: str
    overrides: tuple[tuple[str, str], ...] = field(default=())

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of every command on this flake."""
        overrides = [word for name, url in self.overrides for word in ("--override-input", name, url)]
        return ("--no-write-lock-file", *overrides)

    def eval(self, function: str) -> Any:
        """Apply a Nix function to the attribute set. Raises CommandFailed with Nix's message."""
        installable = f"{self.ref.url}#{self.attr}"
        argv = self.nix.flake("eval", "--json", *self.flags, installable, "--apply", function)
        return json.loads(self.nix.run(argv).stdout)

    def source(self) -> Path:
        """The flake.nix of a flake that was not given as a folder. Raises CommandFailed."""
        argv = self.nix.flake("flake", "metadata", "--json", *self.flags, self.ref.url)
        metadata = json.loads(self.nix.run(argv).stdout)
        folder = metadata.get("locked", {}).get("dir", metadata.get("resolved", {}).get("dir", ""))
        return Path(str(metadata["path"]), folder, "flake.nix")

    def refuse_shadowed(self) -> None:
        """Refuse an attribute path that Nix would look up below packages first, and so find another set.

        Raises EvaluationError. The default, `checks.<system>`, has no such twin in any flake seen.
        """
        for prefix in () if self.attr.startswith("checks.") else ("packages", "legacyPackages"):
            twin = f"{prefix}.{self.nix.system}.{self.attr}"
            argv = self.nix.flake("eval", "--json", *self.flags, f"{self.ref.url}#{twin}", "--apply", "set: true")
            if self.nix.run(argv, check=False).status == 0:
                raise EvaluationError(f"{self.attr!r} may mean `{twin}`, too", f"rename one, or write {twin}")


def checks(target: Target, progress: Progress = lambda done, total: None) -> tuple[Check | EvalFailed, ...]:
    """Every check of the target, in the order of their names; progress is called with (done, total).

    Raises EvaluationError when the flake as a whole does not evaluate, or has no checks for the system.
    """
    target.refuse_shadowed()
    try:
        names: list[str] = target.eval("builtins.attrNames")
    except CommandFailed as error:
        raise _flake_error(target, error) from None
    if not names:
        raise _no_checks(target)
    found: list[Check | EvalFailed] = []
    for part in _describe(target, names):
        found.extend(part)
        progress(len(found), len(names))
    return tuple(found)


def _describe(target: Target, names: list[str]) -> Iterator[list[Check | EvalFailed]]:
    """Describe `names` in one evaluation; when it fails, in two of half the size, down to the one that fails."""
    try:
        answers = target.eval(describe_function(names))
    except CommandFailed as error:
        if len(names) == 1:
            yield [EvalFailed(attr=names[0], message=nix_message(error.output))]
            return
        middle = len(names) // 2
        yield from _describe(target, names[:middle])
        yield from _describe(target, names[middle:])
    else:
        yield [parse_check(answer) for answer in answers]


def describe_function(names: list[str]) -> str:
    """The Nix function (source text) from an attribute set to the description of `names` in it."""
    source = resources.files(__package__).joinpath("describe.nix").read_text()
    return f"({source}) [ {' '.join(map(nix_string, names))} ]"


def parse_check(answer: dict[str, Any]) -> Check | EvalFailed:
    """One description of describe.nix as a Check, or as EvalFailed when it is no derivation."""
    if "error" in answer:
        return EvalFailed(attr=answer["attr"], message=answer["error"])
    driver = answer["driver"]
    timeout = answer["timeout"]
    return Check(
        attr=answer["attr"],
        kind=Kind.VM if driver else Kind.BUILD,
        derivation=_derivation(answer["derivation"]),
        driver=_derivation(driver) if driver else None,
        nodes=tuple(Node(**node) for node in answer["nodes"]),
        timeout=timeout if isinstance(timeout, int) and timeout > 0 else None,
    )


def _derivation(answer: dict[str, Any]) -> Derivation:
    return Derivation(
        drv_path=answer["drv_path"],
        outputs=answer["outputs"],
        features=tuple(answer["features"]),
        fixed=answer["fixed"],
    )


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


def _flake_error(target: Target, error: CommandFailed) -> EvaluationError:
    message = nix_message(error.output)
    if "does not provide attribute" in message:
        return _no_checks(target)
    return EvaluationError(f"the flake {target.ref.label} does not evaluate: {message}")


def _no_checks(target: Target) -> EvaluationError:
    return EvaluationError(
        f"the flake {target.ref.label} has no checks in `{target.attr}`",
        "add `checks.<system>.<name>` to its outputs, or name another set with --nixos-attr",
    )
