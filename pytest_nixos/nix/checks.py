"""The checks of a flake: from the cache of evaluations, or evaluated."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nixos import host
from pytest_nixos.errors import CommandFailed, EvaluationError
from pytest_nixos.model import Check, EvalFailed
from pytest_nixos.nix import build, eval_jobs, tree
from pytest_nixos.nix.cache import Cache
from pytest_nixos.nix.describe import parse_check
from pytest_nixos.nix.evaluate import Evaluated, Progress, evaluate
from pytest_nixos.nix.fingerprint import fingerprint, is_undisturbed, seen
from pytest_nixos.nix.limits import Limits
from pytest_nixos.nix.message import nix_message
from pytest_nixos.nix.reuse import forget, remember, reusable
from pytest_nixos.nix.target import Target
from pytest_nixos.nix.unread import Unread

_KIND = "checks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """How to evaluate.

    cache: where results are kept, None for nowhere. workers: how many processes at most, None for as many as fit.
    unread: files that no check depends on, None for none. scratch: a folder for passing copies.
    """

    cache: Cache | None
    workers: int | None = None
    unread: Unread | None = None
    scratch: Path | None = None

    def checks(self, target: Target, progress: Progress = lambda done, total: None) -> tuple[Check | EvalFailed, ...]:
        """Every check of the target, in the order of their names; progress is called with (done, total).

        Raises EvaluationError when the flake as a whole does not evaluate, or has no checks for the system.
        """
        known = self._recall(target, progress) or self._fresh(target, progress)
        return tuple(_check(known, name) for name in known.names)

    def _recall(self, target: Target, progress: Progress) -> Evaluated | None:
        """What is known without asking Nix anything; None when that is not all."""
        if self.cache is None:
            return None
        now = seen(target, self.cache)
        if now is not None:
            known = self._known(now.key)
            return known if known.is_complete else None
        if self.unread is None:
            return None
        return reusable(
            target,
            self.cache,
            self.unread,
            self.scratch,
            self._known,
            lambda copy: self._evaluate(copy, progress, None),
        )

    def _fresh(self, target: Target, progress: Progress) -> Evaluated:
        """Evaluate what is not known, which may be nothing after all."""
        started = tree.now()
        key = fingerprint(target, self.cache) if self.cache else None
        known = self._known(key)
        if not known.is_complete:
            missing = [at for at, name in enumerate(known.names) if name not in known.answers]
            known = _merged(known, self._evaluate(target, progress, missing or None))
            self._keep(target, key, known, started)
        return known

    def restore(self, target: Target, all_: Sequence[Check | EvalFailed], wanted: Collection[Check]) -> list[str]:
        """Make the derivations of `wanted`, some of `all_`, again where a garbage collection has taken them.

        Returns the names of those that have become something else; their evaluation is not believed again.
        """
        lost = build.invalid_paths(target.nix, [path for check in wanted for path in _derivations(check)])
        names = {check.attr for check in wanted if lost.intersection(_derivations(check))}
        positions = [at for at, check in enumerate(all_) if check.attr in names]
        if not positions:
            return []
        fresh = self._evaluate(target, lambda done, total: None, positions)
        changed = [all_[at].attr for at in positions if _check(fresh, all_[at].attr) != all_[at]]
        if changed and self.cache and (key := fingerprint(target, self.cache)):
            self.cache.drop(_KIND, key)
        if changed and self.cache and self.unread:
            forget(target, self.cache, self.unread)
        return changed

    def _evaluate(self, target: Target, progress: Progress, only: Sequence[int] | None) -> Evaluated:
        target.refuse_shadowed()
        limits = Limits.of(self.workers, host.cores(), host.free_memory_bytes())
        try:
            if only is None and eval_jobs.is_there():
                evaluated = eval_jobs.evaluate(target, limits, progress)
            else:
                evaluated = evaluate(target, limits, progress, only)
        except CommandFailed as error:
            raise _flake_error(target, error) from None
        if not evaluated.names:
            raise _no_checks(target)
        return evaluated

    def _known(self, key: str | None) -> Evaluated:
        entry = self.cache.get(_KIND, key) if self.cache and key else None
        return Evaluated(names=entry["names"], answers=entry["answers"]) if entry else Evaluated([])

    def _keep(self, target: Target, key: str | None, known: Evaluated, started: int) -> None:
        """Keep what did evaluate, unless the flake was touched meanwhile; what failed is tried anew each time."""
        if self.cache and key and fingerprint(target, self.cache) == key and is_undisturbed(target, started):
            self.cache.put(_KIND, key, {"names": known.names, "answers": known.answers})
            if self.unread:
                remember(target, self.cache, self.unread, key)


def _derivations(check: Check) -> list[str]:
    return [check.derivation.drv_path, *([check.driver.drv_path] if check.driver else [])]


def _merged(known: Evaluated, fresh: Evaluated) -> Evaluated:
    if known.names != fresh.names:
        return fresh
    return Evaluated(names=fresh.names, answers={**known.answers, **fresh.answers}, failed=fresh.failed)


def _check(evaluated: Evaluated, name: str) -> Check | EvalFailed:
    if name in evaluated.answers:
        return parse_check(evaluated.answers[name])
    return EvalFailed(attr=name, message=evaluated.failed.get(name, "the evaluation was broken off"))


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
