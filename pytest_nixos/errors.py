"""The error tree. Every error is one clear sentence; a hint says what to do next."""


class PytestNixosError(Exception):
    """Something the user can act on.

    message: one sentence that states what is wrong.
    hint: what to do next, or "" when the message says it all.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class CommandFailed(PytestNixosError):
    """A program ended with another exit status than 0, or could not be started.

    status is its exit status; negative is the signal that ended it. output is the tail of stderr.
    """

    def __init__(self, argv: tuple[str, ...], status: int, output: str, hint: str = "") -> None:
        tail = f":\n{output.strip()}" if output.strip() else ""
        super().__init__(f"`{argv[0]} …` ended with status {status}{tail}", hint)
        self.argv = argv
        self.status = status
        self.output = output


class CommandTimedOut(PytestNixosError):
    """A program was still running at its deadline and was ended."""


class ToolMissing(PytestNixosError):
    """A program that is needed is not on PATH."""


class EvaluationError(PytestNixosError):
    """A flake could not be evaluated as a whole."""


class BuildError(PytestNixosError):
    """A derivation that the session itself needs could not be built."""


class StoreError(PytestNixosError):
    """The session's store could not be made, for lack of space for instance."""


class KeyUnusable(PytestNixosError):
    """A key for signatures is not one."""


class RecordsUnavailable(PytestNixosError):
    """A record store can't be read or written at the moment; transient: trying again may help."""

    def __init__(self, message: str, hint: str = "", *, transient: bool = False) -> None:
        super().__init__(message, hint)
        self.transient = transient


class CheckFailed(PytestNixosError):
    """A check ran, or was built, and failed."""


class SharedStepFailed(PytestNixosError):
    """A step that all workers share failed in the process that did it; the message is that process's."""
