"""What is evaluated: one attribute set of one flake, with its inputs overridden or not."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_nixos.errors import EvaluationError
from pytest_nixos.nix.attrs import FlakeRef
from pytest_nixos.nix.command import Nix


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One attribute set of checks: the flake, the attribute path of the set, overridden inputs, more options of Nix."""

    nix: Nix
    ref: FlakeRef
    attr: str
    overrides: tuple[tuple[str, str], ...] = field(default=())
    impure: bool = False
    options: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of every command on this flake."""
        overrides = [word for name, url in self.overrides for word in ("--override-input", name, url)]
        return ("--no-write-lock-file", *overrides, *self.options, *(("--impure",) if self.impure else ()))

    def eval_argv(self, function: str) -> tuple[str, ...]:
        """The command that applies a Nix function to the attribute set, and says plainly what it traces.

        All steps to an error are asked for, since the function's own would else take the place of the flake's.
        """
        installable = f"{self.ref.url}#{self.attr}"
        return self.nix.flake(
            "eval", "--json", "--log-format", "raw", "--show-trace", *self.flags, installable, "--apply", function
        )

    def metadata(self) -> dict[str, Any]:
        """What Nix says of the flake without evaluating it: its locked form and its locks. Raises CommandFailed."""
        argv = self.nix.flake("flake", "metadata", "--json", *self.flags, self.ref.url)
        answer: dict[str, Any] = json.loads(self.nix.run(argv).stdout)
        return answer

    def source(self) -> Path:
        """The flake.nix of a flake that was not given as a folder. Raises CommandFailed."""
        return flake_file(self.metadata())

    def refuse_shadowed(self) -> None:
        """Refuse an attribute path that Nix would look up below packages first, and so find another set.

        Raises EvaluationError. The default, `checks.<system>`, has no such twin in any flake seen.
        """
        for prefix in () if self.attr.startswith("checks.") else ("packages", "legacyPackages"):
            twin = f"{prefix}.{self.nix.system}.{self.attr}"
            argv = self.nix.flake("eval", "--json", *self.flags, f"{self.ref.url}#{twin}", "--apply", "set: true")
            if self.nix.run(argv, check=False).status == 0:
                raise EvaluationError(f"{self.attr!r} may mean `{twin}`, too", f"rename one, or write {twin}")


def flake_file(metadata: dict[str, Any]) -> Path:
    """The flake.nix that Nix's metadata speak of, in the store."""
    folder = metadata.get("locked", {}).get("dir", metadata.get("resolved", {}).get("dir", ""))
    return Path(str(metadata["path"]), folder, "flake.nix")
